// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! A descriptor of a port's on the host, and what the thread waits for of it.

use std::fmt;
use std::io;
use std::os::fd::{AsRawFd, RawFd};

use vmm_sys_util::epoll::EventSet;

use crate::virtio::worker::Waits;

/// A box has no descriptor of its own.
#[derive(Clone, Copy)]
struct Fd(RawFd);

impl AsRawFd for Fd {
    fn as_raw_fd(&self) -> RawFd {
        self.0
    }
}

/// Something that a [`Waits`] may watch.
pub(super) struct Watched<T> {
    pub(super) inner: T,
    /// Open as long as `inner` is there.
    fd: Fd,
    token: u64,
    /// What is waited for; `None`: it isn't watched.
    interest: Option<EventSet>,
    /// A file, of which epoll says nothing: it is always ready.
    is_always_ready: bool,
}

impl<T> fmt::Debug for Watched<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watched").field("token", &self.token).field("interest", &self.interest).finish_non_exhaustive()
    }
}

impl<T> Watched<T> {
    /// `fd` is the descriptor of `inner`.
    pub(super) fn new(inner: T, fd: RawFd, token: u64) -> Self {
        Self { inner, fd: Fd(fd), token, interest: None, is_always_ready: false }
    }

    /// Another thread waits from now on, which watches nothing yet.
    pub(super) fn begin(&mut self) {
        self.interest = None;
    }

    /// Whether it is ready though nobody says so.
    pub(super) fn is_always_ready(&self) -> bool {
        self.is_always_ready
    }

    /// It is to be read to its end without being watched: its other side is gone, which would be said for ever.
    pub(super) fn read_unwatched(&mut self, waits: &Waits) {
        let _ = self.watch(None, waits);
        self.is_always_ready = true;
    }

    /// Has it watched for this, or not at all. An end of it is said while it is watched, whatever for.
    pub(super) fn watch(&mut self, wanted: Option<EventSet>, waits: &Waits) -> io::Result<()> {
        if self.is_always_ready || wanted == self.interest {
            return Ok(());
        }
        let result = match (self.interest, wanted) {
            (_, None) => {
                waits.unwatch(&self.fd);
                Ok(())
            }
            (None, Some(interest)) => waits.watch(&self.fd, self.token, interest),
            (Some(_), Some(interest)) => waits.watch_for(&self.fd, self.token, interest),
        };
        self.interest = wanted;
        match result {
            Err(error) if error.raw_os_error() == Some(libc::EPERM) => {
                (self.interest, self.is_always_ready) = (None, true);
                Ok(())
            }
            Err(error) => {
                self.interest = None;
                Err(error)
            }
            Ok(()) => Ok(()),
        }
    }
}
