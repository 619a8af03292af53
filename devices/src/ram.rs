// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Guest RAM, and the quick way to a piece of it.

use vm_memory::{
    GuestAddress, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion, MemoryRegionAddress, VolatileSlice,
};

/// Guest RAM as all devices see it: a few regions that don't touch each other.
pub type GuestRam = GuestMemoryMmap<()>;

/// `len` bytes at `address`, if all of them lie in one region. There are few regions: to look at each of them in turn is
/// quicker than any search.
pub(crate) fn slice(mem: &GuestRam, address: GuestAddress, len: usize) -> Option<VolatileSlice<'_>> {
    mem.iter().find_map(|region| {
        let offset = address.0.checked_sub(region.start_addr().0)?;
        region.get_slice(MemoryRegionAddress(offset), len).ok()
    })
}

/// Whether there is such a slice, which takes less time to tell than to make one.
pub(crate) fn holds(mem: &GuestRam, address: GuestAddress, len: u64) -> bool {
    mem.iter().any(|region| {
        let offset = address.0.wrapping_sub(region.start_addr().0);
        region.len().checked_sub(offset).is_some_and(|left| len <= left)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slice_is_found_where_all_of_it_is_in_one_region() {
        let mem = GuestRam::from_ranges(&[(GuestAddress(0), 0x2000), (GuestAddress(0x4000), 0x2000)]).unwrap();
        let found = |address, len| slice(&mem, GuestAddress(address), len).map(|slice| slice.len());
        for (address, len) in [(0, 0x2000), (0x1fff, 1), (0x4000, 0x2000), (0x5ffc, 4)] {
            assert_eq!(found(address, len), Some(len), "{address:#x}, {len:#x}");
            assert!(holds(&mem, GuestAddress(address), len as u64), "{address:#x}, {len:#x}");
        }
        let outside = [
            (0, 0x2001),
            (0x1fff, 2),
            (0x2000, 1),
            (0x3fff, 2),
            (0x5fff, 2),
            (0x6000, 1),
            (u64::MAX, 1),
            (1, usize::MAX),
        ];
        for (address, len) in outside {
            assert_eq!(found(address, len), None, "{address:#x}, {len:#x}");
            assert!(!holds(&mem, GuestAddress(address), len as u64), "{address:#x}, {len:#x}");
        }
    }
}
