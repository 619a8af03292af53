// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Waiting for several descriptors at once.

use std::io;
use std::marker::PhantomData;
use std::os::fd::AsRawFd;
use std::time::Duration;

/// A descriptor, what it is watched for, and what came of it.
#[derive(Debug)]
#[repr(transparent)]
pub(crate) struct Watch<'a>(libc::pollfd, PhantomData<&'a ()>);

impl<'a> Watch<'a> {
    /// Nothing comes of it.
    pub(crate) fn nothing() -> Self {
        Self(libc::pollfd { fd: -1, events: 0, revents: 0 }, PhantomData)
    }

    /// Waits until the descriptor can be read or written, as is wanted, or has ended in any case.
    pub(crate) fn new(fd: &'a impl AsRawFd, readable: bool, writable: bool) -> Self {
        let events = if readable { libc::POLLIN } else { 0 } | if writable { libc::POLLOUT } else { 0 };
        Self(libc::pollfd { fd: fd.as_raw_fd(), events, revents: 0 }, PhantomData)
    }

    /// It can be read without waiting.
    pub(crate) fn is_readable(&self) -> bool {
        self.0.revents & libc::POLLIN != 0
    }

    /// It can be written without waiting.
    pub(crate) fn is_writable(&self) -> bool {
        self.0.revents & libc::POLLOUT != 0
    }

    /// The other side is gone, or it has failed. That is said again and again.
    pub(crate) fn has_ended(&self) -> bool {
        self.0.revents & (libc::POLLHUP | libc::POLLERR | libc::POLLNVAL) != 0
    }
}

/// Sleeps until something can be said of one of them, or `timeout` is over, or a signal comes.
pub(crate) fn wait<const N: usize>(watches: &mut [Watch<'_>; N], timeout: Option<Duration>) -> io::Result<()> {
    let timeout = timeout.map(|timeout| libc::timespec {
        tv_sec: libc::time_t::try_from(timeout.as_secs()).unwrap_or(libc::time_t::MAX),
        tv_nsec: timeout.subsec_nanos().into(),
    });
    let timeout = timeout.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
    let count = libc::nfds_t::try_from(N).unwrap_or(0);
    // SAFETY: a watch is a `pollfd` and nothing else, there are `count` of them, and they and the time live until the
    // call returns; their descriptors are borrowed. No signal mask.
    let ready = unsafe { libc::ppoll(watches.as_mut_ptr().cast(), count, timeout, std::ptr::null()) };
    if ready >= 0 {
        return Ok(());
    }
    let error = io::Error::last_os_error();
    if error.kind() == io::ErrorKind::Interrupted { Ok(()) } else { Err(error) }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn what_can_be_done_is_said_and_nothing_else() {
        let (a, b) = UnixStream::pair().unwrap();
        let look = |readable, writable| {
            let mut watches = [Watch::nothing(), Watch::new(&a, readable, writable)];
            wait(&mut watches, Some(Duration::ZERO)).unwrap();
            assert!(!watches[0].is_readable() && !watches[0].is_writable() && !watches[0].has_ended());
            (watches[1].is_readable(), watches[1].is_writable(), watches[1].has_ended())
        };
        assert_eq!(look(true, false), (false, false, false));
        assert_eq!(look(true, true), (false, true, false));
        (&b).write_all(b"x").unwrap();
        assert_eq!(look(true, false), (true, false, false));
        assert_eq!(look(false, false), (false, false, false));
        drop(b);
        assert_eq!(look(false, false), (false, false, true));
    }

    use std::io::Write;
}
