// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

use std::io::Write;
use std::sync::atomic::Ordering;

use vm_memory::{Bytes, GuestAddress};

use super::mock::{MEMORY_AND_MASTER, MockFunction, QUEUE_VECTOR};
use super::*;
use crate::interrupt::MsiMessage;
use crate::pci::mock::{MockMachine, MockVectors, WINDOWS};
use crate::virtio::block::{Block, BlockOptions};
use crate::virtio::mock::{MockDriver, ram, readable, writable};

/// A machine with one disk, device 1.
pub(super) struct Machine {
    pub(super) machine: MockMachine,
    pub(super) transport: Arc<PciTransport>,
    pub(super) mem: GuestRam,
    pub(super) vectors: Arc<MockVectors>,
}

fn block() -> Box<dyn VirtioDevice> {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(&[0x42; 1024]).unwrap();
    Box::new(Block::new("vda", file, BlockOptions::default()).unwrap())
}

/// Puts one more disk on the bus.
pub(super) fn add_disk(machine: &MockMachine, mem: &GuestRam) -> (Arc<PciTransport>, Arc<MockVectors>, u8) {
    let block = block();
    let vectors = MockVectors::new(super::vectors(block.as_ref()).unwrap());
    let transport = PciTransport::new(block, mem.clone(), vectors.clone(), machine.doorbells.clone()).unwrap();
    let device = machine.pci.add(transport.clone()).unwrap();
    (transport, vectors, device)
}

pub(super) fn machine() -> Machine {
    let (machine, mem) = (MockMachine::new(), ram(0x10_0000));
    let (transport, vectors, device) = add_disk(&machine, &mem);
    assert_eq!(device, 1);
    Machine { machine, transport, mem, vectors }
}

impl Machine {
    pub(super) fn probe(&self) -> MockFunction {
        MockFunction::probe(&self.machine, 1)
    }

    pub(super) fn bring_up(&self, function: &MockFunction) -> MockDriver {
        function.reset(&self.machine);
        self.mem.write_slice(&[0; 0x3000], GuestAddress(0x1000)).unwrap();
        let driver = MockDriver::new(&self.mem, 0x1000, 16);
        function.initialize(&self.machine, &driver);
        self.vectors.take(QUEUE_VECTOR);
        driver
    }

    pub(super) fn read_sector(&self, function: &MockFunction, driver: &mut MockDriver) {
        self.mem.write_slice(&[0; 16], GuestAddress(0x4000)).unwrap();
        driver.set_used_event(driver.used_index());
        driver.submit(&[readable(0x4000, 16), writable(0x8000, 512), writable(0x5000, 1)]);
        function.notify(&self.machine, 0);
        let used = loop {
            match driver.take_used() {
                Some(used) => break used,
                None => self.vectors.any.read().unwrap(),
            };
        };
        assert_eq!(used.1, 513);
    }

    /// The device can be found, reset and used.
    pub(super) fn serves(&self) {
        let function = self.probe();
        let mut driver = self.bring_up(&function);
        self.read_sector(&function, &mut driver);
    }
}

#[test]
fn a_driver_finds_the_disk_and_reads_it() {
    let it = machine();
    let function = it.probe();
    assert_eq!(it.machine.config::<4>(1, 0), 0x1042_1af4);
    assert_eq!(it.machine.config::<4>(1, 8), 0x0180_0001);
    assert_eq!(it.machine.config::<1>(1, 0x3d), 0, "no INTx");
    assert_eq!(it.machine.config::<4>(1, 0x30), 0, "no expansion ROM");
    assert_eq!(it.machine.config::<2>(1, function.msix + 2), 0x8001, "two vectors");
    assert_eq!(function.get::<2>(&it.machine, 0x12), 1, "one queue");
    assert_eq!(it.machine.number::<8>(function.config), 2, "two sectors");
    let mut driver = it.bring_up(&function);
    it.read_sector(&function, &mut driver);
    assert_eq!(it.mem.read_obj::<u8>(GuestAddress(0x81ff)).unwrap(), 0x42);
    let routed = |index, data| (index, MsiMessage { address: 0xfee0_0000, data });
    assert_eq!(it.vectors.take_routes(), [routed(0, 0x40), routed(1, 0x41)], "a vector is routed once");
    assert_eq!(it.machine.number::<1>(function.isr), 0, "with MSI-X the ISR status is not used");
}

#[test]
fn a_device_can_be_reset_and_used_again_many_times() {
    let it = machine();
    for _ in 0..20 {
        it.serves();
    }
    assert_eq!(it.vectors.take_routes().len(), 2, "the MSI-X table is PCI's and outlives a reset");
}

#[test]
fn a_reset_forgets_vectors_and_selectors_and_keeps_what_is_pcis() {
    let it = machine();
    let function = it.probe();
    it.bring_up(&function);
    let machine = &it.machine;
    function.set(machine, 0x00, &1u32.to_le_bytes());
    function.set(machine, 0x08, &1u32.to_le_bytes());
    function.reset(machine);
    for (offset, expected) in [(0x00, 0), (0x08, 0), (0x0c, 0), (0x20, 0), (0x24, 0)] {
        assert_eq!(function.get::<4>(machine, offset), expected, "{offset:#x}");
    }
    for (offset, expected) in [(0x10, 0xffff), (0x16, 0), (0x18, 256), (0x1a, 0xffff), (0x1c, 0)] {
        assert_eq!(function.get::<2>(machine, offset), expected, "{offset:#x}");
    }
    assert_eq!(machine.config::<1>(1, 4), u64::from(MEMORY_AND_MASTER));
    assert_eq!(machine.number::<4>(function.table + 16 + 8), 0x41);
    assert_eq!(machine.number::<4>(function.table + 16 + 12), 0);
}

#[test]
fn registers_of_an_absent_queue_read_as_absent_and_take_nothing() {
    let it = machine();
    let function = it.probe();
    for queue in [1u16, 2, 0x7fff, 0xffff] {
        function.set(&it.machine, 0x16, &queue.to_le_bytes());
        for offset in [0x18, 0x1a, 0x1c, 0x1e] {
            function.set(&it.machine, offset, &1u16.to_le_bytes());
        }
        function.set(&it.machine, 0x20, &[0x11; 8]);
        assert_eq!(function.get::<2>(&it.machine, 0x18), 0, "no size");
        assert_eq!(function.get::<2>(&it.machine, 0x1a), 0xffff, "no vector");
        assert_eq!(function.get::<2>(&it.machine, 0x1c), 0, "not enabled");
        assert_eq!(function.get::<8>(&it.machine, 0x20), 0, "no address");
    }
    it.serves();
}

#[test]
fn a_vector_that_does_not_exist_reads_back_as_none() {
    let it = machine();
    let function = it.probe();
    for (vector, expected) in [(0u16, 0), (1, 1), (2, 0xffff), (1, 1), (0x800, 0xffff), (0xfffe, 0xffff)] {
        for offset in [0x10, 0x1a] {
            function.set(&it.machine, offset, &vector.to_le_bytes());
            assert_eq!(function.get::<2>(&it.machine, offset), expected, "{vector:#x}");
        }
    }
}

#[test]
fn a_queue_address_is_written_and_read_whole_and_by_halves() {
    let it = machine();
    let function = it.probe();
    for offset in [0x20, 0x28, 0x30] {
        function.set(&it.machine, offset, &0x1122_3344_5566_7788u64.to_le_bytes());
        assert_eq!(function.get::<4>(&it.machine, offset), 0x5566_7788);
        assert_eq!(function.get::<4>(&it.machine, offset + 4), 0x1122_3344);
        function.set(&it.machine, offset + 4, &0xaabb_ccddu32.to_le_bytes());
        assert_eq!(function.get::<8>(&it.machine, offset), 0xaabb_ccdd_5566_7788);
    }
}

#[test]
fn narrow_wide_and_unaligned_accesses_read_zero_and_change_nothing() {
    let it = machine();
    let function = it.probe();
    let cases = [(0x00, 1), (0x00, 2), (0x00, 8), (0x02, 4), (0x10, 4), (0x14, 2), (0x14, 4), (0x16, 1), (0x20, 2)];
    for (offset, width) in cases.into_iter().chain([(0x22, 4), (0x24, 8), (0x38, 2), (0x3a, 2), (0x40, 4)]) {
        let mut data = vec![0xff; width];
        it.machine.write(function.common + offset, &vec![1; width]);
        it.machine.read(function.common + offset, &mut data);
        assert_eq!(data, vec![0; width], "{offset:#x}, {width}");
    }
    for offset in [0x00, 0x08, 0x20, 0x24] {
        assert_eq!(function.get::<4>(&it.machine, offset), 0);
    }
    assert_eq!(function.get::<1>(&it.machine, 0x14), 0);
}

#[test]
fn a_queue_is_enabled_by_one_and_by_nothing_else_and_not_disabled() {
    let it = machine();
    let function = it.probe();
    for (value, enabled) in [(0u16, 0), (2, 0), (0xffff, 0), (1, 1), (0, 1), (2, 1)] {
        function.set(&it.machine, 0x1c, &value.to_le_bytes());
        assert_eq!(function.get::<2>(&it.machine, 0x1c), enabled, "{value:#x}");
    }
}

#[test]
fn without_msix_the_isr_status_tells_and_is_cleared_by_reading() {
    let it = machine();
    let function = it.probe();
    let mut driver = it.bring_up(&function);
    it.machine.set_config(1, function.msix + 2, &0u16.to_le_bytes());
    it.mem.write_slice(&[0; 16], GuestAddress(0x4000)).unwrap();
    driver.submit(&[readable(0x4000, 16), writable(0x8000, 512), writable(0x5000, 1)]);
    function.notify(&it.machine, 0);
    let mut isr = 0;
    while isr == 0 {
        isr = it.machine.number::<1>(function.isr);
        std::thread::yield_now();
    }
    assert_eq!((isr, it.machine.number::<1>(function.isr)), (1, 0));
    assert_eq!(it.vectors.take(QUEUE_VECTOR), 0);
    it.serves();
}

#[test]
fn a_ring_that_lies_shows_in_status_and_a_reset_revives_the_device() {
    let it = machine();
    let function = it.probe();
    let mut driver = it.bring_up(&function);
    driver.set_avail_index(0x8000);
    function.notify(&it.machine, 0);
    while it.vectors.take(0) == 0 {
        it.vectors.any.read().unwrap();
    }
    assert_ne!(function.get::<1>(&it.machine, 0x14) & 0x40, 0);
    assert_eq!(it.machine.number::<1>(function.isr), 2);
    it.serves();
}

#[test]
fn doorbells_follow_the_bar() {
    let it = machine();
    assert!(it.machine.doorbells.addresses().is_empty());
    let function = it.probe();
    assert_eq!(it.machine.doorbells.addresses(), [function.notify]);
    it.machine.set_config(1, 4, &[0]);
    assert!(it.machine.doorbells.addresses().is_empty());
    it.machine.set_config(1, 0x10, &(WINDOWS[0].base + 0x5_0000).to_le_bytes());
    assert!(it.machine.doorbells.addresses().is_empty());
    it.machine.set_config(1, 4, &[MEMORY_AND_MASTER]);
    assert_eq!(it.machine.doorbells.addresses(), [WINDOWS[0].base + 0x5_0000 + NOTIFY]);
    it.machine.set_config(1, 0x10, &WINDOWS[1].base.to_le_bytes());
    assert_eq!(it.machine.doorbells.addresses(), [WINDOWS[1].base + NOTIFY]);
    it.serves();
}

#[test]
fn a_doorbell_that_is_not_bound_rings_by_its_register() {
    let it = machine();
    it.machine.doorbells.refuse.store(true, Ordering::Release);
    it.serves();
    assert!(it.machine.doorbells.addresses().is_empty());
    it.machine.doorbells.refuse.store(false, Ordering::Release);
    it.machine.set_config(1, 4, &[0]);
    it.serves();
    assert_eq!(it.machine.doorbells.addresses().len(), 1);
}

#[test]
fn the_window_in_configuration_space_reaches_the_registers() {
    let it = machine();
    let function = it.probe();
    // It works with memory decode off too: that is what it is for (§4.1.4.9).
    it.machine.set_config(1, 4, &[0]);
    let access = |offset: u32, length: u32| {
        it.machine.set_config(1, function.window + 8, &offset.to_le_bytes());
        it.machine.set_config(1, function.window + 12, &length.to_le_bytes());
    };
    access(0x14, 1);
    it.machine.set_config(1, function.window + 16, &[1]);
    assert_eq!(it.machine.config::<1>(1, function.window + 16), 1);
    access(0x12, 2);
    assert_eq!(it.machine.config::<2>(1, function.window + 16), 1);
    access(0x2000, 4);
    assert_eq!(it.machine.config::<4>(1, function.window + 16), 2);
    it.serves();
}

#[test]
fn a_stopped_device_goes_on_where_it_stood() {
    let it = machine();
    let function = it.probe();
    let mut driver = it.bring_up(&function);
    it.read_sector(&function, &mut driver);
    it.transport.stop();
    it.transport.resume();
    it.read_sector(&function, &mut driver);
}
