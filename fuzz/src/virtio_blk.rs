// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! A block device behind virtio-mmio: any sequence of register accesses, ring contents, descriptors and doorbells.
//!
//! After each sequence the device must come back by a reset and serve a read, and the host's file must have kept its
//! size. What a request may change is checked by the device's own tests; here, a read-only device must change nothing.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt;

use devices::GuestRam;
use devices::bus::BusDevice;
use devices::interrupt::InterruptLine;
use devices::virtio::block::{Block, BlockOptions, EngineChoice};
use devices::virtio::mock::{MockDriver, ram, readable, writable};
use devices::virtio::transport::Transport;
use devices::virtio::transport::mmio::MmioTransport;
use vm_memory::{Bytes, GuestAddress};
use vmm_sys_util::eventfd::EventFd;

const RAM: u64 = 0x2_0000;
const SECTORS: usize = 8;
const RINGS: u64 = 0x1000;
const HEADER: u64 = 0x8000;
const STATUS: u64 = 0x8100;
const BUFFER: u64 = 0x9000;

struct Machine {
    transport: MmioTransport,
    mem: GuestRam,
    line: EventFd,
    file: File,
}

fn machine(read_only: bool, engine: EngineChoice) -> Machine {
    // Memory, not a disk: a fuzzer makes thousands a second.
    let mut file = tempfile::tempfile_in("/dev/shm").or_else(|_| tempfile::tempfile()).expect("a temporary file");
    file.write_all(&[0x5a; SECTORS * 512]).expect("room for an image");
    let mut options = BlockOptions::default();
    (options.read_only, options.engine) = (read_only, engine);
    let block = Block::new("vda", file.try_clone().expect("a descriptor"), options).expect("a sound image");
    let mem = ram(RAM as usize);
    let line = EventFd::new(0).expect("an eventfd");
    let raised: Box<dyn InterruptLine> = Box::new(line.try_clone().expect("a descriptor"));
    let transport = MmioTransport::new(Box::new(block), mem.clone(), raised).expect("a doorbell");
    Machine { transport, mem, line, file }
}

impl Machine {
    fn write(&self, register: u64, value: u32) {
        self.transport.write(register, &value.to_le_bytes());
    }

    fn read(&self, register: u64) -> u32 {
        let mut data = [0; 4];
        self.transport.read(register, &mut data);
        u32::from_le_bytes(data)
    }

    /// Resets the device and sets it up as a good driver does.
    fn initialize(&self, size: u16) -> MockDriver {
        self.write(0x70, 0);
        // Only now does nobody else write there any more.
        self.mem.write_slice(&[0; 0x4000], GuestAddress(RINGS)).expect("the rings are in RAM");
        let driver = MockDriver::new(&self.mem, RINGS, size);
        for (register, value) in [
            (0x70, 1),
            (0x70, 3),
            (0x24, 1),
            (0x20, 1),
            (0x70, 11),
            (0x30, 0),
            (0x38, u32::from(size)),
            (0x80, driver.config.descriptor_table as u32),
            (0x84, 0),
            (0x90, driver.config.avail_ring as u32),
            (0x94, 0),
            (0xa0, driver.config.used_ring as u32),
            (0xa4, 0),
            (0x44, 1),
            (0x70, 15),
        ] {
            self.write(register, value);
        }
        driver
    }

    /// Reads sector 0 and waits for it.
    fn serves(&self) {
        let mut driver = self.initialize(16);
        assert_eq!(self.read(0x70), 15, "a reset revives the device");
        self.mem.write_slice(&[0; 16], GuestAddress(HEADER)).expect("the header is in RAM");
        driver.submit(&[readable(HEADER, 16), writable(BUFFER, 512), writable(STATUS, 1)]);
        self.write(0x50, 0);
        // Interrupts of before the reset may come first.
        while driver.used_index() == 0 {
            self.line.read().expect("an interrupt");
        }
        assert_eq!(driver.take_used(), Some((0, 513)));
    }
}

/// Eight bytes an action; the first byte says which. Its top bits say, in the first action, whether the disk is read-only,
/// and whether it is served by `io_uring` where that is there.
///
/// # Panics
///
/// When the device doesn't come back, the image's size changes, or a read-only image is changed.
pub fn run(data: &[u8]) {
    let read_only = data.first().is_some_and(|first| first & 0x80 != 0);
    let engine =
        if data.first().is_some_and(|first| first & 0x40 != 0) { EngineChoice::Automatic } else { EngineChoice::Sync };
    let machine = machine(read_only, engine);
    let mut driver = machine.initialize(16);
    for action in data.chunks_exact(8) {
        let [what, a, b, c, d, e, f, g] = *action else { continue };
        let word = u32::from_le_bytes([d, e, f, g]);
        match what & 7 {
            // A register access of any width.
            0 => machine.transport.write(u64::from(a) * 4, &word.to_le_bytes()),
            1 => machine.transport.write(u64::from(a), &vec![b; usize::from(c & 15)]),
            2 => machine.transport.read(u64::from(a) + u64::from(b & 1) * 0x100, &mut vec![0; usize::from(c & 15)]),
            // A descriptor, with an address in or near RAM, or anywhere.
            3 => {
                let address = if c & 0x80 != 0 { u64::MAX - u64::from(word) } else { u64::from(word) % (RAM + 0x1000) };
                driver.descriptor(u16::from(a & 15), address, u32::from(b) * 17, u16::from(c & 7), u16::from(g & 31));
            }
            // A request with a header.
            4 => {
                let mut header = [0; 16];
                header[0] = a & 15;
                header[8] = b & 15;
                machine.mem.write_slice(&header, GuestAddress(HEADER)).expect("the header is in RAM");
                // Where DISCARD and WRITE_ZEROES find their ranges: one after the other, some with flags.
                let range = [u64::from(d), u64::from(e) | u64::from(f & 3) << 32];
                machine
                    .mem
                    .write_obj([range[0], range[1], range[0], range[1]], GuestAddress(BUFFER))
                    .expect("the data is in RAM");
                let len = u32::from(c) * if a & 8 == 0 { 64 } else { 4 };
                let data = if a & 1 == 0 { writable(BUFFER, len) } else { readable(BUFFER, len) };
                driver.submit(&[readable(HEADER, 16), data, writable(STATUS, 1)]);
            }
            5 => driver.offer(u16::from(a)),
            6 => driver.set_avail_index(u16::from_le_bytes([a, b])),
            _ if a & 1 == 0 => machine.write(0x50, word),
            _ => driver = machine.initialize(1 << (a >> 1 & 7)),
        }
    }
    machine.serves();
    machine.transport.stop();
    let mut image = [0; SECTORS * 512 + 1];
    let len = machine.file.read_at(&mut image, 0).expect("the image can be read");
    assert_eq!(len, SECTORS * 512, "the image keeps its size");
    assert!(!read_only || image[..len] == [0x5a; SECTORS * 512], "a read-only image is not written");
}
