// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Taps and macvtaps that this process was started with.

use std::fs::File;

use devices::virtio::net::Backend;

use super::sys;
use super::tap::{IFF_MULTI_QUEUE, IFF_TAP, IFF_VNET_HDR};

const CURE: &str = "let whoever starts this program open one there";

/// Takes a descriptor for each queue pair. The numbers themselves stay open, and are whoever's they were.
pub(super) fn open(numbers: &[i32]) -> Result<Vec<Backend>, String> {
    numbers.iter().map(|number| open_one(*number, numbers.len() > 1)).collect()
}

fn open_one(number: i32, several: bool) -> Result<Backend, String> {
    let file = match sys::duplicate(number) {
        Ok(fd) => File::from(fd),
        Err(error) if error.raw_os_error() == Some(libc::EBADF) => {
            return Err(format!("descriptor {number} is not open: {CURE}"));
        }
        Err(error) => return Err(format!("descriptor {number} can't be used: {error}")),
    };
    let flags = sys::tap_flags(&file).map_err(|error| match error.raw_os_error() {
        // What /dev/net/tun says of itself before it is a tap's.
        Some(libc::EBADFD) => format!("descriptor {number} is /dev/net/tun, but no interface's yet (TUNSETIFF)"),
        _ => format!("descriptor {number} is no tap: {CURE}"),
    })?;
    if !sys::is_read_and_written(&file) {
        return Err(format!("descriptor {number} is open for one direction only: in a shell, it is opened with <>"));
    }
    if flags & IFF_TAP == 0 {
        return Err(format!("descriptor {number} was made without IFF_TAP, so it is a tun"));
    }
    // Each descriptor of a macvtap is a queue of it whatever its flags are, and lets them be changed; a tap doesn't.
    if several && flags & IFF_MULTI_QUEUE == 0 && sys::attach(&file, "", flags | IFF_MULTI_QUEUE).is_err() {
        return Err(format!("descriptor {number} was made without IFF_MULTI_QUEUE, so it is the only one of its tap"));
    }
    sys::never_wait(&file).map_err(|error| format!("descriptor {number} can't be used: {error}"))?;
    Ok(Backend::Tap { file, vnet_header: flags & IFF_VNET_HDR != 0 })
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd;

    use super::*;

    #[test]
    fn what_is_closed_or_no_tap_is_named() {
        let error = open(&[1 << 20]).unwrap_err();
        assert!(error.starts_with("descriptor 1048576 is not open: "), "{error}");
        let null = File::open("/dev/null").unwrap();
        let number = null.as_raw_fd();
        assert_eq!(open(&[number]).unwrap_err(), format!("descriptor {number} is no tap: {CURE}"));
        let (socket, _other) = std::os::unix::net::UnixStream::pair().unwrap();
        let number = socket.as_raw_fd();
        assert_eq!(open(&[number]).unwrap_err(), format!("descriptor {number} is no tap: {CURE}"));
    }
}
