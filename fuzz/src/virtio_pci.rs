// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Two block devices behind PCI: any sequence of accesses to configuration space, by memory and by ports, and to the
//! bridge's windows, with BARs anywhere, masks that flip and doorbells.
//!
//! After each sequence the BARs can be put where they belong again, both devices come back by a reset, and each serves a
//! read. No two doorbells are ever bound at one address, or outside of the windows.

use std::io::Write;
use std::sync::Arc;

use devices::GuestRam;
use devices::pci::mock::{CONFIG_PORTS, MockMachine, MockVectors, WINDOWS};
use devices::virtio::block::{Block, BlockOptions};
use devices::virtio::mock::{MockDriver, ram, readable, writable};
use devices::virtio::transport::Transport;
use devices::virtio::transport::pci::mock::MockFunction;
use devices::virtio::transport::pci::{PciTransport, vectors};
use vm_memory::{Bytes, GuestAddress};

const RAM: usize = 0x2_0000;
const RINGS: u64 = 0x1000;
const HEADER: u64 = 0x8000;
const STATUS: u64 = 0x8100;
const BUFFER: u64 = 0x9000;
const BAR_SIZE: u64 = 0x8000;

struct Disk {
    device: u8,
    transport: Arc<PciTransport>,
    vectors: Arc<MockVectors>,
}

struct Guest {
    machine: MockMachine,
    mem: GuestRam,
    disks: [Disk; 2],
}

/// The one place that knows how a disk is made.
fn block() -> Block {
    // Memory, not a disk: a fuzzer makes thousands a second.
    let mut file = tempfile::tempfile_in("/dev/shm").or_else(|_| tempfile::tempfile()).expect("a temporary file");
    file.write_all(&[0x5a; 1024]).expect("room for an image");
    let mut options = BlockOptions::default();
    options.read_only = true;
    Block::new("vda", file, options).expect("a sound image")
}

fn guest() -> Guest {
    let (machine, mem) = (MockMachine::new(), ram(RAM));
    let disks = [1, 2].map(|number| {
        let block = Box::new(block());
        let vectors = MockVectors::new(vectors(block.as_ref()).expect("one queue"));
        let transport = PciTransport::new(block, mem.clone(), vectors.clone(), machine.doorbells.clone());
        let transport = transport.expect("a doorbell");
        let device = machine.pci.add(transport.clone()).expect("room on the bus");
        assert_eq!(device, number);
        Disk { device, transport, vectors }
    });
    Guest { machine, mem, disks }
}

impl Guest {
    /// Puts both BARs where they belong and resets both devices, so that nobody writes to memory any more.
    fn recover(&self) -> [MockFunction; 2] {
        for Disk { device, .. } in &self.disks {
            self.machine.set_config(*device, 4, &[0, 0]);
            let place = WINDOWS[0].base + BAR_SIZE * u64::from(*device - 1);
            self.machine.set_config(*device, 0x10, &place.to_le_bytes());
        }
        let functions = [1, 2].map(|device| MockFunction::probe(&self.machine, device));
        functions.iter().for_each(|function| function.reset(&self.machine));
        self.mem.write_slice(&[0; 0x7000], GuestAddress(RINGS)).expect("the rings are in RAM");
        functions
    }

    fn initialize(&self, function: &MockFunction) -> MockDriver {
        let driver = MockDriver::new(&self.mem, RINGS * u64::from(function.device), 16);
        function.initialize(&self.machine, &driver);
        driver
    }

    fn submit(&self, function: &MockFunction, driver: &mut MockDriver) {
        self.mem.write_slice(&[0; 16], GuestAddress(HEADER)).expect("the header is in RAM");
        driver.submit(&[readable(HEADER, 16), writable(BUFFER, 512), writable(STATUS, 1)]);
        function.notify(&self.machine, 0);
    }

    fn check_doorbells(&self) {
        for address in self.machine.doorbells.addresses() {
            let inside = WINDOWS.iter().any(|window| (window.base..window.base + window.size).contains(&address));
            assert!(inside, "a doorbell at {address:#x}");
        }
    }

    /// Both devices read sector 0.
    fn serves(&self) {
        let functions = self.recover();
        assert_eq!(self.machine.doorbells.addresses().len(), 2);
        for (disk, function) in self.disks.iter().zip(&functions) {
            let mut driver = self.initialize(function);
            self.submit(function, &mut driver);
            // Interrupts of before the reset may come first.
            while driver.used_index() == 0 {
                disk.vectors.any.read().expect("an interrupt");
            }
            assert_eq!(driver.take_used(), Some((0, 513)));
        }
        for disk in &self.disks {
            disk.transport.stop();
        }
    }
}

/// An address that a BAR could be put to by somebody who means harm.
fn place(which: u8, more: u32) -> u64 {
    let window = WINDOWS[usize::from(which >> 4 & 1)];
    match which & 7 {
        0 => window.base + u64::from(more & 0xf) * BAR_SIZE,
        1 => window.base + u64::from(more & 0xf_ffff),
        2 => (window.base + window.size).wrapping_sub(u64::from(more & 0xf_ffff)),
        3 => u64::MAX - u64::from(more),
        4 => u64::from(more),
        5 => 0xe000_0000,
        _ => u64::from(more) << 32,
    }
}

/// Eight bytes an action: the first says which.
///
/// # Panics
///
/// When a device doesn't come back, or a doorbell is bound where none may be.
pub fn run(data: &[u8]) {
    let guest = guest();
    let machine = &guest.machine;
    let functions = guest.recover();
    let mut drivers = functions.map(|function| guest.initialize(&function));
    for action in data.chunks_exact(8) {
        let [what, a, b, c, d, e, f, g] = *action else { continue };
        let word = u32::from_le_bytes([d, e, f, g]);
        let mut bytes = [d, e, f, g, d, e, f, g, d, e, f, g, d, e, f];
        let bytes = &mut bytes[..usize::from(c & 15)];
        let device = 1 + (a & 1);
        let register = u64::from(b) | u64::from(a & 0x80) << 1;
        let in_window = WINDOWS[usize::from(a >> 7)].base + u64::from(u16::from_le_bytes([b, a & 0x3f])) * 4;
        match what & 15 {
            0 | 1 => machine.set_config(a & 3, register, bytes),
            2 => machine.read(MockMachine::register(a & 3, register), bytes),
            3 => {
                machine.write_ports(CONFIG_PORTS, &(0x8000_0000 | u32::from(a & 3) << 11 | u32::from(b)).to_le_bytes())
            }
            4 => machine.write_ports(CONFIG_PORTS + u64::from(a & 7), bytes),
            5 => machine.read_ports(CONFIG_PORTS + u64::from(a & 7), bytes),
            6 => machine.write(in_window, bytes),
            7 => machine.write(in_window + u64::from(a >> 6 & 1), bytes),
            8 => machine.read(in_window, bytes),
            9 => machine.set_config(device, 0x10, &place(b, word).to_le_bytes()),
            10 => machine.set_config(device, 4, &[b, c]),
            // MSI-X Message Control.
            11 => machine.set_config(device, functions[usize::from(a & 1)].msix + 2, &[b, c]),
            // The window in configuration space: where to, and the access.
            12 => {
                let window = functions[usize::from(a & 1)].window;
                machine.set_config(device, window + 4, &[b & 1]);
                machine.set_config(device, window + 8, &u32::from(u16::from_le_bytes([d, e & 0x7f])).to_le_bytes());
                machine.set_config(device, window + 12, &u32::from(c & 7).to_le_bytes());
                machine.set_config(device, window + 16, &[f, g, 0, 0]);
                machine.config::<4>(device, window + 16);
            }
            13 => guest.submit(&functions[usize::from(a & 1)], &mut drivers[usize::from(a & 1)]),
            14 => drivers[usize::from(a & 1)].set_avail_index(word as u16),
            _ => drivers = guest.recover().map(|function| guest.initialize(&function)),
        }
        guest.check_doorbells();
    }
    guest.serves();
}
