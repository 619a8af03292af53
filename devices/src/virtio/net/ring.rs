// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What the queues of a card have in common: how chains are taken and given back, and when somebody is told.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use vmm_sys_util::eventfd::EventFd;

use super::card::Card;
use super::counters::Reason;
use crate::token_bucket::RateLimiter;
use crate::virtio::announcer::Announcer;
use crate::virtio::chain::Chain;
use crate::virtio::device::QueueResources;
use crate::virtio::notifier::Notifier;
use crate::virtio::pace::Moved;
use crate::virtio::queue::{Popped, Queue, QueueError, QueueState};

/// The longest that a queue sleeps for its rate limits before it looks again. Kernels add the time to a clock.
const LONGEST_WAIT: Duration = Duration::from_secs(3600);

/// What a queue waits for after a turn.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Next {
    /// Nothing: there is more to do.
    pub(super) again: bool,
    /// Its doorbell.
    pub(super) doorbell: bool,
    /// A frame from the backend.
    pub(super) readable: bool,
    /// Room in the backend.
    pub(super) writable: bool,
    /// A time.
    pub(super) until: Option<Instant>,
}

/// A running queue, whatever is in it.
#[derive(Debug)]
pub(super) struct Ring {
    pub(super) index: u16,
    pub(super) queue: Queue,
    pub(super) doorbell: EventFd,
    pub(super) card: Arc<Card>,
    /// The chain that is looked at.
    pub(super) chain: Chain,
    /// The features that the driver has accepted.
    pub(super) features: u64,
    pub(super) notifier: Arc<Notifier>,
    /// Somebody wants the thread's attention.
    attention: Arc<AtomicBool>,
    /// Which counters are this queue's.
    counters: usize,
    /// What `enable_doorbell` has said last.
    promised: bool,
    announcer: Announcer,
    /// What has passed since somebody asked.
    moved: Moved,
}

impl Ring {
    pub(super) fn new(
        index: u16,
        counters: usize,
        resources: QueueResources,
        features: u64,
        card: Arc<Card>,
        attention: Arc<AtomicBool>,
    ) -> Self {
        let QueueResources { queue, doorbell, notifier } = resources;
        let chain = Chain::with_capacity(queue.size());
        Self {
            index,
            queue,
            doorbell,
            card,
            chain,
            features,
            notifier,
            attention,
            counters,
            promised: false,
            announcer: Announcer::new(),
            moved: Moved::default(),
        }
    }

    /// Begins a turn; gives how many chains are there.
    pub(super) fn begin(&mut self) -> Result<u16, QueueError> {
        self.queue.disable_doorbell()?;
        let available = self.queue.available()?;
        // A ring whose flags and index are the same bytes, say, would keep us here for ever.
        if std::mem::take(&mut self.promised) && available == 0 {
            return Err(QueueError::AvailIndexWentBack);
        }
        Ok(available)
    }

    /// Sets after how many frames of those that are there the driver is told.
    pub(super) fn expect(&mut self, frames: u16) {
        self.announcer.expect(frames);
    }

    /// Takes the next chain: those first that were in flight when the queue was stopped.
    pub(super) fn next(&mut self) -> Result<Option<Popped>, QueueError> {
        self.queue.take(&mut self.chain)
    }

    /// Gives a chain back, on which so many bytes of a frame were moved.
    pub(super) fn give_back(&mut self, head: u16, written: u32, bytes: usize) -> Result<(), QueueError> {
        self.queue.complete(head, written)?;
        self.note_completed(bytes)
    }

    /// A frame of so many bytes was completed.
    pub(super) fn note_completed(&mut self, bytes: usize) -> Result<(), QueueError> {
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
        self.announcer.note(bytes, &mut self.queue, &self.notifier, self.index)
    }

    /// Tells the driver of what was completed, if it wants to know.
    pub(super) fn announce(&mut self) -> Result<(), QueueError> {
        self.announcer.tell(&mut self.queue, &self.notifier, self.index)
    }

    /// Waits for the doorbell from now on, unless a chain has come in meanwhile.
    pub(super) fn wait_for_doorbell(&mut self) -> Result<Next, QueueError> {
        self.promised = self.queue.enable_doorbell()?;
        Ok(Next { again: self.promised, doorbell: true, ..Next::default() })
    }

    /// Takes nothing more, and gives the index at which somebody else goes on.
    pub(super) fn hand_over(&mut self) -> Result<u16, QueueError> {
        // Somebody else takes it.
        self.promised = false;
        let (base, has_given_back) = self.queue.hand_over()?;
        if has_given_back {
            self.notifier.used(self.index);
        }
        Ok(base)
    }

    /// Whether the thread should look at something else first.
    pub(super) fn is_interrupted(&self) -> bool {
        self.attention.load(Ordering::Acquire)
    }

    /// What has passed since the last call.
    pub(super) fn take_moved(&mut self) -> Moved {
        std::mem::take(&mut self.moved)
    }

    pub(super) fn pass(&mut self, bytes: usize) {
        self.moved.add(bytes);
        if let Some(counters) = self.card.counters(self.counters) {
            counters.pass(bytes);
        }
    }

    /// Counts what is dropped.
    pub(super) fn drop(&self, reason: Reason) {
        if let Some(counters) = self.card.counters(self.counters) {
            counters.drop(reason);
        }
        if let Some(times) = self.card.drops.hit() {
            tracing::debug!(card = self.card.name, queue = self.index, times, "dropped: {reason:?}");
        }
    }

    /// Where the queue stands, and nothing of it is left.
    pub(super) fn into_state(self) -> QueueState {
        self.queue.state()
    }
}

/// When the rate limits let something in, if they don't now.
pub(super) fn limited_until(limiters: &[Arc<RateLimiter>]) -> Option<Instant> {
    if limiters.is_empty() {
        return None;
    }
    let now = Instant::now();
    let wait = limiters.iter().filter_map(|limiter| limiter.wait(now)).max()?;
    now.checked_add(wait.min(LONGEST_WAIT))
}

/// A frame of so many bytes goes on account of the rate limits.
pub(super) fn charge(limiters: &[Arc<RateLimiter>], bytes: usize) {
    if limiters.is_empty() {
        return;
    }
    let (now, bytes) = (Instant::now(), u64::try_from(bytes).unwrap_or(u64::MAX));
    limiters.iter().for_each(|limiter| limiter.take(bytes, now));
}
