// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The port bus and the MMIO bus: from an address to the device that answers it.
//!
//! The guest controls the address, the width and the data of every access. An access that no device claims reads as all
//! ones and writes to nowhere, as on a PC; so does one that reaches beyond the end of a device's range.

use std::fmt::Debug;
use std::sync::Arc;

use thiserror::Error;

use crate::throttle::Throttle;

/// What answers accesses in a range of addresses. vCPUs call it concurrently.
pub trait BusDevice: Debug + Send + Sync {
    /// Reads `data.len()` bytes at `offset` into the device's range. `data` holds all ones when it is called.
    fn read(&self, offset: u64, data: &mut [u8]);
    /// Writes `data` at `offset` into the device's range.
    fn write(&self, offset: u64, data: &[u8]);

    /// The machine is reset: all that its guest has set is as it was when the machine was switched on. No vCPU runs
    /// meanwhile. When this returns, the device touches no guest memory.
    fn reset(&self) {}
}

/// Why a device can't be put on the bus.
#[derive(Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum BusError {
    /// The range has no bytes, or reaches beyond the last address.
    #[error("{size:#x} bytes at {base:#x} are not a range of addresses")]
    BadRange {
        /// The first address.
        base: u64,
        /// Bytes.
        size: u64,
    },
    /// Part of the range belongs to another device.
    #[error("{size:#x} bytes at {base:#x} overlap the device at {other:#x}")]
    Overlap {
        /// The first address.
        base: u64,
        /// Bytes.
        size: u64,
        /// The first address of the device that is there already.
        other: u64,
    },
}

#[derive(Debug)]
struct Entry {
    base: u64,
    size: u64,
    device: Arc<dyn BusDevice>,
}

/// Devices by address. Filled while the machine is built, then shared by all vCPUs without a lock.
#[derive(Debug, Default)]
pub struct Bus {
    /// Sorted by base; ranges never overlap.
    entries: Vec<Entry>,
    unclaimed: Throttle,
}

impl Bus {
    /// A bus without devices.
    pub fn new() -> Self {
        Self::default()
    }

    /// Puts a device on `size` addresses from `base` on.
    pub fn insert(&mut self, base: u64, size: u64, device: Arc<dyn BusDevice>) -> Result<(), BusError> {
        let end = base.checked_add(size).filter(|_| size > 0).ok_or(BusError::BadRange { base, size })?;
        let at = self.entries.partition_point(|entry| entry.base < base);
        let before = at.checked_sub(1).and_then(|i| self.entries.get(i));
        let neighbours = before.into_iter().chain(self.entries.get(at));
        for entry in neighbours {
            if entry.base < end && base < entry.base.saturating_add(entry.size) {
                return Err(BusError::Overlap { base, size, other: entry.base });
            }
        }
        self.entries.insert(at, Entry { base, size, device });
        Ok(())
    }

    /// The guest reads. Never fails: an access that nobody answers reads as all ones.
    pub fn read(&self, address: u64, data: &mut [u8]) {
        data.fill(0xff);
        match self.find(address, data.len()) {
            Some((device, offset)) => device.read(offset, data),
            None => self.count_unclaimed("read", address, data.len()),
        }
    }

    /// The guest writes. Never fails: what nobody claims is dropped.
    pub fn write(&self, address: u64, data: &[u8]) {
        match self.find(address, data.len()) {
            Some((device, offset)) => device.write(offset, data),
            None => self.count_unclaimed("write", address, data.len()),
        }
    }

    /// The machine is reset, and with it every device.
    pub fn reset(&self) {
        for entry in &self.entries {
            entry.device.reset();
        }
    }

    /// How many accesses nobody answered.
    pub fn unclaimed(&self) -> u64 {
        self.unclaimed.times()
    }

    fn find(&self, address: u64, len: usize) -> Option<(&dyn BusDevice, u64)> {
        let at = self.entries.partition_point(|entry| entry.base <= address);
        let entry = self.entries.get(at.checked_sub(1)?)?;
        let offset = address.checked_sub(entry.base)?;
        let end = offset.checked_add(u64::try_from(len).ok()?)?;
        (end <= entry.size).then_some((entry.device.as_ref(), offset))
    }

    fn count_unclaimed(&self, what: &str, address: u64, width: usize) {
        if let Some(times) = self.unclaimed.hit() {
            tracing::debug!("{what} of {width} bytes at {address:#x}: no device is there ({times} such accesses)");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    #[derive(Debug, Default)]
    struct Recorder(Mutex<Vec<(u64, Vec<u8>)>>);

    impl BusDevice for Recorder {
        fn read(&self, offset: u64, data: &mut [u8]) {
            data.fill(offset as u8);
        }
        fn write(&self, offset: u64, data: &[u8]) {
            self.0.lock().unwrap().push((offset, data.to_vec()));
        }
    }

    #[test]
    fn an_access_reaches_the_device_with_its_offset() {
        let mut bus = Bus::new();
        let (low, high) = (Arc::new(Recorder::default()), Arc::new(Recorder::default()));
        bus.insert(0x100, 0x10, low.clone()).unwrap();
        bus.insert(0x110, 0x10, high.clone()).unwrap();
        let mut data = [0; 2];
        bus.read(0x10e, &mut data);
        assert_eq!(data, [0xe, 0xe]);
        bus.write(0x110, &[1, 2]);
        assert_eq!(*high.0.lock().unwrap(), [(0, vec![1, 2])]);
        assert!(low.0.lock().unwrap().is_empty());
        assert_eq!(bus.unclaimed(), 0);
    }

    #[test]
    fn unclaimed_and_straddling_accesses_read_all_ones_and_write_nowhere() {
        let mut bus = Bus::new();
        let device = Arc::new(Recorder::default());
        bus.insert(0x100, 0x10, device.clone()).unwrap();
        bus.insert(u64::MAX - 7, 7, device.clone()).unwrap();
        let accesses = [(0xff, 1), (0xff, 2), (0x10f, 2), (0x110, 1), (0, 8), (u64::MAX, 1), (u64::MAX - 1, 8)];
        for (address, width) in accesses {
            let mut data = [0; 8];
            bus.read(address, &mut data[..width]);
            assert!(data[..width].iter().all(|b| *b == 0xff), "{address:#x}");
            bus.write(address, &data[..width]);
        }
        assert!(device.0.lock().unwrap().is_empty());
        assert_eq!(bus.unclaimed(), 14);
    }

    #[test]
    fn ranges_that_overlap_or_wrap_are_refused() {
        let mut bus = Bus::new();
        let device = Arc::new(Recorder::default());
        bus.insert(0x100, 0x10, device.clone()).unwrap();
        for (base, size) in [(0x100, 0x10), (0xff, 2), (0x10f, 1), (0xf0, 0x100), (0x104, 4)] {
            let refused = bus.insert(base, size, device.clone());
            assert_eq!(refused, Err(BusError::Overlap { base, size, other: 0x100 }));
        }
        for (base, size) in [(0, 0), (u64::MAX, 2), (1, u64::MAX)] {
            assert_eq!(bus.insert(base, size, device.clone()), Err(BusError::BadRange { base, size }));
        }
        bus.insert(0xf0, 0x10, device.clone()).unwrap();
        bus.insert(0x110, 1, device).unwrap();
    }
}
