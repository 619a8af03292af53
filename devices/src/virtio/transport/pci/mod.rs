// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! virtio-pci, without its legacy half (virtio 1.3 §4.1): a PCI function with one BAR.
//!
//! The guest controls every access to the BAR and to configuration space, on all vCPUs at once, and where the BAR is. It
//! gets no further by the window in configuration space (§4.1.4.9) than by the BAR itself, since both end in the same
//! two functions. Accesses of a width or at an offset that no register has read zeros and change nothing.
//!
//! | offset | is |
//! |---|---|
//! | `0x0000` | common configuration (§4.1.4.3) |
//! | `0x1000` | ISR status (§4.1.4.5) |
//! | `0x2000` | device configuration (§4.1.4.6) |
//! | `0x3000` | notification: four bytes a queue, any write rings (§4.1.4.4) |
//! | `0x4000` | MSI-X table: which vector is whose, the driver says |
//! | `0x5000` | MSI-X pending bits |
//!
//! **Bus master.** While the bit is off in the command register, the device touches no guest memory and sends no message:
//! its queues are stopped as in a pause and go on when it is turned on, and each vector keeps one message pending. That
//! breaks no driver that goes by the book. Linux turns it on before it begins with the device at all
//! (`virtio_pci_probe`: `pci_set_master`, then `register_virtio_device`, which resets and negotiates), and off only once
//! the device is reset (`virtio_pci_remove`, `virtio_pci_freeze`). One that turns it on only after DRIVER_OK finds its
//! queues started then.
//!
//! **Locks.** Register accesses share one lock. A device that raises an interrupt takes none: vectors, ISR and MSI-X
//! gates are atomics, so a worker is never held up by a vCPU, and a reset can wait for the worker.

mod config;
mod doorbells;
mod interrupt;
#[cfg(any(test, feature = "mock-driver"))]
pub mod mock;
mod registers;

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use thiserror::Error;
use vmm_sys_util::eventfd::EventFd;

use self::config::Places;
use self::doorbells::Doorbells;
use self::interrupt::Interrupt;
use self::registers::Registers;
use super::core::Core;
use super::{DoorbellBinder, Transport};
use crate::GuestRam;
use crate::interrupt::MsiVectors;
use crate::pci::msix::Msix;
use crate::pci::{BarAccess, ConfigError, ConfigSpace, PciFunction};
use crate::virtio::device::VirtioDevice;
use crate::virtio::queue::QueueState;

/// The one BAR.
const BAR: u8 = 0;
/// Bytes of the BAR.
const BAR_SIZE: u64 = 0x8000;
/// Each region has a page of its own, so that a hypervisor could map or trap it alone.
const PAGE: u64 = 0x1000;
const COMMON: u64 = 0;
const ISR: u64 = PAGE;
const DEVICE: u64 = 2 * PAGE;
const NOTIFY: u64 = 3 * PAGE;
const MSIX_TABLE: u64 = 4 * PAGE;
const MSIX_PBA: u64 = 5 * PAGE;
/// From one queue's doorbell to the next (§4.1.4.4).
const NOTIFY_OFF_MULTIPLIER: u64 = 4;

/// The most queues: with a vector each and one for the configuration, their table entries fill a page.
pub const MAX_QUEUES: usize = 255;

/// Why a device can't be put behind PCI.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum PciTransportError {
    /// There are more queues than MSI-X table entries.
    #[error("{0} queues are too many for a PCI device: it has room for {MAX_QUEUES}")]
    TooManyQueues(usize),
    /// The type has no PCI device ID.
    #[error("device type {0} has no PCI device ID")]
    BadType(u32),
    /// The host gives no eventfd.
    #[error("no doorbell can be had: {0}")]
    Doorbell(#[from] io::Error),
    /// The configuration space can't be made.
    #[error(transparent)]
    Config(#[from] ConfigError),
}

/// How many MSI-X vectors `device` gets: one a queue, and one for changes of its configuration. Those are the indices that
/// [`MsiVectors`] is called with, from 0 on.
///
/// # Errors
///
/// When there are too many queues.
pub fn vectors(device: &dyn VirtioDevice) -> Result<u16, PciTransportError> {
    let queues = device.queue_sizes().len();
    let vectors = u16::try_from(queues).ok().filter(|_| queues <= MAX_QUEUES).and_then(|queues| queues.checked_add(1));
    vectors.ok_or(PciTransportError::TooManyQueues(queues))
}

/// A virtio device that is a PCI function. It belongs on a [`crate::pci::PciBus`], once.
#[derive(Debug)]
pub struct PciTransport {
    registers: Mutex<Registers>,
    interrupt: Arc<Interrupt>,
    doorbells: Doorbells,
    /// The bit of the command register, as it was noted last.
    bus_master: AtomicBool,
    /// The configuration space at power-on.
    space: ConfigSpace,
    places: Places,
}

impl PciTransport {
    /// Makes a PCI function of `device`, whose queues lie in `mem`. Interrupts go out by `vectors`, of which there must be
    /// as many as [`vectors`] says; doorbells are bound wherever the guest puts the BAR.
    ///
    /// # Errors
    ///
    /// [`PciTransportError`] when the device has too many queues or no PCI device ID, or the host gives no eventfd.
    pub fn new(
        device: Box<dyn VirtioDevice>,
        mem: GuestRam,
        vectors: Arc<dyn MsiVectors>,
        doorbells: Arc<dyn DoorbellBinder>,
    ) -> Result<Arc<Self>, PciTransportError> {
        let count = self::vectors(device.as_ref())?;
        let interrupt = Arc::new(Interrupt::new(Msix::new(vectors, count)));
        let (space, places) = config::space(device.device_type(), &interrupt.msix)?;
        let mut core = Core::new(device, mem, interrupt.clone())?;
        let bus_master = space.bus_master();
        core.set_bus_master(bus_master);
        interrupt.msix.set_bus_master(bus_master);
        let events = (0..).map_while(|index| core.doorbell(index)).map(EventFd::try_clone);
        let doorbells = Doorbells::new(doorbells, events.collect::<io::Result<_>>()?);
        let registers = Mutex::new(Registers::new(core, interrupt.clone()));
        let bus_master = AtomicBool::new(bus_master);
        Ok(Arc::new(Self { registers, interrupt, doorbells, bus_master, space, places }))
    }

    fn lock(&self) -> MutexGuard<'_, Registers> {
        self.registers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn read(&self, offset: u64, data: &mut [u8]) {
        data.fill(0);
        let within = offset % PAGE;
        match offset.saturating_sub(within) {
            COMMON => self.lock().read(within, data),
            ISR => self.interrupt.read_isr(within, data),
            DEVICE => self.lock().core.read_config(within, data),
            MSIX_TABLE => self.interrupt.msix.read_table(within, data),
            MSIX_PBA => self.interrupt.msix.read_pba(within, data),
            _ => (),
        }
    }

    fn write(&self, offset: u64, data: &[u8]) {
        let within = offset % PAGE;
        match offset.saturating_sub(within) {
            COMMON => self.lock().write(within, data),
            DEVICE => self.lock().core.write_config(within, data),
            NOTIFY => self.lock().core.notify(doorbells::queue_at(within)),
            MSIX_TABLE => self.interrupt.msix.write_table(within, data),
            _ => (),
        }
    }
}

impl Transport for PciTransport {
    fn stop(&self) -> Vec<(u16, Option<QueueState>)> {
        self.lock().core.stop()
    }

    fn resume(&self) {
        self.lock().core.resume();
    }
}

impl PciFunction for PciTransport {
    fn config_space(&self) -> ConfigSpace {
        self.space.clone()
    }

    fn bar_access(&self, space: &ConfigSpace, register: usize, len: usize) -> Option<BarAccess> {
        self.places.window_access(space, register, len)
    }

    fn wrote_config(&self, space: &ConfigSpace, register: usize, len: usize) -> bool {
        if let Some(control) = self.places.message_control(space, register, len) {
            self.interrupt.msix.set_control(control);
        }
        self.bus_master.store(space.bus_master(), Ordering::Release);
        ConfigSpace::is_command(register, len)
    }

    fn act_on_config(&self) {
        // Looked at with the lock, so that of two vCPUs that write it the last one to come in here finds what was noted last.
        let mut registers = self.lock();
        let bus_master = self.bus_master.load(Ordering::Acquire);
        if bus_master != registers.core.bus_master() {
            registers.core.set_bus_master(bus_master);
            self.interrupt.msix.set_bus_master(bus_master);
        }
    }

    fn reset(&self) {
        let mut registers = self.lock();
        registers.set_status(0);
        let bus_master = self.space.bus_master();
        self.bus_master.store(bus_master, Ordering::Release);
        registers.core.set_bus_master(bus_master);
        self.interrupt.msix.reset(bus_master);
    }

    fn bar_moved(&self, bar: u8, address: Option<u64>) {
        if bar == BAR {
            self.doorbells.move_to(address.and_then(|address| address.checked_add(NOTIFY)));
        }
    }

    fn read_bar(&self, bar: u8, offset: u64, data: &mut [u8]) {
        if bar == BAR {
            self.read(offset, data);
        }
    }

    fn write_bar(&self, bar: u8, offset: u64, data: &[u8]) {
        if bar == BAR {
            self.write(offset, data);
        }
    }
}

#[cfg(test)]
mod hostile_tests;
#[cfg(test)]
mod tests;
