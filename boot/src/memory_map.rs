// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The memory map that a kernel is handed: where RAM is, and which part of it is taken.

use arch::{GuestRam, layout};
use vm_memory::{Address, GuestMemoryBackend, GuestMemoryRegion};

/// What a range of addresses is; the numbers are those of E820 and of Xen's map alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum Kind {
    Ram = 1,
    Reserved = 2,
}

/// A range of guest-physical addresses. Never empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) start: u64,
    pub(crate) size: u64,
    pub(crate) kind: Kind,
}

/// The map, by address.
#[derive(Debug)]
pub(crate) struct MemoryMap {
    entries: Vec<Entry>,
    low_end: u64,
}

impl MemoryMap {
    /// The map of a guest's RAM, in which firmware's area below 1 MiB is taken; and so is PCI's configuration space, whether
    /// there is any or not: a guest uses it only where no map says that it may be something else (PCI Firmware 3.3 §4.1.2).
    pub(crate) fn of(ram: &GuestRam) -> Self {
        let mut ranges: Vec<(u64, u64)> = Vec::new();
        for region in ram.iter() {
            let start = region.start_addr().raw_value();
            // A region is never empty, and its last address fits.
            let end = region.last_addr().raw_value().saturating_add(1);
            match ranges.last_mut() {
                Some((_, last)) if *last == start => *last = end,
                _ => ranges.push((start, end)),
            }
        }
        let low_end = ranges.first().filter(|(start, _)| *start == 0).map_or(0, |(_, end)| *end);

        let mut entries = Vec::new();
        let taken = [(layout::EBDA_START, layout::HIGH_MEMORY_START)];
        for (start, end) in ranges {
            let mut next = start;
            for (from, to) in taken.map(|(from, to)| (from.clamp(start, end), to.clamp(start, end))) {
                push(&mut entries, next, from, Kind::Ram);
                push(&mut entries, from, to, Kind::Reserved);
                next = next.max(to);
            }
            push(&mut entries, next, end, Kind::Ram);
        }
        let ecam = Entry { start: layout::PCI_ECAM_START, size: layout::PCI_ECAM_SIZE, kind: Kind::Reserved };
        let at = entries.partition_point(|entry: &Entry| entry.start < ecam.start);
        entries.insert(at, ecam);
        Self { entries, low_end: low_end.min(layout::MMIO_HOLE_START) }
    }

    /// All ranges.
    pub(crate) fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// Where the RAM that starts at address 0 ends, below the hole.
    pub(crate) fn low_end(&self) -> u64 {
        self.low_end
    }
}

fn push(entries: &mut Vec<Entry>, start: u64, end: u64, kind: Kind) {
    match end.checked_sub(start) {
        None | Some(0) => {}
        Some(size) => entries.push(Entry { start, size, kind }),
    }
}

#[cfg(test)]
mod tests {
    use arch::memory::{MIB, ram_ranges};
    use vm_memory::GuestAddress;

    use super::*;

    fn map(ranges: &[(u64, usize)]) -> MemoryMap {
        let ranges: Vec<_> = ranges.iter().map(|(start, size)| (GuestAddress(*start), *size)).collect();
        MemoryMap::of(&GuestRam::from_ranges(&ranges).unwrap())
    }

    fn entries(map: &MemoryMap) -> Vec<(u64, u64, Kind)> {
        map.entries().iter().map(|entry| (entry.start, entry.start + entry.size, entry.kind)).collect()
    }

    const ECAM: (u64, u64, Kind) = (0xe000_0000, 0xe010_0000, Kind::Reserved);

    #[test]
    fn ram_is_ram_but_for_the_area_of_firmware() {
        let low =
            [(0, 0x9_fc00, Kind::Ram), (0x9_fc00, 0x10_0000, Kind::Reserved), (0x10_0000, 0x800_0000, Kind::Ram), ECAM];
        assert_eq!(entries(&map(&[(0, 0x800_0000)])), low);
        assert_eq!(map(&[(0, 0x800_0000)]).low_end(), 0x800_0000);
    }

    #[test]
    fn regions_that_touch_are_one_range_and_high_ram_is_another() {
        let split = map(&[(0, 0x200_0000), (0x200_0000, 0x100_0000), (1 << 32, 0x1000)]);
        assert_eq!(
            entries(&split),
            [
                (0, 0x9_fc00, Kind::Ram),
                (0x9_fc00, 0x10_0000, Kind::Reserved),
                (0x10_0000, 0x300_0000, Kind::Ram),
                ECAM,
                (1 << 32, (1 << 32) + 0x1000, Kind::Ram),
            ]
        );
        assert_eq!(split.low_end(), 0x300_0000);
    }

    #[test]
    fn a_large_guest_has_all_of_its_ram() {
        let ranges: Vec<_> =
            ram_ranges(5 << 30).iter().map(|range| (range.start.0, range.size.get() as usize)).collect();
        let map = map(&ranges);
        let ram: u64 = map.entries().iter().filter(|entry| entry.kind == Kind::Ram).map(|entry| entry.size).sum();
        assert_eq!(ram, (5 << 30) - (0x10_0000 - 0x9_fc00));
        assert_eq!(map.low_end(), 3072 * MIB);
    }

    #[test]
    fn tiny_or_odd_ram_is_no_reason_to_fail() {
        assert_eq!(entries(&map(&[(0, 0x1000)])), [(0, 0x1000, Kind::Ram), ECAM]);
        assert_eq!(
            entries(&map(&[(0, 0xa_0000)])),
            [(0, 0x9_fc00, Kind::Ram), (0x9_fc00, 0xa_0000, Kind::Reserved), ECAM]
        );
        assert_eq!(map(&[(0x20_0000, 0x1000)]).low_end(), 0);
        assert_eq!(entries(&map(&[(0x20_0000, 0x1000)])), [(0x20_0000, 0x20_1000, Kind::Ram), ECAM]);
    }
}
