// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! A disk behind virtio-mmio or virtio-pci with a guest that can do anything, and a neighbour, for the hostile tests.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use tempfile::TempDir;
use vm_memory::{Bytes, GuestAddress};
use vmm_sys_util::eventfd::EventFd;

use super::neighbour::{self, Neighbour};
use super::rig::{DATA, HEADER, SECTORS, STATUS, UNTOUCHED, direct_sectors, eventfd, image};
use super::{Block, BlockControl, BlockOptions, spec};
use crate::GuestRam;
use crate::bus;
use crate::interrupt::MsiMessage;
use crate::pci::mock::{MockMachine, MockVectors};
use crate::sys::pipe;
use crate::virtio::mock::{Buffer, MockDriver, readable, writable};
use crate::virtio::queue::{QueueConfig, QueueState};
use crate::virtio::transport;
use crate::virtio::transport::mmio::{MmioTransport, QUEUE_NOTIFY};
use crate::virtio::transport::pci::mock::{MockFunction, QUEUE_VECTOR};
use crate::virtio::transport::pci::{self, PciTransport};

/// RAM has a hole between 1 MiB and 2 MiB.
pub(super) const HOLE: u64 = 1 << 20;
pub(super) const RAM_END: u64 = 3 << 20;
pub(super) const RINGS: u64 = 0x1000;

pub(super) const QUEUE_SEL: u64 = 0x30;
pub(super) const QUEUE_SIZE: u64 = 0x38;
pub(super) const QUEUE_READY: u64 = 0x44;
const DEVICE_STATUS: u64 = 0x70;
const QUEUE_DESC: u64 = 0x80;
const QUEUE_DRIVER: u64 = 0x90;
const QUEUE_DEVICE: u64 = 0xa0;

const NEEDS_RESET: u32 = 0x40;
const DRIVER_OK: u32 = 15;
/// INDIRECT_DESC.
const ACCEPTED_LOW: u32 = 1 << 28;

/// Where the disk's registers are, on virtio-mmio.
const MMIO: u64 = neighbour::MMIO - 0x1000;

/// What a vCPU does to memory that is no RAM.
pub(super) trait Access {
    fn read(&self, address: u64, data: &mut [u8]);
    fn write(&self, address: u64, data: &[u8]);
}

impl Access for bus::Bus {
    fn read(&self, address: u64, data: &mut [u8]) {
        Self::read(self, address, data);
    }
    fn write(&self, address: u64, data: &[u8]) {
        Self::write(self, address, data);
    }
}

impl Access for MockMachine {
    fn read(&self, address: u64, data: &mut [u8]) {
        Self::read(self, address, data);
    }
    fn write(&self, address: u64, data: &[u8]) {
        Self::write(self, address, data);
    }
}

fn set_vectors(machine: &MockMachine, function: &MockFunction) {
    for vector in [0, QUEUE_VECTOR] {
        function.set_vector(machine, vector, MsiMessage { address: 0xfee0_0000, data: 0x40 });
    }
}

/// Which transport the disk is behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Bus {
    Mmio,
    Pci,
}

enum Transport {
    Mmio { transport: Arc<MmioTransport>, bus: bus::Bus, line: EventFd },
    Pci { transport: Arc<PciTransport>, machine: MockMachine, function: MockFunction, vectors: Arc<MockVectors> },
}

pub(super) struct Machine {
    transport: Transport,
    pub(super) mem: GuestRam,
    control: BlockControl,
    neighbour: Neighbour,
    /// The host's own look at the image.
    file: File,
    _folder: Option<TempDir>,
}

impl Machine {
    pub(super) fn new(bus: Bus, options: BlockOptions) -> Self {
        Self::with_high_ram(bus, options, 1 << 20)
    }

    /// A machine with so many bytes of RAM behind the hole.
    pub(super) fn with_high_ram(bus: Bus, options: BlockOptions, high: usize) -> Self {
        let file = image();
        Self::on(bus, options, high, file.try_clone().unwrap(), file, None)
    }

    /// A machine whose disk goes around the page cache, where the host has that.
    pub(super) fn direct(bus: Bus, options: BlockOptions) -> Option<Self> {
        let (folder, file) = direct_sectors()?;
        let view = File::open(folder.path().join("image")).unwrap();
        Some(Self::on(bus, BlockOptions { direct: true, ..options }, 1 << 20, file, view, Some(folder)))
    }

    fn on(bus: Bus, options: BlockOptions, high: usize, file: File, view: File, folder: Option<TempDir>) -> Self {
        let mem = GuestRam::from_ranges(&[(GuestAddress(0), 1 << 20), (GuestAddress(2 << 20), high)]).unwrap();
        let engine = options.engine;
        let block = Block::new("vda", file, options).unwrap();
        let control = block.control();
        let (transport, neighbour) = match bus {
            Bus::Mmio => {
                let line = eventfd();
                let interrupt = Box::new(line.try_clone().unwrap());
                let transport = Arc::new(MmioTransport::new(Box::new(block), mem.clone(), interrupt).unwrap());
                let mut bus = bus::Bus::new();
                bus.insert(MMIO, 0x1000, transport.clone()).unwrap();
                let neighbour = Neighbour::on_mmio(&mut bus, &mem, engine);
                (Transport::Mmio { transport, bus, line }, neighbour)
            }
            Bus::Pci => {
                let machine = MockMachine::new();
                let vectors = MockVectors::new(pci::vectors(&block).unwrap());
                let doorbells = machine.doorbells.clone();
                let transport = PciTransport::new(Box::new(block), mem.clone(), vectors.clone(), doorbells).unwrap();
                let device = machine.pci.add(transport.clone()).unwrap();
                let function = MockFunction::probe(&machine, device);
                set_vectors(&machine, &function);
                let neighbour = Neighbour::on_pci(&machine, &mem, engine);
                (Transport::Pci { transport, machine, function, vectors }, neighbour)
            }
        };
        Self { transport, mem, control, neighbour, file: view, _folder: folder }
    }

    /// Writes a register, which virtio-mmio's offset names.
    pub(super) fn write(&self, register: u64, value: u32) {
        let (machine, function) = match &self.transport {
            Transport::Mmio { bus, .. } => return bus.write(MMIO + register, &value.to_le_bytes()),
            Transport::Pci { machine, function, .. } => (machine, function),
        };
        let (offset, width) = match register {
            DEVICE_STATUS => (0x14, 1),
            0x24 => (0x08, 4),
            0x20 => (0x0c, 4),
            QUEUE_SEL => (0x16, 2),
            QUEUE_SIZE => (0x18, 2),
            QUEUE_READY => (0x1c, 2),
            QUEUE_DESC | 0x84 => (0x20 + register % 16, 4),
            QUEUE_DRIVER | 0x94 => (0x28 + register % 16, 4),
            QUEUE_DEVICE | 0xa4 => (0x30 + register % 16, 4),
            _ => return,
        };
        function.set(machine, offset, &value.to_le_bytes()[..width]);
    }

    pub(super) fn status(&self) -> u32 {
        match &self.transport {
            Transport::Mmio { bus, .. } => {
                let mut data = [0; 4];
                bus.read(MMIO + DEVICE_STATUS, &mut data);
                u32::from_le_bytes(data)
            }
            Transport::Pci { machine, function, .. } => function.get::<1>(machine, 0x14) as u32,
        }
    }

    pub(super) fn needs_reset(&self) -> bool {
        self.status() & NEEDS_RESET != 0
    }

    pub(super) fn ring(&self, queue: u32) {
        match &self.transport {
            Transport::Mmio { .. } => self.write(QUEUE_NOTIFY, queue),
            Transport::Pci { machine, function, .. } => function.notify(machine, queue as u16),
        }
    }

    pub(super) fn wait_interrupt(&self) {
        match &self.transport {
            Transport::Mmio { line, .. } => line.read().unwrap(),
            Transport::Pci { vectors, .. } => vectors.any.read().unwrap(),
        };
    }

    /// Turns bus master on or off, where there is such a thing.
    pub(super) fn set_bus_master(&self, on: bool) {
        if let Transport::Pci { machine, function, .. } = &self.transport {
            function.set_bus_master(machine, on);
        }
    }

    /// How often the queue's vector was raised since this was asked last.
    pub(super) fn messages(&self) -> u64 {
        match &self.transport {
            Transport::Mmio { .. } => 0,
            Transport::Pci { vectors, .. } => vectors.take(QUEUE_VECTOR),
        }
    }

    /// The transport, as the VM sees it.
    fn whole(&self) -> &dyn transport::Transport {
        match &self.transport {
            Transport::Mmio { transport, .. } => transport.as_ref(),
            Transport::Pci { transport, .. } => transport.as_ref(),
        }
    }

    pub(super) fn stop(&self) -> Vec<(u16, Option<QueueState>)> {
        self.whole().stop()
    }

    pub(super) fn resume(&self) {
        self.whole().resume();
    }

    pub(super) fn reset(&self) {
        self.write(DEVICE_STATUS, 0);
    }

    /// Resets the device and goes as far as features are agreed upon.
    pub(super) fn negotiate(&self) {
        self.reset();
        // Only now does nobody else write there any more.
        self.mem.write_slice(&[0; 0x2000], GuestAddress(RINGS)).unwrap();
        // Status and feature words; FLUSH is not accepted, so that nothing is lost with a page cache.
        for (register, value) in
            [(0x70, 1), (0x70, 3), (0x24, 0), (0x20, ACCEPTED_LOW), (0x24, 1), (0x20, 1), (0x70, 11)]
        {
            self.write(register, value);
        }
        if let Transport::Pci { machine, function, .. } = &self.transport {
            function.set(machine, 0x10, &0u16.to_le_bytes());
            function.set(machine, 0x1a, &QUEUE_VECTOR.to_le_bytes());
        }
    }

    pub(super) fn driver_ok(&self) {
        self.write(DEVICE_STATUS, DRIVER_OK);
    }

    pub(super) fn configure(&self, config: QueueConfig) {
        self.write(QUEUE_SEL, 0);
        self.write(QUEUE_SIZE, config.size.into());
        for (register, address) in
            [(QUEUE_DESC, config.descriptor_table), (QUEUE_DRIVER, config.avail_ring), (QUEUE_DEVICE, config.used_ring)]
        {
            self.write(register, address as u32);
            self.write(register + 4, (address >> 32) as u32);
        }
        self.write(QUEUE_READY, 1);
    }

    /// A driver that has set up everything well, and is about to let the device begin.
    pub(super) fn waiting_driver(&self) -> MockDriver {
        self.negotiate();
        let driver = MockDriver::new(&self.mem, RINGS, 16);
        self.configure(driver.config);
        self.mem.write_slice(&[UNTOUCHED; 0x2000], GuestAddress(DATA)).unwrap();
        self.mem.write_obj(UNTOUCHED, GuestAddress(STATUS)).unwrap();
        driver
    }

    /// A driver whose device has begun.
    pub(super) fn driver(&self) -> MockDriver {
        let driver = self.waiting_driver();
        self.driver_ok();
        driver
    }

    /// Whether the host pretends to have no room for what is written.
    pub(super) fn set_full(&self, full: bool) {
        self.control.0.upgrade().unwrap().backend.raw().unwrap().full.store(full, Ordering::Release);
    }

    /// Gives the disk another file than its image; `None`: the image.
    pub(super) fn replace_file(&self, file: Option<&File>) {
        pipe::replace(self.control.0.upgrade().unwrap().backend.raw().unwrap().file(), file.unwrap_or(&self.file));
    }

    pub(super) fn held(&self) -> usize {
        self.control.held()
    }

    pub(super) fn header(&self, kind: u32, sector: u64) {
        let header = [u64::from(kind).to_le_bytes(), sector.to_le_bytes()].concat();
        self.mem.write_slice(&header, GuestAddress(HEADER)).unwrap();
    }

    /// Rings, and waits until the device has given something back or asks for a reset.
    pub(super) fn serve(&self, driver: &mut MockDriver) -> Option<(u32, u32)> {
        self.ring(0);
        loop {
            if let Some(used) = driver.take_used() {
                return Some(used);
            }
            if self.needs_reset() {
                return None;
            }
            self.wait_interrupt();
        }
    }

    pub(super) fn submit(&self, driver: &mut MockDriver, buffers: &[Buffer]) -> Option<(u32, u32)> {
        driver.submit(buffers);
        self.serve(driver)
    }

    pub(super) fn status_byte(&self) -> u8 {
        self.mem.read_obj(GuestAddress(STATUS)).unwrap()
    }

    pub(super) fn host(&self) -> Vec<u8> {
        let mut bytes = vec![0; self.file.metadata().unwrap().len() as usize];
        self.file.read_exact_at(&mut bytes, 0).unwrap();
        bytes
    }

    /// All of RAM but for what is the neighbour's.
    pub(super) fn ram(&self) -> Vec<u8> {
        let mut bytes = vec![0; 2 << 20];
        let (low, high) = bytes.split_at_mut(1 << 20);
        self.mem.read_slice(low, GuestAddress(0)).unwrap();
        self.mem.read_slice(high, GuestAddress(2 << 20)).unwrap();
        bytes[neighbour::START as usize..][..neighbour::SIZE as usize].fill(0);
        bytes
    }

    /// Sector 7 can be read, in a device that works.
    pub(super) fn read_a_sector(&self, driver: &mut MockDriver) {
        self.header(spec::T_IN, 7);
        driver.submit(&[readable(HEADER, 16), writable(DATA, 512), writable(STATUS, 1)]);
        // What was under way before may come first.
        while self.serve(driver).unwrap().1 != 513 {}
        assert_eq!((self.status_byte(), self.mem.read_obj::<u8>(GuestAddress(DATA + 511)).unwrap()), (spec::S_OK, 8));
    }

    /// The neighbour begins with a request.
    pub(super) fn neighbour_begins(&self) {
        self.neighbour.begin(&|address, data| self.access().write(address, data));
    }

    /// The neighbour has done what it began with, and does one request more.
    pub(super) fn neighbour_works(&self) {
        self.neighbour.finish();
        self.neighbour_begins();
        self.neighbour.finish();
    }

    /// The accesses that a vCPU can make.
    pub(super) fn access(&self) -> &dyn Access {
        match &self.transport {
            Transport::Mmio { bus, .. } => bus,
            Transport::Pci { machine, .. } => machine,
        }
    }

    /// Where the disk's registers are, of the PCI function those in configuration space too.
    pub(super) fn registers(&self) -> Vec<u64> {
        match &self.transport {
            Transport::Mmio { .. } => (MMIO..MMIO + 0x200).chain(MMIO + 0xff0..MMIO + 0x1000).collect(),
            Transport::Pci { function, .. } => {
                let bar = (0..8).flat_map(|page| function.bar + (page << 12)..function.bar + (page << 12) + 0x60);
                let space = MockMachine::register(function.device, 0);
                bar.chain(space..space + 0x100).collect()
            }
        }
    }

    /// Where the neighbour's BAR is, and what writes the address of the disk's own one. Nothing on virtio-mmio.
    pub(super) fn bars(&self) -> Option<(u64, impl Fn(u64) + '_)> {
        let Transport::Pci { machine, function, .. } = &self.transport else { return None };
        let move_to = move |address: u64| machine.set_config(function.device, 0x10, &address.to_le_bytes());
        Some((self.neighbour.bar()?, move_to))
    }

    /// Does what firmware does with a function whose configuration space may hold anything.
    pub(super) fn put_back(&self) {
        if let Transport::Pci { machine, function, .. } = &self.transport {
            machine.set_config(function.device, 4, &[0, 0]);
            machine.set_config(function.device, 0x10, &function.bar.to_le_bytes());
            MockFunction::probe(machine, function.device);
            set_vectors(machine, function);
        }
    }

    /// After a reset, the device serves again, and the image has the length that it had.
    pub(super) fn comes_back(&self) {
        let mut driver = self.driver();
        assert_eq!(self.status(), DRIVER_OK);
        self.read_a_sector(&mut driver);
        assert_eq!(self.host().len() as u64, SECTORS * 512);
    }
}
