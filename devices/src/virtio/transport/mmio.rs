// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! virtio-mmio, the register file of version 2 (virtio 1.3 §4.2.2).
//!
//! The guest controls offset, width and value of each access. Registers are 32 bits wide and answer aligned accesses of
//! that width only: any other read gives zeros, any other write is ignored. The configuration space behind them takes
//! every width.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use vmm_sys_util::eventfd::EventFd;

use super::super::device::VirtioDevice;
use super::super::queue::QueueState;
use super::Transport;
use super::core::Core;
use super::mmio_interrupt::{self, Interrupt};
use super::words::{feature_word, set_high, set_low};
use crate::GuestRam;
use crate::bus::BusDevice;
use crate::interrupt::InterruptLine;

/// "virt".
const MAGIC: u32 = 0x7472_6976;
/// Not a legacy device.
const VERSION: u32 = 2;
/// Ours to choose; a driver for a special device would look at it.
const VENDOR: u32 = 0x4d4d_5600;
/// There are no shared memory regions: their length reads as -1 (virtio 1.3 §4.2.2).
const NO_SHARED_MEMORY: u32 = u32::MAX;

mod register {
    pub(super) const MAGIC_VALUE: u64 = 0x000;
    pub(super) const VERSION: u64 = 0x004;
    pub(super) const DEVICE_ID: u64 = 0x008;
    pub(super) const VENDOR_ID: u64 = 0x00c;
    pub(super) const DEVICE_FEATURES: u64 = 0x010;
    pub(super) const DEVICE_FEATURES_SEL: u64 = 0x014;
    pub(super) const DRIVER_FEATURES: u64 = 0x020;
    pub(super) const DRIVER_FEATURES_SEL: u64 = 0x024;
    pub(super) const QUEUE_SEL: u64 = 0x030;
    pub(super) const QUEUE_SIZE_MAX: u64 = 0x034;
    pub(super) const QUEUE_SIZE: u64 = 0x038;
    pub(super) const QUEUE_READY: u64 = 0x044;
    pub(super) const QUEUE_NOTIFY: u64 = 0x050;
    pub(super) const INTERRUPT_STATUS: u64 = 0x060;
    pub(super) const INTERRUPT_ACK: u64 = 0x064;
    pub(super) const STATUS: u64 = 0x070;
    pub(super) const QUEUE_DESC_LOW: u64 = 0x080;
    pub(super) const QUEUE_DESC_HIGH: u64 = 0x084;
    pub(super) const QUEUE_DRIVER_LOW: u64 = 0x090;
    pub(super) const QUEUE_DRIVER_HIGH: u64 = 0x094;
    pub(super) const QUEUE_DEVICE_LOW: u64 = 0x0a0;
    pub(super) const QUEUE_DEVICE_HIGH: u64 = 0x0a4;
    pub(super) const SHM_LEN_LOW: u64 = 0x0b0;
    pub(super) const SHM_BASE_HIGH: u64 = 0x0bc;
    pub(super) const CONFIG_GENERATION: u64 = 0x0fc;
    pub(super) const CONFIG: u64 = 0x100;
}

/// Offset of the register that is a doorbell when the index of a queue is written to it.
pub const QUEUE_NOTIFY: u64 = register::QUEUE_NOTIFY;

/// Offset of the register that acknowledges an interrupt.
pub const INTERRUPT_ACK: u64 = register::INTERRUPT_ACK;
/// What is written to it for buffers that were used.
pub const ACK_USED: u32 = mmio_interrupt::USED;

#[derive(Debug)]
struct Registers {
    core: Core,
    device_features_sel: u32,
    driver_features_sel: u32,
    queue_sel: u32,
}

/// A virtio device behind a window of MMIO registers.
#[derive(Debug)]
pub struct MmioTransport {
    registers: Mutex<Registers>,
    interrupt: Arc<Interrupt>,
}

impl MmioTransport {
    /// Puts registers before `device`, whose queues lie in `mem` and whose interrupts go to `line`.
    pub fn new(device: Box<dyn VirtioDevice>, mem: GuestRam, line: Box<dyn InterruptLine>) -> Result<Self, io::Error> {
        let interrupt = Arc::new(Interrupt::new(line)?);
        let core = Core::new(device, mem, interrupt.clone())?;
        let registers = Registers { core, device_features_sel: 0, driver_features_sel: 0, queue_sel: 0 };
        Ok(Self { registers: Mutex::new(registers), interrupt })
    }

    /// The doorbells, in the order of the queues: each is rung by writing its index to [`QUEUE_NOTIFY`].
    pub fn doorbells(&self) -> Result<Vec<EventFd>, io::Error> {
        let registers = self.lock();
        (0..).map_while(|index| registers.core.doorbell(index)).map(EventFd::try_clone).collect()
    }

    /// To be rung when [`ACK_USED`] is written to [`INTERRUPT_ACK`], by whoever can do so without an exit. Such a write needn't
    /// come here then.
    pub fn acknowledgement(&self) -> Result<EventFd, io::Error> {
        self.interrupt.event()
    }

    fn lock(&self) -> MutexGuard<'_, Registers> {
        self.registers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn read_register(&self, offset: u64) -> u32 {
        // Read at every interrupt: no lock.
        if offset == register::INTERRUPT_STATUS {
            return self.interrupt.status();
        }
        let registers = self.lock();
        let Registers { core, device_features_sel, driver_features_sel: _, queue_sel } = &*registers;
        match offset {
            register::MAGIC_VALUE => MAGIC,
            register::VERSION => VERSION,
            register::DEVICE_ID => core.device_type(),
            register::VENDOR_ID => VENDOR,
            register::DEVICE_FEATURES => feature_word(core.offered_features(), *device_features_sel),
            register::QUEUE_SIZE_MAX => core.queue_max_size(*queue_sel).into(),
            register::QUEUE_READY => core.queue_ready(*queue_sel).into(),
            register::STATUS => core.status().into(),
            register::SHM_LEN_LOW..=register::SHM_BASE_HIGH => NO_SHARED_MEMORY,
            register::CONFIG_GENERATION => core.config_generation(),
            _ => 0,
        }
    }

    fn write_register(&self, offset: u64, value: u32) {
        if offset == register::INTERRUPT_ACK {
            return self.interrupt.acknowledge(value);
        }
        let mut registers = self.lock();
        let Registers { core, device_features_sel, driver_features_sel, queue_sel } = &mut *registers;
        let queue = *queue_sel;
        match offset {
            register::DEVICE_FEATURES_SEL => *device_features_sel = value,
            register::DRIVER_FEATURES => core.set_driver_features(*driver_features_sel, value),
            register::DRIVER_FEATURES_SEL => *driver_features_sel = value,
            register::QUEUE_SEL => *queue_sel = value,
            // A size beyond 16 bits is as bad as the largest: no queue takes it.
            register::QUEUE_SIZE => {
                core.configure_queue(queue, |q| q.size = u16::try_from(value).unwrap_or(u16::MAX));
            }
            register::QUEUE_READY => core.set_queue_ready(queue, value & 1 != 0),
            register::QUEUE_NOTIFY => core.notify(value),
            register::STATUS => {
                core.set_status(u8::try_from(value & 0xff).unwrap_or_default());
                if value & 0xff == 0 {
                    (*device_features_sel, *driver_features_sel, *queue_sel) = (0, 0, 0);
                    self.interrupt.reset();
                }
            }
            register::QUEUE_DESC_LOW => core.configure_queue(queue, |q| set_low(&mut q.descriptor_table, value)),
            register::QUEUE_DESC_HIGH => core.configure_queue(queue, |q| set_high(&mut q.descriptor_table, value)),
            register::QUEUE_DRIVER_LOW => core.configure_queue(queue, |q| set_low(&mut q.avail_ring, value)),
            register::QUEUE_DRIVER_HIGH => core.configure_queue(queue, |q| set_high(&mut q.avail_ring, value)),
            register::QUEUE_DEVICE_LOW => core.configure_queue(queue, |q| set_low(&mut q.used_ring, value)),
            register::QUEUE_DEVICE_HIGH => core.configure_queue(queue, |q| set_high(&mut q.used_ring, value)),
            _ => (),
        }
    }
}

impl Transport for MmioTransport {
    fn stop(&self) -> Vec<(u16, Option<QueueState>)> {
        self.lock().core.stop()
    }

    fn resume(&self) {
        self.lock().core.resume();
    }
}

impl BusDevice for MmioTransport {
    fn read(&self, offset: u64, data: &mut [u8]) {
        if let Some(offset) = offset.checked_sub(register::CONFIG) {
            return self.lock().core.read_config(offset, data);
        }
        data.fill(0);
        if let Ok(word) = <&mut [u8; 4]>::try_from(data)
            && offset.is_multiple_of(4)
        {
            *word = self.read_register(offset).to_le_bytes();
        }
    }

    fn write(&self, offset: u64, data: &[u8]) {
        if let Some(offset) = offset.checked_sub(register::CONFIG) {
            return self.lock().core.write_config(offset, data);
        }
        if let Ok(word) = <[u8; 4]>::try_from(data)
            && offset.is_multiple_of(4)
        {
            self.write_register(offset, u32::from_le_bytes(word));
        }
    }

    /// All that a driver sets is forgotten when it resets the device.
    fn reset(&self) {
        self.write_register(register::STATUS, 0);
    }
}

#[cfg(test)]
#[path = "mmio_tests.rs"]
mod tests;
