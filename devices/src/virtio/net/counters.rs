// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What each queue has done, and what it has dropped, and why. Counters don't wrap: they stay at the top.
//!
//! Frames that vhost moves are not seen here, and so not counted: then a queue counts what it drops while its link is down.

use std::sync::atomic::{AtomicU64, Ordering};

/// What a queue has done so far. Where vhost moves the frames, those that have passed aren't among it: the interface counts them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct QueueCounters {
    /// Frames that have passed, or commands of the control queue that were done.
    pub frames: u64,
    /// Their bytes, without the virtio header.
    pub bytes: u64,
    /// What has not passed.
    pub drops: Drops,
}

/// What a queue has dropped, by the reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Drops {
    /// A chain that is no frame, no buffer or no command: outside of RAM, in the wrong direction, or too small.
    pub bad_chain: u64,
    /// A virtio header that says what was not agreed upon, or what isn't true of its frame; an unknown command.
    pub bad_header: u64,
    /// A frame that is shorter than an Ethernet header, or longer than any can be.
    pub bad_length: u64,
    /// A frame of somebody else's.
    pub spoofed: u64,
    /// The link is down, or the queue pair isn't in use.
    pub link_down: u64,
    /// A frame for which the guest's buffers are too small.
    pub no_room: u64,
    /// The host doesn't take it, or breaks its own protocol.
    pub host: u64,
}

impl Drops {
    /// All of them.
    pub fn total(&self) -> u64 {
        let Self { bad_chain, bad_header, bad_length, spoofed, link_down, no_room, host } = *self;
        [bad_chain, bad_header, bad_length, spoofed, link_down, no_room, host]
            .iter()
            .fold(0, |a, b| a.saturating_add(*b))
    }
}

/// Why something is dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reason {
    BadChain,
    BadHeader,
    BadLength,
    Spoofed,
    LinkDown,
    NoRoom,
    Host,
}

/// The counters of one queue. One thread writes them, any may read.
#[derive(Debug, Default)]
pub(super) struct Counters {
    frames: AtomicU64,
    bytes: AtomicU64,
    drops: [AtomicU64; 7],
}

fn add(counter: &AtomicU64, more: u64) {
    counter.store(counter.load(Ordering::Relaxed).saturating_add(more), Ordering::Relaxed);
}

impl Counters {
    pub(super) fn pass(&self, bytes: usize) {
        add(&self.frames, 1);
        add(&self.bytes, u64::try_from(bytes).unwrap_or(u64::MAX));
    }

    pub(super) fn drop(&self, reason: Reason) {
        if let Some(counter) = self.drops.get(reason as usize) {
            add(counter, 1);
        }
    }

    pub(super) fn read(&self) -> QueueCounters {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let [bad_chain, bad_header, bad_length, spoofed, link_down, no_room, host] = self.drops.each_ref().map(read);
        let drops = Drops { bad_chain, bad_header, bad_length, spoofed, link_down, no_room, host };
        QueueCounters { frames: read(&self.frames), bytes: read(&self.bytes), drops }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reason_has_its_counter_and_none_wraps() {
        let counters = Counters::default();
        let reasons = [
            Reason::BadChain,
            Reason::BadHeader,
            Reason::BadLength,
            Reason::Spoofed,
            Reason::LinkDown,
            Reason::NoRoom,
            Reason::Host,
        ];
        for (times, reason) in reasons.into_iter().enumerate() {
            (0..=times).for_each(|_| counters.drop(reason));
        }
        let drops = Drops { bad_chain: 1, bad_header: 2, bad_length: 3, spoofed: 4, link_down: 5, no_room: 6, host: 7 };
        assert_eq!((counters.read().drops, drops.total()), (drops, 28));
        counters.bytes.store(u64::MAX - 1, Ordering::Relaxed);
        counters.pass(60);
        assert_eq!((counters.read().frames, counters.read().bytes), (1, u64::MAX));
    }
}
