// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The hypervisor's and the guest's side of a PCI bus, for tests, fuzz targets and benchmarks: vectors that count,
//! doorbells that are bound to addresses, and the accesses of a vCPU.

#![allow(
    clippy::unwrap_used,
    clippy::arithmetic_side_effects,
    reason = "the mock plays the guest: it works on numbers that a test made, and a mistake should end the test"
)]

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use vmm_sys_util::eventfd::EventFd;

use super::bus::{PciBus, Window};
use crate::bus::Bus;
use crate::interrupt::{MsiMessage, MsiVectors};
use crate::virtio::transport::DoorbellBinder;

/// Where the configuration ports are.
pub const CONFIG_PORTS: u64 = 0xcf8;
/// Where configuration space is.
pub const ECAM: u64 = 0xe000_0000;
/// The bridge's windows: one below 4 GiB, one above.
pub const WINDOWS: [Window; 2] =
    [Window { base: 0xc200_0000, size: 0x10_0000 }, Window { base: 0x10_0000_0000, size: 0x10_0000 }];

/// Vectors that count what they are asked for.
#[derive(Debug)]
pub struct MockVectors {
    /// All that `route` was called with, in order.
    pub routes: Mutex<Vec<(u16, MsiMessage)>>,
    /// How often it was called.
    pub route_calls: AtomicU64,
    /// Whether `route` fails.
    pub refuse: AtomicBool,
    /// Written once for each trigger, one a vector. They don't block.
    pub raised: Vec<EventFd>,
    /// Whether `connect` works; somebody has to call [`Self::pump`] then.
    pub listens: AtomicBool,
    /// The events that are connected.
    connected: Mutex<Vec<(u16, RawFd, EventFd)>>,
    /// Written for each trigger of any of them. Blocks who reads it until there was one.
    pub any: EventFd,
}

impl MockVectors {
    /// `count` vectors.
    pub fn new(count: u16) -> Arc<Self> {
        let raised = (0..count).map(|_| EventFd::new(libc::EFD_NONBLOCK).unwrap()).collect();
        let any = EventFd::new(0).unwrap();
        let route_calls = AtomicU64::new(0);
        let (routes, connected) = (Mutex::default(), Mutex::default());
        let [refuse, listens] = [(); 2].map(|()| AtomicBool::new(false));
        Arc::new(Self { routes, route_calls, refuse, raised, listens, connected, any })
    }

    /// Raises the vectors whose events were written, as a kernel does by itself; how many events there are.
    pub fn pump(&self) -> usize {
        let connected = self.connected.lock().unwrap();
        for (index, _, event) in &*connected {
            if crate::sys::doorbell::take(event).unwrap() {
                self.trigger(*index);
            }
        }
        connected.len()
    }

    /// How often a vector was triggered since this was asked last.
    pub fn take(&self, index: u16) -> u64 {
        self.raised.get(usize::from(index)).and_then(|raised| raised.read().ok()).unwrap_or(0)
    }

    /// All that `route` was called with since this was asked last.
    pub fn take_routes(&self) -> Vec<(u16, MsiMessage)> {
        std::mem::take(&mut *self.routes.lock().unwrap())
    }
}

impl MsiVectors for MockVectors {
    fn route(&self, messages: &[(u16, MsiMessage)]) -> io::Result<()> {
        self.routes.lock().unwrap().extend(messages);
        self.route_calls.fetch_add(1, Ordering::AcqRel);
        if self.refuse.load(Ordering::Acquire) { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
    }

    fn trigger(&self, index: u16) {
        if let Some(raised) = self.raised.get(usize::from(index)) {
            raised.write(1).unwrap();
            self.any.write(1).unwrap();
        }
    }

    fn connect(&self, index: u16, event: &EventFd) -> io::Result<()> {
        if self.refuse.load(Ordering::Acquire) || !self.listens.load(Ordering::Acquire) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.connected.lock().unwrap().push((index, event.as_raw_fd(), event.try_clone()?));
        self.pump();
        Ok(())
    }

    fn disconnect(&self, index: u16, event: &EventFd) {
        self.pump();
        let mut connected = self.connected.lock().unwrap();
        let this = (index, event.as_raw_fd());
        let at = connected.iter().position(|(vector, fd, _)| (*vector, *fd) == this).unwrap();
        connected.remove(at);
    }
}

/// Doorbells by address, as `ioeventfd`s are: no two at one address.
#[derive(Debug, Default)]
pub struct MockDoorbells {
    bound: Mutex<BTreeMap<u64, EventFd>>,
    /// Whether `bind` fails.
    pub refuse: AtomicBool,
}

impl MockDoorbells {
    /// The addresses at which there is one.
    pub fn addresses(&self) -> Vec<u64> {
        self.bound.lock().unwrap().keys().copied().collect()
    }

    fn ring(&self, address: u64) -> bool {
        // As the kernel, which never waits for a full counter.
        self.bound.lock().unwrap().get(&address).is_some_and(|doorbell| crate::sys::doorbell::ring(doorbell).is_ok())
    }
}

impl DoorbellBinder for MockDoorbells {
    fn bind(&self, address: u64, doorbell: &EventFd) -> io::Result<()> {
        let mut bound = self.bound.lock().unwrap();
        if self.refuse.load(Ordering::Acquire) || bound.contains_key(&address) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        bound.insert(address, doorbell.try_clone()?);
        Ok(())
    }

    fn unbind(&self, address: u64, _: &EventFd) -> io::Result<()> {
        self.bound.lock().unwrap().remove(&address).map(drop).ok_or(io::ErrorKind::NotFound.into())
    }
}

/// A machine with a PCI bus, as a vCPU sees it.
#[derive(Debug)]
pub struct MockMachine {
    /// The bus.
    pub pci: Arc<PciBus>,
    /// Where doorbells are bound.
    pub doorbells: Arc<MockDoorbells>,
    mmio: Bus,
    ports: Bus,
}

impl MockMachine {
    /// A machine whose bus has a host bridge and nothing else.
    pub fn new() -> Self {
        let pci = PciBus::new(WINDOWS.to_vec());
        let (mut mmio, mut ports) = (Bus::new(), Bus::new());
        mmio.insert(ECAM, 0x10_0000, pci.ecam()).unwrap();
        for (index, window) in WINDOWS.iter().enumerate() {
            mmio.insert(window.base, window.size, pci.window(index).unwrap()).unwrap();
        }
        ports.insert(CONFIG_PORTS, 8, pci.ports()).unwrap();
        Self { pci, doorbells: Arc::default(), mmio, ports }
    }

    /// Reads memory.
    pub fn read(&self, address: u64, data: &mut [u8]) {
        self.mmio.read(address, data);
    }

    /// Writes memory: rings the doorbell that is bound there, or reaches a device.
    pub fn write(&self, address: u64, data: &[u8]) {
        if !self.doorbells.ring(address) {
            self.mmio.write(address, data);
        }
    }

    /// Reads `N` bytes of memory as a number.
    pub fn number<const N: usize>(&self, address: u64) -> u64 {
        let mut data = [0; 8];
        self.read(address, data.first_chunk_mut::<N>().unwrap());
        u64::from_le_bytes(data)
    }

    /// Reads ports.
    pub fn read_ports(&self, port: u64, data: &mut [u8]) {
        self.ports.read(port, data);
    }

    /// Writes ports.
    pub fn write_ports(&self, port: u64, data: &[u8]) {
        self.ports.write(port, data);
    }

    /// Where a register of a device is in memory.
    pub fn register(device: u8, register: u64) -> u64 {
        ECAM + (u64::from(device) << 15) + register
    }

    /// Reads `N` bytes of configuration space.
    pub fn config<const N: usize>(&self, device: u8, register: u64) -> u64 {
        self.number::<N>(Self::register(device, register))
    }

    /// Writes configuration space.
    pub fn set_config(&self, device: u8, register: u64, data: &[u8]) {
        self.write(Self::register(device, register), data);
    }

    /// Where the capabilities of a device are that have this ID.
    pub fn capabilities(&self, device: u8, id: u8) -> Vec<u64> {
        let mut found = Vec::new();
        let mut at = self.config::<1>(device, 0x34);
        // No list of sound capabilities is longer.
        for _ in 0..64 {
            if at == 0 {
                break;
            }
            if self.config::<1>(device, at) == u64::from(id) {
                found.push(at);
            }
            at = self.config::<1>(device, at + 1);
        }
        found
    }
}

impl Default for MockMachine {
    fn default() -> Self {
        Self::new()
    }
}
