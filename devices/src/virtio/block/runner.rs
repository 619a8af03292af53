// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! One queue's work: takes what the driver has made available, has it done, and gives it back.
//!
//! A turn completes what was under way and is done, takes what is there, tells the driver of what was completed, and
//! sleeps until the doorbell rings or more is done. Requests complete in the order in which they are done,
//! not in that of the ring: a slow one holds up nobody, and virtio demands no more of a FLUSH than to cover the writes
//! that had completed before it was made available (virtio 1.3 §5.2.6.2).
//!
//! At most as many requests are in flight as the queue has descriptors, one for each head; nothing is allocated for a
//! request once its head has been used before.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use thiserror::Error;

use super::engine::{Engine, Started};
use super::image::Image;
use super::options::OnError;
use super::qcow2::Unwritten;
use super::request::{Request, Step};
use super::spec;
use crate::virtio::announcer::Announcer;
use crate::virtio::chain::{Chain, ChainError};
use crate::virtio::notifier::Notifier;
use crate::virtio::queue::{Queue, QueueError};

/// The longest that a queue sleeps for its rate limits before it looks again. Kernels add the time to a clock.
const LONGEST_WAIT: Duration = Duration::from_secs(3600);

/// Why a queue stops by itself.
#[derive(Debug, Error)]
pub(super) enum RunError {
    /// The ring can't be trusted.
    #[error("queue lies and has stopped: {0}")]
    Lie(#[from] QueueError),
    /// The host doesn't let us wait any more.
    #[error("queue has stopped: {0}")]
    Host(#[from] io::Error),
}

/// What runs a queue.
pub(super) struct Runner {
    pub(super) index: u16,
    pub(super) queue: Queue,
    pub(super) engine: Engine,
    pub(super) image: Arc<Image>,
    pub(super) notifier: Arc<Notifier>,
    pub(super) stop: Arc<AtomicBool>,
    /// Every write is durable when it completes.
    pub(super) durable: bool,
    /// One for each head.
    requests: Vec<Request>,
    /// The chain that is looked at.
    chain: Chain,
    /// Heads whose requests wait for the host to have room.
    held: Vec<u16>,
    /// What [`Image::resumed`] was when they were last tried.
    resumed: u64,
    announcer: Announcer,
    /// Requests that are known to be there and were not begun with.
    more: u16,
}

impl Runner {
    pub(super) fn new(
        index: u16,
        queue: Queue,
        engine: Engine,
        image: Arc<Image>,
        notifier: Arc<Notifier>,
        stop: Arc<AtomicBool>,
        durable: bool,
    ) -> Self {
        let size = queue.size();
        let requests = std::iter::repeat_with(Request::default).take(size.into()).collect();
        let (chain, held, resumed) = (Chain::with_capacity(size), Vec::with_capacity(size.into()), image.resumed());
        Self {
            index,
            queue,
            engine,
            image,
            notifier,
            stop,
            durable,
            requests,
            chain,
            held,
            resumed,
            announcer: Announcer::new(),
            more: 0,
        }
    }

    /// Runs until it is told to stop. Whatever it answers, nothing of the queue is under way any more.
    pub(super) fn run(&mut self) -> Result<(), RunError> {
        let result = self.turn_until_stopped();
        let drained = self.drain(result.is_ok());
        self.image.count_held(0, self.held.len());
        result.and(drained)
    }

    fn turn_until_stopped(&mut self) -> Result<(), RunError> {
        // What `enable_doorbell` said of the turn before.
        let mut promised = false;
        while !self.is_stopped() {
            self.complete_done()?;
            self.try_held()?;
            self.queue.disable_doorbell()?;
            let available = self.queue.available()?;
            // A ring whose flags and index are the same bytes, say, would keep us here for ever.
            if promised && available == 0 {
                return Err(QueueError::AvailIndexWentBack.into());
            }
            promised = false;
            let wait = self.take(available)?;
            self.announce()?;
            if self.is_stopped() {
                break;
            }
            if wait.is_none() {
                promised = self.queue.enable_doorbell()?;
                if promised {
                    self.engine.submit()?;
                    continue;
                }
            }
            self.engine.wait(wait)?;
        }
        Ok(())
    }

    /// Waits for what is under way. With `completes`, what gets done goes back to the driver.
    fn drain(&mut self, completes: bool) -> Result<(), RunError> {
        self.stop.store(true, Ordering::Release);
        if self.engine.under_way() > 0 {
            self.engine.cancel()?;
        }
        while self.engine.under_way() > 0 {
            if completes {
                self.complete_done()?;
            } else {
                while let Some(done) = self.engine.next()? {
                    self.note_loss(done.slot, done.result.as_ref().err());
                }
            }
            if self.engine.under_way() > 0 {
                self.engine.wait(None)?;
            }
        }
        if completes {
            self.announce()?;
        }
        Ok(())
    }

    fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Acquire)
    }

    /// Takes up to `available` chains, behind those that were in flight when the queue was stopped: a pause gets nobody
    /// around the limits. When the rate limits let no more in, gives the time after which they do.
    fn take(&mut self, available: u16) -> Result<Option<Duration>, RunError> {
        self.announcer.expect(available);
        self.more = available.saturating_add(self.queue.to_take_again());
        while self.more > 0 {
            if self.is_stopped() {
                break;
            }
            if let Some(wait) = self.limit() {
                return Ok(Some(wait));
            }
            let Some((head, usable)) = self.queue.take(&mut self.chain)? else { break };
            self.more = self.more.saturating_sub(1);
            self.begin(head, usable)?;
        }
        Ok(None)
    }

    /// How long the rate limits let nothing in, if they don't.
    fn limit(&self) -> Option<Duration> {
        let limiters = &self.image.options.limiters;
        if limiters.is_empty() {
            return None;
        }
        let now = Instant::now();
        limiters.iter().filter_map(|limiter| limiter.wait(now)).max().map(|wait| wait.min(LONGEST_WAIT))
    }

    /// Begins with the request in the chain.
    fn begin(&mut self, head: u16, usable: Result<(), ChainError>) -> Result<(), RunError> {
        let charge = |bytes| match self.image.options.limiters.as_slice() {
            [] => {}
            limiters => {
                let now = Instant::now();
                limiters.iter().for_each(|limiter| limiter.take(bytes, now));
            }
        };
        if let Err(error) = usable {
            charge(0);
            if let Some(times) = self.image.failures.hit() {
                tracing::debug!(disk = self.image.name, times, "a request is dropped: {error}");
            }
            return self.give_back(head, 0, 0);
        }
        let Some(request) = self.requests.get_mut(usize::from(head)) else { return Ok(()) };
        let is_request = request.parse(&self.image, self.queue.mem(), &mut self.chain, self.durable);
        charge(if is_request { request.size() } else { 0 });
        if !is_request {
            return self.give_back(head, 0, 0);
        }
        let data = request.data(&self.chain);
        if !data.is_empty() {
            let loaded = self
                .engine
                .transfer(head)
                .map(|transfer| transfer.load(self.queue.mem(), data, self.image.backend.alignment()));
            // Its segments were in RAM when the chain was read, and nothing is under way of a head not in flight.
            if !matches!(loaded, Some(Ok(()))) {
                request.fail(spec::S_IOERR);
            }
        }
        self.advance(head)
    }

    /// Goes on with a request until it is done or under way, or the queue is to stop.
    fn advance(&mut self, head: u16) -> Result<(), RunError> {
        loop {
            let Some(request) = self.requests.get(usize::from(head)) else { return Ok(()) };
            let step = request.step();
            if let Step::Finish(status) = step {
                let written = request.report(self.queue.mem(), status);
                return self.give_back(head, written, request.size());
            }
            if self.is_stopped() {
                return Ok(());
            }
            let started = match self.engine.start(head, step, &self.image, self.durable, false) {
                Started::WouldWait => {
                    let alone = self.more == 0 && self.engine.under_way() == 0;
                    if !alone && self.engine.hand_over(head, step, self.durable) {
                        return Ok(());
                    }
                    // Nobody's completion waits for the disk that another request needs.
                    self.announce()?;
                    self.engine.start(head, step, &self.image, self.durable, true)
                }
                started => started,
            };
            let Started::Done(result) = started else { return Ok(()) };
            if !self.account(head, step, result) {
                return Ok(());
            }
        }
    }

    /// Remembers when something that was to be durable is not. The kernel says so only once.
    fn note_loss(&self, head: u16, error: Option<&io::Error>) {
        let step = self.requests.get(usize::from(head)).map(Request::step);
        let promised = match step {
            Some(Step::Sync) => true,
            Some(Step::Write { .. }) => self.durable,
            _ => false,
        };
        // A write to a file that finds no room has written nothing: local file systems see to the room before they take the
        // data. A device that has none tells of it when somebody's data is on its way to it.
        let is_file = self.image.backend.raw().is_none_or(|raw| !raw.is_block_device());
        let is_write = is_file && matches!(step, Some(Step::Write { .. }));
        let harmless = |error: &&io::Error| match error.raw_os_error() {
            Some(libc::EINTR | libc::ECANCELED) => true,
            // Nor has one that direct I/O refuses for how it is aligned.
            Some(libc::ENOSPC | libc::EDQUOT | libc::EINVAL) => is_write,
            _ => error.get_ref().is_some_and(|error| error.is::<Unwritten>()),
        };
        if let Some(error) = error.filter(|error| promised && !harmless(error)) {
            self.image.set_lost(error);
        }
    }

    /// Takes in how a step ended. `false`: the request doesn't go on just now.
    fn account(&mut self, head: u16, step: Step, result: io::Result<u32>) -> bool {
        let Some(request) = self.requests.get_mut(usize::from(head)) else { return false };
        let error = match result {
            Ok(bytes) => {
                request.done(step, bytes);
                return true;
            }
            Err(error) => error,
        };
        // A flush that is tried again succeeds though what it was to make durable is lost.
        let holds = self.image.options.on_error == OnError::Stop
            && !matches!(step, Step::Sync)
            && matches!(error.raw_os_error(), Some(libc::ENOSPC | libc::EDQUOT));
        // What is held is written before anybody is told that it is durable.
        if !holds {
            self.note_loss(head, Some(&error));
        }
        let Some(request) = self.requests.get_mut(usize::from(head)) else { return false };
        match error.raw_os_error() {
            Some(libc::EINTR) => return true,
            Some(libc::ECANCELED) if self.stop.load(Ordering::Acquire) => return false,
            Some(libc::EOPNOTSUPP) => {
                if let Step::Zero { unmap, .. } = step
                    && self.image.backend.raw().is_some_and(|raw| raw.other_zero(unmap))
                {
                    request.set_unmap(!unmap);
                    return true;
                }
                let is_range = matches!(step, Step::Zero { .. } | Step::Discard { .. });
                request.fail(if is_range { spec::S_UNSUPP } else { spec::S_IOERR });
            }
            _ if holds => {
                if let Some(times) = self.image.failures.hit() {
                    tracing::warn!(disk = self.image.name, times, "{}; it is held", Request::describe(step, &error));
                }
                self.image.count_held(1, 0);
                self.held.push(head);
                return false;
            }
            _ => request.fail(spec::S_IOERR),
        }
        if let Some(times) = self.image.failures.hit() {
            tracing::warn!(disk = self.image.name, times, "{}", Request::describe(step, &error));
        }
        true
    }

    /// Tries the held requests again, if the host says that it's time.
    fn try_held(&mut self) -> Result<(), RunError> {
        let resumed = self.image.resumed();
        if self.resumed == resumed {
            return Ok(());
        }
        self.resumed = resumed;
        let held = std::mem::take(&mut self.held);
        self.more = u16::try_from(held.len()).unwrap_or(u16::MAX);
        for head in held {
            self.more = self.more.saturating_sub(1);
            self.image.count_held(0, 1);
            self.advance(head)?;
        }
        Ok(())
    }

    /// Goes on with what was under way and is done.
    fn complete_done(&mut self) -> Result<(), RunError> {
        while let Some(done) = self.engine.next()? {
            let Some(request) = self.requests.get(usize::from(done.slot)) else { continue };
            if self.account(done.slot, request.step(), done.result) {
                self.advance(done.slot)?;
            }
        }
        Ok(())
    }

    fn give_back(&mut self, head: u16, written: u32, bytes: u64) -> Result<(), RunError> {
        self.queue.complete(head, written)?;
        Ok(self.announcer.note(bytes, &mut self.queue, &self.notifier, self.index)?)
    }

    /// Tells the driver of what was completed, if it wants to know.
    fn announce(&mut self) -> Result<(), RunError> {
        Ok(self.announcer.tell(&mut self.queue, &self.notifier, self.index)?)
    }
}
