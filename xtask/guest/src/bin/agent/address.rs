// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Streams by address. Whatever is behind it, a stream is a socket that can be read, written and shut down: so it is one of the
//! standard library's, which has none for `AF_VSOCK`.

#![expect(unsafe_code, reason = "system calls take raw pointers")]

use std::io::{Error, ErrorKind, Read, Result, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::str::FromStr;

/// Where a stream leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Address {
    Vsock { cid: u32, port: u32 },
    Unix(PathBuf),
    Hybrid { path: PathBuf, port: u32 },
}

impl FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let bad = || format!("{text:?} is none of vsock:CID:PORT, vsock:PORT, unix:PATH and hybrid:PATH:PORT");
        let number = |text: &str| text.parse().map_err(|_| bad());
        let (kind, rest) = text.split_once(':').ok_or_else(bad)?;
        match (kind, rest.rsplit_once(':')) {
            ("unix", _) => Ok(Self::Unix(rest.into())),
            ("vsock", Some((cid, port))) => Ok(Self::Vsock { cid: number(cid)?, port: number(port)? }),
            ("vsock", None) => Ok(Self::Vsock { cid: libc::VMADDR_CID_ANY, port: number(rest)? }),
            ("hybrid", Some((path, port))) => Ok(Self::Hybrid { path: path.into(), port: number(port)? }),
            _ => Err(bad()),
        }
    }
}

impl Address {
    /// Connects.
    pub(crate) fn connect(&self) -> Result<UnixStream> {
        match self {
            Self::Unix(path) => UnixStream::connect(path),
            Self::Vsock { cid, port } => {
                let (socket, address) = vsock(*cid, *port)?;
                let length = size_of_val(&address) as libc::socklen_t;
                // SAFETY: the address is one of this length, and lives until the call is over.
                check(unsafe { libc::connect(socket.as_raw_fd(), (&raw const address).cast(), length) })?;
                Ok(socket.into())
            }
            Self::Hybrid { path, port } => {
                let mut stream = UnixStream::connect(path)?;
                stream.write_all(format!("CONNECT {port}\n").as_bytes())?;
                let answer = read_line(&mut stream)?;
                match answer.strip_prefix("OK ").map(str::parse::<u32>) {
                    Some(Ok(_)) => Ok(stream),
                    _ => Err(Error::other(format!("the VMM says {answer:?} instead of OK and a port"))),
                }
            }
        }
    }

    /// Listens.
    pub(crate) fn listen(&self) -> Result<Listener> {
        match self {
            Self::Unix(path) => Ok(Listener(UnixListener::bind(path)?.into())),
            Self::Vsock { cid, port } => {
                let (socket, address) = vsock(*cid, *port)?;
                let length = size_of_val(&address) as libc::socklen_t;
                // SAFETY: the address is one of this length, and lives until the call is over.
                check(unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), length) })?;
                // SAFETY: the call takes two numbers.
                check(unsafe { libc::listen(socket.as_raw_fd(), libc::SOMAXCONN) })?;
                Ok(Listener(socket))
            }
            Self::Hybrid { .. } => Err(Error::new(ErrorKind::InvalidInput, "a guest's port is served by the guest")),
        }
    }
}

/// A socket that takes connections.
pub(crate) struct Listener(OwnedFd);

impl Listener {
    pub(crate) fn accept(&self) -> Result<UnixStream> {
        let none = std::ptr::null_mut();
        // SAFETY: the call is told of no place for an address.
        let fd = check(unsafe { libc::accept4(self.0.as_raw_fd(), none, std::ptr::null_mut(), libc::SOCK_CLOEXEC) })?;
        // SAFETY: the descriptor is new, and nobody else has it.
        Ok(unsafe { OwnedFd::from_raw_fd(fd) }.into())
    }
}

fn check(result: libc::c_int) -> Result<libc::c_int> {
    if result == -1 { Err(Error::last_os_error()) } else { Ok(result) }
}

fn vsock(cid: u32, port: u32) -> Result<(OwnedFd, libc::sockaddr_vm)> {
    // SAFETY: the call takes three numbers.
    let fd = check(unsafe { libc::socket(libc::AF_VSOCK, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0) })?;
    // SAFETY: the descriptor is new, and nobody else has it.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    // SAFETY: every field of the structure is a number, for which zero is a value.
    let mut address: libc::sockaddr_vm = unsafe { std::mem::zeroed() };
    (address.svm_family, address.svm_cid, address.svm_port) = (libc::AF_VSOCK as libc::sa_family_t, cid, port);
    Ok((socket, address))
}

/// Reads a line, and not a byte behind it.
pub(crate) fn read_line(from: &mut impl Read) -> Result<String> {
    let (mut line, mut byte) = (Vec::new(), [0]);
    while line.len() < 200 {
        from.read_exact(&mut byte)?;
        if byte == *b"\n" {
            return String::from_utf8(line).map_err(Error::other);
        }
        line.extend_from_slice(&byte);
    }
    Err(Error::other("a line has no end"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_what_they_say() {
        let parse = |text: &str| text.parse::<Address>();
        assert_eq!(parse("vsock:2:5000"), Ok(Address::Vsock { cid: 2, port: 5000 }));
        assert_eq!(parse("vsock:5000"), Ok(Address::Vsock { cid: u32::MAX, port: 5000 }));
        assert_eq!(parse("unix:/a:b"), Ok(Address::Unix("/a:b".into())));
        assert_eq!(parse("hybrid:/a:b:7"), Ok(Address::Hybrid { path: "/a:b".into(), port: 7 }));
        for text in ["", "5000", "vsock:x", "vsock:1:-1", "hybrid:/a", "tcp:1:2"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
