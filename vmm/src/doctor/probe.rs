// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Asks the kernel for things that have no file: by a call that makes nothing, or something that is closed at once.

#![expect(unsafe_code, reason = "these system calls have no wrapper")]

use std::io;
use std::os::fd::{FromRawFd, OwnedFd};

/// Closes what a call has opened; tells whether it could.
fn opened(result: libc::c_long) -> io::Result<()> {
    match i32::try_from(result) {
        Ok(fd) if fd >= 0 => {
            // SAFETY: a descriptor that the kernel has just made for us and nobody else knows of.
            drop(unsafe { OwnedFd::from_raw_fd(fd) });
            Ok(())
        }
        _ => Err(io::Error::last_os_error()),
    }
}

/// Whether a ring can be made.
pub(super) fn io_uring() -> io::Result<()> {
    // `struct io_uring_params` has 120 bytes, all zero for a plain ring.
    let mut params = [0u64; 15];
    // SAFETY: the pointer is to a buffer of the size that the kernel fills in.
    opened(unsafe { libc::syscall(libc::SYS_io_uring_setup, 1, params.as_mut_ptr()) })
}

/// Whether page faults of this process can be handled by itself, those inside of the kernel included: a vCPU's are.
pub(super) fn userfaultfd() -> io::Result<()> {
    // SAFETY: takes flags only.
    opened(unsafe { libc::syscall(libc::SYS_userfaultfd, libc::O_CLOEXEC) })
}

/// The version of landlock's interface.
pub(super) fn landlock() -> io::Result<i64> {
    const VERSION: libc::c_uint = 1;
    // SAFETY: with this flag and no ruleset the call only tells a number.
    let version =
        unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, std::ptr::null::<libc::c_void>(), 0usize, VERSION) };
    if version < 0 { Err(io::Error::last_os_error()) } else { Ok(version) }
}
