// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! vhost: somebody else works off a ring, in our place.
//!
//! The guest controls the same as ever, and whoever has the ring now has to bear it. What it gets from us was checked by
//! [`Queue::new`](super::queue::Queue::new): where the ring is, and how large. It is lent: its queue stays with us, and keeps guest memory
//! mapped, until the ring is stopped. Nothing in here knows what a ring is for.

mod kernel;
mod patience;
mod user;

pub(crate) use kernel::Kernel;
#[cfg(test)]
pub(crate) use patience::PATIENCE;
pub(crate) use user::Frontend;

use vmm_sys_util::eventfd::EventFd;

/// How a ring is told of something, and tells of something.
#[derive(Debug)]
pub(crate) struct Lines<'a> {
    /// The driver has made something available.
    pub(crate) kick: &'a EventFd,
    /// Something was used, and the driver wants to know.
    pub(crate) call: &'a EventFd,
    /// The ring can't be trusted any more.
    pub(crate) error: &'a EventFd,
}
