// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

use std::io::Write;

use vm_memory::{Bytes, GuestAddress};

use super::super::slow::Slow;
use super::mmio_interrupt::{CONFIG as INTERRUPT_CONFIG, USED as INTERRUPT_USED};
use super::*;
use crate::bus::Bus;
use crate::virtio::block::{Block, BlockOptions};
use crate::virtio::mock::{MockDriver, ram, readable, writable};
use crate::virtio::status::{ACKNOWLEDGE, DRIVER, DRIVER_OK, FEATURES_OK};

struct Machine {
    transport: MmioTransport,
    mem: GuestRam,
    line: EventFd,
}

fn machine() -> Machine {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(&[0x42; 1024]).unwrap();
    let mem = ram(0x10_0000);
    let line = EventFd::new(libc::EFD_CLOEXEC).unwrap();
    let block = Block::new("vda", file, BlockOptions::default()).unwrap();
    let transport = MmioTransport::new(Box::new(block), mem.clone(), Box::new(line.try_clone().unwrap())).unwrap();
    Machine { transport, mem, line }
}

impl Machine {
    fn read(&self, offset: u64) -> u32 {
        let mut data = [0xaa; 4];
        self.transport.read(offset, &mut data);
        u32::from_le_bytes(data)
    }

    fn write(&self, offset: u64, value: u32) {
        self.transport.write(offset, &value.to_le_bytes());
    }

    fn write_address(&self, low: u64, address: u64) {
        self.write(low, address as u32);
        self.write(low + 4, (address >> 32) as u32);
    }

    /// What a driver does (virtio 1.3 §3.1.1 and §4.2.3.2).
    fn initialize(&self, driver: &MockDriver) {
        assert_eq!([self.read(0), self.read(4), self.read(8)], [MAGIC, 2, 2]);
        self.write(register::STATUS, 0);
        self.write(register::STATUS, ACKNOWLEDGE.into());
        self.write(register::STATUS, (ACKNOWLEDGE | DRIVER).into());
        for word in 0..2 {
            self.write(register::DEVICE_FEATURES_SEL, word);
            self.write(register::DRIVER_FEATURES_SEL, word);
            self.write(register::DRIVER_FEATURES, self.read(register::DEVICE_FEATURES));
        }
        let ready = ACKNOWLEDGE | DRIVER | FEATURES_OK;
        self.write(register::STATUS, ready.into());
        assert_eq!(self.read(register::STATUS), u32::from(ready));
        self.write(register::QUEUE_SEL, 0);
        assert_eq!(self.read(register::QUEUE_SIZE_MAX), 256);
        self.write(register::QUEUE_SIZE, driver.config.size.into());
        self.write_address(register::QUEUE_DESC_LOW, driver.config.descriptor_table);
        self.write_address(register::QUEUE_DRIVER_LOW, driver.config.avail_ring);
        self.write_address(register::QUEUE_DEVICE_LOW, driver.config.used_ring);
        self.write(register::QUEUE_READY, 1);
        self.write(register::STATUS, (ready | DRIVER_OK).into());
    }

    fn read_sector(&self, driver: &mut MockDriver) {
        self.mem.write_slice(&[0; 16], GuestAddress(0x4000)).unwrap();
        driver.submit(&[readable(0x4000, 16), writable(0x8000, 512), writable(0x5000, 1)]);
        self.write(register::QUEUE_NOTIFY, 0);
        self.line.read().unwrap();
        assert_eq!(self.read(register::INTERRUPT_STATUS), INTERRUPT_USED);
        self.write(register::INTERRUPT_ACK, INTERRUPT_USED);
        assert_eq!(self.read(register::INTERRUPT_STATUS), 0);
        assert_eq!(driver.take_used().map(|used| used.1), Some(513));
    }
}

#[test]
fn a_driver_finds_the_disk_and_reads_it() {
    let machine = machine();
    let mut driver = MockDriver::new(&machine.mem, 0x1000, 16);
    machine.initialize(&driver);
    machine.read_sector(&mut driver);
    assert_eq!(machine.mem.read_obj::<u8>(GuestAddress(0x81ff)).unwrap(), 0x42);
}

#[test]
fn a_device_can_be_reset_and_used_again_many_times() {
    let machine = machine();
    for _ in 0..20 {
        let mut driver = MockDriver::new(&machine.mem, 0x1000, 16);
        machine.mem.write_slice(&[0; 0x1000], GuestAddress(0x1000)).unwrap();
        machine.initialize(&driver);
        machine.read_sector(&mut driver);
    }
}

#[test]
fn a_ring_that_lies_shows_in_status_and_a_reset_revives_the_device() {
    let machine = machine();
    let mut driver = MockDriver::new(&machine.mem, 0x1000, 16);
    machine.initialize(&driver);
    driver.set_avail_index(0x8000);
    machine.write(register::QUEUE_NOTIFY, 0);
    machine.line.read().unwrap();
    assert_eq!(machine.read(register::INTERRUPT_STATUS), INTERRUPT_CONFIG);
    assert_ne!(machine.read(register::STATUS) & 0x40, 0);
    let mut driver = MockDriver::new(&machine.mem, 0x2000, 16);
    machine.initialize(&driver);
    machine.read_sector(&mut driver);
}

#[test]
fn the_configuration_space_answers_every_width_and_ends_in_zeros() {
    let machine = machine();
    let mut whole = [0xff; 64];
    machine.transport.read(register::CONFIG, &mut whole);
    assert_eq!(whole[..8], 2u64.to_le_bytes());
    assert_eq!(whole[12..16], 254u32.to_le_bytes());
    assert_eq!(whole[20..24], 512u32.to_le_bytes());
    assert_eq!(whole[60..], [0; 4]);
    for offset in 0..64usize {
        for width in [1, 2, 3, 4, 8] {
            let mut part = vec![0xff; width];
            machine.transport.read(register::CONFIG + offset as u64, &mut part);
            let expected: Vec<u8> = (offset..offset + width).map(|at| *whole.get(at).unwrap_or(&0)).collect();
            assert_eq!(part, expected, "{offset} {width}");
        }
    }
    let mut far = [0xff; 8];
    machine.transport.read(u64::MAX - 7, &mut far);
    assert_eq!(far, [0; 8]);
}

#[test]
fn every_register_answers_every_access_and_stays_alive() {
    let machine = machine();
    for offset in (0..0x120).chain([0xfff, 0x1000, u64::MAX]) {
        for width in 0..=9 {
            machine.transport.read(offset, &mut vec![0; width]);
            for value in [0, 1, 0x7f, 0xff] {
                machine.transport.write(offset, &vec![value; width]);
            }
        }
    }
    let mut driver = MockDriver::new(&machine.mem, 0x1000, 16);
    machine.initialize(&driver);
    machine.read_sector(&mut driver);
}

#[test]
fn narrow_and_unaligned_accesses_to_registers_read_zero_and_change_nothing() {
    let machine = machine();
    for (offset, width) in [(0, 1), (0, 2), (0, 8), (1, 4), (2, 4), (0x70, 1)] {
        let mut data = vec![0xff; width];
        machine.transport.read(offset, &mut data);
        assert_eq!(data, vec![0; width]);
        machine.transport.write(0x70, &[1]);
    }
    assert_eq!(machine.read(register::STATUS), 0);
}

#[test]
fn a_device_that_takes_its_time_holds_up_no_access_to_another() {
    let it = machine();
    let slow = Slow::new();
    let line = EventFd::new(libc::EFD_CLOEXEC).unwrap();
    let transport = MmioTransport::new(Box::new(slow.clone()), it.mem.clone(), Box::new(line)).unwrap();
    let Machine { transport: disk, mem, line } = it;
    let disk = Arc::new(disk);
    let mut bus = Bus::new();
    bus.insert(0x1000, 0x1000, Arc::new(transport)).unwrap();
    bus.insert(0x2000, 0x1000, disk).unwrap();
    let write = |base: u64, offset: u64, value: u32| bus.write(base + offset, &value.to_le_bytes());
    let read = |base: u64, offset: u64| {
        let mut data = [0; 4];
        bus.read(base + offset, &mut data);
        u32::from_le_bytes(data)
    };
    // Reads a sector of the disk, whatever the other device is at.
    let serves = || {
        mem.write_slice(&[0; 0x1000], GuestAddress(0x3000)).unwrap();
        let mut driver = MockDriver::new(&mem, 0x3000, 16);
        set_up(&write, 0x2000, &driver);
        write(0x2000, register::STATUS, 15);
        mem.write_slice(&[0; 16], GuestAddress(0x4000)).unwrap();
        driver.submit(&[readable(0x4000, 16), writable(0x8000, 512), writable(0x5000, 1)]);
        write(0x2000, register::QUEUE_NOTIFY, 0);
        line.read().unwrap();
        assert_eq!(driver.take_used().map(|used| used.1), Some(513));
    };
    let driver = MockDriver::new(&mem, 0x1000, 16);
    set_up(&write, 0x1000, &driver);
    for status in [15, 0] {
        std::thread::scope(|scope| {
            scope.spawn(|| write(0x1000, register::STATUS, status));
            slow.wait();
            serves();
            slow.go_on();
        });
        assert_eq!(read(0x1000, register::STATUS), status);
    }
}

/// Goes as far as one step before DRIVER_OK.
fn set_up(write: &dyn Fn(u64, u64, u32), base: u64, driver: &MockDriver) {
    let config = driver.config;
    for (offset, value) in [(0x70, 0), (0x70, 1), (0x70, 3), (0x24, 1), (0x20, 1), (0x70, 11), (0x30, 0), (0x38, 16)] {
        write(base, offset, value);
    }
    for (offset, address) in [(0x80, config.descriptor_table), (0x90, config.avail_ring), (0xa0, config.used_ring)] {
        write(base, offset, address as u32);
        write(base, offset + 4, 0);
    }
    write(base, register::QUEUE_READY, 1);
}
