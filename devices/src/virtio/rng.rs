// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The entropy device (virtio 1.3 §5.4): random numbers of the host's for the guest.
//!
//! The guest says where in its RAM they go, and how many it wants. It can't have more of them than [`MAX_REQUEST`] by one
//! request, or faster than a rate limit lets it, and it can't see or change anything of how they are made.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use thiserror::Error;

use super::active_queue::ActiveQueue;
use super::device::{QueueResources, StartError, VirtioDevice};
use super::queue::{QueueError, QueueState};
use super::worker::{Event, Service, Waits, Wake, Worker};
use crate::sys::random;
use crate::throttle::Throttle;
use crate::token_bucket::RateLimiter;

/// The most that one request gets, in bytes; its used length says how much that was.
pub const MAX_REQUEST: u32 = 64 << 10;

/// Entropy device.
const DEVICE_TYPE: u32 = 4;
/// Descriptors of the queue. A Linux driver has one request at a time; with that many, a turn stays below a few milliseconds.
const QUEUE_SIZES: [u16; 1] = [16];
/// How often a host that has no random numbers yet is asked again.
const RETRY: Duration = Duration::from_millis(100);

/// Why there is no such device.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum RngError {
    /// The host has no eventfd left.
    #[error("an eventfd can't be made: {0}")]
    Eventfd(#[source] io::Error),
}

/// An entropy device, which is served by a thread once a driver uses it.
#[derive(Debug)]
pub struct Rng {
    worker: Worker<Source>,
}

impl Rng {
    /// An entropy device; `limiter` counts the bytes it gives. `name` stands in log lines and names the thread.
    ///
    /// # Errors
    ///
    /// When the host is short of descriptors.
    pub fn new(name: impl Into<String>, limiter: Option<Arc<RateLimiter>>) -> Result<Self, RngError> {
        let name = name.into();
        let wake = Wake::new().map_err(RngError::Eventfd)?;
        let source = Source { name: name.clone(), limiter, queue: None, is_ready: false, failures: Throttle::new() };
        Ok(Self { worker: Worker::new(name, source, QUEUE_SIZES.len(), wake) })
    }
}

impl VirtioDevice for Rng {
    fn device_type(&self) -> u32 {
        DEVICE_TYPE
    }

    fn features(&self) -> u64 {
        0
    }

    fn queue_sizes(&self) -> &[u16] {
        &QUEUE_SIZES
    }

    /// There is no configuration space (§5.4.4).
    fn read_config(&self, _: u64, _: &mut [u8]) {}

    fn start_queue(&mut self, index: u16, resources: QueueResources, features: u64) -> Result<(), StartError> {
        self.worker.start_queue(index, resources, features)
    }

    fn request_stop(&mut self, index: u16) {
        self.worker.request_stop(index);
    }

    fn stop_queue(&mut self, index: u16) -> Option<QueueState> {
        self.worker.stop_queue(index)
    }

    fn reset(&mut self) {
        let Self { worker } = self;
        worker.reset();
    }
}

/// The device's work.
#[derive(Debug)]
struct Source {
    name: String,
    limiter: Option<Arc<RateLimiter>>,
    queue: Option<ActiveQueue>,
    /// The host has random numbers, as it always has once it had some.
    is_ready: bool,
    failures: Throttle,
}

impl Source {
    /// When the next request is let in, if that isn't now.
    fn delay(&mut self, now: Instant) -> Option<Duration> {
        self.is_ready = self.is_ready || random::is_ready();
        if !self.is_ready {
            return Some(RETRY);
        }
        self.limiter.as_ref()?.wait(now)
    }

    fn serve_queue(&mut self, queue: &mut ActiveQueue, waits: &mut Waits) -> Result<(), QueueError> {
        for _ in 0..queue.begin()? {
            let now = Instant::now();
            if let Some(delay) = self.delay(now) {
                // The request is left with the guest until then. A time beyond what there is never comes.
                waits.wake_at(now.checked_add(delay));
                return queue.announce();
            }
            let Some((head, usable)) = queue.take()? else { break };
            let written = if usable.is_ok() { self.fill(queue, now) } else { 0 };
            queue.give_back(head, written, written)?;
        }
        if queue.end()? {
            waits.again(queue.index());
        }
        Ok(())
    }

    /// Fills what the guest has given for that (§5.4.6), and nothing when it has given none; gives how much that was.
    fn fill(&self, queue: &ActiveQueue, now: Instant) -> u32 {
        let bytes = queue.chain.writable_len().min(MAX_REQUEST);
        if let Some(limiter) = &self.limiter {
            limiter.take(bytes.into(), now);
        }
        let limit = usize::try_from(bytes).unwrap_or(usize::MAX);
        let (written, result) = random::fill(queue.mem(), queue.chain.writable(), limit);
        if let Err(error) = result
            && let Some(times) = self.failures.hit()
        {
            tracing::warn!(device = self.name, times, "the host gives no random numbers: {error}");
        }
        u32::try_from(written).unwrap_or(bytes)
    }
}

impl Service for Source {
    fn start(&mut self, queue: ActiveQueue, _: u64, _: &mut Waits) {
        self.queue = Some(queue);
    }

    fn stop(&mut self, _: u16, waits: &mut Waits) -> Option<QueueState> {
        waits.wake_at(None);
        self.queue.take().map(ActiveQueue::into_state)
    }

    fn serve(&mut self, event: Event, waits: &mut Waits) -> Result<(), QueueError> {
        match event {
            Event::Queue(_) | Event::Time => {
                let Some(mut queue) = self.queue.take() else { return Ok(()) };
                let result = self.serve_queue(&mut queue, waits);
                self.queue = Some(queue);
                result
            }
            Event::Ready { .. } | Event::Poked => Ok(()),
        }
    }

    fn reset(&mut self, _: &mut Waits) {
        let Self { name: _, limiter: _, queue, is_ready: _, failures: _ } = self;
        *queue = None;
    }
}

#[cfg(test)]
#[path = "rng_tests.rs"]
mod tests;
