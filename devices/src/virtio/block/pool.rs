// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Threads that wait for the disk in place of the queue's own, where `io_uring` doesn't.
//!
//! A request that is alone is done by the queue's thread, which has nothing else to do. Once there are several, each that
//! would wait goes to a thread of the pool, so that a disk gets as many at once as it can use. What a guest can make us have
//! is bounded: threads by [`THREADS`] and [`THREADS_OF_DISK`], requests by the queue's size. The threads end with the queue.

use std::collections::VecDeque;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use vmm_sys_util::eventfd::EventFd;

use super::engine::run;
use super::image::Image;
use super::request::Step;
use super::worker::STACK;
use crate::GuestRam;
use crate::sys::aligned::AlignedBuffer;
use crate::sys::doorbell;
use crate::sys::ring::Completion;
use crate::sys::transfer::Transfer;

/// The most threads of a queue's pool: as many as the kernel may use for one of its rings.
const THREADS: usize = 16;
/// The most threads of all pools of a disk. With those of 64 queues, they are fewer than the tables that a qcow2 image keeps
/// in memory, of which each may need one for itself while it works.
const THREADS_OF_DISK: usize = 48;

/// A step to be done.
struct Job {
    slot: u16,
    step: Step,
    durable: bool,
    transfer: Transfer,
}

/// A step that is done.
struct Done {
    slot: u16,
    transfer: Transfer,
    result: io::Result<u32>,
}

struct State {
    jobs: VecDeque<Job>,
    done: VecDeque<Done>,
    /// Threads that wait for a job.
    idle: usize,
    ending: bool,
    /// A thread has panicked. Whatever makes it so does no more than that: no other is tried.
    has_failed: bool,
}

struct Shared {
    state: Mutex<State>,
    wake: Condvar,
    image: Arc<Image>,
    /// The queue's own, which tells it of what is done, too.
    doorbell: EventFd,
    /// Keeps mapped what the transfers point into.
    _mem: GuestRam,
}

/// The buffers of a queue's slots, and the threads that work on some of them.
pub(super) struct Pool {
    /// `None` while a thread has it.
    transfers: Vec<Option<Transfer>>,
    /// For pieces that are moved by the queue's own thread: one buffer is enough.
    bounce: Option<AlignedBuffer>,
    under_way: usize,
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

impl Pool {
    /// A pool without threads. They begin when there is work for them.
    pub(super) fn new(slots: u16, doorbell: EventFd, image: Arc<Image>, mem: GuestRam) -> Self {
        let queue = || VecDeque::with_capacity(slots.into());
        let state = State {
            jobs: queue(),
            done: VecDeque::with_capacity(slots.into()),
            idle: 0,
            ending: false,
            has_failed: false,
        };
        let shared = Shared { state: Mutex::new(state), wake: Condvar::new(), image, doorbell, _mem: mem };
        Self {
            transfers: std::iter::repeat_with(|| Some(Transfer::default())).take(slots.into()).collect(),
            bounce: None,
            under_way: 0,
            shared: Arc::new(shared),
            threads: Vec::new(),
        }
    }

    /// The buffers of a slot; `None` while a thread has them.
    pub(super) fn transfer(&mut self, slot: u16) -> Option<&mut Transfer> {
        self.transfers.get_mut(usize::from(slot))?.as_mut()
    }

    /// Lends a slot the buffer that pieces go through, or takes it back.
    pub(super) fn swap_bounce(&mut self, slot: u16) {
        if let Some(Some(transfer)) = self.transfers.get_mut(usize::from(slot)) {
            transfer.swap_bounce(&mut self.bounce);
        }
    }

    /// Steps that the threads have.
    pub(super) fn under_way(&self) -> usize {
        self.under_way
    }

    /// Has a step done by a thread. `false`: there is none for it.
    pub(super) fn hand_over(&mut self, slot: u16, step: Step, durable: bool) -> bool {
        let Some(place) = self.transfers.get_mut(usize::from(slot)) else { return false };
        let mut state = self.shared.lock();
        if state.idle <= state.jobs.len() && self.threads.len() < THREADS {
            // Where there are no more threads, the work is left to those that there are.
            self.threads.extend(self.shared.start());
        }
        if self.threads.is_empty() || state.has_failed {
            return false;
        }
        let Some(transfer) = place.take() else { return false };
        state.jobs.push_back(Job { slot, step, durable, transfer });
        self.under_way = self.under_way.saturating_add(1);
        self.shared.wake.notify_one();
        true
    }

    /// The next step that is done.
    pub(super) fn next(&mut self) -> Option<Completion> {
        if self.under_way == 0 {
            return None;
        }
        let Done { slot, transfer, result } = self.shared.lock().done.pop_front()?;
        self.under_way = self.under_way.saturating_sub(1);
        *self.transfers.get_mut(usize::from(slot))? = Some(transfer);
        Some(Completion { slot, result })
    }

    /// Sleeps until the doorbell rings, a step is done, or `timeout` is over.
    pub(super) fn wait(&self, timeout: Option<Duration>) -> io::Result<()> {
        doorbell::wait(&self.shared.doorbell, timeout)
    }

    /// Gives back what no thread has begun with.
    pub(super) fn cancel(&self) {
        let state = &mut *self.shared.lock();
        state.done.extend(state.jobs.drain(..).map(|Job { slot, transfer, .. }| {
            let result = Err(io::Error::from_raw_os_error(libc::ECANCELED));
            Done { slot, transfer, result }
        }));
        self.shared.ring();
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.lock().ending = true;
        self.shared.wake.notify_all();
        let threads = self.threads.len();
        for thread in self.threads.drain(..) {
            // A thread that has panicked has said so.
            let _ = thread.join();
        }
        self.shared.image.pool_threads.fetch_sub(threads, Ordering::AcqRel);
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts a thread, if the disk may have one more and the host gives it.
    fn start(self: &Arc<Self>) -> Option<JoinHandle<()>> {
        let count = &self.image.pool_threads;
        let more = |threads: usize| (threads < THREADS_OF_DISK).then(|| threads.saturating_add(1));
        count.fetch_update(Ordering::AcqRel, Ordering::Acquire, more).ok()?;
        let shared = self.clone();
        let thread = thread::Builder::new().name(self.image.name.clone()).stack_size(STACK);
        let started = thread.spawn(move || shared.work()).ok();
        if started.is_none() {
            count.fetch_sub(1, Ordering::AcqRel);
        }
        started
    }

    fn ring(&self) {
        // Only a full counter makes this fail, and then the queue wakes up as well.
        let _ = self.doorbell.write(1);
    }

    /// What a thread does.
    fn work(&self) {
        let mut bounce = None;
        let mut state = self.lock();
        while !state.ending {
            let Some(Job { slot, step, durable, mut transfer }) = state.jobs.pop_front() else {
                state.idle = state.idle.saturating_add(1);
                state = self.wake.wait(state).unwrap_or_else(PoisonError::into_inner);
                state.idle = state.idle.saturating_sub(1);
                continue;
            };
            drop(state);
            #[cfg(test)]
            drop(self.image.backend.raw().map(|raw| raw.gate.lock()));
            transfer.swap_bounce(&mut bounce);
            // Whatever goes wrong in there, the queue gets its slot back: it would wait for it for ever.
            let result = catch_unwind(AssertUnwindSafe(|| run(&self.image.backend, &mut transfer, step, durable)));
            transfer.swap_bounce(&mut bounce);
            state = self.lock();
            state.has_failed |= result.is_err();
            let result = result.unwrap_or_else(|_| Err(io::Error::other("the thread has panicked")));
            state.done.push_back(Done { slot, transfer, result });
            // One ring tells of all that is done by the time the queue looks.
            if state.done.len() == 1 {
                self.ring();
            }
        }
    }
}

#[cfg(test)]
#[path = "pool_tests.rs"]
mod tests;
