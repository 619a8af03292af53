// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! A port's two queues: chains that are taken, filled or emptied piece by piece, and given back.

use crate::sys::frame::FrameBuffers;
use crate::virtio::active_queue::ActiveQueue;
use crate::virtio::queue::{QueueError, QueueState};

/// The chain that was taken and not yet given back.
#[derive(Debug)]
struct Taken {
    head: u16,
    /// How many of its bytes are done.
    at: usize,
    /// How many bytes it has.
    len: usize,
}

/// A queue of which one chain at a time is worked at.
#[derive(Debug)]
pub(super) struct PortQueue {
    queue: ActiveQueue,
    /// How many chains are left of this turn.
    left: u16,
    taken: Option<Taken>,
    /// Where the bytes of `taken` are.
    frames: FrameBuffers,
}

impl PortQueue {
    pub(super) fn new(queue: ActiveQueue) -> Self {
        let frames = FrameBuffers::new(queue.mem().clone());
        Self { queue, left: 0, taken: None, frames }
    }

    /// Looks for a chain that has bytes which may be written, or read. `false`: there is none in this turn. Those that can't
    /// be used go back, with nothing written.
    fn find(&mut self, writable: bool) -> Result<bool, QueueError> {
        if self.taken.is_some() {
            return Ok(true);
        }
        if self.left == 0 {
            self.left = self.queue.begin()?;
        }
        while let Some(left) = self.left.checked_sub(1) {
            self.left = left;
            let Some((head, usable)) = self.queue.take()? else {
                self.left = 0;
                break;
            };
            let chain = &self.queue.chain;
            self.frames.clear();
            let len = match usable {
                Ok(()) => self.frames.push(if writable { chain.writable() } else { chain.readable() }).1,
                Err(_) => 0,
            };
            if len > 0 {
                self.taken = Some(Taken { head, at: 0, len });
                return Ok(true);
            }
            self.queue.give_back(head, 0, 0)?;
        }
        Ok(false)
    }

    /// Whether the guest has given a buffer that something can be put into.
    pub(super) fn has_room(&mut self) -> Result<bool, QueueError> {
        self.find(true)
    }

    /// The index of the queue.
    pub(super) fn index(&self) -> u16 {
        self.queue.index()
    }

    /// Puts bytes into the buffer that [`Self::has_room`] has found, and gives it back. `false`: it is too small, and was
    /// given back empty.
    pub(super) fn put(&mut self, bytes: &[u8]) -> Result<bool, QueueError> {
        let Some(Taken { head, len, .. }) = self.taken.take() else { return Ok(false) };
        let fits = bytes.len() <= len;
        let written = if fits { bytes.len() } else { 0 };
        if fits {
            self.frames.write(0, bytes);
        }
        self.frames.clear();
        let written = u32::try_from(written).unwrap_or(u32::MAX);
        self.queue.give_back(head, written, written)?;
        Ok(fits)
    }

    /// How many bytes the buffer has that [`Self::has_room`] has found.
    pub(super) fn room(&self) -> usize {
        self.taken.as_ref().map_or(0, |taken| taken.len)
    }

    /// Copies the next bytes of the guest's into a buffer of ours, and gives a chain back of which that was all. `None`:
    /// there are none in this turn. A chain goes back before the next one is looked at, so bytes of two are never mixed.
    pub(super) fn get(&mut self, bytes: &mut [u8]) -> Result<Option<usize>, QueueError> {
        if !self.find(false)? {
            return Ok(None);
        }
        let Some(taken) = &mut self.taken else { return Ok(None) };
        let copied = self.frames.read(taken.at, bytes);
        taken.at = taken.at.saturating_add(copied);
        if taken.at >= taken.len || copied == 0 {
            let Taken { head, at, .. } = *taken;
            self.taken = None;
            self.frames.clear();
            self.queue.give_back(head, 0, u32::try_from(at).unwrap_or(u32::MAX))?;
        }
        Ok(Some(copied))
    }

    /// The way to the driver.
    pub(super) fn notifier(&self) -> &crate::virtio::notifier::Notifier {
        self.queue.notifier()
    }

    /// Tells the driver of what was given back, if it wants to know.
    pub(super) fn announce(&mut self) -> Result<(), QueueError> {
        self.queue.announce()
    }

    /// Has the guest ring when it gives a buffer. `true`: there is one already.
    pub(super) fn wait(&mut self) -> Result<bool, QueueError> {
        self.queue.end()
    }

    /// Where the queue stands. A chain that is being worked at is taken again from its start: what was put out of a large one
    /// is said twice rather than the rest not at all.
    pub(super) fn into_state(self) -> QueueState {
        self.queue.into_state()
    }
}
