// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What all queues of a card share: what it is told, its link, what the driver has set, and what was counted.

use std::fs::File;
use std::io;
use std::num::NonZeroU64;
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use std::time::Instant;

use vmm_sys_util::eventfd::EventFd;

use super::counters::{Counters, QueueCounters};
use super::lent::Abilities;
use super::mac::MacAddress;
use super::offloads;
use super::options::NetOptions;
use super::spec;
use crate::sys::tap;
use crate::throttle::Throttle;
use crate::token_bucket::{Rate, TokenBucket};
use crate::virtio::notifier::Notifier;

/// A card, and what is needed to pass its frames.
#[derive(Debug)]
pub(super) struct Card {
    /// Stands in log lines and names the threads.
    pub(super) name: String,
    pub(super) options: NetOptions,
    /// Queue pairs.
    pub(super) pairs: u16,
    /// The offloads that the host can do.
    pub(super) host_offloads: u64,
    /// What whoever works off the rings can do, if that isn't us.
    pub(super) vhost: Option<Abilities>,
    /// Where it is told which of them are to be done.
    tap: Option<Arc<File>>,
    link: Mutex<Link>,
    /// What [`Link::is_up`] says.
    link_up: AtomicBool,
    /// The features that the driver has accepted.
    features: AtomicU64,
    /// The present address.
    mac: AtomicU64,
    /// Queue pairs in use.
    active_pairs: AtomicU16,
    notifier: OnceLock<Arc<Notifier>>,
    /// One for each pair: wakes its thread.
    wakes: Vec<EventFd>,
    /// One for each queue.
    counters: Vec<Counters>,
    /// Each command that changes a tap takes one: the host has one lock for all of its interfaces, and tells everybody who
    /// listens of each change. Kept here, so that a reset brings no more.
    changes: TokenBucket,
    /// Rings that lied. Kept here, so that a reset doesn't make its lines flow again.
    pub(super) lies: Throttle,
    /// Frames that were dropped.
    pub(super) drops: Throttle,
    /// Backends that ended.
    pub(super) losses: Throttle,
    /// What the host refused.
    pub(super) refusals: Throttle,
}

/// How many changes of a tap are done a second, and at once after a pause; those beyond fail. No driver makes as many.
const CHANGES: (NonZeroU64, u64) = (NonZeroU64::new(20).unwrap(), 64);

/// Who says that the link is down.
#[derive(Debug)]
struct Link {
    /// The owner wants it up.
    wanted: bool,
    /// Pairs whose backend is gone.
    gone: Vec<bool>,
}

impl Link {
    fn is_up(&self) -> bool {
        self.wanted && !self.gone.contains(&true)
    }
}

impl Card {
    pub(super) fn new(
        name: String,
        options: NetOptions,
        pairs: u16,
        tap: Option<Arc<File>>,
        host_offloads: u64,
        vhost: Option<Abilities>,
    ) -> io::Result<Self> {
        let queues = usize::from(pairs).saturating_mul(2).saturating_add(1);
        Ok(Self {
            name,
            pairs,
            host_offloads,
            vhost,
            tap,
            link: Mutex::new(Link { wanted: true, gone: vec![false; usize::from(pairs)] }),
            link_up: AtomicBool::new(true),
            features: AtomicU64::new(0),
            mac: AtomicU64::new(options.mac.to_bits()),
            active_pairs: AtomicU16::new(1),
            notifier: OnceLock::new(),
            wakes: (0..pairs).map(|_| EventFd::new(libc::EFD_CLOEXEC)).collect::<Result<_, _>>()?,
            counters: std::iter::repeat_with(Counters::default).take(queues).collect(),
            options,
            changes: TokenBucket::new(Rate { per_second: CHANGES.0, burst: CHANGES.1 }, Instant::now()),
            lies: Throttle::new(),
            drops: Throttle::new(),
            losses: Throttle::new(),
            refusals: Throttle::new(),
        })
    }

    pub(super) fn attach(&self, notifier: &Arc<Notifier>) {
        // A device has one transport in its life.
        let _ = self.notifier.set(notifier.clone());
    }

    /// What wakes the thread of a pair.
    pub(super) fn wake_of(&self, pair: u16) -> Option<&EventFd> {
        self.wakes.get(usize::from(pair))
    }

    pub(super) fn wake(&self, pair: u16) {
        if let Some(wake) = self.wake_of(pair) {
            // Only a full counter makes this fail, and then the thread wakes up as well.
            let _ = wake.write(1);
        }
    }

    fn wake_all(&self) {
        (0..self.pairs).for_each(|pair| self.wake(pair));
    }

    /// The counters of a queue; the last ones are those of the control queue.
    pub(super) fn counters(&self, queue: usize) -> Option<&Counters> {
        self.counters.get(queue)
    }

    /// Whether frames pass.
    pub(super) fn link(&self) -> bool {
        self.link_up.load(Ordering::Acquire)
    }

    fn change_link(&self, change: impl FnOnce(&mut Link)) {
        let mut link = self.link.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut link);
        let up = link.is_up();
        if self.link() == up {
            return;
        }
        let notifier = self.notifier.get();
        if let Some(notifier) = notifier {
            notifier.config_changes();
        }
        self.link_up.store(up, Ordering::Release);
        if let Some(notifier) = notifier {
            notifier.config_changed();
        }
        drop(link);
        self.wake_all();
    }

    /// The backend of a pair is gone, or is there again.
    pub(super) fn set_gone(&self, pair: u16, gone: bool) {
        self.change_link(|link| {
            if let Some(slot) = link.gone.get_mut(usize::from(pair)) {
                *slot = gone;
            }
        });
    }

    pub(super) fn mac(&self) -> MacAddress {
        MacAddress::from_bits(self.mac.load(Ordering::Acquire))
    }

    pub(super) fn set_mac(&self, mac: MacAddress) {
        self.mac.store(mac.to_bits(), Ordering::Release);
    }

    /// The driver has accepted these features. It says so with every queue that starts; only the first time counts, as it
    /// may have changed its offloads since.
    pub(super) fn set_features(&self, features: u64) {
        if self.features.swap(features, Ordering::AcqRel) != features {
            self.set_offloads(features & spec::GUEST_OFFLOADS);
        }
    }

    /// Tells the tap what the driver takes of unfinished frames. `false`: it doesn't do that.
    pub(super) fn set_offloads(&self, offloads: u64) -> bool {
        let Some(tap) = &self.tap else { return true };
        let result = tap::set_offload(tap, offloads::flags(offloads));
        if let Err(error) = &result
            && let Some(times) = self.refusals.hit()
        {
            tracing::warn!(card = self.name, times, "the tap takes no offloads {offloads:#x}: {error}");
        }
        result.is_ok()
    }

    /// Whether one more change of the tap may be made now.
    pub(super) fn may_change(&self) -> bool {
        let now = Instant::now();
        let may = self.changes.wait(now).is_none();
        if may {
            self.changes.take(1, now);
        }
        may
    }

    /// Whether the driver wants a queue pair to be used.
    pub(super) fn is_active(&self, pair: u16) -> bool {
        pair < self.active_pairs.load(Ordering::Acquire)
    }

    pub(super) fn set_active_pairs(&self, pairs: u16) {
        if self.active_pairs.swap(pairs, Ordering::AcqRel) != pairs {
            self.wake_all();
        }
    }

    /// Forgets what a driver has set.
    pub(super) fn reset(&self) {
        if self.features.swap(0, Ordering::AcqRel) != 0 {
            self.set_offloads(0);
        }
        self.set_mac(self.options.mac);
        self.set_active_pairs(1);
    }
}

/// The host's way to a card that a VM has. It keeps neither the card nor its backends: with the VM, they are gone.
#[derive(Clone, Debug)]
pub struct NetControl(pub(super) Weak<Card>);

impl NetControl {
    /// Puts the link up or down, and tells the guest if that is news. While it is down, no frame passes.
    pub fn set_link(&self, up: bool) {
        if let Some(card) = self.0.upgrade() {
            card.change_link(|link| link.wanted = up);
        }
    }

    /// Whether frames pass: the owner wants so, and the backend is there.
    pub fn link(&self) -> bool {
        self.0.upgrade().is_some_and(|card| card.link())
    }

    /// What each queue has done so far: by the queue's index, two for each pair, and the control queue as the last one.
    pub fn counters(&self) -> Vec<QueueCounters> {
        self.0.upgrade().map(|card| card.counters.iter().map(Counters::read).collect()).unwrap_or_default()
    }
}
