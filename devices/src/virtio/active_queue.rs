// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! A queue while it is worked off: how chains are taken and given back, and when somebody is told.

use std::sync::Arc;

use vm_memory::ByteValued;

use super::announcer::Announcer;
use super::chain::Chain;
use super::notifier::Notifier;
use super::queue::{Popped, Queue, QueueError, QueueState};
use crate::GuestRam;

/// A queue that a [`Worker`](super::worker::Worker) serves.
#[derive(Debug)]
pub(crate) struct ActiveQueue {
    index: u16,
    queue: Queue,
    notifier: Arc<Notifier>,
    /// The chain that was taken last.
    pub(crate) chain: Chain,
    announcer: Announcer,
    /// What `enable_doorbell` has said last.
    promised: bool,
}

impl ActiveQueue {
    pub(crate) fn new(index: u16, queue: Queue, notifier: Arc<Notifier>) -> Self {
        let chain = Chain::with_capacity(queue.size());
        Self { index, queue, notifier, chain, announcer: Announcer::new(), promised: false }
    }

    /// Which of the device's queues it is.
    pub(crate) fn index(&self) -> u16 {
        self.index
    }

    /// The way to the driver.
    pub(crate) fn notifier(&self) -> &Arc<Notifier> {
        &self.notifier
    }

    /// Guest RAM, which the queue's buffers lie in.
    pub(crate) fn mem(&self) -> &GuestRam {
        self.queue.mem()
    }

    /// Begins a turn: gives how many chains are to be taken in it, and wants no doorbell while it lasts. Those that come in
    /// meanwhile are the next turn's, so that a driver that is quicker than we are keeps nobody from being stopped.
    pub(crate) fn begin(&mut self) -> Result<u16, QueueError> {
        self.queue.disable_doorbell()?;
        let available = self.queue.available()?;
        // A ring whose flags and index are the same bytes, say, would keep us here for ever.
        if std::mem::take(&mut self.promised) && available == 0 {
            return Err(QueueError::AvailIndexWentBack);
        }
        let chains = available.saturating_add(self.queue.to_take_again());
        self.announcer.expect(chains);
        Ok(chains)
    }

    /// Takes the next chain into [`Self::chain`]: those first that were in flight when the queue was stopped.
    pub(crate) fn take(&mut self) -> Result<Option<Popped>, QueueError> {
        self.queue.take(&mut self.chain)
    }

    /// Takes the header out of the chain that was taken last: see [`Chain::take_header`].
    pub(crate) fn take_header<T: ByteValued>(&mut self) -> Option<T> {
        self.chain.take_header(self.queue.mem())
    }

    /// Gives a chain back, into which `written` bytes were written, and by which `moved` bytes were moved.
    pub(crate) fn give_back(&mut self, head: u16, written: u32, moved: u32) -> Result<(), QueueError> {
        self.queue.complete(head, written)?;
        self.announcer.note(moved.into(), &mut self.queue, &self.notifier, self.index)
    }

    /// Tells the driver of what was given back, if it wants to know.
    pub(crate) fn announce(&mut self) -> Result<(), QueueError> {
        self.announcer.tell(&mut self.queue, &self.notifier, self.index)
    }

    /// Ends a turn: tells the driver, and wants doorbells again. `true`: there is more already, and no doorbell will ring for it.
    #[must_use = "what is there already is forgotten otherwise"]
    pub(crate) fn end(&mut self) -> Result<bool, QueueError> {
        self.announce()?;
        self.promised = self.queue.enable_doorbell()?;
        Ok(self.promised)
    }

    /// Where the queue stands, and nothing of it is left.
    pub(crate) fn into_state(self) -> QueueState {
        self.queue.state()
    }
}
