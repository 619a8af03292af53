// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

use super::*;

const IDENTITY: Identity = Identity {
    vendor: 0x1111,
    device: 0x2222,
    revision: 3,
    class: 0x44_5566,
    subsystem_vendor: 0x7777,
    subsystem: 0x8888,
};

fn word(space: &ConfigSpace, offset: usize) -> u32 {
    u32::from_le_bytes(space.get(offset))
}

#[test]
fn the_header_says_who_it_is_and_keeps_saying_so() {
    let mut space = ConfigSpace::new(IDENTITY);
    for _ in 0..2 {
        assert_eq!((word(&space, 0x00), word(&space, 0x08)), (0x2222_1111, 0x4455_6603));
        assert_eq!([0x0c, 0x2c, 0x30, 0x34, 0x3c].map(|at| word(&space, at)), [0, 0x8888_7777, 0, 0, 0]);
        space.write(0, &[0xff; 256]);
        assert_eq!(word(&space, 4), 0x0000_0406, "memory, bus master, INTx disable");
    }
    space.write(0, &[0; 256]);
    assert_eq!(word(&space, 0), 0x2222_1111);
    assert_eq!(word(&space, 4), 0);
}

#[test]
fn a_bar_reads_back_its_size() {
    for (number, size) in [(0, 0x1000), (2, 0x8000), (4, 1 << 32), (4, 1 << 63)] {
        let mut space = ConfigSpace::new(IDENTITY);
        space.add_bar(number, size).unwrap();
        let at = 0x10 + 4 * usize::from(number);
        assert_eq!(u64::from_le_bytes(space.get(at)), 4, "64-bit memory at 0");
        space.write(at, &[0xff; 4]);
        space.write(at + 4, &[0xff; 4]);
        assert_eq!(u64::from_le_bytes(space.get(at)), size.wrapping_neg() | 4, "{size:#x}");
        space.write(at, &[0; 8]);
        assert_eq!(u64::from_le_bytes(space.get(at)), 4);
    }
}

#[test]
fn a_bar_is_wanted_nowhere_while_memory_decode_is_off() {
    let mut space = ConfigSpace::new(IDENTITY);
    space.add_bar(0, 0x1000).unwrap();
    space.write(0x10, &0x1_2345_6789_u64.to_le_bytes());
    assert_eq!(space.wanted_address(0), None);
    space.write(4, &[2]);
    assert_eq!(space.wanted_address(0), Some(0x1_2345_6000));
}

#[test]
fn a_bar_that_can_not_be_is_refused() {
    let mut space = ConfigSpace::new(IDENTITY);
    space.add_bar(2, 0x1000).unwrap();
    for (bar, size) in [(1, 0x1000), (6, 0x1000), (255, 0x1000), (0, 0), (0, 0x800), (0, 0x1800), (2, 0x1000)] {
        assert_eq!(space.add_bar(bar, size), Err(ConfigError::BadBar { bar, size }));
    }
}

#[test]
fn capabilities_are_a_list_that_ends() {
    let mut space = ConfigSpace::new(IDENTITY);
    assert_eq!(space.add_capability(9, &[1, 2, 3], &[0, 0xff]), Ok(0x40));
    assert_eq!(space.add_capability(0x11, &[4; 10], &[]), Ok(0x48));
    assert_eq!(word(&space, 4) >> 16, 0x10, "there is a list");
    assert_eq!(space.get(0x34), [0x40]);
    assert_eq!(space.get(0x40), [9, 0x48, 1, 2, 3]);
    assert_eq!(space.get(0x48), [0x11, 0, 4]);
    space.write(0x40, &[0xee; 8]);
    assert_eq!(space.get(0x40), [9, 0x48, 1, 0xee, 3, 0, 0, 0]);
    let left = 256 - 0x54 - 2;
    let refused = space.add_capability(9, &vec![0; left + 1], &[]);
    assert_eq!(refused, Err(ConfigError::NoRoom { id: 9, len: left + 1 }));
    assert_eq!(space.add_capability(9, &vec![0; left], &[]), Ok(0x54));
    assert_eq!(space.add_capability(9, &[], &[]), Err(ConfigError::NoRoom { id: 9, len: 0 }));
}

#[test]
fn accesses_across_and_beyond_the_end_see_zeros_and_change_nothing() {
    let mut space = ConfigSpace::new(IDENTITY);
    for offset in (0..0x110).chain([0xfff, usize::MAX]) {
        for len in [0, 1, 2, 3, 4, 8, 9] {
            let mut data = vec![0xaa; len];
            space.read(offset, &mut data);
            let beyond = 256_usize.saturating_sub(offset).min(len);
            assert!(data[beyond..].iter().all(|byte| *byte == 0), "{offset:#x}");
            space.write(offset, &vec![0xff; len]);
        }
    }
    assert_eq!(word(&space, 0), 0x2222_1111);
}
