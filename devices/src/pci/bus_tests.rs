// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

use std::sync::atomic::{AtomicU64, Ordering};

use super::*;
use crate::pci::Identity;
use crate::pci::mock::{MockMachine, WINDOWS};

const SIZE: u64 = 0x4000;

/// A function whose BAR reads as its name, and that keeps where it was told to be.
#[derive(Debug)]
struct Named {
    name: u8,
    moves: Mutex<Vec<Option<u64>>>,
    written: AtomicU64,
}

impl PciFunction for Named {
    fn config_space(&self) -> ConfigSpace {
        let mut space = ConfigSpace::new(Identity {
            vendor: 0x1234,
            device: self.name.into(),
            revision: 0,
            class: 0xff_0000,
            subsystem_vendor: 0,
            subsystem: 0,
        });
        space.add_bar(0, SIZE).unwrap();
        space
    }
    fn bar_moved(&self, bar: u8, address: Option<u64>) {
        assert_eq!(bar, 0);
        self.moves.lock().unwrap().push(address);
    }
    fn read_bar(&self, bar: u8, offset: u64, data: &mut [u8]) {
        assert!(bar == 0 && offset + data.len() as u64 <= SIZE);
        data.fill(self.name);
    }
    fn write_bar(&self, bar: u8, offset: u64, data: &[u8]) {
        assert!(bar == 0 && offset + data.len() as u64 <= SIZE);
        self.written.fetch_add(1, Ordering::AcqRel);
    }
}

fn add(machine: &MockMachine, name: u8) -> Arc<Named> {
    let named = Arc::new(Named { name, moves: Mutex::default(), written: AtomicU64::new(0) });
    machine.pci.add(named.clone()).unwrap();
    named
}

fn set_bar(machine: &MockMachine, device: u8, address: u64) {
    machine.set_config(device, 0x10, &(address as u32).to_le_bytes());
    machine.set_config(device, 0x14, &((address >> 32) as u32).to_le_bytes());
}

fn bar(machine: &MockMachine, device: u8) -> u64 {
    machine.config::<8>(device, 0x10) & !0xf
}

/// Device 1 at the start of the first window, device 2 behind it, both with decode on.
fn two() -> (MockMachine, [Arc<Named>; 2]) {
    let machine = MockMachine::new();
    let named = [1, 2].map(|name| add(&machine, name));
    for device in [1, 2] {
        machine.set_config(device, 4, &[2]);
    }
    named.iter().for_each(|named| named.moves.lock().unwrap().clear());
    (machine, named)
}

#[test]
fn bars_get_addresses_of_their_own_and_answer_once_decode_is_on() {
    let machine = MockMachine::new();
    let named: Vec<_> = (1..=31).map(|name| add(&machine, name)).collect();
    for device in 1..=31u8 {
        let address = bar(&machine, device);
        assert_eq!(address, WINDOWS[0].base + SIZE * (u64::from(device) - 1));
        assert_eq!(machine.number::<1>(address), 0xff, "decode is off");
        machine.set_config(device, 4, &[2]);
        assert_eq!(machine.number::<1>(address + SIZE - 1), u64::from(device));
        machine.write(address, &[1]);
        machine.set_config(device, 4, &[0]);
        machine.write(address, &[1]);
        assert_eq!(machine.number::<1>(address), 0xff);
    }
    for named in named {
        assert_eq!((named.written.load(Ordering::Acquire), named.moves.lock().unwrap().len()), (1, 2));
    }
}

#[test]
fn a_function_too_many_is_refused() {
    let machine = MockMachine::new();
    let named = add(&machine, 1);
    for slot in 2..32 {
        assert_eq!(machine.pci.add(named.clone()), Ok(slot));
    }
    assert_eq!(machine.pci.add(named.clone()), Err(PciError::Full(31)));
    let base = 0xc200_1000;
    for size in [0, 0x1000, SIZE, 2 * SIZE] {
        let bus = PciBus::new(vec![Window { base, size }]);
        let full = PciError::NoAddress { bar: 0, size: SIZE, base, end: base + size };
        let first = bus.add(named.clone());
        assert_eq!(first, if size < 2 * SIZE { Err(full) } else { Ok(1) }, "aligned, {size:#x} don't take it");
    }
    assert!(PciBus::new(Vec::new()).add(named).is_err());
}

#[test]
fn a_bar_that_would_overlap_or_leave_the_windows_is_nowhere_and_harms_nobody() {
    let (base, end) = (WINDOWS[0].base, WINDOWS[0].end());
    let onto_another = [base, base + 4, base + SIZE - 0x1000];
    let outside = [0, 0x1000, base - SIZE, end, 0xe000_0000, 0xfee0_0000, 1 << 32, WINDOWS[1].end()];
    let wrapping = [u64::MAX, u64::MAX - SIZE, !(SIZE - 1), 1 << 63, 1 << 52];
    for address in onto_another.into_iter().chain(outside).chain(wrapping) {
        let (machine, [first, second]) = two();
        set_bar(&machine, 2, address);
        assert_eq!(bar(&machine, 2), address & !(SIZE - 1), "the register holds what was written");
        assert_eq!(machine.number::<1>(base), 1, "{address:#x}");
        assert_eq!(machine.number::<1>(base + SIZE), 0xff, "{address:#x}: nobody is there any more");
        assert!(first.moves.lock().unwrap().is_empty());
        let moves = std::mem::take(&mut *second.moves.lock().unwrap());
        assert_eq!(moves.last(), Some(&None), "{address:#x}");
        set_bar(&machine, 2, WINDOWS[1].base);
        assert_eq!(machine.number::<1>(WINDOWS[1].base), 2, "{address:#x}");
    }
}

#[test]
fn an_address_that_is_not_aligned_is_cut_down_to_one_that_is() {
    let (machine, _) = two();
    set_bar(&machine, 2, WINDOWS[0].base + 2 * SIZE + 0x1fff);
    assert_eq!(bar(&machine, 2), WINDOWS[0].base + 2 * SIZE);
    assert_eq!(machine.number::<1>(WINDOWS[0].base + 2 * SIZE), 2);
}

#[test]
fn a_bar_that_waits_gets_its_place_when_the_other_has_gone() {
    let (machine, [first, second]) = two();
    let (a, b) = (bar(&machine, 1), bar(&machine, 2));
    set_bar(&machine, 1, b);
    assert_eq!((machine.number::<1>(a), machine.number::<1>(b)), (0xff, 2));
    set_bar(&machine, 2, a);
    assert_eq!((machine.number::<1>(a), machine.number::<1>(b)), (2, 1), "they have swapped");
    assert_eq!(*first.moves.lock().unwrap(), [None, Some(b)]);
    assert_eq!(*second.moves.lock().unwrap(), [None, Some(a)]);
}

#[test]
fn sizing_a_bar_with_decode_on_moves_it_away_and_back() {
    let (machine, [_, second]) = two();
    let address = bar(&machine, 2);
    set_bar(&machine, 2, u64::MAX);
    assert_eq!(machine.config::<8>(2, 0x10), SIZE.wrapping_neg() | 4);
    assert_eq!(machine.number::<1>(address), 0xff);
    set_bar(&machine, 2, address);
    assert_eq!(machine.number::<1>(address), 2);
    assert_eq!(*second.moves.lock().unwrap(), [None, Some(address)]);
}

#[test]
fn an_access_across_the_end_of_a_bar_belongs_to_nobody() {
    let (machine, [first, second]) = two();
    let border = bar(&machine, 2);
    for (before, len) in [(1, 2), (3, 4), (7, 8), (4, 8)] {
        let mut data = vec![0; len];
        machine.read(border - before, &mut data);
        assert_eq!(data, vec![0xff; len]);
        machine.write(border - before, &data);
    }
    assert_eq!([first, second].map(|named| named.written.load(Ordering::Acquire)), [0, 0]);
}

#[test]
fn a_register_written_by_bytes_ends_up_where_it_should() {
    let (machine, _) = two();
    let target = WINDOWS[1].base + 4 * SIZE;
    for (at, byte) in (0..).zip(target.to_le_bytes()) {
        machine.set_config(2, 0x10 + at, &[byte]);
    }
    assert_eq!(machine.number::<1>(target), 2);
    for device in [0, 1, 2, 3, 31] {
        for register in 0..0x110 {
            for len in [0, 3, 9] {
                machine.set_config(device, register, &vec![0xa5; len]);
            }
        }
    }
    set_bar(&machine, 2, target);
    machine.set_config(2, 4, &[2]);
    assert_eq!(machine.number::<1>(target), 2);
}

#[test]
fn bars_that_move_while_they_are_read_never_answer_for_another() {
    let (machine, _) = two();
    let places = [0, 2, 3, 5].map(|at| WINDOWS[0].base + SIZE * at);
    std::thread::scope(|scope| {
        let mover = scope.spawn(|| {
            for turn in 0..2000 {
                set_bar(&machine, 2, places[turn % 4]);
                machine.set_config(1, 4, &[if turn % 3 == 0 { 0 } else { 2 }]);
            }
        });
        while !mover.is_finished() {
            assert!([1, 2, 0xff].contains(&machine.number::<1>(places[0])));
            assert!([2, 0xff].contains(&machine.number::<1>(places[1])));
        }
    });
}
