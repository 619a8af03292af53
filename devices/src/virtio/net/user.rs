// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! A backend of vhost-user, which has all rings of a card.
//!
//! All pairs share it: whoever finds that it is gone says so, and then no pair's rings are lent any more. The thread of the
//! first pair sees to it that there is another one.

use std::io;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::card::Card;
use super::lent::NotLent;
use super::offloads;
use super::options::Reconnect;
use super::port::{FIRST_PAUSE, LONGEST_PAUSE, Loss};
use super::ring::Ring;
use super::spec;
use crate::sys::doorbell;
use crate::sys::poll::Watch;
use crate::virtio::features;
use crate::virtio::queue::QueueError;
use crate::virtio::vhost::{Frontend, Lines};

/// What whoever works off a ring has to know of, of what a driver has accepted. The rest is ours.
const KNOWN: u64 = features::VERSION_1
    | features::RING_EVENT_IDX
    | features::RING_INDIRECT_DESC
    | spec::F_MRG_RXBUF
    | spec::F_MQ
    | offloads::ALL;

/// The backend of a card.
#[derive(Debug)]
pub(super) struct UserNet {
    present: Mutex<Present>,
    /// The pairs of which it, or one before it, has had a doorbell, and has it still.
    doorbells: Vec<AtomicBool>,
    /// What each one has to offer, as the guest was offered it.
    offered: u64,
    pairs: u16,
}

#[derive(Debug)]
struct Present {
    /// `None`: it is gone.
    frontend: Option<Frontend>,
    /// How many there have been before it. A ring that one had is none of the next one's.
    generation: u64,
    /// The last one that was lost and hadn't closed: it may be at work still in the rings that it had.
    at_large: Option<u64>,
}

impl Present {
    /// A backend that has a ring, if it is this one.
    fn of(&mut self, generation: u64) -> Option<&mut Frontend> {
        self.frontend.as_mut().filter(|_| self.generation == generation)
    }

    /// It isn't spoken with any more. The first one to find out tells of it.
    fn lose(&mut self, loss: &Loss, card: &Card) {
        if let Some(frontend) = self.frontend.take() {
            if !frontend.has_closed() {
                self.at_large = Some(self.generation);
            }
            if let Some(times) = card.losses.hit() {
                tracing::warn!(card = card.name, times, "the link is down, as its backend is gone: {loss}");
            }
        }
        card.set_gone(0, true);
    }
}

impl UserNet {
    /// Begins with a backend that has just been connected to.
    pub(super) fn new(socket: UnixStream, pairs: u16) -> io::Result<Self> {
        let frontend = Frontend::new(socket, pairs)?;
        let offered = frontend.offered() & KNOWN;
        if offered & features::VERSION_1 == 0 {
            return Err(io::Error::other("it doesn't know VIRTIO_F_VERSION_1, so it is too old"));
        }
        let present = Present { frontend: Some(frontend), generation: 0, at_large: None };
        let doorbells = (0..pairs).map(|_| AtomicBool::new(false)).collect();
        Ok(Self { present: Mutex::new(present), doorbells, offered, pairs })
    }

    /// The features that it can do, of those that matter to it.
    pub(super) fn offered(&self) -> u64 {
        self.offered
    }

    fn lock(&self) -> MutexGuard<'_, Present> {
        self.present.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn is_gone(&self) -> bool {
        self.lock().frontend.is_none()
    }

    /// Whether somebody else may hear the doorbells of a pair in our place.
    pub(super) fn has_doorbells(&self, pair: u16) -> bool {
        self.doorbells.get(usize::from(pair)).is_some_and(|doorbells| doorbells.load(Ordering::Relaxed))
    }

    /// Which one there is, or was last.
    pub(super) fn generation(&self) -> u64 {
        self.lock().generation
    }

    /// Has it work off a ring, and gives which one it is. It is lost where it doesn't do so.
    pub(super) fn start(&self, ring: &Ring, base: u16, lines: &Lines<'_>) -> Result<u64, NotLent> {
        // It can fill the counter that everybody else writes to.
        doorbell::never_wait(lines.kick).map_err(NotLent::Event)?;
        if let Some(doorbells) = self.doorbells.get(usize::from(ring.index / 2)) {
            doorbells.store(true, Ordering::Relaxed);
        }
        let mut present = self.lock();
        let generation = present.generation;
        let frontend = present.frontend.as_mut().ok_or(NotLent::Gone)?;
        let features = ring.features & self.offered;
        if let Err(error) = frontend.start(ring.index.into(), features, &ring.queue, base, lines) {
            present.lose(&Loss::NotLent(error), &ring.card);
            return Err(NotLent::Gone);
        }
        Ok(generation)
    }

    /// Stops a ring that this one has, and gives the index at which it goes on: also where the backend lies, or has ended. An
    /// error: it hasn't said that it stops, and may be at work.
    pub(super) fn stop(&self, ring: &Ring, generation: u64) -> Result<u16, NotStopped> {
        let mut present = self.lock();
        let said = present.of(generation).map(|frontend| frontend.stop(ring.index.into())).transpose();
        let said = said.unwrap_or_else(|error| {
            present.lose(&Loss::Host(error), &ring.card);
            None
        });
        if said.is_none() && present.at_large.is_some_and(|last| generation <= last) {
            return Err(NotStopped::AtLarge);
        }
        drop(present);
        // What it has taken and not given back is to be taken again, so what it has given back counts. That is no other index
        // than it says, unless it lies, or the driver has written there, or it has stopped with some in its hands. Counted like that,
        // they are the last ones only if it gives back in the order in which it takes, as those for networks do.
        let (avail, used) = (ring.queue.written_avail_index()?, ring.queue.written_used_index()?);
        let is_plausible = avail.wrapping_sub(used) <= ring.queue.size();
        Ok(if is_plausible { used } else { said.unwrap_or(used) })
    }

    fn connect(&self, socket: UnixStream, card: &Card) -> io::Result<UnixStream> {
        let frontend = Frontend::new(socket, self.pairs)?;
        let missing = self.offered & !frontend.offered();
        if missing != 0 {
            return Err(io::Error::other(format!("it lacks the features {missing:#x}, which the guest was offered")));
        }
        let watch = frontend.watch()?;
        let mut present = self.lock();
        present.frontend = Some(frontend);
        present.generation = present.generation.saturating_add(1);
        // Whoever finds it gone says so behind this.
        card.set_gone(0, false);
        Ok(watch)
    }
}

/// Why nobody knows where a ring stands.
#[derive(Debug, thiserror::Error)]
pub(super) enum NotStopped {
    #[error("it hasn't stopped and hasn't ended")]
    AtLarge,
    #[error(transparent)]
    Queue(#[from] QueueError),
}

/// Sees that the backend goes, and that another one comes.
#[derive(Debug)]
pub(super) struct Watcher {
    backend: Arc<UserNet>,
    /// Its socket; `None`: it is gone.
    socket: Option<UnixStream>,
    reconnect: Option<Box<dyn Reconnect>>,
    /// When to try that next, and how long to wait after it.
    again: Option<Instant>,
    pause: Duration,
    /// Since when there is somebody.
    since: Instant,
}

impl Watcher {
    pub(super) fn new(backend: Arc<UserNet>, reconnect: Option<Box<dyn Reconnect>>) -> io::Result<Self> {
        let socket = backend.lock().frontend.as_ref().map(Frontend::watch).transpose()?;
        Ok(Self { backend, socket, reconnect, again: None, pause: FIRST_PAUSE, since: Instant::now() })
    }

    pub(super) fn lose(&mut self, loss: &Loss, card: &Card, now: Instant) {
        // Whoever is there is the one that is watched, as nobody else connects to another one.
        self.backend.lock().lose(loss, card);
        self.note_loss(now);
    }

    fn note_loss(&mut self, now: Instant) {
        if self.socket.take().is_none() {
            return;
        }
        // Somebody who comes only to go again is waited for as long as nobody is.
        let stayed = now.saturating_duration_since(self.since) >= LONGEST_PAUSE;
        self.pause = if stayed { FIRST_PAUSE } else { self.pause.saturating_mul(2).min(LONGEST_PAUSE) };
        self.again = self.reconnect.as_ref().and_then(|_| now.checked_add(self.pause));
    }

    /// Takes in that others have found it gone, and tries to connect if it is time.
    pub(super) fn maintain(&mut self, card: &Card, now: Instant) {
        if self.backend.is_gone() {
            self.note_loss(now);
        }
        let (Some(reconnect), Some(_)) = (&mut self.reconnect, self.again.filter(|again| *again <= now)) else {
            return;
        };
        match reconnect.try_connect().map(|socket| self.backend.connect(socket, card)) {
            Ok(Ok(watch)) => {
                (self.socket, self.again, self.since) = (Some(watch), None, Instant::now());
                if let Some(times) = card.losses.hit() {
                    tracing::info!(card = card.name, times, "the link is up again");
                }
                return;
            }
            Ok(Err(error)) => {
                if let Some(times) = card.losses.hit() {
                    tracing::warn!(card = card.name, times, "the backend that is there can't be used: {error}");
                }
            }
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                if let Some(times) = card.losses.hit() {
                    tracing::warn!(card = card.name, times, "the backend that is there isn't used: {error}");
                }
            }
            // There is nobody yet.
            Err(_) => {}
        }
        self.pause = self.pause.saturating_mul(2).min(LONGEST_PAUSE);
        // What was tried may have taken a while.
        self.again = Instant::now().checked_add(self.pause);
    }

    pub(super) fn due(&self) -> Option<Instant> {
        self.again
    }

    /// Waits for its end.
    pub(super) fn watch(&self) -> Watch<'_> {
        self.socket.as_ref().map_or_else(Watch::nothing, |socket| Watch::new(socket, false, false))
    }
}
