// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! A backend of vhost-user, which has all rings of a card.
//!
//! All pairs share it: whoever finds that it is gone says so, and then no pair's rings are lent any more. The thread of the
//! first pair sees to it that there is another one.

use std::io;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::card::Card;
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
    /// `None`: it is gone.
    frontend: Mutex<Option<Frontend>>,
    /// What each one has to offer, as the guest was offered it.
    offered: u64,
    pairs: u16,
}

impl UserNet {
    /// Begins with a backend that has just been connected to.
    pub(super) fn new(socket: UnixStream, pairs: u16) -> io::Result<Self> {
        let frontend = Frontend::new(socket, pairs)?;
        let offered = frontend.offered() & KNOWN;
        if offered & features::VERSION_1 == 0 {
            return Err(io::Error::other("it doesn't know VIRTIO_F_VERSION_1, so it is too old"));
        }
        Ok(Self { frontend: Mutex::new(Some(frontend)), offered, pairs })
    }

    /// The features that it can do, of those that matter to it.
    pub(super) fn offered(&self) -> u64 {
        self.offered
    }

    fn lock(&self) -> MutexGuard<'_, Option<Frontend>> {
        self.frontend.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn is_gone(&self) -> bool {
        self.lock().is_none()
    }

    /// It isn't spoken with any more. The first one to find out tells of it.
    pub(super) fn lose(&self, loss: &Loss, card: &Card) {
        let was_there = self.lock().take().is_some();
        if was_there && let Some(times) = card.losses.hit() {
            tracing::warn!(card = card.name, times, "the link is down, as its backend is gone: {loss}");
        }
        card.set_gone(0, true);
    }

    /// Has it work off a ring. An error is a loss.
    pub(super) fn start(&self, ring: &Ring, base: u16, lines: &Lines<'_>) -> io::Result<()> {
        // It can fill the counter that everybody else writes to.
        doorbell::never_wait(lines.kick)?;
        match &mut *self.lock() {
            Some(frontend) => frontend.start(ring.index.into(), ring.features & self.offered, &ring.queue, base, lines),
            None => Err(io::ErrorKind::NotConnected.into()),
        }
    }

    /// Stops a ring, and gives the index at which it goes on: also where the backend is gone, or lies.
    pub(super) fn stop(&self, ring: &Ring) -> Result<u16, QueueError> {
        let said = match &mut *self.lock() {
            Some(frontend) => frontend.stop(ring.index.into()).map(Some),
            None => Ok(None),
        };
        let said = said.unwrap_or_else(|error| {
            self.lose(&Loss::Host(error), &ring.card);
            None
        });
        // What it has taken and not given back is to be taken again, so what it has given back counts. That is no other index
        // than it says, unless it lies, or the driver has written there.
        let (avail, used) = (ring.queue.written_avail_index()?, ring.queue.written_used_index()?);
        let is_plausible = avail.wrapping_sub(used) <= ring.queue.size();
        Ok(if is_plausible { used } else { said.unwrap_or(used) })
    }

    fn connect(&self, socket: UnixStream) -> io::Result<UnixStream> {
        let frontend = Frontend::new(socket, self.pairs)?;
        let missing = self.offered & !frontend.offered();
        if missing != 0 {
            return Err(io::Error::other(format!("it lacks the features {missing:#x}, which the guest was offered")));
        }
        let watch = frontend.watch()?;
        *self.lock() = Some(frontend);
        Ok(watch)
    }
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
        let socket = backend.lock().as_ref().map(Frontend::watch).transpose()?;
        Ok(Self { backend, socket, reconnect, again: None, pause: FIRST_PAUSE, since: Instant::now() })
    }

    pub(super) fn lose(&mut self, loss: &Loss, card: &Card, now: Instant) {
        self.backend.lose(loss, card);
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
        match reconnect.try_connect().map(|socket| self.backend.connect(socket)) {
            Ok(Ok(watch)) => {
                (self.socket, self.again, self.since) = (Some(watch), None, Instant::now());
                if let Some(times) = card.losses.hit() {
                    tracing::info!(card = card.name, times, "the link is up again");
                }
                card.set_gone(0, false);
                return;
            }
            Ok(Err(error)) => {
                if let Some(times) = card.losses.hit() {
                    tracing::warn!(card = card.name, times, "the backend that is there can't be used: {error}");
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
