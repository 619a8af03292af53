// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What is done for each chain of the guest's, and each time that comes.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use vm_memory::{Bytes, GuestAddress};

use super::control::Shared;
use super::spec::{self, PAGE_SHIFT, Role};
use super::statistics::{self, Statistics};
use crate::ram::{self, GuestRam};
use crate::sys::discard::{PAGE, discard};
use crate::throttle::Throttle;
use crate::virtio::active_queue::ActiveQueue;
use crate::virtio::chain::Segment;
use crate::virtio::queue::{QueueError, QueueState};
use crate::virtio::worker::{Event, Service, Waits};

/// Bytes of a page number.
const PFN: usize = 4;
/// The most page numbers that are read of one request: Linux sends 256, and Windows 1024.
pub(super) const MAX_PFNS: usize = 4096;
/// How many chains are served before commands are looked at.
const MAX_TURNS: u16 = 8;

/// The device's work.
#[derive(Debug)]
pub(super) struct Pump {
    name: String,
    shared: Arc<Shared>,
    interval: Option<Duration>,
    /// Those that run, with what each is for.
    queues: Vec<(Role, ActiveQueue)>,
    /// The chain by which the guest says the next time what it has to say of its memory, once it has it back (§5.5.6.3).
    held: Option<u16>,
    /// What question the guest's hints are answers to, as it has said last.
    answers: u32,
    /// Whether the driver says what its free pages hold.
    tells_poison: bool,
    /// What was copied out of a chain; kept for the next one.
    bytes: Vec<u8>,
    pfns: Vec<u32>,
    strays: Throttle,
    failures: Throttle,
}

impl Pump {
    pub(super) fn new(name: String, shared: Arc<Shared>, interval: Option<Duration>) -> Self {
        Self {
            name,
            shared,
            interval,
            queues: Vec::new(),
            held: None,
            answers: spec::HINTS_STOP,
            tells_poison: false,
            bytes: Vec::new(),
            pfns: Vec::new(),
            strays: Throttle::new(),
            failures: Throttle::new(),
        }
    }

    /// Takes a queue that runs out of its place, so that all else can be changed meanwhile.
    fn take(&mut self, is_it: impl Fn(Role, &ActiveQueue) -> bool) -> Option<(Role, ActiveQueue)> {
        let at = self.queues.iter().position(|(role, queue)| is_it(*role, queue))?;
        Some(self.queues.swap_remove(at))
    }

    fn serve_queue(&mut self, role: Role, queue: &mut ActiveQueue, waits: &mut Waits) -> Result<(), QueueError> {
        let chains = queue.begin()?;
        for _ in 0..chains.min(MAX_TURNS) {
            let Some((head, usable)) = queue.take()? else { break };
            match (role, usable) {
                (Role::Statistics, Ok(())) => self.take_statistics(head, queue, waits)?,
                (Role::Inflate, Ok(())) => {
                    self.inflate(queue);
                    queue.give_back(head, 0, 0)?;
                }
                (Role::Reports, Ok(())) => {
                    self.take_free_pages(queue);
                    queue.give_back(head, 0, 0)?;
                }
                (Role::Hints, Ok(())) => {
                    self.take_hint(queue);
                    queue.give_back(head, 0, 0)?;
                }
                // A page that the guest takes back comes when it touches it.
                (Role::Deflate, Ok(())) | (_, Err(_)) => queue.give_back(head, 0, 0)?,
            }
        }
        if chains > MAX_TURNS {
            waits.again(queue.index());
            return queue.announce();
        }
        if queue.end()? {
            waits.again(queue.index());
        }
        Ok(())
    }

    /// Gives the pages back to the host whose numbers are in a chain.
    fn inflate(&mut self, queue: &ActiveQueue) {
        let (mem, limit) = (queue.mem(), MAX_PFNS.saturating_mul(PFN));
        copy(mem, queue.chain.readable(), limit, &mut self.bytes);
        let read = self.bytes.chunks_exact(PFN).filter_map(<[u8]>::first_chunk).map(|pfn| u32::from_le_bytes(*pfn));
        self.pfns.clear();
        self.pfns.extend(read);
        // No page number can wrap: there are 32 bits of it. One of a page that is only partly RAM is none.
        let address = |pfn: u32| u64::from(pfn) << PAGE_SHIFT;
        self.pfns.retain(|pfn| ram::holds(mem, GuestAddress(address(*pfn)), PAGE));
        let named = usize::try_from(queue.chain.readable_len()).unwrap_or(usize::MAX) / PFN;
        let strays = named.saturating_sub(self.pfns.len());
        // One call for pages that follow one another, in whatever order they were named.
        self.pfns.sort_unstable();
        self.pfns.dedup();
        for run in self.pfns.chunk_by(|one, next| one.checked_add(1) == Some(*next)) {
            let Some(first) = run.first() else { continue };
            let len = u64::try_from(run.len()).unwrap_or(0) << PAGE_SHIFT;
            self.note(discard(mem, address(*first), len));
        }
        if strays > 0 {
            self.shared.note_ignored(u64::try_from(strays).unwrap_or(u64::MAX));
            if let Some(times) = self.strays.hit() {
                tracing::debug!(device = self.name, times, strays, "what is no page of RAM is ignored");
            }
        }
    }

    /// Takes a hint (§5.5.6.6): which question is answered from now on, or free pages. Those that answer no question of the
    /// present stay the guest's: it may use them already.
    fn take_hint(&mut self, queue: &ActiveQueue) {
        copy(queue.mem(), queue.chain.readable(), size_of::<u32>(), &mut self.bytes);
        if let Some(command) = self.bytes.first_chunk() {
            let command = u32::from_le_bytes(*command);
            let before = std::mem::replace(&mut self.answers, command);
            if command == spec::HINTS_STOP {
                self.shared.end_hints(before);
            }
        }
        if self.shared.is_asked(self.answers) {
            self.take_free_pages(queue);
        }
    }

    /// Gives back to the host what a chain's buffers lie in: the guest uses it for nothing until it has the chain back
    /// (§5.5.6.7). It reads as zeros then, which isn't what each guest expects.
    fn take_free_pages(&self, queue: &ActiveQueue) {
        if self.tells_poison && !self.shared.free_pages_hold_zeros() {
            return;
        }
        for segment in queue.chain.writable() {
            self.note(discard(queue.mem(), segment.address.0, segment.len.into()));
        }
    }

    fn note(&self, discarded: io::Result<u64>) {
        if let Err(error) = discarded
            && let Some(times) = self.failures.hit()
        {
            tracing::warn!(device = self.name, times, "memory of the guest's can't be given back: {error}");
        }
    }

    /// Reads what the guest says, and keeps the chain until it is asked again.
    fn take_statistics(&mut self, head: u16, queue: &mut ActiveQueue, waits: &mut Waits) -> Result<(), QueueError> {
        copy(queue.mem(), queue.chain.readable(), statistics::MAX_BYTES, &mut self.bytes);
        let now = Instant::now();
        self.shared.set_statistics(Statistics::parse(&self.bytes, now));
        waits.wake_at(self.interval.and_then(|interval| now.checked_add(interval)));
        match self.held.replace(head) {
            // There may be one at a time only.
            Some(before) => queue.give_back(before, 0, 0),
            None => Ok(()),
        }
    }

    /// Asks the guest what it has to say.
    fn ask(&mut self) -> Result<(), QueueError> {
        let queue = self.queues.iter_mut().find(|(role, _)| *role == Role::Statistics);
        if let (Some((_, queue)), Some(head)) = (queue, self.held.take()) {
            queue.give_back(head, 0, 0)?;
            queue.announce()?;
        }
        Ok(())
    }
}

/// Copies the first bytes of ranges, `limit` of them at most.
fn copy(mem: &GuestRam, segments: &[Segment], limit: usize, bytes: &mut Vec<u8>) {
    bytes.clear();
    for segment in segments {
        let at = bytes.len();
        let len = usize::try_from(segment.len).unwrap_or(usize::MAX).min(limit.saturating_sub(at));
        bytes.resize(at.saturating_add(len), 0);
        let Some(place) = bytes.get_mut(at..) else { return };
        // It was in RAM when the chain was read.
        if mem.read_slice(place, segment.address).is_err() {
            return bytes.truncate(at);
        }
    }
}

impl Service for Pump {
    fn start(&mut self, queue: ActiveQueue, features: u64, _: &mut Waits) {
        self.tells_poison = features & spec::F_PAGE_POISON != 0;
        if let Some(role) = Role::of(queue.index(), features) {
            self.queues.push((role, queue));
        }
    }

    fn stop(&mut self, index: u16, waits: &mut Waits) -> Option<QueueState> {
        let (role, queue) = self.take(|_, queue| queue.index() == index)?;
        if role == Role::Statistics {
            // The chain is in flight, and taken again when the queue goes on.
            self.held = None;
            waits.wake_at(None);
        }
        Some(queue.into_state())
    }

    fn serve(&mut self, event: Event, waits: &mut Waits) -> Result<(), QueueError> {
        match event {
            Event::Queue(index) => {
                let Some((role, mut queue)) = self.take(|_, queue| queue.index() == index) else { return Ok(()) };
                let result = self.serve_queue(role, &mut queue, waits);
                self.queues.push((role, queue));
                result
            }
            Event::Time => self.ask(),
            Event::Ready { .. } | Event::Poked => Ok(()),
        }
    }

    fn reset(&mut self, _: &mut Waits) {
        let Self {
            name: _,
            shared: _,
            interval: _,
            queues,
            held,
            answers,
            tells_poison,
            bytes: _,
            pfns: _,
            strays: _,
            failures: _,
        } = self;
        queues.clear();
        (*held, *answers, *tells_poison) = (None, spec::HINTS_STOP, false);
    }
}
