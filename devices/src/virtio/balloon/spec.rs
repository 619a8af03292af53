// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Numbers of the specification (virtio 1.3 §5.5).

/// Traditional memory balloon device.
pub(super) const DEVICE_TYPE: u32 = 5;

/// Features (§5.5.3).
pub(super) const F_STATS_VQ: u64 = 1 << 1;
pub(super) const F_DEFLATE_ON_OOM: u64 = 1 << 2;
pub(super) const F_FREE_PAGE_HINT: u64 = 1 << 3;
pub(super) const F_PAGE_POISON: u64 = 1 << 4;
pub(super) const F_PAGE_REPORTING: u64 = 1 << 5;

/// Where the fields of the configuration space are (§5.5.4).
pub(super) const NUM_PAGES: u64 = 0;
pub(super) const ACTUAL: u64 = 4;
pub(super) const HINT_COMMAND: u64 = 8;
pub(super) const POISON: u64 = 12;

/// Commands of free page hinting (§5.5.6.6): there are no more hints, and the hinted pages may be used again. Larger ones
/// ask for hints.
pub(super) const HINTS_STOP: u32 = 0;
pub(super) const HINTS_DONE: u32 = 1;
pub(super) const HINTS_FIRST: u32 = 2;

/// A page number is one of pages of 4 KiB, whatever pages the guest has (§5.5.6).
pub(super) const PAGE_SHIFT: u32 = 12;

/// What a queue is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    Inflate,
    Deflate,
    Statistics,
    Hints,
    Reports,
}

impl Role {
    /// What queue `index` is for, with the features that the driver has accepted. The specification gives each queue a number
    /// (§5.5.2): hints are the fourth, reports the fifth. A Linux driver counts only those that there are. So each queue behind the
    /// first ones that can be one of reports is one.
    pub(super) fn of(index: u16, features: u64) -> Option<Self> {
        let accepted = |feature| features & feature != 0;
        match index {
            0 => Some(Self::Inflate),
            1 => Some(Self::Deflate),
            2 if accepted(F_STATS_VQ) => Some(Self::Statistics),
            3 if accepted(F_FREE_PAGE_HINT) => Some(Self::Hints),
            2..=4 if accepted(F_PAGE_REPORTING) => Some(Self::Reports),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queues_are_found_by_their_number_and_by_counting() {
        use Role::{Deflate, Hints, Inflate, Reports, Statistics};
        let roles = |features| [0, 1, 2, 3, 4, 5].map(|index| Role::of(index, features));
        let first = [Some(Inflate), Some(Deflate)];
        for (features, others) in [
            (0, [None, None, None, None]),
            (F_STATS_VQ, [Some(Statistics), None, None, None]),
            (F_PAGE_REPORTING, [Some(Reports), Some(Reports), Some(Reports), None]),
            (F_STATS_VQ | F_PAGE_REPORTING, [Some(Statistics), Some(Reports), Some(Reports), None]),
            (F_STATS_VQ | F_FREE_PAGE_HINT, [Some(Statistics), Some(Hints), None, None]),
            (F_STATS_VQ | F_FREE_PAGE_HINT | F_PAGE_REPORTING, [Some(Statistics), Some(Hints), Some(Reports), None]),
        ] {
            assert_eq!(roles(features), [&first[..], &others].concat()[..], "{features:#x}");
        }
    }
}
