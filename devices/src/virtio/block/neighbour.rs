// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Another disk in the machine of a hostile test: on the same bus and in the same RAM, with a driver that means well. It has
//! a request under way while the attack goes on, and is never reset.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use vm_memory::{Bytes, GuestAddress};
use vmm_sys_util::eventfd::EventFd;

use super::rig::{SECTORS, eventfd, image};
use super::{Block, BlockOptions, EngineChoice, spec};
use crate::GuestRam;
use crate::bus;
use crate::pci::mock::{MockMachine, MockVectors};
use crate::virtio::mock::{MockDriver, readable, writable};
use crate::virtio::transport::mmio::{MmioTransport, QUEUE_NOTIFY};
use crate::virtio::transport::pci::mock::MockFunction;
use crate::virtio::transport::pci::{self, PciTransport};

/// Where its rings and buffers are: attacks leave that alone.
pub(super) const START: u64 = 0x8_0000;
pub(super) const SIZE: u64 = 0x4000;
const HEADER: u64 = START + 0x1000;
const STATUS: u64 = START + 0x1800;
const DATA: u64 = START + 0x2000;

/// Where its registers are, on virtio-mmio.
pub(super) const MMIO: u64 = 0xd000_1000;

#[derive(Debug)]
enum Way {
    Mmio { line: EventFd },
    Pci { function: MockFunction, vectors: Arc<MockVectors> },
}

#[derive(Debug)]
pub(super) struct Neighbour {
    way: Way,
    driver: Mutex<MockDriver>,
    mem: GuestRam,
    file: File,
    /// Requests so far: each reads another sector than the one before.
    requests: AtomicU64,
}

impl Neighbour {
    /// A disk on virtio-mmio, which works.
    pub(super) fn on_mmio(bus: &mut bus::Bus, mem: &GuestRam, engine: EngineChoice) -> Self {
        let (block, file) = disk(engine);
        let line = eventfd();
        let transport = MmioTransport::new(Box::new(block), mem.clone(), Box::new(line.try_clone().unwrap())).unwrap();
        bus.insert(MMIO, 0x1000, Arc::new(transport)).unwrap();
        let driver = MockDriver::new(mem, START, 16);
        let config = driver.config;
        // Status, and VERSION_1; then queue 0.
        let first = [(0x70, 0), (0x70, 1), (0x70, 3), (0x24, 1), (0x20, 1), (0x70, 11), (0x30, 0), (0x38, 16)];
        let places = [(0x80, config.descriptor_table), (0x90, config.avail_ring), (0xa0, config.used_ring)];
        let places = places.map(|(register, address)| (register, address as u32));
        for (register, value) in first.into_iter().chain(places).chain([(0x44, 1), (0x70, 15)]) {
            bus.write(MMIO + register, &value.to_le_bytes());
        }
        Self::new(Way::Mmio { line }, driver, mem, file)
    }

    /// A disk on PCI, which works.
    pub(super) fn on_pci(machine: &MockMachine, mem: &GuestRam, engine: EngineChoice) -> Self {
        let (block, file) = disk(engine);
        let vectors = MockVectors::new(pci::vectors(&block).unwrap());
        let doorbells = machine.doorbells.clone();
        let transport = PciTransport::new(Box::new(block), mem.clone(), vectors.clone(), doorbells).unwrap();
        let function = MockFunction::probe(machine, machine.pci.add(transport).unwrap());
        let driver = MockDriver::new(mem, START, 16);
        function.initialize(machine, &driver);
        Self::new(Way::Pci { function, vectors }, driver, mem, file)
    }

    fn new(way: Way, driver: MockDriver, mem: &GuestRam, file: File) -> Self {
        Self { way, driver: Mutex::new(driver), mem: mem.clone(), file, requests: AtomicU64::new(0) }
    }

    /// Where its BAR is.
    pub(super) fn bar(&self) -> Option<u64> {
        match &self.way {
            Way::Mmio { .. } => None,
            Way::Pci { function, .. } => Some(function.bar),
        }
    }

    /// Makes a read available, and rings by `write`.
    pub(super) fn begin(&self, write: &dyn Fn(u64, &[u8])) {
        let sector = self.requests.fetch_add(1, Ordering::Relaxed) % SECTORS;
        self.mem.write_obj([u64::from(spec::T_IN), sector], GuestAddress(HEADER)).unwrap();
        self.mem.write_slice(&[0; 512], GuestAddress(DATA)).unwrap();
        self.mem.write_obj(0xeeu8, GuestAddress(STATUS)).unwrap();
        let mut driver = self.driver.lock().unwrap();
        driver.set_used_event(driver.used_index());
        driver.submit(&[readable(HEADER, 16), writable(DATA, 512), writable(STATUS, 1)]);
        match &self.way {
            Way::Mmio { .. } => write(MMIO + QUEUE_NOTIFY, &0u32.to_le_bytes()),
            Way::Pci { function, .. } => write(function.notify, &0u16.to_le_bytes()),
        }
    }

    /// Waits for the read, and looks at what came of it.
    pub(super) fn finish(&self) {
        let mut driver = self.driver.lock().unwrap();
        let used = loop {
            if let Some(used) = driver.take_used() {
                break used;
            }
            match &self.way {
                Way::Mmio { line, .. } => line.read().unwrap(),
                Way::Pci { vectors, .. } => vectors.any.read().unwrap(),
            };
        };
        assert_eq!(used.1, 513);
        let mut data = [0; 512];
        self.mem.read_slice(&mut data, GuestAddress(DATA)).unwrap();
        let sector = (self.requests.load(Ordering::Relaxed) - 1) % SECTORS;
        assert_eq!((data, self.mem.read_obj(GuestAddress(STATUS)).unwrap()), ([sector as u8 + 1; 512], spec::S_OK));
        let mut last = [0; 513];
        assert_eq!(self.file.read_at(&mut last, (SECTORS - 1) * 512).unwrap(), 512, "the image has its length");
    }
}

fn disk(engine: EngineChoice) -> (Block, File) {
    let file = image();
    let options = BlockOptions { engine, ..BlockOptions::default() };
    (Block::new("vdb", file.try_clone().unwrap(), options).unwrap(), file)
}
