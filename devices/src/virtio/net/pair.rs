// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! One thread's work: a queue pair, its backend, and for the first pair the control queue.
//!
//! Queues come and go one by one. A turn serves those of them that have something to do, and sleeps when none has: until a
//! doorbell rings that somebody listens to, the backend has a frame for which there are buffers, or room for one that
//! waits, or a time has come. Nothing that stays as it is wakes it again and again.
//!
//! Where vhost works off rings, they are lent while frames pass, and then the thread waits for what vhost has to say.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError};
use std::time::{Duration, Instant};

use super::card::Card;
use super::control::Control;
use super::lent::{Lent, NotLent, Vhost};
use super::port::{Loss, Port};
use super::receive::Receive;
use super::ring::{Next, Ring};
use super::transmit::{Transmit, Turn};
use crate::sys::doorbell;
use crate::sys::poll::{self, Watch};
use crate::virtio::device::QueueResources;
use crate::virtio::pace::Pacer;
use crate::virtio::queue::{QueueError, QueueState};

/// How often a thread looks at the rings that it serves by itself where another process has had them: it has still got their
/// doorbells, and may be the one to hear them.
const SUSPICION: Duration = Duration::from_millis(100);

/// Which of a pair's queues.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    Receive,
    Transmit,
    Control,
}

/// What a thread is told.
#[derive(Debug)]
pub(super) enum Command {
    Start { role: Role, index: u16, resources: QueueResources, features: u64 },
    Stop { role: Role, answer: SyncSender<QueueState> },
}

/// A queue, and what it waits for.
#[derive(Debug)]
struct Served<Q> {
    queue: Q,
    next: Next,
    /// It has something to do, or may have.
    is_due: bool,
    /// Its ring can't be trusted.
    has_failed: bool,
}

impl<Q> Served<Q> {
    fn new(queue: Q, has_failed: bool) -> Self {
        Self { queue, next: Next::default(), is_due: true, has_failed }
    }

    fn must_run(&mut self) -> bool {
        std::mem::take(&mut self.is_due) && !self.has_failed
    }

    /// Takes in how a turn ended.
    fn note(&mut self, ring: impl Fn(&Q) -> &Ring, turn: Result<Turn, QueueError>) -> Option<Loss> {
        match turn {
            Ok((next, loss)) => {
                (self.next, self.is_due) = (next, next.again);
                loss
            }
            Err(error) => {
                let ring = ring(&self.queue);
                if let Some(times) = ring.card.lies.hit() {
                    tracing::warn!(
                        card = ring.card.name,
                        queue = ring.index,
                        times,
                        "queue lies and has stopped: {error}"
                    );
                }
                ring.notifier.set_needs_reset();
                (self.next, self.has_failed) = (Next::default(), true);
                None
            }
        }
    }

    /// Takes in what has happened meanwhile.
    fn wake(&mut self, happened: Next) {
        let Next { again, doorbell, readable, writable, until } = self.next;
        self.is_due |= again
            || doorbell && happened.doorbell
            || readable && happened.readable
            || writable && happened.writable
            || until.is_some_and(|until| until <= Instant::now());
    }
}

fn next_of<Q>(served: &Option<Served<Q>>) -> Next {
    served.as_ref().map_or(Next::default(), |served| Next { again: served.is_due, ..served.next })
}

/// A pair, and who may give it commands.
#[derive(Debug)]
pub(super) struct Pair<'a> {
    index: u16,
    card: Arc<Card>,
    port: &'a mut Port,
    commands: Receiver<Command>,
    attention: Arc<AtomicBool>,
    receive: Option<Served<Receive>>,
    transmit: Option<Served<Transmit>>,
    control: Option<Served<Control>>,
    /// The receive ring and the transmit ring, if somebody else works them off.
    lent: [Option<Lent>; 2],
    pacer: Pacer,
}

impl<'a> Pair<'a> {
    pub(super) fn new(
        index: u16,
        card: Arc<Card>,
        port: &'a mut Port,
        commands: Receiver<Command>,
        attention: Arc<AtomicBool>,
    ) -> Self {
        Self {
            index,
            card,
            port,
            commands,
            attention,
            receive: None,
            transmit: None,
            control: None,
            lent: [None, None],
            pacer: Pacer::default(),
        }
    }

    /// Runs until nobody can give commands any more.
    pub(super) fn run(&mut self) -> io::Result<()> {
        while self.obey() {
            self.take_back_where_due();
            self.port.maintain(&self.card, self.index);
            if self.passes() {
                self.lend_all();
            }
            let losses = self.turn();
            for loss in losses.into_iter().flatten() {
                self.port.lose(&loss, &self.card, self.index);
            }
            self.keep_pace();
            self.wait()?;
        }
        Ok(())
    }

    /// Does what it was told. `false`: the end.
    fn obey(&mut self) -> bool {
        if !self.attention.swap(false, Ordering::AcqRel) {
            return true;
        }
        loop {
            match self.commands.try_recv() {
                Ok(Command::Start { role, index, resources, features }) => {
                    self.start(role, index, resources, features);
                }
                Ok(Command::Stop { role, answer }) => {
                    // Who has asked may have gone.
                    let _ = self.stop(role).map(|state| answer.send(state));
                }
                Err(TryRecvError::Empty) => return true,
                Err(TryRecvError::Disconnected) => return false,
            }
        }
    }

    fn start(&mut self, role: Role, index: u16, resources: QueueResources, features: u64) {
        let counters = match role {
            Role::Control => usize::from(self.card.pairs).saturating_mul(2),
            Role::Receive | Role::Transmit => index.into(),
        };
        let ring = Ring::new(index, counters, resources, features, self.card.clone(), self.attention.clone());
        self.port.revive(&self.card, self.index);
        self.serve(role, ring, false);
    }

    fn serve(&mut self, role: Role, ring: Ring, has_failed: bool) {
        match role {
            Role::Receive => self.receive = Some(Served::new(Receive::new(ring, self.index), has_failed)),
            Role::Transmit => self.transmit = Some(Served::new(Transmit::new(ring, self.index), has_failed)),
            Role::Control => self.control = Some(Served::new(Control::new(ring), has_failed)),
        }
    }

    /// Stops a queue. `None`: there is none, or where it stands is lost.
    fn stop(&mut self, role: Role) -> Option<QueueState> {
        let lent = self.slot(role).and_then(Option::take);
        let ring = match (lent, role) {
            (Some(lent), _) => self.take_back(lent)?,
            (None, Role::Receive) => self.receive.take()?.queue.stop(self.port),
            (None, Role::Transmit) => self.transmit.take()?.queue.stop(self.port),
            (None, Role::Control) => self.control.take()?.queue.stop(),
        };
        Some(ring.into_state())
    }

    /// Whether frames pass.
    fn passes(&self) -> bool {
        self.card.link() && self.card.is_active(self.index)
    }

    fn slot(&mut self, role: Role) -> Option<&mut Option<Lent>> {
        let [receive, transmit] = &mut self.lent;
        match role {
            Role::Receive => Some(receive),
            Role::Transmit => Some(transmit),
            Role::Control => None,
        }
    }

    /// Lends the rings that aren't yet, if there is somebody for them.
    fn lend_all(&mut self) {
        if self.port.vhost.is_none() {
            return;
        }
        // What is left for this thread is to pass on interrupts.
        self.pacer.hurry();
        if let Some(served) = self.receive.take_if(|served| !served.has_failed) {
            let ring = served.queue.stop(self.port);
            self.lend(Role::Receive, ring);
        }
        if let Some(served) = self.transmit.take_if(|served| !served.has_failed) {
            let ring = served.queue.stop(self.port);
            self.lend(Role::Transmit, ring);
        }
    }

    fn lend(&mut self, role: Role, ring: Ring) {
        let Some(vhost) = &mut self.port.vhost else { return self.serve(role, ring, false) };
        let Some(wake) = self.card.wake_of(self.index) else { return self.serve(role, ring, false) };
        match Lent::new(role, ring, vhost, wake) {
            Ok(lent) => {
                if let Some(slot) = self.slot(role) {
                    *slot = Some(lent);
                }
            }
            Err(refused) => {
                let (ring, error) = *refused;
                if matches!(error, NotLent::Gone) {
                    return self.serve(role, ring, false);
                }
                if let Some(times) = self.card.refusals.hit() {
                    tracing::warn!(card = self.card.name, queue = ring.index, times, "queue has stopped: {error}");
                }
                ring.notifier.set_needs_reset();
                self.serve(role, ring, true);
            }
        }
    }

    /// Takes a ring back. `None`: where it stands is lost, and so is the kernel's vhost if it was that.
    fn take_back(&mut self, lent: Lent) -> Option<Ring> {
        let (index, notifier) = (lent.ring().index, lent.ring().notifier.clone());
        let result = lent.take_back(self.port.vhost.as_mut());
        result
            .inspect_err(|error| {
                if let Some(times) = self.card.refusals.hit() {
                    tracing::warn!(card = self.card.name, queue = index, times, "vhost doesn't stop: {error}");
                }
                // The end of the kernel's ends whatever it does. Nothing of ours ends a process.
                self.port.vhost.take_if(|vhost| matches!(vhost, Vhost::Kernel(_)));
                notifier.set_needs_reset();
            })
            .ok()
    }

    /// Takes back what is lent, if no frames pass or whoever had it has gone and another one has come.
    fn take_back_where_due(&mut self) {
        let passes = self.passes();
        let vhost = self.port.vhost.as_ref();
        if !passes || self.lent.iter().flatten().any(|lent| lent.is_others(vhost)) {
            self.take_all_back();
        }
    }

    fn take_all_back(&mut self) {
        for role in [Role::Receive, Role::Transmit] {
            let lent = self.slot(role).and_then(Option::take);
            if let Some(ring) = lent.and_then(|lent| self.take_back(lent)) {
                self.serve(role, ring, false);
            }
        }
    }

    /// Passes on what vhost has to say of a ring.
    fn relay(&mut self, role: Role, call: bool, error: bool) -> io::Result<()> {
        let Some(slot) = self.slot(role) else { return Ok(()) };
        let Some(lent) = slot else { return Ok(()) };
        if lent.relay(call, error)? {
            return Ok(());
        }
        let Some(ring) = slot.take().and_then(|lent| self.take_back(lent)) else { return Ok(()) };
        if let Some(times) = self.card.lies.hit() {
            tracing::warn!(
                card = self.card.name,
                queue = ring.index,
                times,
                "queue lies and has stopped: vhost says so"
            );
        }
        ring.notifier.set_needs_reset();
        self.serve(role, ring, true);
        Ok(())
    }

    /// Lets who makes many frames make some more before they are looked at.
    fn keep_pace(&mut self) {
        let received = self.receive.as_mut().map(|served| served.queue.ring.take_moved());
        let sent = self.transmit.as_mut().map(|served| served.queue.ring.take_moved());
        self.pacer.note(received.unwrap_or_default(), sent.unwrap_or_default());
    }

    /// Serves the queues that have something to do; gives how the backend ended, if it did.
    fn turn(&mut self) -> [Option<Loss>; 2] {
        if let Some(served) = due(&mut self.control) {
            let turn = served.queue.turn().map(|next| (next, None));
            served.note(|queue| &queue.ring, turn);
        }
        let mut losses = [None, None];
        let [sent, received] = &mut losses;
        if let Some(served) = due(&mut self.transmit) {
            let turn = served.queue.turn(self.port);
            *sent = served.note(|queue| &queue.ring, turn);
        }
        if let Some(served) = due(&mut self.receive) {
            let turn = served.queue.turn(self.port);
            *received = served.note(|queue| &queue.ring, turn);
        }
        losses
    }

    /// Sleeps until there is something to do.
    fn wait(&mut self) -> io::Result<()> {
        let Some(wake) = self.card.wake_of(self.index) else { return Ok(()) };
        let (receive, transmit, control) = (next_of(&self.receive), next_of(&self.transmit), next_of(&self.control));
        let all = [receive, transmit, control];
        let is_busy = all.iter().any(|next| next.again) || self.attention.load(Ordering::Acquire);
        let serves = self.receive.is_some() || self.transmit.is_some();
        let is_suspect = serves && self.port.vhost.as_ref().is_some_and(|vhost| vhost.may_hear(self.index));
        let look = is_suspect.then(|| Instant::now().checked_add(SUSPICION)).flatten();
        let until = all.iter().filter_map(|next| next.until).chain(self.port.due()).chain(look).min();
        let timeout = if is_busy {
            Some(Duration::ZERO)
        } else {
            until.map(|until| until.saturating_duration_since(Instant::now()))
        };
        let (readable, writable) = (receive.readable, transmit.writable);
        let [lent_receive, lent_transmit] = self.lent.each_ref().map(|lent| Lent::watches(lent.as_ref()));
        let [[receive_call, receive_error], [transmit_call, transmit_error]] = [lent_receive, lent_transmit];
        let mut watches = [
            Watch::new(wake, true, false),
            doorbell(&self.receive, |queue| &queue.ring),
            doorbell(&self.transmit, |queue| &queue.ring),
            doorbell(&self.control, |queue| &queue.ring),
            self.port.watch(readable, writable),
            receive_call,
            receive_error,
            transmit_call,
            transmit_error,
        ];
        poll::wait(&mut watches, timeout)?;
        let [woken, received, sent, controlled, backend, lent @ ..] = &watches;
        let [receive_call, receive_error, transmit_call, transmit_error] = lent.each_ref().map(Watch::is_readable);
        let (woken, again) = (woken.is_readable(), woken.is_readable() || is_suspect);
        let rung = [received, sent, controlled].map(Watch::is_readable);
        let (can_read, can_write, has_ended) = (backend.is_readable(), backend.is_writable(), backend.has_ended());
        if woken {
            wake.read()?;
            self.lent.iter_mut().flatten().for_each(Lent::note_wake);
        }
        self.port.readable |= can_read;
        self.port.writable |= can_write;
        let happened = |doorbell| Next { doorbell, readable: can_read, writable: can_write, ..Next::default() };
        let [received, sent, controlled] = rung;
        wake_up(&mut self.receive, |queue| &queue.ring, happened(received), again)?;
        wake_up(&mut self.transmit, |queue| &queue.ring, happened(sent), again)?;
        wake_up(&mut self.control, |queue| &queue.ring, happened(controlled), again)?;
        self.relay(Role::Receive, receive_call, receive_error)?;
        self.relay(Role::Transmit, transmit_call, transmit_error)?;
        // What came before the end is read first, by whoever waits for it.
        if has_ended && !(can_read && readable) {
            self.port.lose(&Loss::Closed, &self.card, self.index);
        }
        Ok(())
    }
}

impl Drop for Pair<'_> {
    fn drop(&mut self) {
        // However it ends: nobody else has its rings then.
        self.take_all_back();
    }
}

/// The queue, if it has something to do.
fn due<Q>(served: &mut Option<Served<Q>>) -> Option<&mut Served<Q>> {
    let served = served.as_mut()?;
    served.must_run().then_some(served)
}

fn doorbell<Q>(served: &Option<Served<Q>>, ring: impl Fn(&Q) -> &Ring) -> Watch<'_> {
    match served {
        Some(served) if served.next.doorbell => Watch::new(&ring(&served.queue).doorbell, true, false),
        _ => Watch::nothing(),
    }
}

fn wake_up<Q>(
    served: &mut Option<Served<Q>>,
    ring: impl Fn(&Q) -> &Ring,
    happened: Next,
    woken: bool,
) -> io::Result<()> {
    let Some(served) = served else { return Ok(()) };
    if happened.doorbell {
        doorbell::take(&ring(&served.queue).doorbell)?;
    }
    served.wake(happened);
    served.is_due |= woken;
    Ok(())
}
