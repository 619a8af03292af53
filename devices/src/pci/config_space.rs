// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The configuration space of a function: a header of type 0 and a list of capabilities (PCI Local Bus 3.0 §6.1).
//!
//! The guest controls offset, width and value of each access. Each bit of the space is either its own to write or never
//! changes by what it writes; what is beyond the 256 bytes reads as zeros, which to a guest that looks for extended
//! capabilities there says that there are none (PCI Express Base §7.6.3).

use thiserror::Error;

/// Bytes of a configuration space.
const SIZE: usize = 256;

mod register {
    pub(super) const VENDOR_ID: usize = 0x00;
    pub(super) const COMMAND: usize = 0x04;
    pub(super) const STATUS: usize = 0x06;
    pub(super) const REVISION_ID: usize = 0x08;
    pub(super) const BAR0: usize = 0x10;
    pub(super) const SUBSYSTEM_VENDOR_ID: usize = 0x2c;
    pub(super) const CAPABILITIES_POINTER: usize = 0x34;
    /// Where the header of type 0 ends.
    pub(super) const END: usize = 0x40;
}

/// Command: answer in memory space.
const MEMORY_SPACE: u16 = 1 << 1;
/// Command: may read and write memory, and send messages, which are writes (§6.2.2).
const BUS_MASTER: u16 = 1 << 2;
/// Command: no INTx, which no function has.
const INTERRUPT_DISABLE: u16 = 1 << 10;
/// Status: there is a list of capabilities.
const CAPABILITIES_LIST: u16 = 1 << 4;
/// A BAR's lowest bits: memory, 64 bits wide, not prefetchable, since reads have effects (§6.2.5.1).
const BAR_MEMORY_64: u64 = 0b0100;
const BAR_TYPE: u64 = 0b1111;
/// The smallest BAR: a page, so that no two functions share one.
const SMALLEST_BAR: u64 = 0x1000;

/// Why a configuration space can't be made: an error of the function, not of its guest.
#[derive(Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum ConfigError {
    /// No such BAR, or one that is there already.
    #[error(
        "BAR {bar} of {size:#x} bytes can't be: it takes an even number up to 4, once, and a power of two from a page on"
    )]
    BadBar {
        /// The BAR's number.
        bar: u8,
        /// Bytes.
        size: u64,
    },
    /// The capabilities don't fit.
    #[error("capability {id:#x} of {len} bytes does not fit behind the others")]
    NoRoom {
        /// The capability's ID.
        id: u8,
        /// Bytes.
        len: usize,
    },
}

/// Who a function says it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Vendor ID.
    pub vendor: u16,
    /// Device ID.
    pub device: u16,
    /// Revision ID.
    pub revision: u8,
    /// Class code: base class, sub-class, interface; 24 bits.
    pub class: u32,
    /// Subsystem vendor ID.
    pub subsystem_vendor: u16,
    /// Subsystem ID.
    pub subsystem: u16,
}

/// A BAR: 64-bit memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Bar {
    pub(super) number: u8,
    pub(super) size: u64,
}

/// The registers of a function.
#[derive(Clone, Debug)]
pub struct ConfigSpace {
    bytes: [u8; SIZE],
    /// The bits that the guest may write.
    writable: [u8; SIZE],
    bars: Vec<Bar>,
    /// Bytes that stay as they are while one of these bits of theirs is set.
    locks: Vec<(usize, u8)>,
    /// Where the offset of the next capability goes.
    link: usize,
    /// Where the next capability goes.
    free: usize,
}

impl ConfigSpace {
    /// A header without BARs and capabilities.
    pub fn new(identity: Identity) -> Self {
        let Identity { vendor, device, revision, class, subsystem_vendor, subsystem } = identity;
        let mut space = Self {
            bytes: [0; SIZE],
            writable: [0; SIZE],
            bars: Vec::new(),
            locks: Vec::new(),
            link: register::CAPABILITIES_POINTER,
            free: register::END,
        };
        space.set(register::VENDOR_ID, &pair(vendor, device));
        space.set(register::REVISION_ID, &(class << 8 | u32::from(revision)).to_le_bytes());
        space.set(register::SUBSYSTEM_VENDOR_ID, &pair(subsystem_vendor, subsystem));
        space.allow(register::COMMAND, &(MEMORY_SPACE | BUS_MASTER | INTERRUPT_DISABLE).to_le_bytes());
        space
    }

    /// Gives the function a BAR of 64-bit memory, which takes the registers `number` and the one after it.
    pub fn add_bar(&mut self, number: u8, size: u64) -> Result<(), ConfigError> {
        let bad = !number.is_multiple_of(2) || number > 4 || !size.is_power_of_two() || size < SMALLEST_BAR;
        if bad || self.bars.iter().any(|bar| bar.number == number) {
            return Err(ConfigError::BadBar { bar: number, size });
        }
        self.bars.push(Bar { number, size });
        self.set_bar_address(number, 0);
        // The bits below the size never change: a guest that writes all ones reads the size back (§6.2.5.1).
        self.allow(bar_register(number), &size.wrapping_neg().to_le_bytes());
        Ok(())
    }

    /// Puts a capability behind the others, and says where its ID is. `body` is what follows the ID and the link;
    /// `writable` has the bits of it that the guest may write.
    pub fn add_capability(&mut self, id: u8, body: &[u8], writable: &[u8]) -> Result<usize, ConfigError> {
        let no_room = ConfigError::NoRoom { id, len: body.len() };
        let at = self.free;
        let end = at.saturating_add(2).saturating_add(body.len()).next_multiple_of(4);
        let Some(offset) = u8::try_from(at).ok().filter(|_| end <= SIZE) else { return Err(no_room) };
        self.set(self.link, &[offset]);
        self.set(register::STATUS, &CAPABILITIES_LIST.to_le_bytes());
        self.set(at, &[id, 0]);
        self.set(at.saturating_add(2), body);
        self.allow(at.saturating_add(2), writable);
        self.link = at.saturating_add(1);
        self.free = end;
        Ok(at)
    }

    /// Gives the function a register of one byte behind the header, of which the guest may write some bits. Once it has set one
    /// of the bits in `lock`, the register stays as it is. The capabilities are somewhere else.
    pub fn add_register(&mut self, offset: usize, writable: u8, lock: u8) {
        self.allow(offset, &[writable]);
        self.locks.push((offset, lock));
    }

    /// Reads `data.len()` bytes; beyond the end there are zeros.
    pub fn read(&self, offset: usize, data: &mut [u8]) {
        data.fill(0);
        for (to, from) in data.iter_mut().zip(self.bytes.iter().skip(offset)) {
            *to = *from;
        }
    }

    /// The guest writes: only the bits that it may write change.
    pub fn write(&mut self, offset: usize, data: &[u8]) {
        let locks = &self.locks;
        let bytes = self.bytes.iter_mut().zip(&self.writable).enumerate().skip(offset);
        for ((at, (byte, writable)), value) in bytes.zip(data) {
            if locks.iter().any(|(register, lock)| *register == at && *byte & lock != 0) {
                continue;
            }
            *byte = *byte & !writable | value & writable;
        }
    }

    /// The function writes: all bits change.
    pub fn set(&mut self, offset: usize, data: &[u8]) {
        for (byte, value) in self.bytes.iter_mut().skip(offset).zip(data) {
            *byte = *value;
        }
    }

    /// `N` bytes at `offset`.
    pub fn get<const N: usize>(&self, offset: usize) -> [u8; N] {
        let mut data = [0; N];
        self.read(offset, &mut data);
        data
    }

    /// Whether an access of `len` bytes at `offset` is one to the command register, or to that and others.
    pub fn is_command(offset: usize, len: usize) -> bool {
        offset < register::STATUS && offset.saturating_add(len) > register::COMMAND
    }

    /// Whether the guest lets the function read and write memory and send messages.
    pub fn bus_master(&self) -> bool {
        u16::from_le_bytes(self.get(register::COMMAND)) & BUS_MASTER != 0
    }

    pub(super) fn bars(&self) -> &[Bar] {
        &self.bars
    }

    /// Where the guest wants a BAR to answer: nowhere while it has memory decode off.
    pub(super) fn wanted_address(&self, number: u8) -> Option<u64> {
        let decode = u16::from_le_bytes(self.get(register::COMMAND)) & MEMORY_SPACE != 0;
        decode.then(|| u64::from_le_bytes(self.get(bar_register(number))) & !BAR_TYPE)
    }

    pub(super) fn set_bar_address(&mut self, number: u8, address: u64) {
        self.set(bar_register(number), &(address & !BAR_TYPE | BAR_MEMORY_64).to_le_bytes());
    }

    /// Whether a write at `offset` can have moved a BAR.
    pub(super) fn is_header(offset: usize) -> bool {
        offset < register::END
    }

    fn allow(&mut self, offset: usize, bits: &[u8]) {
        for (writable, bits) in self.writable.iter_mut().skip(offset).zip(bits) {
            *writable = *bits;
        }
    }
}

fn bar_register(number: u8) -> usize {
    register::BAR0.saturating_add(usize::from(number).saturating_mul(4))
}

/// Two 16-bit registers in a row.
fn pair(low: u16, high: u16) -> [u8; 4] {
    (u32::from(high) << 16 | u32::from(low)).to_le_bytes()
}

#[cfg(test)]
#[path = "config_space_tests.rs"]
mod tests;
