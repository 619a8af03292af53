// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Many datagrams by one system call: otherwise these calls would be most of what is measured.

#![expect(unsafe_code, reason = "system calls take raw pointers")]

use std::io::{Error, Result};
use std::net::UdpSocket;
use std::os::fd::AsRawFd;
use std::ptr;

/// Datagrams of a call.
const BATCH: usize = 32;

/// One buffer, which is all of the datagrams: what is in them doesn't matter.
///
/// Those of a batch that is received are written over one another.
pub(crate) struct Batch {
    buffer: Vec<u8>,
}

impl Batch {
    /// For datagrams of so many bytes, or up to so many.
    pub(crate) fn new(bytes: usize) -> Self {
        Self { buffer: vec![0x55; bytes] }
    }

    /// Sends a batch to where the socket is connected; how many were sent.
    pub(crate) fn send(&mut self, socket: &UdpSocket) -> Result<usize> {
        self.with_headers(|headers| {
            // SAFETY: the headers, and the vector and the buffer that all of them point to, live until the call is over.
            unsafe { libc::sendmmsg(socket.as_raw_fd(), headers.as_mut_ptr(), BATCH as u32, 0) }
        })
    }

    /// Waits for one, and takes as many as there are, up to a batch; how many it took.
    pub(crate) fn receive(&mut self, socket: &UdpSocket) -> Result<usize> {
        self.with_headers(|headers| {
            let (fd, flags, no_limit) = (socket.as_raw_fd(), libc::MSG_WAITFORONE, ptr::null_mut());
            // SAFETY: as above, and nobody else looks at the buffer until the call is over.
            unsafe { libc::recvmmsg(fd, headers.as_mut_ptr(), BATCH as u32, flags, no_limit) }
        })
    }

    fn with_headers(&mut self, call: impl FnOnce(&mut [libc::mmsghdr]) -> libc::c_int) -> Result<usize> {
        let mut vector = libc::iovec { iov_base: self.buffer.as_mut_ptr().cast(), iov_len: self.buffer.len() };
        let mut headers: [libc::mmsghdr; BATCH] = std::array::from_fn(|_| {
            // SAFETY: every field of the structure is a number or a pointer, for which zero is a value.
            let mut header: libc::mmsghdr = unsafe { std::mem::zeroed() };
            (header.msg_hdr.msg_iov, header.msg_hdr.msg_iovlen) = (&raw mut vector, 1);
            header
        });
        usize::try_from(call(&mut headers)).map_err(|_| Error::last_os_error())
    }
}

/// Gives a socket room for many datagrams, as far as this user may.
pub(crate) fn make_room(socket: &UdpSocket) {
    let bytes: libc::c_int = 4 << 20;
    for option in [libc::SO_RCVBUFFORCE, libc::SO_RCVBUF] {
        let (value, length) = ((&raw const bytes).cast(), size_of::<libc::c_int>() as libc::socklen_t);
        // SAFETY: the option is an int, which lives until the call is over.
        if unsafe { libc::setsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, option, value, length) } == 0 {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_arrives_as_datagrams() {
        let bind = || UdpSocket::bind("127.0.0.1:0").unwrap();
        let (from, to) = (bind(), bind());
        make_room(&to);
        from.connect(to.local_addr().unwrap()).unwrap();
        assert_eq!(Batch::new(64).send(&from).unwrap(), BATCH);
        let mut received = 0;
        while received < BATCH {
            received += Batch::new(2000).receive(&to).unwrap();
        }
        assert_eq!(received, BATCH);
    }
}
