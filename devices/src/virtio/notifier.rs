// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! How a device reaches its driver.

use std::fmt::Debug;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use vmm_sys_util::eventfd::EventFd;

/// The transport's way to interrupt the driver: one line with a status register on MMIO, a vector a queue on PCI.
pub trait DeviceInterrupt: Debug + Send + Sync {
    /// Buffers of queue `index` were used.
    fn queue(&self, index: u16);
    /// The configuration, or the device status, has changed.
    fn config(&self);
    /// Has each write to `event` do from now on what [`Self::queue`] does, with nobody's help. `false`: there is no way for
    /// that, and somebody has to listen to it. Should the way end later, `wake` is written, and [`Self::is_connected`] says so.
    fn connect(&self, index: u16, event: &EventFd, wake: &EventFd) -> bool {
        let _ = (index, event, wake);
        false
    }
    /// Whether what [`Self::connect`] did still holds.
    fn is_connected(&self, index: u16) -> bool {
        let _ = index;
        false
    }
    /// Takes back what [`Self::connect`] did.
    fn disconnect(&self, index: u16) {
        let _ = index;
    }
}

/// Shared by a transport and the workers of its device.
#[derive(Debug)]
pub struct Notifier {
    interrupt: Arc<dyn DeviceInterrupt>,
    needs_reset: AtomicBool,
    config_generation: AtomicU32,
}

impl Notifier {
    /// A notifier that interrupts through `interrupt`.
    pub fn new(interrupt: Arc<dyn DeviceInterrupt>) -> Self {
        Self { interrupt, needs_reset: AtomicBool::new(false), config_generation: AtomicU32::new(0) }
    }

    /// Buffers of queue `index` were used.
    pub fn used(&self, index: u16) {
        self.interrupt.queue(index);
    }

    /// Has each write to `event` say from now on that buffers of queue `index` were used, without us. `false`: somebody has to
    /// listen to it, and also from when [`Self::is_connected`] says so, for which `wake` is written.
    pub(crate) fn connect(&self, index: u16, event: &EventFd, wake: &EventFd) -> bool {
        self.interrupt.connect(index, event, wake)
    }

    /// Whether what [`Self::connect`] did still holds.
    pub(crate) fn is_connected(&self, index: u16) -> bool {
        self.interrupt.is_connected(index)
    }

    /// Takes back what [`Self::connect`] did.
    pub(crate) fn disconnect(&self, index: u16) {
        self.interrupt.disconnect(index);
    }

    /// The device's configuration space is about to change: whoever reads parts of it from now on has to read them again.
    pub fn config_changes(&self) {
        self.config_generation.fetch_add(1, Ordering::AcqRel);
    }

    /// The device's configuration space has changed.
    pub fn config_changed(&self) {
        self.config_generation.fetch_add(1, Ordering::AcqRel);
        self.interrupt.config();
    }

    /// The device can't go on: its driver has to reset it (virtio 1.3 §2.1.2).
    pub fn set_needs_reset(&self) {
        self.needs_reset.store(true, Ordering::Release);
        self.interrupt.config();
    }

    /// Whether the device waits for a reset.
    pub fn needs_reset(&self) -> bool {
        self.needs_reset.load(Ordering::Acquire)
    }

    /// The reset came.
    pub(crate) fn clear_needs_reset(&self) {
        self.needs_reset.store(false, Ordering::Release);
    }

    /// Changes with every change of the configuration space (virtio 1.3 §2.5.1).
    pub(crate) fn config_generation(&self) -> u32 {
        self.config_generation.load(Ordering::Acquire)
    }
}
