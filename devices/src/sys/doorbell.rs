// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Ringing a doorbell, and waiting for one, for a time.
//!
//! A backend of vhost-user has the doorbells of its rings, to read and to write, and their flags are everybody's: it can fill
//! a counter, and a write to that waits until somebody has read.

use std::io;
use std::os::fd::AsRawFd;
use std::sync::atomic::{Ordering, fence};
use std::time::Duration;

use vmm_sys_util::eventfd::EventFd;

use super::poll::{self, Watch};

/// Sleeps until the doorbell has been rung or `timeout` is over, and makes it silent again.
pub(crate) fn wait(doorbell: &EventFd, timeout: Option<Duration>) -> io::Result<()> {
    if let Some(timeout) = timeout {
        let seconds = libc::time_t::try_from(timeout.as_secs()).unwrap_or(libc::time_t::MAX);
        let timeout = libc::timespec { tv_sec: seconds, tv_nsec: timeout.subsec_nanos().into() };
        let mut poll = libc::pollfd { fd: doorbell.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        // SAFETY: one pollfd and a timespec, both of which live on this stack during the call; no signal mask.
        let ready = unsafe { libc::ppoll(&raw mut poll, 1, &raw const timeout, std::ptr::null()) };
        if ready <= 0 {
            let error = io::Error::last_os_error();
            let over = ready == 0 || error.kind() == io::ErrorKind::Interrupted;
            return if over { Ok(()) } else { Err(error) };
        }
    }
    match doorbell.read() {
        Err(error) if error.kind() != io::ErrorKind::Interrupted => Err(error),
        _ => Ok(()),
    }
}

/// Rings a doorbell that others may have as well. One that is full isn't written to: it rings. One that rings already is, as
/// the kernel's vhost never takes it, and looks at its ring when somebody writes.
///
/// So this doesn't wait for a counter to have room. What remains: somebody who has taken back [`never_wait`] and fills the
/// counter between our look and our write.
pub(crate) fn ring(doorbell: &EventFd) -> io::Result<()> {
    // What the ring is about comes before the look at it, as whoever takes it looks afterwards.
    fence(Ordering::SeqCst);
    if is_full(doorbell) {
        return Ok(());
    }
    match doorbell.write(1) {
        // It has been filled meanwhile, and rings.
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
        written => written,
    }
}

/// Has writes to an eventfd fail where they would have to wait, and reads, for all who have it.
pub(crate) fn never_wait(event: &EventFd) -> io::Result<()> {
    let on: libc::c_int = 1;
    // SAFETY: the request reads a number of this kind, which lives on this stack.
    let result = unsafe { libc::ioctl(event.as_raw_fd(), libc::FIONBIO, &raw const on) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Makes an eventfd silent without ever waiting, whatever its flags are: those are everybody's who has it. `false`: it was silent.
///
/// A kernel before Linux 5.8 can't promise that of an eventfd. There it is looked at first, which is as good where nobody else
/// reads it.
pub(crate) fn take(event: &EventFd) -> io::Result<bool> {
    let mut count = 0u64;
    let part = libc::iovec { iov_base: (&raw mut count).cast(), iov_len: size_of::<u64>() };
    // SAFETY: one part, which names a number on this stack of the length that it says; both live until the call is over. An
    // eventfd has no offset, which -1 says.
    let read = unsafe { libc::preadv2(event.as_raw_fd(), &raw const part, 1, -1, libc::RWF_NOWAIT) };
    if read >= 0 {
        return Ok(true);
    }
    let error = io::Error::last_os_error();
    match error.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted => Ok(false),
        _ if error.raw_os_error() == Some(libc::EOPNOTSUPP) => take_seen(event),
        _ => Err(error),
    }
}

fn take_seen(event: &EventFd) -> io::Result<bool> {
    if !is_ringing(event) {
        return Ok(false);
    }
    match event.read() {
        Ok(_) => Ok(true),
        Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Whether somebody has written to an eventfd and nobody has taken that.
pub(crate) fn is_ringing(event: &EventFd) -> bool {
    let mut watches = [Watch::new(event, true, false)];
    poll::wait(&mut watches, Some(Duration::ZERO)).is_ok() && watches.iter().any(Watch::is_readable)
}

/// Whether an eventfd's counter has no room for one more.
fn is_full(event: &EventFd) -> bool {
    let mut watches = [Watch::new(event, false, true)];
    poll::wait(&mut watches, Some(Duration::ZERO)).is_ok() && !watches.iter().any(Watch::is_writable)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_ring_is_written_until_there_is_no_room_and_none_waits() {
        for flags in [0, libc::EFD_NONBLOCK] {
            let event = EventFd::new(flags | libc::EFD_CLOEXEC).unwrap();
            ring(&event).unwrap();
            ring(&event).unwrap();
            assert_eq!(event.read().unwrap(), 2);
            event.write(u64::MAX - 1).unwrap();
            ring(&event).unwrap();
            assert_eq!(event.read().unwrap(), u64::MAX - 1);
        }
    }

    #[test]
    fn what_is_taken_is_silent_and_taking_never_waits() {
        for flags in [0, libc::EFD_NONBLOCK] {
            let event = EventFd::new(flags | libc::EFD_CLOEXEC).unwrap();
            assert!(!take(&event).unwrap());
            event.write(3).unwrap();
            assert!(is_ringing(&event));
            assert_eq!([take(&event).unwrap(), take(&event).unwrap()], [true, false]);
            assert!(!is_ringing(&event));
            event.write(3).unwrap();
            assert_eq!([take_seen(&event).unwrap(), take_seen(&event).unwrap()], [true, false]);
        }
    }

    #[test]
    fn ringing_never_waits_for_somebody_to_take_what_is_full() {
        for flags in [0, libc::EFD_NONBLOCK] {
            let doorbell = EventFd::new(flags | libc::EFD_CLOEXEC).unwrap();
            ring(&doorbell).unwrap();
            assert!(take(&doorbell).unwrap());
            // The most that there can be.
            doorbell.write(u64::MAX - 1).unwrap();
            ring(&doorbell).unwrap();
            assert!(take(&doorbell).unwrap() && !take(&doorbell).unwrap());
            never_wait(&doorbell).unwrap();
            doorbell.write(u64::MAX - 1).unwrap();
            assert_eq!(doorbell.write(1).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        }
    }

    #[test]
    fn a_ring_ends_the_wait_and_is_taken_once() {
        let doorbell = EventFd::new(libc::EFD_CLOEXEC).unwrap();
        doorbell.write(3).unwrap();
        wait(&doorbell, Some(Duration::MAX)).unwrap();
        wait(&doorbell, Some(Duration::ZERO)).unwrap();
        doorbell.write(1).unwrap();
        wait(&doorbell, None).unwrap();
    }
}
