// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Who does what a request asks for: this thread at once, or somebody else meanwhile: the kernel, or a thread of a pool.
//!
//! `io_uring` hands what can't be done at once to threads of the kernel, which costs several times what a copy from the
//! page cache does. So with the page cache, what it holds is read right here, and all that is written to it is written
//! right here too. Such a write may wait, and the queue with it: while the page cache is full of what isn't on the disk
//! yet, or for the rest of a page that it changes in part. The ring gets what else would wait for the disk: reads of what
//! isn't cached, writes that are to be durable when they complete, flushes and holes. Direct I/O always waits, and all of
//! it goes to the ring. Without a ring, threads of a [`Pool`] wait instead.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use vmm_sys_util::eventfd::EventFd;

use super::backend::Backend;
use super::image::Image;
use super::pool::Pool;
use super::raw::Raw;
use super::request::Step;
use crate::GuestRam;
use crate::sys::ring::{Completion, Operation, Ring, Setup};
use crate::sys::transfer::{Direction, Transfer};

/// What became of a step.
pub(super) enum Started {
    /// It is done, and has moved so many bytes.
    Done(io::Result<u32>),
    /// The kernel has it.
    InKernel,
    /// This thread would have to wait for the disk. Nothing has happened; ask again when there is time.
    WouldWait,
}

/// One queue's engine.
pub(super) enum Engine {
    /// What isn't done at once, by this thread, is done by threads of ours.
    Sync(Box<Pool>),
    /// What isn't done at once, by this thread, is done by the kernel.
    Ring(Box<Ring>),
}

impl Engine {
    /// An engine for a queue of `slots` descriptors, made by the thread that uses it.
    pub(super) fn new(
        setup: Option<Setup>,
        slots: u16,
        doorbell: EventFd,
        image: Arc<Image>,
        mem: GuestRam,
    ) -> io::Result<Self> {
        match setup {
            Some(setup) => Ok(Self::Ring(Box::new(Ring::new(setup, slots, doorbell, mem)?))),
            None => Ok(Self::Sync(Box::new(Pool::new(slots, doorbell, image, mem)))),
        }
    }

    /// The buffers of a slot; `None` while the kernel or another thread has them.
    pub(super) fn transfer(&mut self, slot: u16) -> Option<&mut Transfer> {
        match self {
            Self::Sync(pool) => pool.transfer(slot),
            Self::Ring(ring) => ring.transfer(slot),
        }
    }

    /// Does a step, or begins with it. With `may_wait` it never answers [`Started::WouldWait`].
    pub(super) fn start(
        &mut self,
        slot: u16,
        step: Step,
        image: &Arc<Image>,
        durable: bool,
        may_wait: bool,
    ) -> Started {
        self.swap_bounce(slot);
        let started = self.start_step(slot, step, image, durable, may_wait);
        self.swap_bounce(slot);
        started
    }

    /// The steps that this thread does share a buffer.
    fn swap_bounce(&mut self, slot: u16) {
        if let Self::Sync(pool) = self {
            pool.swap_bounce(slot);
        }
    }

    /// Has a step done that would wait, by somebody who does nothing else meanwhile. `false`: there is nobody.
    pub(super) fn hand_over(&mut self, slot: u16, step: Step, durable: bool) -> bool {
        match self {
            Self::Sync(pool) => pool.hand_over(slot, step, durable),
            Self::Ring(_) => false,
        }
    }

    fn start_step(&mut self, slot: u16, step: Step, image: &Arc<Image>, durable: bool, may_wait: bool) -> Started {
        let raw = image.backend.raw();
        let Some(transfer) = self.transfer(slot) else {
            return Started::Done(Err(io::ErrorKind::ResourceBusy.into()));
        };
        #[cfg(test)]
        if raw.is_some_and(|raw| raw.full.load(std::sync::atomic::Ordering::Acquire))
            && matches!(step, Step::Write { .. } | Step::Zero { .. })
        {
            return Started::Done(Err(io::Error::from_raw_os_error(libc::ENOSPC)));
        }
        #[cfg(test)]
        if raw.is_some_and(|raw| raw.forgetful.load(std::sync::atomic::Ordering::Acquire)) && step == Step::Sync {
            return Started::Done(Err(io::Error::from_raw_os_error(libc::EIO)));
        }
        // What the page cache has is read here, and what it is to take is written here, whatever the engine. Only such a
        // write may wait.
        match (step, raw) {
            (Step::Read { offset }, Some(raw)) => {
                if let Some(result) = raw.read_cached(transfer, offset) {
                    return Started::Done(result);
                }
            }
            (Step::Write { offset }, Some(raw)) if !durable && !raw.is_direct() => {
                return Started::Done(raw.write(transfer, offset, false));
            }
            (Step::Finish(_), _) => return Started::Done(Ok(0)),
            _ => {}
        }
        if let Self::Ring(ring) = self
            && let Some(raw) = raw
            && let Some(operation) = operation(raw, step, durable)
        {
            return match ring.start(slot, operation, raw.file()) {
                Ok(true) => Started::InKernel,
                Ok(false) => Started::Done(Ok(0)),
                Err(error) => Started::Done(Err(error)),
            };
        }
        if !may_wait {
            return Started::WouldWait;
        }
        match self.transfer(slot) {
            Some(transfer) => Started::Done(run(&image.backend, transfer, step, durable)),
            None => Started::Done(Err(io::ErrorKind::ResourceBusy.into())),
        }
    }

    /// The next step that is done.
    pub(super) fn next(&mut self) -> io::Result<Option<Completion>> {
        match self {
            Self::Sync(pool) => Ok(pool.next()),
            Self::Ring(ring) => ring.next(),
        }
    }

    /// Steps that the kernel has, or another thread.
    pub(super) fn under_way(&self) -> usize {
        match self {
            Self::Sync(pool) => pool.under_way(),
            Self::Ring(ring) => ring.operations(),
        }
    }

    /// Lets the kernel begin with what was started.
    pub(super) fn submit(&mut self) -> io::Result<()> {
        match self {
            Self::Sync(_) => Ok(()),
            Self::Ring(ring) => ring.submit(),
        }
    }

    /// Sleeps until the doorbell rings, a step is done, or `timeout` is over.
    pub(super) fn wait(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        match self {
            Self::Sync(pool) => pool.wait(timeout),
            Self::Ring(ring) => ring.wait(timeout),
        }
    }

    /// Asks for all to be given back that was not begun with. Nobody listens to the doorbell any more.
    pub(super) fn cancel(&mut self) -> io::Result<()> {
        match self {
            Self::Sync(pool) => {
                pool.cancel();
                Ok(())
            }
            Self::Ring(ring) => ring.cancel(),
        }
    }
}

/// What the ring shall do for a step; `None`: it can't.
fn operation(raw: &Raw, step: Step, durable: bool) -> Option<Operation> {
    match step {
        Step::Read { offset } => Some(Operation::Transfer { direction: Direction::Read, offset, flags: 0 }),
        Step::Write { offset } => {
            let flags = if durable { libc::RWF_DSYNC } else { 0 };
            Some(Operation::Transfer { direction: Direction::Write, offset, flags })
        }
        Step::Sync => Some(Operation::Sync),
        Step::Discard { offset, len } => {
            let mode = raw.discard_mode()?;
            Some(Operation::Allocate { mode, offset, len })
        }
        Step::Zero { offset, len, unmap } => Some(Operation::Allocate { mode: raw.zero_mode(unmap), offset, len }),
        Step::Finish(_) => None,
    }
}

/// Does a step, however long that takes.
pub(super) fn run(backend: &Backend, transfer: &mut Transfer, step: Step, durable: bool) -> io::Result<u32> {
    match step {
        Step::Read { offset } => backend.read(transfer, offset),
        Step::Write { offset } => backend.write(transfer, offset, durable),
        Step::Sync => backend.sync().map(|()| 0),
        Step::Discard { offset, len } => backend.discard(offset, len).map(|()| 0),
        Step::Zero { offset, len, unmap } => backend.make_zero(offset, len, unmap).map(|()| 0),
        Step::Finish(_) => Ok(0),
    }
}
