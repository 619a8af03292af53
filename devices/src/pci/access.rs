// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The ways to the bus: configuration space by memory and by ports, and BARs by the bridge's windows.
//!
//! The guest controls address, width and value. An access that reaches from one function, register block or BAR into the
//! next belongs to neither: it reads as all ones and writes to nowhere, as one to a function that is absent does.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use super::bus::PciBus;
use crate::bus::BusDevice;

/// ECAM: an address is the bus from bit 20 on, the device from bit 15 on, the function from bit 12 on, and the register
/// (PCI Express Base §7.2.2).
#[derive(Debug)]
pub(super) struct Ecam(pub(super) Arc<PciBus>);

const ECAM_FUNCTION_SIZE: usize = 0x1000;

impl Ecam {
    /// Device and register of an access that is to function 0 of a device, and to no other.
    fn decode(offset: u64, len: usize) -> Option<(usize, usize)> {
        let offset = usize::try_from(offset).ok()?;
        let register = offset & 0xfff;
        let inside = register.checked_add(len).is_some_and(|end| end <= ECAM_FUNCTION_SIZE);
        let function = offset >> 12 & 7;
        // Bits above those of the device are a bus that isn't there, and then neither is the device.
        (inside && function == 0).then_some((offset >> 15, register))
    }
}

impl BusDevice for Ecam {
    fn read(&self, offset: u64, data: &mut [u8]) {
        data.fill(0xff);
        if let Some((device, register)) = Self::decode(offset, data.len()) {
            self.0.read_config(device, register, data);
        }
    }

    fn write(&self, offset: u64, data: &[u8]) {
        if let Some((device, register)) = Self::decode(offset, data.len()) {
            self.0.write_config(device, register, data);
        }
    }

    /// One of the ways to the bus has to pass it on, and this is the one that every machine with PCI has.
    fn reset(&self) {
        self.0.reset();
    }
}

/// CONFIG_ADDRESS: accesses to CONFIG_DATA reach configuration space.
const ENABLE: u32 = 1 << 31;
/// CONFIG_ADDRESS: the bits that there are. The others read as zeros (PCI Local Bus 3.0 §3.2.2.3.2).
const ADDRESS_BITS: u32 = ENABLE | 0x00ff_fffc;
/// Offset of CONFIG_DATA, and the bytes of each of the two.
const DATA: u64 = 4;

/// The two ports of "configuration mechanism #1". A guest with several vCPUs must keep its accesses apart itself: there
/// is one CONFIG_ADDRESS, as on a PC.
#[derive(Debug)]
pub(super) struct Ports {
    bus: Arc<PciBus>,
    address: AtomicU32,
}

impl Ports {
    pub(super) fn new(bus: Arc<PciBus>) -> Self {
        Self { bus, address: AtomicU32::new(0) }
    }

    /// Device and register that CONFIG_ADDRESS names, if they can be there.
    fn decode(&self, offset: u64, len: usize) -> Option<(usize, usize)> {
        let within = offset.checked_sub(DATA)?;
        let end = within.checked_add(u64::try_from(len).ok()?)?;
        let address = self.address.load(Ordering::Acquire);
        // Function 0 of bus 0.
        let present = address & ENABLE != 0 && address & 0x00ff_0700 == 0;
        let device = usize::try_from(address >> 11 & 0x1f).ok()?;
        let register = usize::try_from(u64::from(address & 0xfc).checked_add(within)?).ok()?;
        (present && end <= DATA).then_some((device, register))
    }
}

impl BusDevice for Ports {
    fn read(&self, offset: u64, data: &mut [u8]) {
        data.fill(0xff);
        if let (0, Ok(word)) = (offset, <&mut [u8; 4]>::try_from(&mut *data)) {
            *word = self.address.load(Ordering::Acquire).to_le_bytes();
        } else if let Some((device, register)) = self.decode(offset, data.len()) {
            self.bus.read_config(device, register, data);
        }
    }

    fn write(&self, offset: u64, data: &[u8]) {
        // Narrower writes are to other ports in the same place, such as the reset register of a PC at 0xcf9.
        if let (0, Ok(word)) = (offset, <[u8; 4]>::try_from(data)) {
            self.address.store(u32::from_le_bytes(word) & ADDRESS_BITS, Ordering::Release);
        } else if let Some((device, register)) = self.decode(offset, data.len()) {
            self.bus.write_config(device, register, data);
        }
    }

    fn reset(&self) {
        self.address.store(0, Ordering::Release);
    }
}

/// One of the bridge's windows.
#[derive(Debug)]
pub(super) struct WindowAccess {
    pub(super) bus: Arc<PciBus>,
    pub(super) base: u64,
}

impl BusDevice for WindowAccess {
    fn read(&self, offset: u64, data: &mut [u8]) {
        data.fill(0xff);
        let address = self.base.checked_add(offset);
        if let Some((function, bar, offset)) = address.and_then(|address| self.bus.find(address, data.len())) {
            function.read_bar(bar, offset, data);
        }
    }

    fn write(&self, offset: u64, data: &[u8]) {
        let address = self.base.checked_add(offset);
        if let Some((function, bar, offset)) = address.and_then(|address| self.bus.find(address, data.len())) {
            function.write_bar(bar, offset, data);
        }
    }
}

#[cfg(test)]
#[path = "access_tests.rs"]
mod tests;
