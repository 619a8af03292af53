// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! A transmit queue (virtio 1.3 §5.1.6.2): the guest's frames.
//!
//! Each frame goes by one call, from where it is in guest memory. Its virtio header is a copy that was checked; so is its
//! beginning, where somebody looks at who it is from.

use super::antispoof::LOOKED_AT;
use super::counters::Reason;
use super::header::Header;
use super::port::{Loss, Outgoing, Port, Sent};
use super::ring::{self, Next, Ring};
use super::spec;
use crate::sys::frame::FrameBuffers;
use crate::virtio::chain::ChainError;
use crate::virtio::queue::QueueError;

#[derive(Debug)]
pub(super) struct Transmit {
    pub(super) ring: Ring,
    pair: u16,
    /// The frame that is sent, from its first byte on.
    buffers: FrameBuffers,
    header: [u8; spec::HEADER_SIZE],
    prefix: [u8; LOOKED_AT],
    /// The frame that is being sent.
    pending: Option<Pending>,
}

#[derive(Debug)]
struct Pending {
    head: u16,
    /// Bytes of the frame.
    len: usize,
    /// How many of them are in `prefix`.
    prefix: usize,
}

/// What a turn has found out about the backend.
pub(super) type Turn = (Next, Option<Loss>);

impl Transmit {
    pub(super) fn new(ring: Ring, pair: u16) -> Self {
        let buffers = FrameBuffers::new(ring.queue.mem().clone());
        let (header, prefix) = ([0; spec::HEADER_SIZE], [0; LOOKED_AT]);
        Self { ring, pair, buffers, header, prefix, pending: None }
    }

    /// Sends what is there, as far as it goes.
    pub(super) fn turn(&mut self, port: &mut Port) -> Result<Turn, QueueError> {
        let available = self.ring.begin()?;
        self.ring.expect(available);
        let turn = self.send_available(port, available)?;
        self.ring.announce()?;
        let (next, loss) = turn;
        if next == Next::default() { Ok((self.ring.wait_for_doorbell()?, loss)) } else { Ok((next, loss)) }
    }

    fn send_available(&mut self, port: &mut Port, available: u16) -> Result<Turn, QueueError> {
        let blocked = Next { writable: true, ..Next::default() };
        // Those that were in flight come on top: at most one a descriptor.
        let most = u32::from(available).saturating_add(self.ring.queue.size().into());
        for _ in 0..most {
            if self.pending.is_some() {
                match self.send_pending(port)? {
                    Sent::Blocked => return Ok((blocked, None)),
                    Sent::Gone(loss) => return Ok((Next { again: true, ..Next::default() }, Some(loss))),
                    Sent::Done | Sent::Refused(_) => {}
                }
            }
            if self.ring.is_interrupted() {
                return Ok((Next { again: true, ..Next::default() }, None));
            }
            if let Some(until) = ring::limited_until(&self.ring.card.options.tx_limiters) {
                return Ok((Next { until: Some(until), ..Next::default() }, None));
            }
            let Some((head, usable)) = self.ring.next()? else { return Ok((Next::default(), None)) };
            match self.take(head, usable) {
                Ok(pending) => {
                    ring::charge(&self.ring.card.options.tx_limiters, pending.len);
                    self.pending = Some(pending);
                }
                Err(reason) => {
                    ring::charge(&self.ring.card.options.tx_limiters, 0);
                    self.ring.drop(reason);
                    self.ring.give_back(head, 0, 0)?;
                }
            }
        }
        Ok((Next { again: true, ..Next::default() }, None))
    }

    /// Takes on the frame in the chain.
    fn take(&mut self, head: u16, usable: Result<(), ChainError>) -> Result<Pending, Reason> {
        let Self { ring, buffers, header, prefix, .. } = self;
        if usable.is_err() || !ring.chain.writable().is_empty() {
            return Err(Reason::BadChain);
        }
        let bytes = ring.chain.take_header::<[u8; spec::HEADER_SIZE]>(ring.queue.mem()).ok_or(Reason::BadChain)?;
        let len = usize::try_from(ring.chain.readable_len()).unwrap_or(usize::MAX);
        if !(spec::MIN_FRAME..=spec::MAX_FRAME).contains(&len) {
            return Err(Reason::BadLength);
        }
        let checked = Header::check(bytes, ring.features, len).ok_or(Reason::BadHeader)?;
        *header = checked.bytes;
        buffers.clear();
        // A chain of more ranges than one call takes is no driver's.
        if buffers.push(ring.chain.readable()).1 != len {
            return Err(Reason::BadChain);
        }
        let mut looked_at = 0;
        if let Some(antispoof) = &ring.card.options.antispoof {
            let copy = prefix.get_mut(..len.min(LOOKED_AT)).unwrap_or_default();
            looked_at = buffers.read(0, copy);
            if looked_at != copy.len() || !antispoof.permits(ring.card.options.mac, copy, checked.checksum_at) {
                return Err(Reason::Spoofed);
            }
        }
        Ok(Pending { head, len, prefix: looked_at })
    }

    /// Sends the frame that was taken on, or what is left of it.
    fn send_pending(&mut self, port: &mut Port) -> Result<Sent, QueueError> {
        let Some(pending) = &self.pending else { return Ok(Sent::Done) };
        let (head, len) = (pending.head, pending.len);
        let card = &self.ring.card;
        // A frame of which some is in a stream goes on in any case.
        let passes = port.has_begun() || card.link() && card.is_active(self.pair);
        let sent = if passes {
            let prefix = self.prefix.get(..pending.prefix).unwrap_or_default();
            port.send(Outgoing { header: &self.header, prefix, buffers: &mut self.buffers, len })
        } else {
            self.ring.drop(Reason::LinkDown);
            Sent::Done
        };
        match &sent {
            Sent::Blocked => return Ok(sent),
            Sent::Done if passes => self.ring.pass(len),
            Sent::Done => {}
            Sent::Gone(_) => self.ring.drop(Reason::LinkDown),
            Sent::Refused(error) => {
                self.ring.drop(Reason::Host);
                if let Some(times) = self.ring.card.refusals.hit() {
                    tracing::debug!(card = self.ring.card.name, times, "a frame is refused: {error}");
                }
            }
        }
        self.pending = None;
        self.ring.give_back(head, 0, len)?;
        Ok(sent)
    }

    /// Ends. A frame of which some went is completed: the other side gets the rest from a copy. One of which nothing went
    /// stays in flight.
    pub(super) fn stop(mut self, port: &mut Port) -> Ring {
        if let Some(pending) = &self.pending {
            let prefix = self.prefix.get(..pending.prefix).unwrap_or_default();
            let (head, len, buffers) = (pending.head, pending.len, &mut self.buffers);
            if port.keep_rest(&Outgoing { header: &self.header, prefix, buffers, len }) {
                self.ring.pass(len);
                // A ring that fails now has been asked to stop anyway.
                let _ = self.ring.give_back(head, 0, len).and_then(|()| self.ring.announce());
            }
        }
        self.ring
    }
}
