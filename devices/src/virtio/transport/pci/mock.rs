// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The driver's side of a virtio function, for tests, fuzz targets and benchmarks. It finds everything by the
//! capabilities, as a driver must (virtio 1.3 §4.1.4), and asserts that all of it is there.

#![allow(
    clippy::unwrap_used,
    clippy::arithmetic_side_effects,
    reason = "the mock plays the guest: it works on numbers that a test made, and a mistake should end the test"
)]

use crate::interrupt::MsiMessage;
use crate::pci::mock::MockMachine;
use crate::virtio::mock::MockDriver;
use crate::virtio::status::{ACKNOWLEDGE, DRIVER, DRIVER_OK, FEATURES_OK};

/// Command: memory decode and bus master.
pub const MEMORY_AND_MASTER: u8 = 0b110;
/// The vector that [`MockFunction::initialize`] gives to queue 0; the configuration has vector 0.
pub const QUEUE_VECTOR: u16 = 1;
/// The status one step before DRIVER_OK.
const READY: u8 = ACKNOWLEDGE | DRIVER | FEATURES_OK;

/// A virtio function as its driver knows it.
#[derive(Clone, Copy, Debug)]
pub struct MockFunction {
    /// The device number.
    pub device: u8,
    /// Where the BAR is.
    pub bar: u64,
    /// Where the common configuration is.
    pub common: u64,
    /// Where the first doorbell is.
    pub notify: u64,
    /// From one doorbell to the next.
    pub notify_off_multiplier: u64,
    /// Where the ISR status is.
    pub isr: u64,
    /// Where the device configuration is.
    pub config: u64,
    /// The capability of the window in configuration space.
    pub window: u64,
    /// The capability of MSI-X.
    pub msix: u64,
    /// Where the MSI-X table is.
    pub table: u64,
    /// Where the pending bits are.
    pub pba: u64,
}

impl MockFunction {
    /// Finds a device's registers, with the BAR where it is, and turns memory decode and MSI-X on.
    pub fn probe(machine: &MockMachine, device: u8) -> Self {
        assert_eq!(machine.config::<2>(device, 0), 0x1af4);
        let bar = machine.config::<8>(device, 0x10) & !0xf;
        let region = |kind: u64| {
            let of_kind = |at: &u64| machine.config::<1>(device, at + 3) == kind;
            let at = machine.capabilities(device, 0x09).into_iter().find(of_kind).unwrap();
            (at, bar + machine.config::<4>(device, at + 8))
        };
        let (notify_capability, notify) = region(2);
        let msix = machine.capabilities(device, 0x11).into_iter().next().unwrap();
        machine.set_config(device, 4, &[MEMORY_AND_MASTER]);
        machine.set_config(device, msix + 2, &0x8000u16.to_le_bytes());
        Self {
            device,
            bar,
            common: region(1).1,
            notify,
            notify_off_multiplier: machine.config::<4>(device, notify_capability + 16),
            isr: region(3).1,
            config: region(4).1,
            window: region(5).0,
            msix,
            table: bar + machine.config::<4>(device, msix + 4),
            pba: bar + machine.config::<4>(device, msix + 8),
        }
    }

    /// Writes a register of the common configuration.
    pub fn set(&self, machine: &MockMachine, offset: u64, data: &[u8]) {
        machine.write(self.common + offset, data);
    }

    /// Reads a register of the common configuration.
    pub fn get<const N: usize>(&self, machine: &MockMachine, offset: u64) -> u64 {
        machine.number::<N>(self.common + offset)
    }

    /// Writes an MSI-X table entry as Linux does: masked first, unmasked last.
    pub fn set_vector(&self, machine: &MockMachine, index: u16, message: MsiMessage) {
        let entry = self.table + 16 * u64::from(index);
        machine.write(entry + 12, &1u32.to_le_bytes());
        machine.write(entry, &(message.address as u32).to_le_bytes());
        machine.write(entry + 4, &((message.address >> 32) as u32).to_le_bytes());
        machine.write(entry + 8, &message.data.to_le_bytes());
        machine.write(entry + 12, &0u32.to_le_bytes());
    }

    /// Turns bus master on or off; memory decode stays on.
    pub fn set_bus_master(&self, machine: &MockMachine, on: bool) {
        machine.set_config(self.device, 4, &[if on { MEMORY_AND_MASTER } else { 0b010 }]);
    }

    /// Rings a doorbell.
    pub fn notify(&self, machine: &MockMachine, queue: u16) {
        let address = self.notify + self.notify_off_multiplier * u64::from(queue);
        machine.write(address, &queue.to_le_bytes());
    }

    /// Resets the device.
    pub fn reset(&self, machine: &MockMachine) {
        self.set(machine, 0x14, &[0]);
        assert_eq!(self.get::<1>(machine, 0x14), 0);
    }

    /// Resets the device and brings it up with queue 0 (virtio 1.3 §3.1.1, §4.1.5.1).
    pub fn initialize(&self, machine: &MockMachine, driver: &MockDriver) {
        self.set_up(machine, driver);
        self.set(machine, 0x14, &[READY | DRIVER_OK]);
        assert_eq!(self.get::<1>(machine, 0x14), u64::from(READY | DRIVER_OK));
    }

    /// The same but for the last step, DRIVER_OK.
    pub fn set_up(&self, machine: &MockMachine, driver: &MockDriver) {
        self.reset(machine);
        self.set(machine, 0x14, &[ACKNOWLEDGE]);
        self.set(machine, 0x14, &[ACKNOWLEDGE | DRIVER]);
        for word in 0u32..2 {
            self.set(machine, 0x00, &word.to_le_bytes());
            self.set(machine, 0x08, &word.to_le_bytes());
            let offered = self.get::<4>(machine, 0x04) as u32;
            self.set(machine, 0x0c, &offered.to_le_bytes());
            assert_eq!(self.get::<4>(machine, 0x0c) as u32, offered);
        }
        self.set(machine, 0x14, &[READY]);
        assert_eq!(self.get::<1>(machine, 0x14), u64::from(READY));
        self.set_vectors(machine);
        self.set(machine, 0x18, &driver.config.size.to_le_bytes());
        self.set(machine, 0x20, &driver.config.descriptor_table.to_le_bytes());
        for (offset, address) in [(0x28, driver.config.avail_ring), (0x30, driver.config.used_ring)] {
            self.set(machine, offset, &(address as u32).to_le_bytes());
            self.set(machine, offset + 4, &((address >> 32) as u32).to_le_bytes());
        }
        self.set(machine, 0x1c, &1u16.to_le_bytes());
    }

    /// Gives vector 0 to the configuration and [`QUEUE_VECTOR`] to queue 0, which stays selected.
    fn set_vectors(&self, machine: &MockMachine) {
        for index in [0, QUEUE_VECTOR] {
            self.set_vector(machine, index, MsiMessage { address: 0xfee0_0000, data: 0x40 + u32::from(index) });
        }
        self.set(machine, 0x10, &0u16.to_le_bytes());
        self.set(machine, 0x16, &0u16.to_le_bytes());
        self.set(machine, 0x1a, &QUEUE_VECTOR.to_le_bytes());
        assert_eq!(self.get::<2>(machine, 0x10), 0);
        assert_eq!(self.get::<2>(machine, 0x1a), u64::from(QUEUE_VECTOR));
    }
}
