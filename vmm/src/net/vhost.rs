// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! vhost: the kernel's, which moves a tap's frames.

use std::fs::{File, OpenOptions};
use std::path::Path;

use devices::virtio::net::Backend;

/// Of the kernel's. A user needs no privilege but to open it.
const VHOST_NET: &str = "/dev/vhost-net";

/// Has the kernel move the frames of each of these taps.
pub(super) fn offload(taps: Vec<Backend>) -> Result<Vec<Backend>, String> {
    let offload = |tap| match tap {
        Backend::Tap { file, vnet_header } => {
            Ok(Backend::VhostTap { file, vnet_header, vhost: open(Path::new(VHOST_NET))? })
        }
        other => Ok(other),
    };
    taps.into_iter().map(offload).collect()
}

fn open(path: &Path) -> Result<File, String> {
    OpenOptions::new().read(true).write(true).open(path).map_err(|error| {
        let path = path.display();
        match error.raw_os_error() {
            Some(libc::ENOENT | libc::ENODEV | libc::ENXIO) => {
                format!("{path} is not there: load the module: 'modprobe vhost_net', or leave vhost=on away")
            }
            Some(libc::EACCES | libc::EPERM) => format!(
                "{path} may not be opened by this user: give it access, for example by the group of the device \
                 ('usermod -aG kvm USER' where that is kvm), or leave vhost=on away"
            ),
            _ => format!("{path} can't be opened: {error}"),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_that_is_not_there_or_forbidden_is_named_with_its_cure() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("vhost-net");
        let said = |path: &Path| open(path).unwrap_err().replace(&path.display().to_string(), "PATH");
        let expected = "PATH is not there: load the module: 'modprobe vhost_net', or leave vhost=on away";
        assert_eq!(said(&path), expected);
        assert!(said(folder.path()).starts_with("PATH can't be opened: "));
    }
}
