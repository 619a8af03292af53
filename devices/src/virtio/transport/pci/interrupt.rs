// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Which vector tells the driver of what, and the ISR status (virtio 1.3 §4.1.4.5, §4.1.5.1.2).
//!
//! The guest chooses vectors; one that doesn't exist is none. Workers come through here: everything is an atomic, but where
//! events are connected and disconnected.

use std::sync::atomic::{AtomicU8, AtomicU16, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use vmm_sys_util::eventfd::EventFd;

use super::super::super::notifier::DeviceInterrupt;
use crate::pci::msix::Msix;

/// No vector (§4.1.5.1.2.1).
pub(super) const NO_VECTOR: u16 = 0xffff;

/// ISR: a buffer was used.
const ISR_QUEUE: u8 = 1;
/// ISR: the configuration or the device status has changed.
const ISR_CONFIG: u8 = 2;

#[derive(Debug)]
pub(super) struct Interrupt {
    pub(super) msix: Msix,
    isr: AtomicU8,
    config: AtomicU16,
    queues: Box<[AtomicU16]>,
    /// The queues whose events raise their vectors without us.
    connected: Mutex<Vec<Connected>>,
}

#[derive(Debug)]
struct Connected {
    queue: u16,
    event: EventFd,
    /// Wakes who has to listen should the host not do so any more.
    wake: EventFd,
}

impl Interrupt {
    /// Interrupts by all vectors of `msix`, of which one is the configuration's.
    pub(super) fn new(msix: Msix) -> Self {
        let queues = (1..msix.count()).map(|_| AtomicU16::new(NO_VECTOR)).collect();
        let connected = Mutex::default();
        Self { msix, isr: AtomicU8::new(0), config: AtomicU16::new(NO_VECTOR), queues, connected }
    }

    /// Reads the ISR status, which clears it: the first byte of any read at its place.
    pub(super) fn read_isr(&self, offset: u64, data: &mut [u8]) {
        if let (0, Some(first)) = (offset, data.first_mut()) {
            *first = self.isr.swap(0, Ordering::AcqRel);
        }
    }

    pub(super) fn config_vector(&self) -> u16 {
        self.config.load(Ordering::Acquire)
    }

    pub(super) fn set_config_vector(&self, vector: u16) {
        self.config.store(self.existing(vector), Ordering::Release);
    }

    pub(super) fn queue_vector(&self, queue: u16) -> u16 {
        self.queues.get(usize::from(queue)).map_or(NO_VECTOR, |vector| vector.load(Ordering::Acquire))
    }

    pub(super) fn set_queue_vector(&self, queue: u16, vector: u16) {
        let Some(slot) = self.queues.get(usize::from(queue)) else { return };
        // Held so that an event which is connected just now goes to one of the two and follows.
        let mut connected = self.lock();
        let new = self.existing(vector);
        let old = slot.swap(new, Ordering::AcqRel);
        connected.retain(|Connected { queue: index, event, wake }| {
            if *index != queue {
                return true;
            }
            self.msix.detach(old, queue);
            // Without a vector it keeps what it is told.
            if self.msix.attach(new, queue, event) || new == NO_VECTOR {
                return true;
            }
            // Only a full counter makes this fail, and then somebody wakes up as well.
            let _ = wake.write(1);
            false
        });
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Connected>> {
        self.connected.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The device was reset. The MSI-X table is PCI's and stays, but there are no notifications of before a reset after it
    /// (§2.4.1).
    pub(super) fn reset(&self) {
        // All queues have stopped, and with them went their events.
        let Self { msix, isr, config, queues, connected: _ } = self;
        isr.store(0, Ordering::Release);
        config.store(NO_VECTOR, Ordering::Release);
        queues.iter().for_each(|vector| vector.store(NO_VECTOR, Ordering::Release));
        msix.forget_pending();
    }

    /// A vector that can't be had reads back as none (§4.1.5.1.2.1).
    fn existing(&self, vector: u16) -> u16 {
        if vector < self.msix.count() { vector } else { NO_VECTOR }
    }
}

impl DeviceInterrupt for Interrupt {
    fn queue(&self, index: u16) {
        // With MSI-X the vector says it all (§4.1.4.5.1). Without it there is no line to raise, but who looks at the
        // register finds it.
        if !self.msix.enabled() {
            self.isr.fetch_or(ISR_QUEUE, Ordering::AcqRel);
        }
        self.msix.trigger(self.queue_vector(index));
    }

    fn connect(&self, index: u16, event: &EventFd, wake: &EventFd) -> bool {
        let mut connected = self.lock();
        let vector = self.queue_vector(index);
        // Without MSI-X, the driver looks at the register, which somebody has to set.
        let (Ok(own), Ok(wake)) = (event.try_clone(), wake.try_clone()) else { return false };
        let is_connected = self.msix.enabled() && self.msix.attach(vector, index, event);
        if is_connected {
            connected.push(Connected { queue: index, event: own, wake });
        }
        is_connected
    }

    fn is_connected(&self, index: u16) -> bool {
        self.lock().iter().any(|connected| connected.queue == index)
    }

    fn disconnect(&self, index: u16) {
        let mut connected = self.lock();
        self.msix.detach(self.queue_vector(index), index);
        connected.retain(|connected| connected.queue != index);
    }

    fn config(&self) {
        self.isr.fetch_or(ISR_CONFIG, Ordering::AcqRel);
        self.msix.trigger(self.config_vector());
    }
}
