// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

use super::super::mock::{INDIRECT, MockDriver, NEXT, WRITE, ram};
use super::*;

const RAM: u64 = 0x10_0000;
const TABLE: u64 = 0x8000;

fn table(driver: &MockDriver) -> DescriptorTable<'_> {
    let size = driver.config.size;
    let bytes = driver.mem.get_slice(GuestAddress(driver.config.descriptor_table), 16 * usize::from(size)).unwrap();
    DescriptorTable::new(bytes, size)
}

fn walk(driver: &MockDriver, indirect: bool) -> Result<Chain, ChainError> {
    let table = table(driver);
    let mut chain = Chain::with_capacity(driver.config.size);
    chain.read(&driver.mem, table, 0, indirect).map(|()| chain)
}

fn parts(segments: &[Segment]) -> Vec<(u64, u32)> {
    segments.iter().map(|s| (s.address.0, s.len)).collect()
}

#[test]
fn a_chain_comes_out_in_order_without_its_empty_descriptors() {
    let driver = MockDriver::new(&ram(RAM as usize), 0x1000, 8);
    driver.descriptor(0, 0x2000, 16, NEXT, 3);
    driver.descriptor(3, 0xdead_0000_0000, 0, NEXT, 1);
    driver.descriptor(1, 0x3000, 512, NEXT | WRITE, 2);
    driver.descriptor(2, 0x4000, 1, WRITE, 99);
    let chain = walk(&driver, false).unwrap();
    assert_eq!(parts(chain.readable()), [(0x2000, 16)]);
    assert_eq!(parts(chain.writable()), [(0x3000, 512), (0x4000, 1)]);
}

#[test]
fn an_indirect_chain_may_fill_the_whole_table() {
    let driver = MockDriver::new(&ram(RAM as usize), 0x1000, 8);
    driver.descriptor(0, TABLE, 8 * 16, INDIRECT, 0);
    for i in 0..8 {
        driver.descriptor_in(TABLE, i, 0x2000 + 16 * u64::from(i), 16, if i < 7 { NEXT } else { 0 }, i + 1);
    }
    assert_eq!(walk(&driver, true).unwrap().readable().len(), 8);
}

/// A hostile chain: how it is written, and what is said of it.
type Hostile = (&'static str, fn(&MockDriver), ChainError);

#[test]
fn hostile_chains_are_named_and_leave_nothing_behind() {
    let cases: &[Hostile] = &[
        ("a loop onto itself", |d| d.descriptor(0, 0x2000, 1, NEXT, 0), ChainError::TooLong { limit: 8 }),
        (
            "a loop of two",
            |d| {
                d.descriptor(0, 0x2000, 1, NEXT, 1);
                d.descriptor(1, 0x2000, 1, NEXT, 0);
            },
            ChainError::TooLong { limit: 8 },
        ),
        ("a loop of empty descriptors", |d| d.descriptor(0, 0x2000, 0, NEXT, 0), ChainError::TooLong { limit: 8 }),
        ("a next beyond the table", |d| d.descriptor(0, 0x2000, 1, NEXT, 8), ChainError::BadIndex { index: 8, len: 8 }),
        ("a buffer beyond RAM", |d| d.descriptor(0, RAM, 1, 0, 0), ChainError::NotInRam { address: RAM, len: 1 }),
        (
            "a buffer that ends beyond RAM",
            |d| d.descriptor(0, RAM - 1, 2, 0, 0),
            ChainError::NotInRam { address: RAM - 1, len: 2 },
        ),
        (
            "an address that wraps",
            |d| d.descriptor(0, u64::MAX, 2, WRITE, 0),
            ChainError::NotInRam { address: u64::MAX, len: 2 },
        ),
        (
            "readable after writable",
            |d| {
                d.descriptor(0, 0x2000, 1, NEXT | WRITE, 1);
                d.descriptor(1, 0x2000, 1, 0, 0);
            },
            ChainError::ReadableAfterWritable,
        ),
        ("an indirect table with a next", |d| d.descriptor(0, TABLE, 16, INDIRECT | NEXT, 1), ChainError::BadIndirect),
        (
            "a table in a table",
            |d| {
                d.descriptor(0, TABLE, 16, INDIRECT, 0);
                d.descriptor_in(TABLE, 0, TABLE, 16, INDIRECT, 0);
            },
            ChainError::BadIndirect,
        ),
        (
            "a table without descriptors",
            |d| d.descriptor(0, TABLE, 0, INDIRECT, 0),
            ChainError::BadIndirectLength { len: 0, limit: 8 },
        ),
        (
            "half a descriptor",
            |d| d.descriptor(0, TABLE, 24, INDIRECT, 0),
            ChainError::BadIndirectLength { len: 24, limit: 8 },
        ),
        (
            "a table larger than the queue",
            |d| d.descriptor(0, TABLE, 9 * 16, INDIRECT, 0),
            ChainError::BadIndirectLength { len: 9 * 16, limit: 8 },
        ),
        (
            "a table of 4 GiB",
            |d| d.descriptor(0, TABLE, 0xffff_fff0, INDIRECT, 0),
            ChainError::BadIndirectLength { len: 0xffff_fff0, limit: 8 },
        ),
        (
            "a table beyond RAM",
            |d| d.descriptor(0, RAM - 8, 16, INDIRECT, 0),
            ChainError::NotInRam { address: RAM - 8, len: 16 },
        ),
        (
            "a next beyond the indirect table",
            |d| {
                d.descriptor(0, TABLE, 16, INDIRECT, 0);
                d.descriptor_in(TABLE, 0, 0x2000, 1, NEXT, 1);
            },
            ChainError::BadIndex { index: 1, len: 1 },
        ),
        (
            "a loop in an indirect table",
            |d| {
                d.descriptor(0, TABLE, 32, INDIRECT, 0);
                d.descriptor_in(TABLE, 0, 0x2000, 1, NEXT, 1);
                d.descriptor_in(TABLE, 1, 0x2000, 1, NEXT, 0);
            },
            ChainError::TooLong { limit: 8 },
        ),
    ];
    for (name, write, expected) in cases {
        let driver = MockDriver::new(&ram(RAM as usize), 0x1000, 8);
        write(&driver);
        let mut chain = Chain::with_capacity(8);
        assert_eq!(chain.read(&driver.mem, table(&driver), 0, true).as_ref(), Err(expected), "{name}");
        assert!(chain.readable().is_empty() && chain.writable().is_empty(), "{name}");
    }
}

#[test]
fn an_indirect_descriptor_needs_its_feature() {
    let driver = MockDriver::new(&ram(RAM as usize), 0x1000, 8);
    driver.descriptor(0, TABLE, 16, INDIRECT, 0);
    assert_eq!(walk(&driver, false).unwrap_err(), ChainError::IndirectNotNegotiated);
}

#[test]
fn lengths_that_add_up_to_4_gib_are_refused() {
    // Sparse: only the pages of the table are ever touched.
    let driver = MockDriver::new(&ram(1 << 30), 0x1000, 8);
    for i in 0..5 {
        driver.descriptor(i, 0, 0x3fff_ffff, if i < 4 { NEXT } else { 0 } | WRITE, i + 1);
    }
    assert_eq!(walk(&driver, false).unwrap_err(), ChainError::TooLarge);
}

#[test]
fn a_header_is_taken_from_as_many_descriptors_as_it_is_spread_over() {
    for widths in [vec![16], vec![1; 16], vec![3, 13], vec![15, 9], vec![8, 8, 100], vec![40]] {
        let driver = MockDriver::new(&ram(RAM as usize), 0x1000, 32);
        let mut address = 0x2000;
        for (i, width) in widths.iter().enumerate() {
            let flags = if i + 1 < widths.len() { NEXT } else { 0 };
            driver.descriptor(i as u16, address, *width, flags, i as u16 + 1);
            address += u64::from(*width);
        }
        let total: u32 = widths.iter().sum();
        let bytes: Vec<u8> = (0..total as u8).collect();
        driver.mem.write_slice(&bytes, GuestAddress(0x2000)).unwrap();
        let mut chain = walk(&driver, false).unwrap();
        let header: [u8; 16] = chain.take_header(&driver.mem).unwrap();
        assert_eq!(header[..], bytes[..16], "{widths:?}");
        assert_eq!(chain.readable_len(), total - 16, "{widths:?}");
        assert_eq!(chain.take_header::<[u8; 32]>(&driver.mem).filter(|_| total < 48), None, "{widths:?}");
        let rest: Vec<u8> = std::iter::from_fn(|| chain.take_header(&driver.mem)).collect();
        let left = if total < 48 { &bytes[16..] } else { &bytes[48..] };
        assert_eq!(rest, left, "{widths:?}");
    }
}

#[test]
fn the_last_writable_byte_is_taken_once() {
    let driver = MockDriver::new(&ram(RAM as usize), 0x1000, 8);
    driver.descriptor(0, 0x2000, 5, NEXT, 1);
    driver.descriptor(1, 0x3000, 2, NEXT | WRITE, 2);
    driver.descriptor(2, 0x4000, 1, WRITE, 0);
    let mut chain = walk(&driver, false).unwrap();
    let taken: Vec<_> = std::iter::from_fn(|| chain.take_last_writable()).map(|address| address.0).collect();
    assert_eq!(taken, [0x4000, 0x3001, 0x3000]);
    assert_eq!((chain.readable_len(), chain.writable_len()), (5, 0));
}
