// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

use super::super::slow::Slow;
use super::mock::{MEMORY_AND_MASTER, MockFunction, QUEUE_VECTOR};
use super::tests::{Machine, add_disk, machine};
use super::*;
use crate::pci::mock::{CONFIG_PORTS, ECAM, MockVectors, WINDOWS};
use crate::virtio::mock::MockDriver;

/// Brings a device back whose configuration space may hold anything, as firmware would.
fn recover(it: &Machine) {
    let place = WINDOWS[0].base.to_le_bytes();
    it.machine.set_config(1, 4, &[0, 0]);
    it.machine.set_config(1, 0x10, &place);
    it.machine.set_config(1, 4, &[MEMORY_AND_MASTER, 0]);
    it.serves();
}

#[test]
fn every_register_answers_every_access_and_stays_alive() {
    let it = machine();
    let bar = it.probe().bar;
    let mut data = [0; 9];
    let edges = (0..6).flat_map(|page| page * PAGE..page * PAGE + 0x60);
    for offset in edges.chain((1..=8).flat_map(|page| page * PAGE - 8..page * PAGE)) {
        for width in 0..=9 {
            it.machine.read(bar + offset, &mut data[..width]);
            for value in [0, 1, 0x7f, 0xff] {
                it.machine.write(bar + offset, &[value; 9][..width]);
            }
        }
    }
    recover(&it);
}

#[test]
fn every_access_to_configuration_space_leaves_a_device_that_can_be_revived() {
    let it = machine();
    let mut data = [0; 9];
    for register in (0..0x120).chain([0xff8, 0xfff]) {
        for width in 0..=9 {
            for value in [0, 1, 0x7f, 0x80, 0xff] {
                it.machine.write(ECAM + 0x8000 + register, &[value; 9][..width]);
                it.machine.read(ECAM + 0x8000 + register, &mut data[..width]);
            }
        }
        recover(&it);
    }
}

#[test]
fn every_access_to_the_ports_leaves_a_device_that_can_be_revived() {
    let it = machine();
    let mut data = [0; 9];
    for register in (0..0x100).step_by(4) {
        for offset in 0..8 {
            for width in 0..=9 {
                it.machine.write_ports(CONFIG_PORTS, &(0x8000_0800u32 | register).to_le_bytes());
                it.machine.write_ports(CONFIG_PORTS + offset, &[0xff; 9][..width]);
                it.machine.read_ports(CONFIG_PORTS + offset, &mut data[..width]);
            }
        }
    }
    recover(&it);
}

#[test]
fn the_window_in_configuration_space_reaches_nothing_but_the_bar() {
    let it = machine();
    let function = it.probe();
    let window = function.window;
    let size = BAR_SIZE as u32;
    // BAR, offset, length: none of them may read or write anything.
    let hostile = [
        (1, 0x14, 1),
        (0xff, 0x14, 1),
        (0, 0x14, 0),
        (0, 0x14, 3),
        (0, 0x14, 8),
        (0, 0x14, u32::MAX),
        (0, 0x15, 2),
        (0, 0x16, 4),
        (0, size, 1),
        (0, size - 2, 4),
        (0, u32::MAX, 1),
        (0, u32::MAX - 3, 4),
        (0, 0x8000_0000, 4),
    ];
    for (bar, offset, length) in hostile {
        it.machine.set_config(1, window + 4, &[bar]);
        it.machine.set_config(1, window + 8, &offset.to_le_bytes());
        it.machine.set_config(1, window + 12, &length.to_le_bytes());
        it.machine.set_config(1, window + 16, &[1, 1, 1, 1]);
        assert_eq!(it.machine.config::<4>(1, window + 16), 0x0101_0101, "{bar} {offset:#x} {length}: what was written");
        assert_eq!(function.get::<1>(&it.machine, 0x14), 0, "{bar} {offset:#x} {length}");
    }
    it.machine.set_config(1, window + 4, &[0]);
    for offset in (0..size).step_by(4) {
        it.machine.set_config(1, window + 8, &offset.to_le_bytes());
        it.machine.set_config(1, window + 12, &4u32.to_le_bytes());
        it.machine.config::<4>(1, window + 16);
        it.machine.set_config(1, window + 16, &[0xff; 4]);
    }
    recover(&it);
}

#[test]
fn doorbells_of_absent_queues_are_counted_and_ignored() {
    let it = machine();
    let function = it.probe();
    let before = it.transport.lock().core.illegal_writes();
    for offset in [1, 2, 3, 4, 5, 8, 0x400, 0xffc] {
        it.machine.write(function.notify + offset, &[0]);
    }
    assert_eq!(it.transport.lock().core.illegal_writes() - before, 8);
    it.serves();
}

#[test]
fn a_bar_that_is_moved_onto_another_device_harms_neither() {
    let it = machine();
    let (_, _, other) = add_disk(&it.machine, &it.mem);
    let function = it.probe();
    let mut driver = it.bring_up(&function);
    it.machine.set_config(other, 4, &[MEMORY_AND_MASTER]);
    let doorbells = it.machine.doorbells.addresses();
    assert_eq!(doorbells.len(), 2);
    it.machine.set_config(other, 0x10, &function.bar.to_le_bytes());
    assert_eq!(it.machine.doorbells.addresses(), [function.notify], "the other is nowhere");
    it.read_sector(&function, &mut driver);
    it.machine.set_config(1, 0x10, &WINDOWS[1].base.to_le_bytes());
    assert_eq!(it.machine.doorbells.addresses().len(), 2, "and now it is here");
    assert_eq!(it.machine.number::<2>(function.bar + 0x12), 1);
    it.serves();
}

#[test]
fn a_device_with_too_many_queues_or_an_odd_type_is_refused() {
    #[derive(Debug)]
    struct Odd(u32, Vec<u16>);
    impl VirtioDevice for Odd {
        fn device_type(&self) -> u32 {
            self.0
        }
        fn features(&self) -> u64 {
            0
        }
        fn queue_sizes(&self) -> &[u16] {
            &self.1
        }
        fn read_config(&self, _: u64, _: &mut [u8]) {}
        fn start_queue(
            &mut self,
            _: u16,
            _: crate::virtio::QueueResources,
            _: u64,
        ) -> Result<(), crate::virtio::StartError> {
            Ok(())
        }
        fn stop_queue(&mut self, _: u16) -> Option<crate::virtio::queue::QueueState> {
            None
        }
        fn reset(&mut self) {}
    }
    let it = machine();
    let make = |device_type, queues| {
        let odd = Box::new(Odd(device_type, vec![16; queues]));
        PciTransport::new(odd, it.mem.clone(), it.vectors.clone(), it.machine.doorbells.clone())
    };
    for (device_type, queues, message) in [
        (4, 256, "256 queues are too many for a PCI device: it has room for 255"),
        (4, 0x1_0000, "65536 queues are too many for a PCI device: it has room for 255"),
        (0, 1, "device type 0 has no PCI device ID"),
        (64, 1, "device type 64 has no PCI device ID"),
        (u32::MAX, 1, "device type 4294967295 has no PCI device ID"),
    ] {
        assert_eq!(make(device_type, queues).unwrap_err().to_string(), message);
    }
    let many = make(4, 255).unwrap();
    assert_eq!(many.interrupt.msix.count(), 256);
    let device = it.machine.pci.add(many).unwrap();
    it.machine.set_config(device, 4, &[MEMORY_AND_MASTER]);
    assert_eq!(it.machine.doorbells.addresses().len(), 255);
}

#[test]
fn a_reset_among_accesses_by_others_always_revives() {
    let it = machine();
    let function = it.probe();
    std::thread::scope(|scope| {
        let resets = scope.spawn(|| {
            for _ in 0..50 {
                it.bring_up(&function);
            }
        });
        // What doesn't get in the way of the driver's own writes: reads, and writes to what it isn't at.
        while !resets.is_finished() {
            for offset in (0..BAR_SIZE).step_by(0x40) {
                it.machine.number::<4>(function.bar + offset);
            }
            it.machine.config::<4>(1, function.window + 16);
            it.machine.set_config(1, function.msix + 2, &0xc000u16.to_le_bytes());
            it.machine.set_config(1, function.msix + 2, &0x8000u16.to_le_bytes());
            function.notify(&it.machine, 0);
        }
        resets.join().unwrap();
    });
    it.serves();
}

#[test]
fn resets_and_hostile_writes_at_the_same_time_leave_a_device_that_can_be_revived() {
    let it = machine();
    let function = it.probe();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for turn in 0..300u64 {
                function.set(&it.machine, 0x14, &[[0, 1, 3, 11, 15][turn as usize % 5]]);
                it.machine.set_config(1, 4, &[if turn % 7 == 0 { 0 } else { MEMORY_AND_MASTER }]);
            }
        });
        for turn in 0..300u64 {
            function.set(&it.machine, (turn % 0x1c) * 2, &(turn as u16).to_le_bytes());
            function.set(&it.machine, 0x1c, &1u16.to_le_bytes());
            it.machine.set_config(1, 0x10, &(WINDOWS[(turn % 2) as usize].base).to_le_bytes());
            function.notify(&it.machine, 0);
        }
    });
    it.vectors.take(QUEUE_VECTOR);
    recover(&it);
}

/// Writes a register of the common configuration by the window in configuration space.
fn set_by_window(it: &Machine, function: &MockFunction, offset: u32, value: u8) {
    it.machine.set_config(function.device, function.window + 8, &offset.to_le_bytes());
    it.machine.set_config(function.device, function.window + 12, &1u32.to_le_bytes());
    it.machine.set_config(function.device, function.window + 16, &[value]);
}

#[test]
fn a_device_that_takes_its_time_holds_up_no_access_to_another() {
    type Act = fn(&Machine, &MockFunction);
    // All of them find the device running, or ready to.
    let cases: [(&str, bool, Act); 5] = [
        ("bus master turned off", true, |it, function| function.set_bus_master(&it.machine, false)),
        ("a reset by the window in configuration space", true, |it, function| set_by_window(it, function, 0x14, 0)),
        ("a start by it", false, |it, function| set_by_window(it, function, 0x14, 15)),
        ("a reset", true, |it, function| function.set(&it.machine, 0x14, &[0])),
        ("a start", false, |it, function| function.set(&it.machine, 0x14, &[15])),
    ];
    for (name, running, act) in cases {
        let it = machine();
        let slow = Slow::new();
        let vectors = MockVectors::new(2);
        let doorbells = it.machine.doorbells.clone();
        let transport = PciTransport::new(Box::new(slow.clone()), it.mem.clone(), vectors, doorbells).unwrap();
        let device = it.machine.pci.add(transport).unwrap();
        let function = MockFunction::probe(&it.machine, device);
        let driver = MockDriver::new(&it.mem, 0x9000, 16);
        function.set_up(&it.machine, &driver);
        if running {
            slow.go_on();
            function.set(&it.machine, 0x14, &[15]);
            slow.wait();
        }
        std::thread::scope(|scope| {
            scope.spawn(|| act(&it, &function));
            slow.wait();
            // Found by memory and by ports, moved, reset, brought up and used: all of it waits for nobody.
            recover(&it);
            it.machine.set_config(1, 0x10, &WINDOWS[1].base.to_le_bytes());
            it.machine.write_ports(CONFIG_PORTS, &0x8000_0800u32.to_le_bytes());
            let mut id = [0; 4];
            it.machine.read_ports(CONFIG_PORTS + 4, &mut id);
            assert_eq!(u32::from_le_bytes(id), 0x1042_1af4, "{name}");
            it.serves();
            // And so does the configuration space of the one that is busy, as far as that is PCI's.
            assert_eq!(it.machine.config::<2>(device, 0), 0x1af4, "{name}");
            slow.go_on();
        });
        let expected = if name.contains("reset") { 0 } else { 15 };
        assert_eq!(function.get::<1>(&it.machine, 0x14), expected, "{name}");
    }
}
