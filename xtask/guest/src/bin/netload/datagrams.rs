// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Datagrams over UDP, which may be lost: a connection beside them tells where they go, and how many came.

use std::io::{BufRead, BufReader, Error, ErrorKind, Result, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::thread;

use crate::ask;

/// More than a datagram can have.
const ROOM: usize = 64 << 10;

/// Sends so many of so many bytes, which is one at the least; how many came.
pub(crate) fn send(to: SocketAddr, count: u64, bytes: u64) -> Result<u64> {
    let stream = ask(to, "datagrams")?;
    let mut reader = BufReader::new(&stream);
    let port = read_number(&mut reader)?;
    let socket = UdpSocket::bind(SocketAddr::new(stream.local_addr()?.ip(), 0))?;
    socket.connect(SocketAddr::new(to.ip(), port as u16))?;
    let datagram = vec![0x55; bytes.max(1) as usize];
    for _ in 0..count {
        match socket.send(&datagram) {
            // The queue is full: it counts as lost.
            Err(error) if error.kind() != ErrorKind::WouldBlock && error.raw_os_error() != Some(libc::ENOBUFS) => {
                return Err(error);
            }
            _ => (),
        }
    }
    (&stream).write_all(b"done\n")?;
    read_number(&mut reader)
}

fn read_number(reader: &mut impl BufRead) -> Result<u64> {
    let mut line = String::new();
    reader.read_line(&mut line)?;
    line.trim().parse().map_err(|_| Error::other(format!("the other side says {line:?} instead of a number")))
}

/// Counts what comes until the other side says that it was all.
pub(crate) fn count(stream: &TcpStream, reader: &mut impl BufRead) -> Result<()> {
    let socket = UdpSocket::bind(SocketAddr::new(stream.local_addr()?.ip(), 0))?;
    let address = socket.local_addr()?;
    let counter = thread::spawn(move || {
        let (mut received, mut datagram) = (0, vec![0; ROOM]);
        // The empty one is the last.
        while socket.recv(&mut datagram).is_ok_and(|length| length > 0) {
            received += 1;
        }
        received
    });
    let mut writer = stream;
    writer.write_all(format!("{}\n", address.port()).as_bytes())?;
    reader.read_line(&mut String::new())?;
    // Behind all that has come by now.
    let last = UdpSocket::bind(SocketAddr::new(address.ip(), 0))?;
    last.send_to(&[], address)?;
    let received: u64 = counter.join().map_err(|_| Error::other("a thread has panicked"))?;
    writer.write_all(format!("{received}\n").as_bytes())
}
