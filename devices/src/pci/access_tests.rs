// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

use crate::pci::mock::{CONFIG_PORTS, ECAM, MockMachine};

const HOST_BRIDGE: u32 = 0x0008_1b36;
const CONFIG_ADDRESS: u64 = CONFIG_PORTS;
const CONFIG_DATA: u64 = CONFIG_PORTS + 4;

fn ports(machine: &MockMachine, port: u64, len: usize) -> Vec<u8> {
    let mut data = vec![0xaa; len];
    machine.read_ports(port, &mut data);
    data
}

fn select(machine: &MockMachine, address: u32) {
    machine.write_ports(CONFIG_ADDRESS, &address.to_le_bytes());
}

#[test]
fn the_host_bridge_is_found_by_either_way() {
    let machine = MockMachine::new();
    assert_eq!(machine.config::<4>(0, 0), u64::from(HOST_BRIDGE));
    assert_eq!(machine.config::<2>(0, 0x0a), 0x0600);
    select(&machine, 0x8000_0000);
    assert_eq!(ports(&machine, CONFIG_DATA, 4), HOST_BRIDGE.to_le_bytes());
    select(&machine, 0x8000_0008);
    assert_eq!(ports(&machine, CONFIG_DATA + 2, 2), [0x00, 0x06]);
    assert_eq!(ports(&machine, CONFIG_DATA + 3, 1), [0x06]);
}

#[test]
fn absent_functions_read_all_ones_and_swallow_writes() {
    let machine = MockMachine::new();
    for (device, function) in (1..32).map(|device| (device, 0)).chain((0..32).flat_map(|d| (1..8).map(move |f| (d, f))))
    {
        let offset: u64 = device << 15 | function << 12;
        machine.write(ECAM + offset, &[0; 4]);
        assert_eq!(machine.number::<4>(ECAM + offset), 0xffff_ffff, "{device}.{function}");
        select(&machine, 0x8000_0000 | (device << 11 | function << 8) as u32);
        machine.write_ports(CONFIG_DATA, &[0; 4]);
        assert_eq!(ports(&machine, CONFIG_DATA, 4), [0xff; 4], "{device}.{function}");
    }
    for bus in [1, 0x80, 0xff] {
        select(&machine, 0x8000_0000 | bus << 16);
        assert_eq!(ports(&machine, CONFIG_DATA, 4), [0xff; 4], "bus {bus}");
    }
}

#[test]
fn config_address_takes_a_dword_and_nothing_else() {
    let machine = MockMachine::new();
    for (written, read) in [(0x8000_0000, 0x8000_0000_u32), (0xffff_ffff, 0x80ff_fffc), (0x7f00_0003, 0), (0, 0)] {
        select(&machine, written);
        assert_eq!(ports(&machine, CONFIG_ADDRESS, 4), read.to_le_bytes());
    }
    for (offset, len) in [(0, 1), (0, 2), (0, 3), (0, 8), (1, 1), (1, 4), (2, 2), (2, 4), (3, 1), (3, 4)] {
        machine.write_ports(CONFIG_ADDRESS + offset, &vec![0xff; len]);
        assert_eq!(ports(&machine, CONFIG_ADDRESS, 4), [0; 4], "{offset}, {len}");
        assert_eq!(ports(&machine, CONFIG_ADDRESS + offset, len), vec![0xff; len], "{offset}, {len}");
    }
}

#[test]
fn config_data_is_closed_unless_enabled() {
    let machine = MockMachine::new();
    select(&machine, 0);
    assert_eq!(ports(&machine, CONFIG_DATA, 4), [0xff; 4]);
}

#[test]
fn bytes_and_words_are_at_their_place_in_the_dword() {
    let machine = MockMachine::new();
    select(&machine, 0x8000_0000);
    let whole = HOST_BRIDGE.to_le_bytes();
    for at in 0..4_usize {
        for len in 0..=9 {
            let read = ports(&machine, CONFIG_DATA + at as u64, len);
            match whole.get(at..at + len) {
                Some(part) => assert_eq!(read, part, "{at}, {len}"),
                None => assert_eq!(read, vec![0xff; len], "{at}, {len}"),
            }
        }
    }
}

#[test]
fn every_access_to_configuration_space_has_an_answer() {
    let machine = MockMachine::new();
    for offset in (0..0x1010).chain([0x7ffc, 0x7fff, 0x8000, 0xf_fff8, 0xf_ffff]) {
        for len in 0..=9 {
            let mut data = vec![0xaa; len];
            machine.read(ECAM + offset, &mut data);
            if offset < 0x1000 && offset + len as u64 > 0x1000 {
                assert_eq!(data, vec![0xff; len], "{offset:#x} belongs to two functions");
            }
            machine.write(ECAM + offset, &vec![0xff; len]);
        }
    }
    assert_eq!(machine.config::<4>(0, 0), u64::from(HOST_BRIDGE));
    assert_eq!(machine.config::<4>(0, 0x100), 0, "no extended capabilities");
}

#[test]
fn memory_where_no_bar_is_reads_all_ones() {
    let machine = MockMachine::new();
    for window in crate::pci::mock::WINDOWS {
        for address in [window.base, window.base + window.size - 8] {
            machine.write(address, &[0; 8]);
            assert_eq!(machine.number::<8>(address), u64::MAX);
        }
    }
}
