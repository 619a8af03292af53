// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Guest RAM: how much there may be, and where it lies.

use std::num::NonZeroU64;

use vm_memory::{GuestAddress, GuestMemoryMmap};

use crate::layout;

/// Guest RAM as all crates see it. Access is volatile or atomic; there is never a reference into it.
pub type GuestRam = GuestMemoryMmap<()>;

/// One MiB in bytes.
pub const MIB: u64 = 1 << 20;

/// A range of guest-physical addresses that is RAM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RamRange {
    /// The first address.
    pub start: GuestAddress,
    /// Bytes. Never zero: a range without bytes is left out.
    pub size: NonZeroU64,
}

impl RamRange {
    fn new(start: u64, size: u64) -> Option<Self> {
        NonZeroU64::new(size).map(|size| Self { start: GuestAddress(start), size })
    }

    /// The first address behind the range.
    pub fn end(&self) -> u64 {
        self.start.0.saturating_add(self.size.get())
    }
}

/// Splits `size` bytes of RAM around the hole below 4 GiB that belongs to devices: one range from address 0, and a
/// second one from 4 GiB for what doesn't fit below the hole.
pub fn ram_ranges(size: u64) -> Vec<RamRange> {
    let low = size.min(layout::MMIO_HOLE_START);
    let high = size.saturating_sub(low);
    RamRange::new(0, low).into_iter().chain(RamRange::new(layout::MMIO_HOLE_END, high)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ram_is_split_around_the_hole_and_no_byte_is_lost() {
        let gib = 1 << 30;
        let cases: &[(u64, &[(u64, u64)])] = &[
            (32 * MIB, &[(0, 32 * MIB)]),
            (3 * gib - 1, &[(0, 3 * gib - 1)]),
            (3 * gib, &[(0, 3 * gib)]),
            (3 * gib + 4096, &[(0, 3 * gib), (4 * gib, 4096)]),
            (5 * gib, &[(0, 3 * gib), (4 * gib, 2 * gib)]),
            (512 * gib, &[(0, 3 * gib), (4 * gib, 509 * gib)]),
            (0, &[]),
        ];
        for (size, expected) in cases {
            let ranges: Vec<_> = ram_ranges(*size).iter().map(|r| (r.start.0, r.size.get())).collect();
            assert_eq!(&ranges, expected, "{size} bytes");
            assert_eq!(ranges.iter().map(|r| r.1).sum::<u64>(), *size);
        }
    }
}
