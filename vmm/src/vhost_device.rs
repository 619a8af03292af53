// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The kernel's vhost devices. A user needs no privilege but to open them.

use std::fs::{File, OpenOptions};

/// A device, and the module that makes it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct VhostDevice {
    path: &'static str,
    module: &'static str,
}

/// Moves the frames of taps.
pub(crate) const VHOST_NET: VhostDevice = VhostDevice { path: "/dev/vhost-net", module: "vhost_net" };
/// Makes `AF_VSOCK`.
pub(crate) const VHOST_VSOCK: VhostDevice = VhostDevice { path: "/dev/vhost-vsock", module: "vhost_vsock" };

/// Opens a device, with an answer to each way in which that fails.
pub(crate) fn open(VhostDevice { path, module }: VhostDevice) -> Result<File, String> {
    OpenOptions::new().read(true).write(true).open(path).map_err(|error| match error.raw_os_error() {
        Some(libc::ENOENT | libc::ENODEV | libc::ENXIO) => {
            format!("{path} is not there: load the module: 'modprobe {module}', or leave vhost=on away")
        }
        Some(libc::EACCES | libc::EPERM) => format!(
            "{path} may not be opened by this user: give it access, for example by the group of the device \
             ('usermod -aG kvm USER' where that is kvm), or leave vhost=on away"
        ),
        _ => format!("{path} can't be opened: {error}"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_that_is_not_there_or_is_none_is_named_with_its_cure() {
        let absent = VhostDevice { path: "/nonexistent/vhost", module: "vhost_x" };
        let expected = "/nonexistent/vhost is not there: load the module: 'modprobe vhost_x', or leave vhost=on away";
        assert_eq!(open(absent).unwrap_err(), expected);
        assert!(open(VhostDevice { path: "/", module: "x" }).unwrap_err().starts_with("/ can't be opened: "));
    }
}
