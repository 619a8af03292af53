// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! A thread that serves all queues of one device, and what the device has of the host: how it starts, is told something,
//! sleeps and ends.
//!
//! A device says by a [`Service`] what is to be done; it never waits. The thread does the waiting: for doorbells, for
//! descriptors that the service named, and for a time. Nothing runs, and nothing is waited for but a command, while no queue
//! does. There is no thread before the first queue starts.

use std::cell::Cell;
use std::fmt::Debug;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, Sender, SyncSender, TryRecvError};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};
use vmm_sys_util::eventfd::EventFd;

use super::active_queue::ActiveQueue;
use super::device::{QueueResources, StartError};
use super::notifier::Notifier;
use super::pace::{Moved, Pacer};
use super::queue::{QueueError, QueueState};
use crate::throttle::Throttle;

/// Bytes of a worker's stack: many times what a request needs. The default of 2 MiB may get a huge page, all of which is then
/// resident.
const STACK: usize = 256 << 10;
/// How many descriptors are looked at before commands are again.
const EVENTS: usize = 32;
/// The token of the worker's own eventfd.
const ATTENTION: u64 = u64::MAX;
/// Tokens from here on are a service's own; below are the doorbells, by their queue's index.
pub(crate) const FIRST_TOKEN: u64 = 1 << 16;

/// What has happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// Queue `.0` has something to do, or may have: it has just started, its doorbell was rung, or the service wanted to go on
    /// with it.
    Queue(u16),
    /// A descriptor that the service watches is ready.
    Ready {
        /// As it was given to [`Waits::watch`].
        token: u64,
        /// What it is ready for.
        ready: EventSet,
    },
    /// [`Worker::poke`] was called since, once or more often.
    Poked,
    /// The time of [`Waits::wake_at`] has come; it is forgotten now.
    Time,
}

/// What a device does on its thread.
pub(crate) trait Service: Debug + Send + 'static {
    /// A thread begins, which watches nothing yet of what the service has.
    fn begin(&mut self, waits: &mut Waits) {
        let _ = waits;
    }

    /// A queue has started. [`Event::Queue`] follows.
    fn start(&mut self, queue: ActiveQueue, features: u64, waits: &mut Waits);

    /// Queue `index` is to stop: gives where it stands, and nothing of it or of the buffers in it is touched any more.
    fn stop(&mut self, index: u16, waits: &mut Waits) -> Option<QueueState>;

    /// Does what an event asks for, without waiting, and in a time that has a bound.
    ///
    /// # Errors
    ///
    /// When a ring can't be trusted any more: then the device needs a reset, and nothing of it is served before.
    fn serve(&mut self, event: Event, waits: &mut Waits) -> Result<(), QueueError>;

    /// All that has happened was served, and the thread is about to sleep: does what is better done once.
    ///
    /// # Errors
    ///
    /// As [`Self::serve`] does.
    fn finish(&mut self, waits: &mut Waits) -> Result<(), QueueError> {
        let _ = waits;
        Ok(())
    }

    /// Forgets what the driver has set or begun. All queues are stopped.
    fn reset(&mut self, waits: &mut Waits);
}

/// What a worker waits for, as far as its service has a say in it.
#[derive(Debug)]
pub(crate) struct Waits {
    epoll: Epoll,
    /// Queues that are served again before anything is waited for.
    again: Vec<u16>,
    time: Option<Instant>,
    /// What has gone to the driver since the thread slept.
    received: Moved,
    /// What has come from it.
    sent: Moved,
    /// Something is watched no more since the events were asked for.
    has_unwatched: Cell<bool>,
}

impl Waits {
    fn new() -> io::Result<Self> {
        let (received, sent) = (Moved::default(), Moved::default());
        let has_unwatched = Cell::new(false);
        Ok(Self { epoll: Epoll::new()?, again: Vec::new(), time: None, received, sent, has_unwatched })
    }

    fn control(&self, what: ControlOperation, fd: RawFd, token: u64, interest: EventSet) -> io::Result<()> {
        self.epoll.ctl(what, fd, EpollEvent::new(interest, token))
    }

    /// Watches a descriptor from now on; `token` is [`FIRST_TOKEN`] or more, and not [`u64::MAX`]. A hang-up or an error of it is
    /// said in any case, and again and again until it is unwatched.
    pub(crate) fn watch(&self, fd: &impl AsRawFd, token: u64, interest: EventSet) -> io::Result<()> {
        self.control(ControlOperation::Add, fd.as_raw_fd(), token, interest)
    }

    /// Watches a descriptor for something else.
    pub(crate) fn watch_for(&self, fd: &impl AsRawFd, token: u64, interest: EventSet) -> io::Result<()> {
        self.control(ControlOperation::Modify, fd.as_raw_fd(), token, interest)
    }

    /// Watches a descriptor no more. A service does so before it closes it: its file may be open elsewhere.
    pub(crate) fn unwatch(&self, fd: &impl AsRawFd) {
        self.has_unwatched.set(true);
        // Fails for one that isn't watched.
        let _ = self.control(ControlOperation::Delete, fd.as_raw_fd(), 0, EventSet::empty());
    }

    /// Has queue `index` served again, after commands have been looked at.
    pub(crate) fn again(&mut self, index: u16) {
        if !self.again.contains(&index) {
            self.again.push(index);
        }
    }

    /// So many bytes went to the driver at once. A service that says so has its thread wait its turn while it moves much.
    pub(crate) fn note_received(&mut self, bytes: usize) {
        self.received.add(bytes);
    }

    /// So many bytes came from the driver at once.
    pub(crate) fn note_sent(&mut self, bytes: usize) {
        self.sent.add(bytes);
    }

    /// Has [`Event::Time`] come at `time`, or not at all.
    pub(crate) fn wake_at(&mut self, time: Option<Instant>) {
        self.time = time;
    }
}

/// What a thread is told.
#[derive(Debug)]
enum Command {
    Start { index: u16, resources: QueueResources, features: u64 },
    Stop { index: u16, answer: SyncSender<QueueState> },
    Reset { answer: SyncSender<()> },
}

/// A device's queues and the thread that serves them.
#[derive(Debug)]
pub(crate) struct Worker<S> {
    name: String,
    /// Locked while the thread runs.
    service: Arc<Mutex<S>>,
    wake: Wake,
    thread: Option<Thread>,
    has_had_thread: bool,
    /// Those that run; with where one that is stopping puts its state.
    queues: Vec<Option<Option<Receiver<QueueState>>>>,
}

/// Gets the thread's attention, from any thread.
#[derive(Clone, Debug)]
pub(crate) struct Wake(Arc<Attention>);

#[derive(Debug)]
struct Attention {
    event: EventFd,
    has_commands: AtomicBool,
    is_poked: AtomicBool,
}

impl Wake {
    /// A way to a worker that is yet to be made.
    pub(crate) fn new() -> io::Result<Self> {
        let event = EventFd::new(libc::EFD_CLOEXEC | libc::EFD_NONBLOCK)?;
        let attention = Attention { event, has_commands: AtomicBool::new(false), is_poked: AtomicBool::new(false) };
        Ok(Self(Arc::new(attention)))
    }

    /// Has [`Event::Poked`] come: the host has changed something that the service looks at. A worker without queues comes to
    /// it when one starts.
    pub(crate) fn poke(&self) {
        self.0.is_poked.store(true, Ordering::Release);
        self.ring();
    }

    fn command(&self) {
        self.0.has_commands.store(true, Ordering::Release);
        self.ring();
    }

    fn ring(&self) {
        // A full counter wakes as well.
        let _ = self.0.event.write(1);
    }
}

#[derive(Debug)]
struct Thread {
    /// `None`: it is to end.
    commands: Option<Sender<Command>>,
    wake: Wake,
    handle: Option<JoinHandle<()>>,
}

impl Thread {
    /// `is_first`: no thread has had the service before.
    fn start<S: Service>(
        name: String,
        service: Arc<Mutex<S>>,
        wake: Wake,
        notifier: Arc<Notifier>,
        is_first: bool,
    ) -> io::Result<Self> {
        let (commands, receiver) = mpsc::channel();
        let mut waits = Waits::new()?;
        let attention = wake.0.clone();
        waits.control(ControlOperation::Add, attention.event.as_raw_fd(), ATTENTION, EventSet::IN)?;
        let told = name.clone();
        let run = move || {
            let guard = FailGuard(&notifier);
            // Nobody else has it while this thread runs.
            let mut service = service.lock().unwrap_or_else(|poisoned| {
                service.clear_poison();
                poisoned.into_inner()
            });
            // What a thread left that has ended by itself is not to be trusted, nor are its queues.
            if !is_first {
                service.reset(&mut waits);
            }
            service.begin(&mut waits);
            let (queues, has_failed) = (Vec::new(), false);
            let desk = Desk {
                name: &told,
                service: &mut *service,
                attention: &attention,
                waits,
                queues,
                has_failed,
                pacer: Pacer::default(),
            };
            if let Err(error) = desk.run(&receiver) {
                tracing::warn!(device = told, "its queues have stopped: {error}");
                notifier.set_needs_reset();
            }
            std::mem::forget(guard);
        };
        let handle = thread::Builder::new().name(name).stack_size(STACK).spawn(run)?;
        Ok(Self { commands: Some(commands), wake, handle: Some(handle) })
    }

    /// Whether it has ended by itself: it has panicked, or the host doesn't let it wait.
    fn has_ended(&self) -> bool {
        self.handle.as_ref().is_none_or(JoinHandle::is_finished)
    }

    fn tell(&self, command: Command) {
        if let Some(commands) = &self.commands {
            // A thread that has ended answers nothing, which is how that is seen.
            let _ = commands.send(command);
        }
        self.wake.command();
    }
}

impl Drop for Thread {
    fn drop(&mut self) {
        let Self { commands, wake, handle } = self;
        drop(commands.take());
        wake.command();
        if let Some(handle) = handle.take() {
            // If it has panicked, the driver has been told.
            let _ = handle.join();
        }
    }
}

/// Tells the driver when the thread ends by a panic, so that it doesn't wait for ever.
struct FailGuard<'a>(&'a Notifier);

impl Drop for FailGuard<'_> {
    fn drop(&mut self) {
        self.0.set_needs_reset();
    }
}

impl<S: Service> Worker<S> {
    /// A worker of `queues` queues, without a thread. `name` stands in log lines and names the thread.
    pub(crate) fn new(name: String, service: S, queues: usize, wake: Wake) -> Self {
        let queues = std::iter::repeat_with(|| None).take(queues).collect();
        Self { name, service: Arc::new(Mutex::new(service)), wake, thread: None, has_had_thread: false, queues }
    }

    /// See [`VirtioDevice::start_queue`](super::VirtioDevice::start_queue).
    pub(crate) fn start_queue(
        &mut self,
        index: u16,
        resources: QueueResources,
        features: u64,
    ) -> Result<(), StartError> {
        let queue = self.queues.get_mut(usize::from(index)).ok_or(StartError::NoSuchQueue { index })?;
        if queue.is_some() {
            return Err(StartError::Running { index });
        }
        let thread = match self.thread.take().filter(|thread| !thread.has_ended()) {
            Some(thread) => thread,
            None => {
                let notifier = resources.notifier.clone();
                let is_first = !std::mem::replace(&mut self.has_had_thread, true);
                Thread::start(self.name.clone(), self.service.clone(), self.wake.clone(), notifier, is_first)
                    .map_err(|source| StartError::Host { index, source })?
            }
        };
        thread.tell(Command::Start { index, resources, features });
        self.thread = Some(thread);
        *queue = Some(None);
        Ok(())
    }

    /// See [`VirtioDevice::request_stop`](super::VirtioDevice::request_stop).
    pub(crate) fn request_stop(&mut self, index: u16) {
        let Some(Some(stopping)) = self.queues.get_mut(usize::from(index)) else { return };
        if let (None, Some(thread)) = (&stopping, &self.thread) {
            let (answer, state) = mpsc::sync_channel(1);
            thread.tell(Command::Stop { index, answer });
            *stopping = Some(state);
        }
    }

    /// See [`VirtioDevice::stop_queue`](super::VirtioDevice::stop_queue).
    pub(crate) fn stop_queue(&mut self, index: u16) -> Option<QueueState> {
        self.request_stop(index);
        let state = self.queues.get_mut(usize::from(index))?.take()??.recv();
        // One that doesn't answer is ending, and takes no more commands: this waits until it has.
        self.thread.take_if(|_| state.is_err());
        state.ok()
    }

    /// See [`VirtioDevice::reset`](super::VirtioDevice::reset).
    pub(crate) fn reset(&mut self) {
        if let Some(thread) = &self.thread {
            let (answer, done) = mpsc::sync_channel(1);
            thread.tell(Command::Reset { answer });
            // One that has ended has nothing to forget: the next one begins with that.
            let is_gone = done.recv().is_err();
            self.thread.take_if(|_| is_gone);
        }
    }
}

/// What the thread works at.
struct Desk<'a, S> {
    name: &'a str,
    service: &'a mut S,
    attention: &'a Attention,
    waits: Waits,
    /// The queues that run: the descriptors of their doorbells, and the way to the driver.
    queues: Vec<(u16, RawFd, Arc<Notifier>)>,
    /// A ring can't be trusted, and nothing is served before the reset.
    has_failed: bool,
    pacer: Pacer,
}

impl<S: Service> Desk<'_, S> {
    /// Runs until nobody can give commands any more.
    fn run(mut self, commands: &Receiver<Command>) -> io::Result<()> {
        let mut events = [EpollEvent::default(); EVENTS];
        while self.obey(commands)? {
            if self.queues.is_empty() || self.has_failed {
                // Nothing is waited for but a command.
                let Ok(command) = commands.recv() else { return Ok(()) };
                self.act(command)?;
                continue;
            }
            if self.attention.is_poked.swap(false, Ordering::AcqRel) {
                self.serve(Event::Poked);
            }
            for index in std::mem::take(&mut self.waits.again) {
                self.serve(Event::Queue(index));
            }
            self.attempt(S::finish);
            if !self.has_failed {
                let (received, sent) = (&mut self.waits.received, &mut self.waits.sent);
                self.pacer.note(std::mem::take(received), std::mem::take(sent));
                self.wait(&mut events)?;
            }
        }
        Ok(())
    }

    /// Does what it was told. `false`: the end.
    fn obey(&mut self, commands: &Receiver<Command>) -> io::Result<bool> {
        if !self.attention.has_commands.swap(false, Ordering::AcqRel) {
            return Ok(true);
        }
        loop {
            match commands.try_recv() {
                Ok(command) => self.act(command)?,
                Err(TryRecvError::Empty) => return Ok(true),
                Err(TryRecvError::Disconnected) => return Ok(false),
            }
        }
    }

    fn act(&mut self, command: Command) -> io::Result<()> {
        match command {
            Command::Start { index, resources, features } => {
                let QueueResources { queue, doorbell, notifier } = resources;
                // The service has one of its own, which is the one that is watched: so it can end that.
                let kept = doorbell.try_clone()?;
                let fd = kept.as_raw_fd();
                // Each ring is an edge, so that nobody has to take it: a call less for each.
                self.waits.control(ControlOperation::Add, fd, index.into(), EventSet::IN | EventSet::EDGE_TRIGGERED)?;
                self.queues.push((index, fd, notifier.clone()));
                self.service.start(ActiveQueue::new(index, queue, kept, notifier), features, &mut self.waits);
                // It may hold chains already: a driver needn't ring before the device sleeps.
                self.waits.again(index);
            }
            Command::Stop { index, answer } => {
                if let Some(at) = self.queues.iter().position(|(running, ..)| *running == index) {
                    let (_, fd, _) = self.queues.swap_remove(at);
                    // Before the service closes it: its file is open elsewhere.
                    self.waits.unwatch(&fd);
                    self.waits.again.retain(|again| *again != index);
                }
                // Who has asked may have gone.
                let _ = self.service.stop(index, &mut self.waits).map(|state| answer.send(state));
                self.has_failed &= !self.queues.is_empty();
            }
            Command::Reset { answer } => {
                self.service.reset(&mut self.waits);
                self.waits.time = None;
                let _ = answer.send(());
            }
        }
        Ok(())
    }

    fn serve(&mut self, event: Event) {
        self.attempt(|service, waits| service.serve(event, waits));
    }

    fn attempt(&mut self, serve: impl FnOnce(&mut S, &mut Waits) -> Result<(), QueueError>) {
        if self.has_failed {
            return;
        }
        if let Err(error) = serve(self.service, &mut self.waits) {
            // A guest has to reset its device for each of these.
            static LIES: Throttle = Throttle::new();
            if let Some(times) = LIES.hit() {
                tracing::warn!(device = self.name, times, "a queue lies, and the device has stopped: {error}");
            }
            self.has_failed = true;
            for (_, _, notifier) in &self.queues {
                notifier.set_needs_reset();
            }
        }
    }

    fn wait(&mut self, events: &mut [EpollEvent; EVENTS]) -> io::Result<()> {
        let timeout = match (self.waits.again.is_empty(), self.waits.time) {
            (false, _) => 0,
            (true, None) => -1,
            (true, Some(time)) => milliseconds(time.saturating_duration_since(Instant::now())),
        };
        let count = match self.waits.epoll.wait(timeout, events) {
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => 0,
            Err(error) => return Err(error),
        };
        self.waits.has_unwatched.set(false);
        for event in events.iter().take(count).filter(|event| is_services(event)) {
            // What follows may be about something that is watched no more, and whose token another has by now. What is still so
            // is said again.
            if self.waits.has_unwatched.get() {
                break;
            }
            self.serve(Event::Ready { token: event.data(), ready: event.event_set() });
        }
        for event in events.iter().take(count).filter(|event| !is_services(event)) {
            let token = event.data();
            if token == ATTENTION {
                // It wakes, and says nothing by its count.
                let _ = self.attention.event.read();
            } else if let Ok(index) = u16::try_from(token) {
                self.waits.again.retain(|again| *again != index);
                self.serve(Event::Queue(index));
            }
        }
        if self.waits.time.is_some_and(|time| time <= Instant::now()) {
            self.waits.time = None;
            self.serve(Event::Time);
        }
        Ok(())
    }
}

/// Whether an event is about a descriptor that a service watches.
fn is_services(event: &EpollEvent) -> bool {
    (FIRST_TOKEN..ATTENTION).contains(&event.data())
}

/// Rounded up, so that what is waited for has come.
fn milliseconds(time: Duration) -> i32 {
    i32::try_from(time.as_micros().div_ceil(1000)).unwrap_or(i32::MAX)
}

#[cfg(test)]
#[path = "worker_tests.rs"]
mod tests;
