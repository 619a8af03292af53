// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! A receive queue (virtio 1.3 §5.1.6.3 and §5.1.6.4): frames for the guest.
//!
//! Each frame is received by one call, into the buffers where it stays. How long it is shows only afterwards, so chains are
//! taken until they hold the longest one that there can be, as far as there are any; those that it didn't need are for the
//! next one. What a frame has that they don't hold goes into a buffer of ours, from which it is copied when the driver has
//! given more: so no frame waits for room that it may not need. The header in front of it is a copy of ours until the frame
//! is there.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::counters::Reason;
use super::port::{Loss, Port, Received};
use super::ring::{self, Next, Ring};
use super::spec;
use super::transmit::Turn;
use crate::sys::frame::FrameBuffers;
use crate::virtio::queue::QueueError;

/// Bytes of a packet that is no large one, if nobody says otherwise.
const USUAL_MTU: u16 = 1500;
/// Bytes of an Ethernet header with a tag.
const LONG_ETHERNET_HEADER: usize = 18;

/// How many frames are received before the thread looks at something else.
const BATCH: usize = 64;

/// How long a frame waits for a driver that has given some buffers, but fewer than it needs. Then it is dropped.
const PATIENCE: Duration = Duration::from_secs(5);
/// The same if half of all buffers are there: then the driver may give more only when some of them were used, which is when
/// Linux does so.
const PATIENCE_AT_HALF: Duration = Duration::from_millis(20);

/// For a frame.
const WAIT: Next = Next { again: false, doorbell: false, readable: true, writable: false, until: None };

#[derive(Debug)]
pub(super) struct Receive {
    pub(super) ring: Ring,
    pair: u16,
    /// The chains that were taken, one after the other.
    taken: VecDeque<Taken>,
    buffers: FrameBuffers,
    /// Bytes in them.
    room: usize,
    mergeable: bool,
    /// Bytes of the longest frame that there can be.
    longest: usize,
    header: [u8; spec::HEADER_SIZE],
    /// What a frame has that the buffers don't hold.
    rest: Vec<u8>,
    /// A frame that was received, and waits for more of them.
    held: Option<Held>,
    /// Since when a frame waits for more buffers, be it here or at the backend.
    waits_since: Option<Instant>,
}

/// A frame that was received, and for which there is too little room.
#[derive(Clone, Copy, Debug)]
struct Held {
    /// Bytes of all of it.
    frame: usize,
    /// How many of those are in the buffers; the others are in `rest`.
    placed: usize,
}

#[derive(Debug)]
struct Taken {
    head: u16,
    ranges: usize,
    bytes: usize,
}

/// Whether a frame can be received, or given to the driver.
enum Room {
    Enough,
    /// The driver has to give more.
    Short,
    /// It can't give enough, or doesn't.
    Never,
}

impl Receive {
    pub(super) fn new(ring: Ring, pair: u16) -> Self {
        let (features, size) = (ring.features, usize::from(ring.queue.size()));
        let mtu = ring.card.options.mtu.unwrap_or(USUAL_MTU).max(USUAL_MTU);
        let is_large = features & spec::LARGE_OFFLOADS != 0;
        let longest = if is_large { spec::MAX_FRAME } else { usize::from(mtu).saturating_add(LONG_ETHERNET_HEADER) };
        let buffers = FrameBuffers::new(ring.queue.mem().clone());
        let mergeable = features & spec::F_MRG_RXBUF != 0;
        let (taken, header) = (VecDeque::with_capacity(size), [0; spec::HEADER_SIZE]);
        // All of it is zero, and none of it is resident before it is used.
        let rest = vec![0; spec::MAX_FRAME];
        Self { ring, pair, taken, buffers, room: 0, mergeable, longest, header, rest, held: None, waits_since: None }
    }

    /// Receives what is there, as far as there are buffers.
    pub(super) fn turn(&mut self, port: &mut Port) -> Result<Turn, QueueError> {
        self.ring.begin()?;
        self.ring.expect(u16::MAX);
        let turn = self.receive_available(port)?;
        self.ring.announce()?;
        Ok(turn)
    }

    fn receive_available(&mut self, port: &mut Port) -> Result<Turn, QueueError> {
        let again = Next { again: true, ..Next::default() };
        for _ in 0..BATCH {
            if self.ring.is_interrupted() {
                return Ok((again, None));
            }
            if let Some(until) = ring::limited_until(&self.ring.card.options.rx_limiters) {
                return Ok((Next { until: Some(until), ..Next::default() }, None));
            }
            let passes = self.ring.card.link() && self.ring.card.is_active(self.pair);
            if let Some(held) = self.held {
                match if passes { self.make_room_for(held.frame)? } else { Room::Never } {
                    Room::Enough => self.complete_held(held)?,
                    Room::Short => return self.wait_for_buffers(),
                    Room::Never => self.drop_frame(if passes { Reason::NoRoom } else { Reason::LinkDown }),
                }
                continue;
            }
            if !port.readable {
                return Ok((WAIT, None));
            }
            let received = if passes {
                match self.make_room(port)? {
                    Ok(Room::Enough) => port.receive(&mut self.header, &mut self.buffers, self.room, &mut self.rest),
                    Ok(Room::Short) => return self.wait_for_buffers(),
                    Ok(Room::Never) => port.discard(Reason::NoRoom),
                    Err(received) => received,
                }
            } else {
                port.discard(Reason::LinkDown)
            };
            match received {
                Received::Frame(len) => self.place(len)?,
                Received::Dropped(reason) => self.drop_frame(reason),
                Received::Empty => return Ok((WAIT, None)),
                Received::Gone(loss) => {
                    self.waits_since = None;
                    return Ok((again, Some(self.note_loss(loss))));
                }
            }
        }
        Ok((again, None))
    }

    fn note_loss(&self, loss: Loss) -> Loss {
        if matches!(loss, Loss::BadLength(_)) {
            self.ring.drop(Reason::Host);
        }
        loss
    }

    /// Takes chains for the next frame. Nothing is read before there is a buffer.
    fn make_room(&mut self, port: &mut Port) -> Result<Result<Room, Received>, QueueError> {
        self.take_chains(spec::HEADER_SIZE)?;
        if self.taken.is_empty() {
            return Ok(Ok(Room::Short));
        }
        match port.expected() {
            Ok(Some(frame)) => self.make_room_for(frame).map(Ok),
            Ok(None) => {
                self.take_chains(self.longest.saturating_add(spec::HEADER_SIZE))?;
                Ok(Ok(Room::Enough))
            }
            Err(received) => Ok(Err(received)),
        }
    }

    /// Takes chains for a frame of so many bytes.
    fn make_room_for(&mut self, frame: usize) -> Result<Room, QueueError> {
        let needed = frame.saturating_add(spec::HEADER_SIZE);
        self.take_chains(needed)?;
        if self.room >= needed {
            return Ok(Room::Enough);
        }
        let has_all = self.taken.len() >= usize::from(self.ring.queue.size());
        let is_over = self.waits_since.get_or_insert_with(Instant::now).elapsed() >= self.patience();
        Ok(if has_all || self.is_full() || is_over { Room::Never } else { Room::Short })
    }

    fn patience(&self) -> Duration {
        let is_half = self.taken.len() >= usize::from(self.ring.queue.size()).div_ceil(2);
        if is_half { PATIENCE_AT_HALF } else { PATIENCE }
    }

    /// Waits for the driver: for ever as long as it has given nothing, as then the frames are better off with the host.
    fn wait_for_buffers(&mut self) -> Result<Turn, QueueError> {
        let mut next = self.ring.wait_for_doorbell()?;
        if self.taken.is_empty() {
            self.waits_since = None;
        }
        next.until = self.waits_since.and_then(|since| since.checked_add(self.patience()));
        Ok((next, None))
    }

    /// A frame of so many bytes was received: the driver gets it now if all of it is in the buffers.
    fn place(&mut self, frame: usize) -> Result<(), QueueError> {
        let placed = self.room.saturating_sub(spec::HEADER_SIZE);
        if frame > placed {
            self.held = Some(Held { frame, placed });
            return Ok(());
        }
        self.complete(frame)
    }

    /// Gives the driver a frame that has waited for buffers.
    fn complete_held(&mut self, Held { frame, placed }: Held) -> Result<(), QueueError> {
        let rest = self.rest.get(..frame.saturating_sub(placed)).unwrap_or_default();
        self.buffers.write(placed.saturating_add(spec::HEADER_SIZE), rest);
        self.complete(frame)
    }

    /// Counts a frame that is gone.
    fn drop_frame(&mut self, reason: Reason) {
        (self.held, self.waits_since) = (None, None);
        ring::charge(&self.ring.card.options.rx_limiters, 0);
        self.ring.drop(reason);
    }

    /// Takes chains until they hold so many bytes, as far as there are any.
    fn take_chains(&mut self, needed: usize) -> Result<(), QueueError> {
        let least = spec::HEADER_SIZE.saturating_add(if self.mergeable { 0 } else { spec::MIN_FRAME });
        // Ends: each turn takes a chain, and the driver can't make more available than the queue holds. One that makes those
        // available again that it gets back ends it by whatever else it wants.
        while self.room < needed && !self.is_full() && !self.ring.is_interrupted() {
            let Some((head, usable)) = self.ring.next()? else { break };
            let is_buffer = usable.is_ok()
                && self.ring.chain.readable().is_empty()
                && usize::try_from(self.ring.chain.writable_len()).is_ok_and(|len| len >= least);
            if is_buffer {
                let (ranges, bytes) = self.buffers.push(self.ring.chain.writable());
                self.room = self.room.saturating_add(bytes);
                self.taken.push_back(Taken { head, ranges, bytes });
            } else {
                self.ring.drop(Reason::BadChain);
                self.ring.give_back(head, 0, 0)?;
            }
        }
        Ok(())
    }

    /// Whether there can't be more room for one frame.
    fn is_full(&self) -> bool {
        !self.mergeable && !self.taken.is_empty() || self.buffers.is_full()
    }

    /// Gives the driver a frame of so many bytes, which lies in the first of the chains that were taken.
    fn complete(&mut self, frame: usize) -> Result<(), QueueError> {
        (self.held, self.waits_since) = (None, None);
        ring::charge(&self.ring.card.options.rx_limiters, frame);
        let all = frame.saturating_add(spec::HEADER_SIZE);
        let mut left = all;
        let used = |taken: &&Taken| {
            let is_used = left > 0;
            left = left.saturating_sub(taken.bytes);
            is_used
        };
        let count = self.taken.iter().take_while(used).count();
        self.finish_header(u16::try_from(count).unwrap_or(u16::MAX));
        self.buffers.write(0, &self.header);
        let (mut left, mut ranges) = (all, 0usize);
        for taken in self.taken.drain(..count) {
            let written = taken.bytes.min(left);
            left = left.saturating_sub(written);
            ranges = ranges.saturating_add(taken.ranges);
            self.room = self.room.saturating_sub(taken.bytes);
            self.ring.queue.stage(taken.head, u32::try_from(written).unwrap_or(u32::MAX))?;
        }
        // The driver expects all of a frame when it sees some of it.
        self.ring.queue.publish()?;
        self.buffers.drop_first(ranges);
        self.ring.pass(frame);
        self.ring.note_completed(frame)
    }

    /// Puts in what is ours, and leaves out what the driver doesn't know (virtio 1.3 §5.1.6.4.1).
    fn finish_header(&mut self, num_buffers: u16) {
        let known = if self.ring.features & spec::F_GUEST_CSUM == 0 {
            0
        } else {
            spec::HDR_F_NEEDS_CSUM | spec::HDR_F_DATA_VALID
        };
        let [flags, .., low, high] = &mut self.header;
        *flags &= known;
        [*low, *high] = num_buffers.to_le_bytes();
    }

    /// Ends. The chains that were taken stay in flight; the rest of a frame that has begun to come is lost.
    pub(super) fn stop(self, port: &mut Port) -> Ring {
        port.abandon();
        if self.held.is_some() {
            self.ring.drop(Reason::LinkDown);
        }
        self.ring
    }
}
