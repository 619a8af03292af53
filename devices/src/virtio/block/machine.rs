// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! A disk behind virtio-mmio with a guest that can do anything, for the hostile tests.

use std::fs::File;
use std::os::unix::fs::FileExt;

use vm_memory::{Bytes, GuestAddress};
use vmm_sys_util::eventfd::EventFd;

use super::rig::{DATA, HEADER, SECTORS, STATUS, UNTOUCHED, eventfd, image};
use super::{Block, BlockOptions, spec};
use crate::GuestRam;
use crate::bus::BusDevice;
use crate::virtio::mock::{Buffer, MockDriver, readable, writable};
use crate::virtio::queue::QueueConfig;
use crate::virtio::transport::mmio::{MmioTransport, QUEUE_NOTIFY};

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

pub(super) struct Machine {
    transport: MmioTransport,
    pub(super) mem: GuestRam,
    line: EventFd,
    file: File,
}

impl Machine {
    pub(super) fn new(options: BlockOptions) -> Self {
        let file = image();
        let part = 1 << 20;
        let mem = GuestRam::from_ranges(&[(GuestAddress(0), part), (GuestAddress(2 << 20), part)]).unwrap();
        let line = eventfd();
        let block = Block::new("vda", file.try_clone().unwrap(), options).unwrap();
        let transport = MmioTransport::new(Box::new(block), mem.clone(), Box::new(line.try_clone().unwrap())).unwrap();
        Self { transport, mem, line, file }
    }

    pub(super) fn write(&self, register: u64, value: u32) {
        self.transport.write(register, &value.to_le_bytes());
    }

    pub(super) fn status(&self) -> u32 {
        let mut data = [0; 4];
        self.transport.read(DEVICE_STATUS, &mut data);
        u32::from_le_bytes(data)
    }

    pub(super) fn needs_reset(&self) -> bool {
        self.status() & NEEDS_RESET != 0
    }

    pub(super) fn ring(&self, queue: u32) {
        self.write(QUEUE_NOTIFY, queue);
    }

    pub(super) fn wait_interrupt(&self) {
        self.line.read().unwrap();
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

    /// A driver that has set up everything well.
    pub(super) fn driver(&self) -> MockDriver {
        self.negotiate();
        let driver = MockDriver::new(&self.mem, RINGS, 16);
        self.configure(driver.config);
        self.driver_ok();
        self.mem.write_slice(&[UNTOUCHED; 0x2000], GuestAddress(DATA)).unwrap();
        self.mem.write_obj(UNTOUCHED, GuestAddress(STATUS)).unwrap();
        driver
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

    /// All of RAM.
    pub(super) fn ram(&self) -> Vec<u8> {
        let mut bytes = vec![0; 2 << 20];
        let (low, high) = bytes.split_at_mut(1 << 20);
        self.mem.read_slice(low, GuestAddress(0)).unwrap();
        self.mem.read_slice(high, GuestAddress(2 << 20)).unwrap();
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

    /// After a reset, the device serves again, and the image has the length that it had.
    pub(super) fn comes_back(&self) {
        let mut driver = self.driver();
        assert_eq!(self.status(), DRIVER_OK);
        self.read_a_sector(&mut driver);
        assert_eq!(self.host().len() as u64, SECTORS * 512);
    }
}
