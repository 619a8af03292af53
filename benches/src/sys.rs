// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! System calls that the standard library hasn't.

#![expect(unsafe_code, reason = "system calls take raw pointers")]

use std::fs::File;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus};
use std::time::Duration;

use io_uring::IoUring;
use vmm_sys_util::eventfd::EventFd;

/// Waits until the descriptor has something to read, or its other end is closed; `false` when the time is over.
pub(crate) fn wait_readable(fd: BorrowedFd<'_>, timeout: Duration) -> io::Result<bool> {
    let mut polled = libc::pollfd { fd: fd.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    let milliseconds = i32::try_from(timeout.as_millis()).unwrap_or(i32::MAX);
    // SAFETY: the pointer is to one pollfd, which lives until the call is over.
    match unsafe { libc::poll(&raw mut polled, 1, milliseconds) } {
        -1 => Err(io::Error::last_os_error()),
        ready => Ok(ready > 0),
    }
}

/// Waits until one of the descriptors has something to read.
pub(crate) fn wait_for_any<const N: usize>(fds: [BorrowedFd<'_>; N]) -> io::Result<()> {
    let mut polled = fds.map(|fd| libc::pollfd { fd: fd.as_raw_fd(), events: libc::POLLIN, revents: 0 });
    // SAFETY: the pointer is to so many pollfds, which live until the call is over.
    check(unsafe { libc::poll(polled.as_mut_ptr(), N as libc::nfds_t, -1) })
}

/// An eventfd's descriptor.
pub(crate) fn fd_of(eventfd: &EventFd) -> BorrowedFd<'_> {
    // SAFETY: it is open for as long as the eventfd is borrowed.
    unsafe { BorrowedFd::borrow_raw(eventfd.as_raw_fd()) }
}

/// Makes an open `/dev/net/tun` that of the tap with the name (`TUNSETIFF`).
pub(crate) fn attach_tap(tun: &File, name: &str, flags: libc::c_int) -> io::Result<()> {
    // SAFETY: every field of the structure is a number or a union of numbers, for which zero is a value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().take(libc::IFNAMSIZ - 1).zip(name.bytes()) {
        *to = from.cast_signed();
    }
    request.ifr_ifru.ifru_flags = libc::c_short::try_from(flags).map_err(io::Error::other)?;
    // SAFETY: the request reads and fills a structure of this kind, which lives on this stack.
    check(unsafe { libc::ioctl(tun.as_raw_fd(), libc::TUNSETIFF, &raw mut request) })
}

/// Says what the reader of a tap takes of unfinished frames (`TUN_F_…`).
pub(crate) fn set_offload(tap: &File, flags: u32) -> io::Result<()> {
    // SAFETY: the request takes a number.
    check(unsafe { libc::ioctl(tap.as_raw_fd(), libc::TUNSETOFFLOAD, libc::c_ulong::from(flags)) })
}

/// Waits until the process has ended: its status, and the processor time that it took, in user and in kernel mode.
pub(crate) fn wait(child: Child) -> io::Result<(ExitStatus, Duration)> {
    let mut status = 0;
    let mut usage = MaybeUninit::<libc::rusage>::uninit();
    // SAFETY: both pointers are to places of the right type that live until the call is over; the child is ours, and as
    // it is consumed, nobody waits for it again.
    if unsafe { libc::wait4(child.id().cast_signed(), &raw mut status, 0, usage.as_mut_ptr()) } < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call succeeded, so that the kernel has filled it in.
    let usage = unsafe { usage.assume_init() };
    let time = |time: libc::timeval| {
        Duration::from_secs(time.tv_sec.unsigned_abs()) + Duration::from_micros(time.tv_usec.unsigned_abs())
    };
    Ok((ExitStatus::from_raw(status), time(usage.ru_utime) + time(usage.ru_stime)))
}

/// Has the child call this between fork and exec, where only system calls may be made: a child of ours has a copy of locks that
/// nobody will ever release.
pub(crate) fn before_exec(command: &mut Command, call: fn() -> io::Result<()>) {
    // SAFETY: the callers give system calls.
    unsafe { command.pre_exec(call) };
}

/// Takes this thread, and all that it starts from now on, to new namespaces of these kinds (`CLONE_NEW…`).
pub(crate) fn unshare(kinds: libc::c_int) -> io::Result<()> {
    // SAFETY: takes flags, and changes what this thread sees of the kernel, but none of its memory.
    check(unsafe { libc::unshare(kinds) })
}

/// Takes this thread, and all that it starts from now on, to a network namespace.
pub(crate) fn enter(namespace: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: takes a descriptor, which is open, and changes what this thread sees of the kernel, but none of its memory.
    check(unsafe { libc::setns(namespace.as_raw_fd(), libc::CLONE_NEWNET) })
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// The processor time that this thread has taken, or all threads of this process.
pub(crate) fn cpu_time(clock: CpuClock) -> Duration {
    let clock = match clock {
        CpuClock::Process => libc::CLOCK_PROCESS_CPUTIME_ID,
        CpuClock::Thread => libc::CLOCK_THREAD_CPUTIME_ID,
    };
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the pointer is to one timespec, which lives until the call is over. These clocks are always there.
    unsafe { libc::clock_gettime(clock, &raw mut time) };
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or_default())
}

/// Whose time.
#[derive(Clone, Copy, Debug)]
pub(crate) enum CpuClock {
    Process,
    Thread,
}

/// Gives the ring one read or write of `buffer` at `offset` in the file; `tag` comes back with its completion.
///
/// # Safety
///
/// The buffer stays where it is, and nobody else uses it, until that completion has come.
pub(crate) unsafe fn push(
    ring: &mut IoUring,
    file: BorrowedFd<'_>,
    write: bool,
    buffer: &mut [u8],
    offset: u64,
    tag: u64,
) {
    let fd = io_uring::types::Fd(file.as_raw_fd());
    let (base, len) = (buffer.as_mut_ptr(), u32::try_from(buffer.len()).expect("a buffer is short"));
    let entry = if write {
        io_uring::opcode::Write::new(fd, base, len).offset(offset).build()
    } else {
        io_uring::opcode::Read::new(fd, base, len).offset(offset).build()
    };
    // SAFETY: the caller keeps the buffer; the file is open until the entry is submitted, and held by the kernel then.
    unsafe { ring.submission().push(&entry.user_data(tag)) }.expect("the ring has room for all requests");
}
