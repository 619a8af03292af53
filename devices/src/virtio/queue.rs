// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! A virtqueue: its ring, the chains in flight, and when to notify.
//!
//! The guest controls every byte of the ring while it runs. What it gets by lying about an index is that its own device
//! stops with NEEDS_RESET: [`QueueError`] means that the ring can't be trusted any more. A bad descriptor chain is no
//! such case; it is one [`ChainError`], and the queue goes on.
//!
//! The ring format is the business of `split.rs`, and stays behind this type.

use thiserror::Error;

use super::chain::{Chain, ChainError};
use super::features;
use super::split::{HostAddresses, SplitRing};
use crate::GuestRam;

/// What the driver has set up, as the transport's registers hold it: not yet looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QueueConfig {
    /// Descriptors.
    pub size: u16,
    /// The descriptor table's address.
    pub descriptor_table: u64,
    /// The available ring's address, the "driver area".
    pub avail_ring: u64,
    /// The used ring's address, the "device area".
    pub used_ring: u64,
}

/// Where a stopped queue goes on when it is started again: all that there is to know of it besides its registers and
/// guest memory. It may come from a file, so [`Queue::new`] believes none of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct QueueState {
    /// The available index that is looked at next.
    pub next_avail: u16,
    /// The used index that is written next.
    pub next_used: u16,
    /// The heads that were taken and not given back, in the order in which they are taken again.
    pub in_flight: Vec<u16>,
}

/// A queue that can't be run, or not any further.
#[derive(Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum QueueError {
    /// virtio 1.3 §2.7: a power of two, at most what the device offers.
    #[error("a queue size of {size} is not a power of two from 1 to {max}")]
    BadSize {
        /// What the driver asked for.
        size: u16,
        /// What the device offers.
        max: u16,
    },
    /// virtio 1.3 §2.7: 16, 2 and 4 bytes for table, avail ring and used ring.
    #[error("the {part} at {address:#x} is not aligned to {alignment} bytes")]
    Misaligned {
        /// Table or ring.
        part: &'static str,
        /// Where the driver put it.
        address: u64,
        /// What the specification demands.
        alignment: u64,
    },
    /// Part of it lies in no RAM.
    #[error("the {part} at {address:#x}, {len} bytes, is not in RAM")]
    NotInRam {
        /// Table or ring.
        part: &'static str,
        /// Where the driver put it.
        address: u64,
        /// Bytes.
        len: u64,
    },
    /// The available index has moved by more than the ring holds.
    #[error("the available index has jumped: it is {index}, {next} was next, and the queue holds {size}")]
    AvailIndexJumped {
        /// What the driver wrote.
        index: u16,
        /// The index that was looked at next.
        next: u16,
        /// Descriptors.
        size: u16,
    },
    /// The available index said that there is a chain, and then that there is none.
    #[error("the available index went back")]
    AvailIndexWentBack,
    /// The available ring names a descriptor that does not exist.
    #[error("head {head} is beyond the {size} descriptors of the queue")]
    HeadOutOfRange {
        /// What the driver wrote.
        head: u16,
        /// Descriptors.
        size: u16,
    },
    /// The available ring names a chain that the device has not given back yet.
    #[error("head {head} is still in flight")]
    HeadInFlight {
        /// What the driver wrote.
        head: u16,
    },
    /// A state has more chains in flight than there are descriptors.
    #[error("{count} chains in flight are more than the {size} descriptors of the queue")]
    TooManyInFlight {
        /// Heads in the state.
        count: usize,
        /// Descriptors.
        size: u16,
    },
    /// A state has a chain in flight twice.
    #[error("head {head} is in flight twice")]
    InFlightTwice {
        /// The chain.
        head: u16,
    },
    /// Every chain that was taken moved one index, every chain that was given back the other.
    #[error(
        "from used index {next_used} to available index {next_avail} is not {count}, the number of chains in flight"
    )]
    InconsistentState {
        /// The available index that would be looked at next.
        next_avail: u16,
        /// The used index that would be written next.
        next_used: u16,
        /// Heads in the state.
        count: usize,
    },
    /// A completion for a chain that is not in flight: an error of the device, which the ring must not see.
    #[error("head {head} is not in flight")]
    NotInFlight {
        /// The chain.
        head: u16,
    },
    /// The ring could not be read or written, though it was in RAM when it was set up: an error of ours.
    #[error("the ring can't be accessed at offset {offset:#x}")]
    Ring {
        /// In one of its parts.
        offset: usize,
    },
}

/// A chain's head, and whether the chain can be used.
pub type Popped = (u16, Result<(), ChainError>);

/// A running queue.
#[derive(Debug)]
pub struct Queue {
    ring: SplitRing,
    mem: GuestRam,
    indirect: bool,
    in_flight: InFlight,
    /// Those of them that are to be taken again, the next one last.
    again: Vec<u16>,
    /// The available index as it was when it was last read.
    seen: u16,
}

impl Queue {
    /// Checks what the driver has set up against `max_size` and the RAM there is, and makes a queue of it that goes on
    /// from `state`, which is checked too. `accepted` are the features that the driver accepted.
    pub fn new(
        config: QueueConfig,
        max_size: u16,
        accepted: u64,
        state: QueueState,
        mem: GuestRam,
    ) -> Result<Self, QueueError> {
        let size = config.size;
        if size > max_size || !size.is_power_of_two() {
            return Err(QueueError::BadSize { size, max: max_size });
        }
        let in_flight = InFlight::new(size, &state)?;
        let QueueState { next_avail, next_used, in_flight: mut again } = state;
        again.reverse();
        let event_idx = accepted & features::RING_EVENT_IDX != 0;
        let ring = SplitRing::new(config, event_idx, (next_avail, next_used), &mem)?;
        let indirect = accepted & features::RING_INDIRECT_DESC != 0;
        Ok(Self { ring, mem, indirect, in_flight, again, seen: next_avail })
    }

    /// Descriptors.
    pub fn size(&self) -> u16 {
        self.ring.size()
    }

    /// Guest RAM, which the queue's buffers lie in.
    pub fn mem(&self) -> &GuestRam {
        &self.mem
    }

    /// How many chains are to be taken: reads the available index, once, if all that it has promised before are taken.
    pub fn available(&mut self) -> Result<u16, QueueError> {
        let (next, size) = (self.ring.next_avail(), self.ring.size());
        if self.seen == next {
            let index = self.ring.avail_index()?;
            if index.wrapping_sub(next) > size {
                return Err(QueueError::AvailIndexJumped { index, next, size });
            }
            self.seen = index;
        }
        Ok(self.seen.wrapping_sub(next))
    }

    /// Takes the next chain that the driver has made available, into `chain`. `Ok(None)`: there is none.
    ///
    /// The inner result tells a chain that can't be used; its head is in flight all the same, and goes back by
    /// [`Self::complete`] with a length of 0.
    pub fn pop(&mut self, chain: &mut Chain) -> Result<Option<Popped>, QueueError> {
        if self.available()? == 0 {
            return Ok(None);
        }
        let (head, size) = (self.ring.next_head()?, self.ring.size());
        if head >= size {
            return Err(QueueError::HeadOutOfRange { head, size });
        }
        if !self.in_flight.insert(head) {
            return Err(QueueError::HeadInFlight { head });
        }
        self.ring.advance();
        Ok(Some((head, self.read(head, chain)?)))
    }

    /// How many chains are to be taken again.
    pub fn to_take_again(&self) -> u16 {
        u16::try_from(self.again.len()).unwrap_or(u16::MAX)
    }

    /// Takes the next chain again that was in flight when the queue was stopped, into `chain`; they come before all that
    /// [`Self::pop`] takes. The driver must not have touched it since; if it has, the chain is checked like any other.
    pub fn take_again(&mut self, chain: &mut Chain) -> Result<Option<Popped>, QueueError> {
        let Some(head) = self.again.pop() else { return Ok(None) };
        Ok(Some((head, self.read(head, chain)?)))
    }

    /// Takes the next chain, of those first that were in flight when the queue was stopped.
    pub fn take(&mut self, chain: &mut Chain) -> Result<Option<Popped>, QueueError> {
        match self.take_again(chain)? {
            Some(popped) => Ok(Some(popped)),
            None => self.pop(chain),
        }
    }

    fn read(&self, head: u16, chain: &mut Chain) -> Result<Result<(), ChainError>, QueueError> {
        Ok(chain.read(&self.mem, self.ring.table()?, head, self.indirect))
    }

    /// Gives a chain back to the driver. `written` is how many bytes were written to its device-writable part.
    pub fn complete(&mut self, head: u16, written: u32) -> Result<(), QueueError> {
        self.stage(head, written)?;
        self.publish()
    }

    /// Gives a chain back as [`Self::complete`] does, but the driver doesn't see it before [`Self::publish`]: for chains
    /// that belong together.
    pub fn stage(&mut self, head: u16, written: u32) -> Result<(), QueueError> {
        if !self.in_flight.remove(head) {
            return Err(QueueError::NotInFlight { head });
        }
        self.ring.push_used(head, written)
    }

    /// Lets the driver see all that is staged, at once.
    pub fn publish(&mut self) -> Result<(), QueueError> {
        self.ring.publish_used()
    }

    /// Whether the driver wants to be interrupted for what was completed since the last call.
    pub fn needs_notification(&mut self) -> Result<bool, QueueError> {
        self.ring.needs_notification()
    }

    /// Asks the driver for doorbells again, before the device goes to sleep. `true`: a chain has come in meanwhile, look
    /// before sleeping.
    pub fn enable_doorbell(&mut self) -> Result<bool, QueueError> {
        self.ring.enable_doorbell()
    }

    /// Tells the driver that no doorbell is needed while the device is awake.
    pub fn disable_doorbell(&mut self) -> Result<(), QueueError> {
        self.ring.disable_doorbell()
    }

    /// Where its parts are in this process, and stay while it lives: for somebody who works it off in our place.
    pub(crate) fn host_addresses(&self) -> HostAddresses {
        self.ring.host_addresses()
    }

    /// Takes nothing more, and gives the index at which somebody else goes on. Chains in flight are as if they had not been
    /// taken, where they are the last ones that were; else they go back empty, and the driver is to be told (`true`).
    pub(crate) fn hand_over(&mut self) -> Result<(u16, bool), QueueError> {
        let state = self.state();
        let taken =
            (0..state.in_flight.len()).zip(0u16..).map(|(_, at)| self.ring.head_at(state.next_used.wrapping_add(at)));
        let mut taken = taken.collect::<Result<Vec<_>, _>>()?;
        taken.sort_unstable();
        let is_exact = taken == state.in_flight;
        if is_exact {
            self.go_on_at(state.next_used);
        } else {
            for head in state.in_flight {
                self.stage(head, 0)?;
            }
            self.go_on_at(state.next_avail);
        }
        // Who goes on reads it there, and finds a driver that rings.
        self.publish()?;
        self.enable_doorbell()?;
        Ok((self.ring.next_avail(), !is_exact))
    }

    /// Goes on where somebody else has stopped, who has nothing in flight.
    pub(crate) fn go_on_at(&mut self, index: u16) {
        self.again.clear();
        self.in_flight.clear();
        self.ring.go_on_at(index);
        self.seen = index;
    }

    /// The used index as it is in the ring: where somebody has stopped who can't be asked any more. The driver can write it as
    /// well, and has nothing of that but its own chains.
    pub(crate) fn written_used_index(&self) -> Result<u16, QueueError> {
        self.ring.written_used_index()
    }

    /// The available index as it is in the ring.
    pub(crate) fn written_avail_index(&self) -> Result<u16, QueueError> {
        self.ring.avail_index()
    }

    /// Where the queue stands.
    pub fn state(&self) -> QueueState {
        let in_flight = (0..self.ring.size()).filter(|head| self.in_flight.contains(*head)).collect();
        QueueState { next_avail: self.ring.next_avail(), next_used: self.ring.next_used(), in_flight }
    }
}

/// The heads that the device has taken and not given back: a bit each.
#[derive(Debug)]
struct InFlight {
    words: Vec<u64>,
}

impl InFlight {
    /// What is in flight in `state`, of a queue of `size` descriptors.
    fn new(size: u16, state: &QueueState) -> Result<Self, QueueError> {
        let QueueState { next_avail, next_used, in_flight } = state;
        let (next_avail, next_used, count) = (*next_avail, *next_used, in_flight.len());
        if count > usize::from(size) {
            return Err(QueueError::TooManyInFlight { count, size });
        }
        if usize::from(next_avail.wrapping_sub(next_used)) != count {
            return Err(QueueError::InconsistentState { next_avail, next_used, count });
        }
        let mut this = Self { words: vec![0; usize::from(size).div_ceil(64)] };
        for &head in in_flight {
            if head >= size {
                return Err(QueueError::HeadOutOfRange { head, size });
            }
            if !this.insert(head) {
                return Err(QueueError::InFlightTwice { head });
            }
        }
        Ok(this)
    }

    fn clear(&mut self) {
        self.words.fill(0);
    }

    fn word(&mut self, head: u16) -> Option<(&mut u64, u64)> {
        let word = self.words.get_mut(usize::from(head >> 6))?;
        Some((word, 1 << (head & 63)))
    }

    fn contains(&self, head: u16) -> bool {
        self.words.get(usize::from(head >> 6)).is_some_and(|word| word & (1 << (head & 63)) != 0)
    }

    /// `false`: it was in there already, or can't be.
    fn insert(&mut self, head: u16) -> bool {
        self.word(head).is_some_and(|(word, bit)| {
            let new = *word & bit == 0;
            *word |= bit;
            new
        })
    }

    /// `false`: it was not in there.
    fn remove(&mut self, head: u16) -> bool {
        self.word(head).is_some_and(|(word, bit)| {
            let was = *word & bit != 0;
            *word &= !bit;
            was
        })
    }
}

#[cfg(test)]
#[path = "queue_tests.rs"]
mod tests;
