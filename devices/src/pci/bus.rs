// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The bus: functions by device number, and where their BARs are.
//!
//! The guest moves BARs as it likes, at any time. A register holds what the guest wrote. The BAR answers there from the
//! moment at which memory decode is on, the range lies wholly in one window, and no other BAR is there; until then it
//! answers nowhere. One that waits for another to go away gets the place when that has gone, as on a PC.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use thiserror::Error;

use super::access::{Ecam, Ports, WindowAccess};
use super::address_map::AddressMap;
use super::config_space::ConfigSpace;
use super::function::PciFunction;
use super::host_bridge::HostBridge;
use crate::bus::BusDevice;

/// Device numbers of a bus: five bits (PCI Local Bus 3.0 §3.2.2.3.2).
const DEVICES: usize = 32;

/// Why a function can't be put on the bus.
#[derive(Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum PciError {
    /// Every device number is taken.
    #[error("the PCI bus is full: it has room for {0} devices beside the host bridge")]
    Full(usize),
    /// The window that BARs are put into has no room for another one.
    #[error("BAR {bar} of {size:#x} bytes has no room in the window from {base:#x} to {end:#x}")]
    NoAddress {
        /// The BAR's number.
        bar: u8,
        /// Bytes.
        size: u64,
        /// Where the window starts.
        base: u64,
        /// Where it ends.
        end: u64,
    },
}

/// Addresses that the host bridge passes on to the bus.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Window {
    /// The first address.
    pub base: u64,
    /// Bytes.
    pub size: u64,
}

impl Window {
    pub(super) fn end(&self) -> u64 {
        self.base.saturating_add(self.size)
    }
}

#[derive(Debug)]
struct Slot {
    function: Arc<dyn PciFunction>,
    space: ConfigSpace,
    /// What that was at power-on, with the addresses that its BARs were given.
    power_on: ConfigSpace,
    /// Where its BARs answer, in the order in which the space has them.
    placed: Vec<Option<u64>>,
}

/// What configuration accesses work on.
#[derive(Debug)]
struct Slots {
    /// By device number.
    slots: Vec<Slot>,
    /// Where the first window is free from: addresses are given out once, before the guest runs.
    free: u64,
}

/// Bus 0 of segment 0.
#[derive(Debug)]
pub struct PciBus {
    windows: Vec<Window>,
    config: Mutex<Slots>,
    map: RwLock<AddressMap>,
}

impl PciBus {
    /// A bus with a host bridge, 00:00.0, that passes on `windows`. BARs get their first addresses from the first one.
    pub fn new(windows: Vec<Window>) -> Arc<Self> {
        let free = windows.first().map_or(0, |window| window.base);
        let space = HostBridge.config_space();
        let bridge = Slot { function: Arc::new(HostBridge), space: space.clone(), power_on: space, placed: Vec::new() };
        let config = Mutex::new(Slots { slots: vec![bridge], free });
        Arc::new(Self { windows, config, map: RwLock::default() })
    }

    /// Gives `function` the next device number, and its BARs an address, at which they answer once the guest turns memory
    /// decode on. Says which number it is.
    ///
    /// # Errors
    ///
    /// [`PciError`] when there is no number or no address left; the bus stays as it was.
    pub fn add(&self, function: Arc<dyn PciFunction>) -> Result<u8, PciError> {
        let mut space = function.config_space();
        let mut config = self.lock();
        let number = config.slots.len();
        let slot = u8::try_from(number).ok().filter(|_| number < DEVICES);
        let slot = slot.ok_or(PciError::Full(DEVICES.saturating_sub(1)))?;
        let mut free = config.free;
        let window = self.windows.first().copied().unwrap_or_default();
        for bar in space.bars().to_vec() {
            let start = free.checked_next_multiple_of(bar.size);
            let end = start.and_then(|start| start.checked_add(bar.size)).filter(|end| *end <= window.end());
            let (Some(start), Some(end)) = (start, end) else {
                let (base, end) = (window.base, window.end());
                return Err(PciError::NoAddress { bar: bar.number, size: bar.size, base, end });
            };
            space.set_bar_address(bar.number, start);
            free = end;
        }
        let placed = vec![None; space.bars().len()];
        config.free = free;
        config.slots.push(Slot { function, power_on: space.clone(), space, placed });
        Ok(slot)
    }

    /// Configuration space by memory: 1 MiB, 4 KiB for each function (PCI Express Base §7.2.2).
    pub fn ecam(self: &Arc<Self>) -> Arc<dyn BusDevice> {
        Arc::new(Ecam(self.clone()))
    }

    /// Configuration space by the eight ports from `0xcf8` on (PCI Local Bus 3.0 §3.2.2.3.2).
    pub fn ports(self: &Arc<Self>) -> Arc<dyn BusDevice> {
        Arc::new(Ports::new(self.clone()))
    }

    /// What answers in window `index`, which belongs on the MMIO bus at the window's addresses.
    pub fn window(self: &Arc<Self>, index: usize) -> Option<Arc<dyn BusDevice>> {
        let base = self.windows.get(index)?.base;
        Some(Arc::new(WindowAccess { bus: self.clone(), base }))
    }

    /// Reads a register of function 0 of a device; absent ones leave `data` as it is.
    pub(super) fn read_config(&self, device: usize, register: usize, data: &mut [u8]) {
        let mut config = self.lock();
        let Some(Slot { function, space, .. }) = config.slots.get(device) else { return };
        let Some(access) = function.bar_access(space, register, data.len()) else {
            return space.read(register, data);
        };
        let function = function.clone();
        drop(config);
        let mut bytes = [0; 4];
        if let Some(bytes) = bytes.get_mut(..access.width) {
            function.read_bar(access.bar, access.offset, bytes);
        }
        config = self.lock();
        if let Some(Slot { space, .. }) = config.slots.get_mut(device) {
            space.set(access.data, &bytes);
            space.read(register, data);
        }
    }

    /// Writes a register of function 0 of a device.
    pub(super) fn write_config(&self, device: usize, register: usize, data: &[u8]) {
        let mut config = self.lock();
        let Some(Slot { function, space, .. }) = config.slots.get_mut(device) else { return };
        space.write(register, data);
        let function = function.clone();
        let access = function.bar_access(space, register, data.len());
        let access = access.map(|access| (access, space.get::<4>(access.data)));
        let act = function.wrote_config(space, register, data.len());
        if ConfigSpace::is_header(register) {
            self.settle(&mut config.slots);
        }
        drop(config);
        if let Some((access, bytes)) = access
            && let Some(bytes) = bytes.get(..access.width)
        {
            function.write_bar(access.bar, access.offset, bytes);
        }
        if act {
            function.act_on_config();
        }
    }

    /// The machine is reset: every function is where it was put at first, with memory decode off.
    pub(super) fn reset(&self) {
        let mut config = self.lock();
        for Slot { space, power_on, .. } in &mut config.slots {
            *space = power_on.clone();
        }
        self.settle(&mut config.slots);
        let functions: Vec<_> = config.slots.iter().map(|slot| slot.function.clone()).collect();
        drop(config);
        functions.iter().for_each(|function| function.reset());
    }

    /// Who answers at an address. The map is free again before a function is called.
    pub(super) fn find(&self, address: u64, len: usize) -> Option<(Arc<dyn PciFunction>, u8, u64)> {
        self.map.read().unwrap_or_else(PoisonError::into_inner).find(address, len)
    }

    /// Moves every BAR to where the guest wants it, if it can be there. First all leave that want to, then all come that
    /// can: so two may swap their places.
    fn settle(&self, slots: &mut [Slot]) {
        for Slot { function, space, placed, power_on: _ } in &mut *slots {
            for (bar, at) in space.bars().iter().zip(placed) {
                if let Some(old) = at.take_if(|old| space.wanted_address(bar.number) != Some(*old)) {
                    self.map.write().unwrap_or_else(PoisonError::into_inner).remove(old);
                    function.bar_moved(bar.number, None);
                }
            }
        }
        for Slot { function, space, placed, power_on: _ } in slots {
            for (bar, at) in space.bars().iter().zip(placed) {
                let Some(wanted) = space.wanted_address(bar.number).filter(|_| at.is_none()) else { continue };
                let mut map = self.map.write().unwrap_or_else(PoisonError::into_inner);
                let fits = map.insert(&self.windows, wanted, bar.size, function, bar.number);
                drop(map);
                if fits {
                    *at = Some(wanted);
                    function.bar_moved(bar.number, Some(wanted));
                }
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Slots> {
        self.config.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
#[path = "bus_tests.rs"]
mod tests;
