// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Whose the other end of a socket is.

#![expect(unsafe_code, reason = "this call of the kernel has no stable wrapper")]

use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;

/// The user who listened at the socket that was connected to, or as whom the other end of a pair was made (`SO_PEERCRED`). It
/// stays so, whoever has it now.
pub(super) fn user_of(socket: &UnixStream) -> io::Result<libc::uid_t> {
    let mut peer = libc::ucred { pid: 0, uid: 0, gid: 0 };
    let mut size = size_of::<libc::ucred>() as libc::socklen_t;
    let to = (&raw mut peer).cast();
    // SAFETY: the call fills a structure of this kind, no more bytes than it has, and says how many. Both live on this stack.
    let result =
        unsafe { libc::getsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, libc::SO_PEERCRED, to, &raw mut size) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(peer.uid) }
}
