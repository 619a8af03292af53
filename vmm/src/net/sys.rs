// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What a tap is asked for, and the flags of descriptors.

#![expect(unsafe_code, reason = "these calls of the kernel have no wrapper")]

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// `struct ifreq` (Linux `include/uapi/linux/if.h`): a name that ends in 0, and 24 bytes for what the call is about, of which
/// the first are flags or a number.
#[repr(C)]
struct Request {
    name: [u8; libc::IFNAMSIZ],
    value: [u8; 4],
    rest: [u8; 20],
}

impl Request {
    /// `None`: no interface has such a name.
    fn new(name: &str, flags: u16) -> Option<Self> {
        let [low, high] = flags.to_ne_bytes();
        let mut request = Self { name: [0; libc::IFNAMSIZ], value: [low, high, 0, 0], rest: [0; 20] };
        // The last byte stays 0.
        let room = request.name.get_mut(..libc::IFNAMSIZ - 1)?.get_mut(..name.len())?;
        room.copy_from_slice(name.as_bytes());
        Some(request)
    }

    fn flags(&self) -> u16 {
        let [low, high, ..] = self.value;
        u16::from_ne_bytes([low, high])
    }
}

fn call(fd: &impl AsFd, number: libc::Ioctl, request: &mut Request) -> io::Result<()> {
    // SAFETY: each number that this file gives is that of a call which reads and writes a `struct ifreq`, and that is what the
    // pointer is to; it lives until the call is over.
    let result = unsafe { libc::ioctl(fd.as_fd().as_raw_fd(), number, &raw mut *request) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn request(name: &str, flags: u16) -> io::Result<Request> {
    Request::new(name, flags).ok_or_else(|| io::ErrorKind::InvalidInput.into())
}

/// Makes an open `/dev/net/tun` a queue of the tap, which is made if it isn't there (`TUNSETIFF`).
pub(super) fn attach(tun: &File, name: &str, flags: u16) -> io::Result<()> {
    call(tun, libc::TUNSETIFF, &mut request(name, flags)?)
}

/// The flags of an open tap or macvtap (`TUNGETIFF`).
pub(super) fn tap_flags(tap: &impl AsFd) -> io::Result<u16> {
    let mut request = request("", 0)?;
    call(tap, libc::TUNGETIFF, &mut request)?;
    Ok(request.flags())
}

/// The MTU of the interface behind an open tap or macvtap, in bytes. An error if that is in another network namespace: there
/// may be one of its name in ours, which has another address.
pub(super) fn tap_mtu(tap: &impl AsFd) -> io::Result<i32> {
    let mut named = request("", 0)?;
    call(tap, libc::TUNGETIFF, &mut named)?;
    let socket = any_socket()?;
    let request = || Request { name: named.name, value: [0; 4], rest: [0; 20] };
    let (mut own, mut ours, mut mtu) = (request(), request(), request());
    call(tap, libc::SIOCGIFHWADDR as libc::Ioctl, &mut own)?;
    call(&socket, libc::SIOCGIFHWADDR as libc::Ioctl, &mut ours)?;
    if (own.value, own.rest) != (ours.value, ours.rest) {
        return Err(io::ErrorKind::NotFound.into());
    }
    call(&socket, libc::SIOCGIFMTU as libc::Ioctl, &mut mtu)?;
    Ok(i32::from_ne_bytes(mtu.value))
}

/// Sets an interface's MTU, in bytes.
pub(super) fn set_mtu(name: &str, mtu: u16) -> io::Result<()> {
    let mut request = request(name, 0)?;
    request.value = i32::from(mtu).to_ne_bytes();
    call(&any_socket()?, libc::SIOCSIFMTU as libc::Ioctl, &mut request)
}

/// Sets an interface up, so that it passes frames.
pub(super) fn set_up(name: &str) -> io::Result<()> {
    let socket = any_socket()?;
    let mut request = request(name, 0)?;
    call(&socket, libc::SIOCGIFFLAGS as libc::Ioctl, &mut request)?;
    let [low, high] = (request.flags() | libc::IFF_UP as u16).to_ne_bytes();
    request.value = [low, high, 0, 0];
    call(&socket, libc::SIOCSIFFLAGS as libc::Ioctl, &mut request)
}

/// A socket to ask about interfaces by: any kind is as good as another (netdevice(7)), and a host may have turned one off.
fn any_socket() -> io::Result<OwnedFd> {
    socket(libc::AF_INET, libc::SOCK_DGRAM, 0).or_else(|_| socket(libc::AF_INET6, libc::SOCK_DGRAM, 0))
}

fn socket(domain: i32, kind: i32, protocol: i32) -> io::Result<OwnedFd> {
    // SAFETY: takes numbers, and gives one.
    let socket = unsafe { libc::socket(domain, kind | libc::SOCK_CLOEXEC, protocol) };
    if socket < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made this descriptor, and nobody else knows of it.
    Ok(unsafe { OwnedFd::from_raw_fd(socket) })
}

/// A socket to the part of the kernel that knows interfaces.
pub(super) fn netlink() -> io::Result<OwnedFd> {
    socket(libc::AF_NETLINK, libc::SOCK_RAW, libc::NETLINK_ROUTE)
}

/// Connects to a socket without waiting: one that takes nobody just now is an error (`WouldBlock`).
pub(super) fn connect(path: &Path) -> io::Result<UnixStream> {
    let socket = socket(libc::AF_UNIX, libc::SOCK_STREAM | libc::SOCK_NONBLOCK, 0)?;
    let mut address = libc::sockaddr_un { sun_family: libc::AF_UNIX as libc::sa_family_t, sun_path: [0; 108] };
    let name = path.as_os_str().as_bytes();
    if name.is_empty() || name.contains(&0) {
        // Another socket, of another kind even (unix(7)).
        return Err(io::ErrorKind::InvalidFilename.into());
    }
    // The last byte stays 0.
    let room = address.sun_path.get_mut(..107).and_then(|room| room.get_mut(..name.len()));
    for (to, from) in room.ok_or(io::ErrorKind::InvalidFilename)?.iter_mut().zip(name) {
        *to = from.cast_signed();
    }
    let size = size_of::<libc::sockaddr_un>() as libc::socklen_t;
    // SAFETY: the address lives on this stack during the call, which reads as many bytes as it has.
    let result = unsafe { libc::connect(socket.as_raw_fd(), (&raw const address).cast(), size) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(UnixStream::from(socket)) }
}

/// Waits until there is something to be read, or its end, but no longer than that.
pub(super) fn is_readable_within(fd: &impl AsFd, time: Duration) -> io::Result<bool> {
    let mut poll = libc::pollfd { fd: fd.as_fd().as_raw_fd(), events: libc::POLLIN, revents: 0 };
    let timeout = i32::try_from(time.as_millis()).unwrap_or(i32::MAX);
    // SAFETY: one pollfd, which lives on this stack during the call.
    let ready = unsafe { libc::poll(&raw mut poll, 1, timeout) };
    if ready < 0 { Err(io::Error::last_os_error()) } else { Ok(ready > 0) }
}

/// A descriptor of our own for what a number stands for, which is an error if that is nothing. From now on, no program that
/// we start gets either.
pub(super) fn duplicate(number: i32) -> io::Result<OwnedFd> {
    // SAFETY: takes and gives numbers; a number that is no descriptor is an error.
    let own = unsafe { libc::fcntl(number, libc::F_DUPFD_CLOEXEC, 3) };
    if own < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made this descriptor, and nobody else knows of it.
    let own = unsafe { OwnedFd::from_raw_fd(own) };
    // SAFETY: takes numbers, and sets a flag that takes away nothing from whoever has the descriptor.
    if unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(own)
}

/// Whether a descriptor can be read from and written to.
pub(super) fn is_read_and_written(fd: &impl AsFd) -> bool {
    // SAFETY: gives a number.
    let flags = unsafe { libc::fcntl(fd.as_fd().as_raw_fd(), libc::F_GETFL) };
    flags >= 0 && flags & libc::O_ACCMODE == libc::O_RDWR
}

/// Has writes to a descriptor, and reads from it, fail where they would have to wait.
pub(super) fn never_wait(fd: &impl AsFd) -> io::Result<()> {
    let number = fd.as_fd().as_raw_fd();
    // SAFETY: gives a number.
    let flags = unsafe { libc::fcntl(number, libc::F_GETFL) };
    if flags < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: takes numbers; how others wait for this file changes, and nothing else.
    if unsafe { libc::fcntl(number, libc::F_SETFL, flags | libc::O_NONBLOCK) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_as_large_as_the_kernel_takes_it_to_be() {
        assert_eq!(size_of::<Request>(), size_of::<libc::ifreq>());
        assert!(Request::new("fifteen-letters", 0).is_some() && Request::new("sixteen--letters", 0).is_none());
    }

    #[test]
    fn a_socket_that_takes_nobody_is_an_error_and_no_wait() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        assert_eq!(connect(&path).unwrap_err().kind(), io::ErrorKind::NotFound);
        let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        let error = loop {
            // As many as it lets wait, and one more.
            match connect(&path) {
                Ok(socket) => std::mem::forget(socket),
                Err(error) => break error,
            }
        };
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock, "{error}");
        drop(listener);
        let long = folder.path().join("x".repeat(200));
        for name in [long.as_path(), Path::new(""), Path::new("\0abstract"), Path::new("cut\0off")] {
            assert_eq!(connect(name).unwrap_err().kind(), io::ErrorKind::InvalidFilename, "{name:?}");
        }
    }

    #[test]
    fn what_is_no_descriptor_and_what_is_no_tap_are_errors() {
        assert_eq!(duplicate(1 << 20).unwrap_err().raw_os_error(), Some(libc::EBADF));
        let null = File::open("/dev/null").unwrap();
        let own = duplicate(null.as_raw_fd()).unwrap();
        assert_ne!(own.as_raw_fd(), null.as_raw_fd());
        assert!(tap_flags(&own).is_err());
        assert!(!is_read_and_written(&null) && !is_read_and_written(&own));
        assert!(is_read_and_written(&File::options().read(true).write(true).open("/dev/null").unwrap()));
    }
}
