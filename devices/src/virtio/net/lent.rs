// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Rings that somebody else works off: the kernel's vhost, or a backend of vhost-user.
//!
//! A pair lends its rings while frames pass, and takes them back when its link goes down, when the driver stops using it, and
//! at each stop. So what is dropped is dropped here, and a driver gets back what it has sent also while nobody wants it.

use std::fs::File;
use std::io;
use std::sync::Arc;

use vmm_sys_util::eventfd::EventFd;

use super::pair::Role;
use super::ring::Ring;
use super::spec;
use super::user::UserNet;
use crate::sys::poll::Watch;
use crate::sys::{doorbell, vhost};
use crate::virtio::features;
use crate::virtio::queue::QueueError;
use crate::virtio::vhost::{Kernel, Lines};

/// Who works off the rings of a pair.
#[derive(Debug)]
pub(super) enum Vhost {
    /// The kernel, on a tap.
    Kernel(KernelNet),
    /// A process, which has the rings of all pairs.
    User(Arc<UserNet>),
}

/// What that means for a card.
#[derive(Clone, Copy, Debug)]
pub(super) struct Abilities {
    /// Of the features that whoever works off a ring has to know beside those of the ring, those that it does.
    pub(super) features: u64,
    /// Those of the ring that it doesn't.
    pub(super) missing: u64,
    /// Whether it can be told of other offloads at any time.
    pub(super) changes_offloads: bool,
}

impl Abilities {
    pub(super) fn of_kernel(offered: u64) -> Self {
        Self { features: offered & spec::F_MRG_RXBUF, missing: 0, changes_offloads: true }
    }

    pub(super) fn of_user(offered: u64) -> Self {
        Self { features: offered & spec::F_MRG_RXBUF, missing: COMMON & !offered, changes_offloads: false }
    }

    /// Those of all pairs.
    pub(super) fn and(self, other: Self) -> Self {
        Self {
            features: self.features & other.features,
            missing: self.missing | other.missing,
            changes_offloads: self.changes_offloads && other.changes_offloads,
        }
    }
}

/// A vhost-net device of the kernel's, and the queue of a tap whose frames it moves.
#[derive(Debug)]
pub(super) struct KernelNet {
    kernel: Kernel,
    tap: Arc<File>,
    /// Whether the tap's frames have a virtio header in front; the kernel takes it off the guest's, and puts one in front of
    /// the others, if they haven't.
    vnet_header: bool,
}

/// The kernel makes the virtio headers itself (`VHOST_NET_F_VIRTIO_NET_HDR`).
const F_VIRTIO_NET_HDR: u64 = 1 << 27;
/// What is offered to every driver.
const COMMON: u64 = features::VERSION_1 | features::RING_EVENT_IDX | features::RING_INDIRECT_DESC;
/// What vhost-net has to know of, of what a driver has accepted; the rest is the tap's business.
const KERNELS: u64 = COMMON | spec::F_MRG_RXBUF;

impl KernelNet {
    pub(super) fn new(vhost: File, tap: Arc<File>, vnet_header: bool) -> io::Result<Self> {
        Ok(Self { kernel: Kernel::new(vhost)?, tap, vnet_header })
    }

    /// What it can do. An error says what it lacks.
    pub(super) fn abilities(&self) -> Result<Abilities, &'static str> {
        let offered = self.kernel.offered();
        let needed = [
            (features::VERSION_1, "VIRTIO_F_VERSION_1"),
            (features::RING_EVENT_IDX, "VIRTIO_F_RING_EVENT_IDX"),
            (features::RING_INDIRECT_DESC, "VIRTIO_F_RING_INDIRECT_DESC"),
            (if self.vnet_header { 0 } else { F_VIRTIO_NET_HDR }, "VHOST_NET_F_VIRTIO_NET_HDR"),
        ];
        match needed.iter().find(|(feature, _)| offered & feature != *feature) {
            Some((_, name)) => Err(name),
            None => Ok(Abilities::of_kernel(offered)),
        }
    }

    fn start(&mut self, index: u32, ring: &Ring, base: u16, lines: &Lines<'_>) -> io::Result<()> {
        let header = if self.vnet_header { 0 } else { F_VIRTIO_NET_HDR };
        let features = ring.features & KERNELS | header;
        self.kernel.set_up(index, features, &ring.queue, base, lines)?;
        let started = vhost::net_set_backend(self.kernel.file(), index, Some(&self.tap));
        if started.is_err() {
            // However far it has come: it doesn't go on.
            vhost::net_set_backend(self.kernel.file(), index, None)?;
        }
        started
    }

    fn stop(&self, index: u32) -> io::Result<u16> {
        vhost::net_set_backend(self.kernel.file(), index, None)?;
        self.kernel.base(index)
    }
}

/// Which of the rings of a device of the kernel's.
fn kernels_index(role: Role) -> u32 {
    if role == Role::Receive { 0 } else { 1 }
}

impl Vhost {
    /// Starts a ring, and gives who has it, as [`Self::generation`] does.
    fn start(&mut self, role: Role, ring: &Ring, base: u16, lines: &Lines<'_>) -> Result<u64, NotLent> {
        match self {
            Self::Kernel(kernel) => {
                kernel.start(kernels_index(role), ring, base, lines).map_err(NotLent::Host)?;
                Ok(self.generation())
            }
            Self::User(user) => user.start(ring, base, lines),
        }
    }

    /// Which one there is of those that come one after the other.
    fn generation(&self) -> u64 {
        match self {
            Self::Kernel(_) => 0,
            Self::User(user) => user.generation(),
        }
    }

    /// Whether it may hear the doorbells of a pair that it was lent once, whoever works off the rings now.
    pub(super) fn may_hear(&self, pair: u16) -> bool {
        match self {
            Self::Kernel(_) => false,
            Self::User(user) => user.has_doorbells(pair),
        }
    }

    /// Stops a ring that this one has, and gives the index at which it goes on.
    fn stop(&mut self, role: Role, ring: &Ring, generation: u64) -> io::Result<u16> {
        match self {
            Self::Kernel(kernel) => kernel.stop(kernels_index(role)),
            Self::User(user) => user.stop(ring, generation).map_err(io::Error::other),
        }
    }
}

/// A ring that somebody else has.
#[derive(Debug)]
pub(super) struct Lent {
    role: Role,
    ring: Ring,
    /// Who has it.
    generation: u64,
    call: EventFd,
    error: EventFd,
    /// What was used reaches the driver without us.
    connected: bool,
}

/// Why a ring isn't lent.
#[derive(Debug, thiserror::Error)]
pub(super) enum NotLent {
    #[error(transparent)]
    Queue(#[from] QueueError),
    #[error("vhost doesn't take it: {0}")]
    Host(io::Error),
    #[error("no eventfd can be had for it: {0}")]
    Event(io::Error),
    #[error("whoever was to take it is gone")]
    Gone,
}

impl Lent {
    /// Lends a ring. Should that fail, it is as it was.
    /// `wake` wakes the thread that has it.
    pub(super) fn new(
        role: Role,
        mut ring: Ring,
        vhost: &mut Vhost,
        wake: &EventFd,
    ) -> Result<Self, Box<(Ring, NotLent)>> {
        let mut lend = |ring: &mut Ring| {
            let base = ring.hand_over()?;
            let event = || EventFd::new(libc::EFD_CLOEXEC | libc::EFD_NONBLOCK).map_err(NotLent::Event);
            let (call, error) = (event()?, event()?);
            let lines = Lines { kick: &ring.doorbell, call: &call, error: &error };
            let connected = ring.notifier.connect(ring.index, &call, wake);
            let generation = vhost.start(role, ring, base, &lines).inspect_err(|_| {
                ring.notifier.disconnect(ring.index);
            })?;
            // A ring of the doorbell before it began is nobody's.
            let _ = doorbell::ring(&ring.doorbell);
            Ok((generation, call, error, connected))
        };
        match lend(&mut ring) {
            Ok((generation, call, error, connected)) => Ok(Self { role, ring, generation, call, error, connected }),
            Err(error) => Err(Box::new((ring, error))),
        }
    }

    /// Takes it back. When this returns, nobody else touches it. An error: where it stands is not known.
    pub(super) fn take_back(mut self, vhost: Option<&mut Vhost>) -> io::Result<Ring> {
        let gone = || Err(io::ErrorKind::NotConnected.into());
        let base = vhost.map_or_else(gone, |vhost| vhost.stop(self.role, &self.ring, self.generation));
        if self.connected {
            self.ring.notifier.disconnect(self.ring.index);
        }
        let base = base?;
        self.ring.queue.go_on_at(base);
        // It may have used something and not have come to say so. One interrupt too many harms nobody.
        self.ring.notifier.used(self.ring.index);
        Ok(self.ring)
    }

    /// Whether another one has come since, who knows nothing of it.
    pub(super) fn is_others(&self, vhost: Option<&Vhost>) -> bool {
        vhost.is_some_and(|vhost| vhost.generation() != self.generation)
    }

    pub(super) fn ring(&self) -> &Ring {
        &self.ring
    }

    /// The thread was woken: what was used may have no other way to the driver any more.
    pub(super) fn note_wake(&mut self) {
        self.connected = self.connected && self.ring.notifier.is_connected(self.ring.index);
    }

    /// What the thread waits for.
    pub(super) fn watches(lent: Option<&Self>) -> [Watch<'_>; 2] {
        lent.map_or_else(
            || [Watch::nothing(), Watch::nothing()],
            |lent| {
                let call = if lent.connected { Watch::nothing() } else { Watch::new(&lent.call, true, false) };
                [call, Watch::new(&lent.error, true, false)]
            },
        )
    }

    /// Passes on what was used. `false`: the ring can't be trusted.
    pub(super) fn relay(&self, call: bool, error: bool) -> io::Result<bool> {
        if call && doorbell::take(&self.call)? {
            self.ring.notifier.used(self.ring.index);
        }
        Ok(!(error && doorbell::take(&self.error)?))
    }
}
