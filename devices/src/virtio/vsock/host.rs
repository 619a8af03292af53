// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The sockets of the host: the one that its programs connect to, those that the guest's connections lead to, and what is said
//! before data passes.

use std::io::{self, Read};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use rustix::net::{AddressFamily, RecvFlags, SocketAddrUnix, SocketFlags, SocketType};

/// The most bytes of a greeting: `CONNECT`, a space, the largest port and a line's end are less.
const MAX_GREETING: usize = 32;

/// Where the listener for a port of the host is.
pub fn port_path(socket: &Path, port: u32) -> PathBuf {
    let mut path = socket.as_os_str().to_owned();
    path.push(format!("_{port}"));
    path.into()
}

/// Connects to the listener for a port, without waiting. [`io::ErrorKind::WouldBlock`]: it takes nobody just now.
pub(super) fn connect(socket: &Path, port: u32) -> io::Result<UnixStream> {
    let address = SocketAddrUnix::new(port_path(socket, port))?;
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let stream = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    rustix::net::connect(&stream, &address)?;
    Ok(stream.into())
}

/// What a program of the host has said so far.
#[derive(Debug, Default)]
pub(super) struct Greeting(Vec<u8>);

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub(super) enum NoGreeting {
    #[error("it has closed, or failed: {0}")]
    Socket(io::Error),
    #[error("it says something else than CONNECT and a port")]
    Other,
}

impl Greeting {
    /// Takes what is there of the line, and not a byte behind it; gives the port of the guest's once all of it is there.
    pub(super) fn read(&mut self, mut from: &UnixStream) -> Result<Option<u32>, NoGreeting> {
        let mut bytes = [0; MAX_GREETING];
        let room = bytes.get_mut(self.0.len()..).unwrap_or_default();
        if room.is_empty() {
            return Err(NoGreeting::Other);
        }
        let seen = match rustix::net::recv(from, &mut *room, RecvFlags::PEEK) {
            Ok((_, 0)) => return Err(NoGreeting::Socket(io::ErrorKind::UnexpectedEof.into())),
            Ok((_, seen)) => seen,
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => return Ok(None),
            Err(error) => return Err(NoGreeting::Socket(error.into())),
        };
        let line = room.get(..seen).unwrap_or_default();
        let end = line.iter().position(|byte| *byte == b'\n');
        let take = end.map_or(seen, |end| end.saturating_add(1));
        let now = room.get_mut(..take).unwrap_or_default();
        from.read_exact(now).map_err(NoGreeting::Socket)?;
        self.0.extend_from_slice(now);
        if end.is_none() {
            return Ok(None);
        }
        parse(&self.0).map(Some).ok_or(NoGreeting::Other)
    }
}

/// `CONNECT <port>`, in whatever case and with whatever space, as Firecracker takes it.
fn parse(line: &[u8]) -> Option<u32> {
    let mut words = std::str::from_utf8(line).ok()?.split_whitespace();
    let (word, port) = (words.next()?, words.next()?);
    (word.eq_ignore_ascii_case("connect") && words.next().is_none()).then(|| port.parse().ok())?
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn a_greeting_names_a_port_and_nothing_else_is_one() {
        for (line, port) in [
            ("CONNECT 1024\n", Some(1024)),
            ("connect 4294967295\r\n", Some(u32::MAX)),
            ("CONNECT 4294967296\n", None),
            ("CONNECT -1\n", None),
            ("CONNECT\n", None),
            ("CONNECT 1 2\n", None),
            ("GET / HTTP/1.1\n", None),
            ("\n", None),
        ] {
            assert_eq!(parse(line.as_bytes()), port, "{line:?}");
        }
    }

    #[test]
    fn a_greeting_may_come_in_pieces_and_what_is_behind_it_stays() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        let mut greeting = Greeting::default();
        assert_eq!(greeting.read(&ours).unwrap(), None);
        for piece in ["CONN", "ECT 5", "2"] {
            theirs.write_all(piece.as_bytes()).unwrap();
            assert_eq!(greeting.read(&ours).unwrap(), None);
        }
        theirs.write_all(b"\nhello\n").unwrap();
        assert_eq!(greeting.read(&ours).unwrap(), Some(52));
        let mut rest = [0; 6];
        (&ours).read_exact(&mut rest).unwrap();
        assert_eq!(&rest, b"hello\n");
    }

    #[test]
    fn a_greeting_without_an_end_is_none() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        theirs.write_all(&[b' '; 100]).unwrap();
        let mut greeting = Greeting::default();
        assert_eq!(greeting.read(&ours).unwrap(), None);
        assert!(matches!(greeting.read(&ours), Err(NoGreeting::Other)));
        let (ours, theirs) = UnixStream::pair().unwrap();
        drop(theirs);
        assert!(matches!(Greeting::default().read(&ours), Err(NoGreeting::Socket(_))));
    }

    #[test]
    fn each_port_has_a_path_of_its_own() {
        assert_eq!(port_path(Path::new("dir/v.sock"), 1025), Path::new("dir/v.sock_1025"));
        let dir = tempfile::tempdir().unwrap();
        let error = connect(&dir.path().join("v"), 1).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }
}
