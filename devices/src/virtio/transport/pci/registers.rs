// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The common configuration (virtio 1.3 §4.1.4.3).
//!
//! The guest controls offset, width and value of each access. A register answers accesses of its own width; a queue's
//! address answers as a whole and by halves (§4.1.3.1). All other accesses read zeros and change nothing. The registers
//! that belong to features we don't offer (`queue_notif_config_data`, `queue_reset` and those behind them) aren't there.

use std::sync::Arc;

use super::super::core::Core;
use super::super::words::{feature_word, high, low, set_high, set_low};
use super::interrupt::Interrupt;
use crate::virtio::queue::QueueConfig;

/// Bytes, as far as there are registers.
pub(super) const COMMON_SIZE: u64 = 0x38;

mod register {
    pub(super) const DEVICE_FEATURE_SELECT: u64 = 0x00;
    pub(super) const DEVICE_FEATURE: u64 = 0x04;
    pub(super) const DRIVER_FEATURE_SELECT: u64 = 0x08;
    pub(super) const DRIVER_FEATURE: u64 = 0x0c;
    pub(super) const CONFIG_MSIX_VECTOR: u64 = 0x10;
    pub(super) const NUM_QUEUES: u64 = 0x12;
    pub(super) const DEVICE_STATUS: u64 = 0x14;
    pub(super) const CONFIG_GENERATION: u64 = 0x15;
    pub(super) const QUEUE_SELECT: u64 = 0x16;
    pub(super) const QUEUE_SIZE: u64 = 0x18;
    pub(super) const QUEUE_MSIX_VECTOR: u64 = 0x1a;
    pub(super) const QUEUE_ENABLE: u64 = 0x1c;
    pub(super) const QUEUE_NOTIFY_OFF: u64 = 0x1e;
    pub(super) const QUEUE_DESC: u64 = 0x20;
    pub(super) const QUEUE_DRIVER: u64 = 0x28;
    pub(super) const QUEUE_DEVICE: u64 = 0x30;
}

/// The bit of an address register's offset that tells its upper half from its lower one.
const HIGH_HALF: u64 = 4;

#[derive(Debug)]
pub(super) struct Registers {
    pub(super) core: Core,
    interrupt: Arc<Interrupt>,
    device_feature_select: u32,
    driver_feature_select: u32,
    queue_select: u16,
}

impl Registers {
    pub(super) fn new(core: Core, interrupt: Arc<Interrupt>) -> Self {
        Self { core, interrupt, device_feature_select: 0, driver_feature_select: 0, queue_select: 0 }
    }

    /// Reads at `offset` into `data`, which is zero.
    pub(super) fn read(&self, offset: u64, data: &mut [u8]) {
        match data {
            [byte] => *byte = self.read_8(offset),
            [_, _] => copy(data, &self.read_16(offset).to_le_bytes()),
            [_, _, _, _] => copy(data, &self.read_32(offset).to_le_bytes()),
            [_, _, _, _, _, _, _, _] => {
                let mut config = self.core.queue_config(self.queue_select.into());
                copy(data, &address(&mut config, offset).map_or(0, |address| *address).to_le_bytes());
            }
            _ => (),
        }
    }

    /// Writes `data` at `offset`.
    pub(super) fn write(&mut self, offset: u64, data: &[u8]) {
        match *data {
            [byte] if offset == register::DEVICE_STATUS => self.set_status(byte),
            [a, b] => self.write_16(offset, u16::from_le_bytes([a, b])),
            [a, b, c, d] => self.write_32(offset, u32::from_le_bytes([a, b, c, d])),
            [a, b, c, d, e, f, g, h] => {
                let value = u64::from_le_bytes([a, b, c, d, e, f, g, h]);
                self.change_address(offset, |address| *address = value);
            }
            _ => (),
        }
    }

    fn read_8(&self, offset: u64) -> u8 {
        match offset {
            register::DEVICE_STATUS => self.core.status(),
            register::CONFIG_GENERATION => {
                let [lowest, ..] = self.core.config_generation().to_le_bytes();
                lowest
            }
            _ => 0,
        }
    }

    fn read_16(&self, offset: u64) -> u16 {
        let queue = u32::from(self.queue_select);
        match offset {
            register::CONFIG_MSIX_VECTOR => self.interrupt.config_vector(),
            register::NUM_QUEUES => u16::try_from(self.core.queue_count()).unwrap_or(u16::MAX),
            register::QUEUE_SELECT => self.queue_select,
            // Zero says that there is no such queue.
            register::QUEUE_SIZE => self.core.queue_config(queue).size,
            register::QUEUE_MSIX_VECTOR => self.interrupt.queue_vector(self.queue_select),
            register::QUEUE_ENABLE => self.core.queue_ready(queue).into(),
            register::QUEUE_NOTIFY_OFF => self.queue_select,
            _ => 0,
        }
    }

    fn read_32(&self, offset: u64) -> u32 {
        match offset {
            register::DEVICE_FEATURE_SELECT => self.device_feature_select,
            register::DEVICE_FEATURE => feature_word(self.core.offered_features(), self.device_feature_select),
            register::DRIVER_FEATURE_SELECT => self.driver_feature_select,
            register::DRIVER_FEATURE => feature_word(self.core.driver_features(), self.driver_feature_select),
            _ => {
                let mut config = self.core.queue_config(self.queue_select.into());
                let half = if offset & HIGH_HALF == 0 { low } else { high };
                address(&mut config, offset & !HIGH_HALF).map_or(0, |address| half(*address))
            }
        }
    }

    fn write_16(&mut self, offset: u64, value: u16) {
        let queue = u32::from(self.queue_select);
        match offset {
            register::CONFIG_MSIX_VECTOR => self.interrupt.set_config_vector(value),
            register::QUEUE_SELECT => self.queue_select = value,
            register::QUEUE_SIZE => self.core.configure_queue(queue, |config| config.size = value),
            register::QUEUE_MSIX_VECTOR => self.interrupt.set_queue_vector(self.queue_select, value),
            // A driver must not write anything else (§4.1.4.3.2), and disables a queue only by a reset.
            register::QUEUE_ENABLE if value == 1 => self.core.set_queue_ready(queue, true),
            _ => (),
        }
    }

    fn write_32(&mut self, offset: u64, value: u32) {
        match offset {
            register::DEVICE_FEATURE_SELECT => self.device_feature_select = value,
            register::DRIVER_FEATURE_SELECT => self.driver_feature_select = value,
            register::DRIVER_FEATURE => self.core.set_driver_features(self.driver_feature_select, value),
            _ => {
                let set_half = if offset & HIGH_HALF == 0 { set_low } else { set_high };
                self.change_address(offset & !HIGH_HALF, |address| set_half(address, value));
            }
        }
    }

    pub(super) fn set_status(&mut self, value: u8) {
        self.core.set_status(value);
        if value == 0 {
            // Every field is named, so that one that is added can't be forgotten.
            let Self { core: _, interrupt, device_feature_select, driver_feature_select, queue_select } = self;
            interrupt.reset();
            (*device_feature_select, *driver_feature_select, *queue_select) = (0, 0, 0);
        }
    }

    /// Changes the address of the selected queue that begins at `offset`, if one does.
    fn change_address(&mut self, offset: u64, change: impl FnOnce(&mut u64)) {
        if address(&mut QueueConfig::default(), offset).is_some() {
            self.core.configure_queue(self.queue_select.into(), |config| {
                if let Some(address) = address(config, offset) {
                    change(address);
                }
            });
        }
    }
}

/// The address that begins at a register.
fn address(config: &mut QueueConfig, offset: u64) -> Option<&mut u64> {
    match offset {
        register::QUEUE_DESC => Some(&mut config.descriptor_table),
        register::QUEUE_DRIVER => Some(&mut config.avail_ring),
        register::QUEUE_DEVICE => Some(&mut config.used_ring),
        _ => None,
    }
}

fn copy(to: &mut [u8], from: &[u8]) {
    for (to, from) in to.iter_mut().zip(from) {
        *to = *from;
    }
}
