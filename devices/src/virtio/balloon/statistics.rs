// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What a guest says of its memory (virtio 1.3 §5.5.6.3).

use std::time::Instant;

/// Bytes of a statistic: a tag and a value.
const ENTRY: usize = 10;
/// The most of them that are read of a buffer: four times what the specification knows.
const MAX_ENTRIES: usize = 64;
/// The most bytes that are read of a buffer.
pub(super) const MAX_BYTES: usize = ENTRY * MAX_ENTRIES;

/// What the guest has said of its memory. All of it is the guest's word; what it has not said, or says by a tag that is unknown
/// here, is `None`.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Statistics {
    /// When it came.
    pub at: Instant,
    /// Bytes that were swapped in.
    pub swap_in: Option<u64>,
    /// Bytes that were swapped out.
    pub swap_out: Option<u64>,
    /// Page faults that needed I/O.
    pub major_faults: Option<u64>,
    /// Page faults that didn't.
    pub minor_faults: Option<u64>,
    /// Bytes that nothing uses.
    pub free_memory: Option<u64>,
    /// Bytes of memory in all, without those in the balloon.
    pub total_memory: Option<u64>,
    /// Bytes that programs could have without swapping.
    pub available_memory: Option<u64>,
    /// Bytes of files that can be dropped at once.
    pub disk_caches: Option<u64>,
    /// Huge pages that were had.
    pub hugetlb_allocations: Option<u64>,
    /// Huge pages that were wanted and not had.
    pub hugetlb_failures: Option<u64>,
    /// Programs that were killed for want of memory.
    pub oom_kills: Option<u64>,
    /// How often somebody had to wait for memory.
    pub allocation_stalls: Option<u64>,
    /// Pages that were looked at in the background.
    pub async_scans: Option<u64>,
    /// Pages that were looked at by somebody who waited.
    pub direct_scans: Option<u64>,
    /// Pages that were made free in the background.
    pub async_reclaims: Option<u64>,
    /// Pages that were made free by somebody who waited.
    pub direct_reclaims: Option<u64>,
}

impl Statistics {
    fn none(at: Instant) -> Self {
        Self {
            at,
            swap_in: None,
            swap_out: None,
            major_faults: None,
            minor_faults: None,
            free_memory: None,
            total_memory: None,
            available_memory: None,
            disk_caches: None,
            hugetlb_allocations: None,
            hugetlb_failures: None,
            oom_kills: None,
            allocation_stalls: None,
            async_scans: None,
            direct_scans: None,
            async_reclaims: None,
            direct_reclaims: None,
        }
    }

    /// Reads the entries of a buffer. What is no whole one is left out; of two with one tag, the later one counts.
    pub(super) fn parse(bytes: &[u8], at: Instant) -> Self {
        let mut this = Self::none(at);
        for entry in bytes.chunks_exact(ENTRY).take(MAX_ENTRIES) {
            let Some((tag, value)) = entry.split_first_chunk() else { continue };
            let Some(value) = value.first_chunk() else { continue };
            if let Some(field) = this.field(u16::from_le_bytes(*tag)) {
                *field = Some(u64::from_le_bytes(*value));
            }
        }
        this
    }

    /// Where the value of a tag goes (§5.5.6.4).
    fn field(&mut self, tag: u16) -> Option<&mut Option<u64>> {
        Some(match tag {
            0 => &mut self.swap_in,
            1 => &mut self.swap_out,
            2 => &mut self.major_faults,
            3 => &mut self.minor_faults,
            4 => &mut self.free_memory,
            5 => &mut self.total_memory,
            6 => &mut self.available_memory,
            7 => &mut self.disk_caches,
            8 => &mut self.hugetlb_allocations,
            9 => &mut self.hugetlb_failures,
            10 => &mut self.oom_kills,
            11 => &mut self.allocation_stalls,
            12 => &mut self.async_scans,
            13 => &mut self.direct_scans,
            14 => &mut self.async_reclaims,
            15 => &mut self.direct_reclaims,
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(tag: u16, value: u64) -> Vec<u8> {
        [&tag.to_le_bytes()[..], &value.to_le_bytes()].concat()
    }

    #[test]
    fn each_tag_has_its_place() {
        let at = Instant::now();
        let bytes: Vec<u8> = (0..16).flat_map(|tag| entry(tag, u64::from(tag) + 100)).collect();
        let all = Statistics::parse(&bytes, at);
        assert_eq!((all.swap_in, all.free_memory, all.direct_reclaims), (Some(100), Some(104), Some(115)));
        for tag in 0..16 {
            let mut one = Statistics::parse(&entry(tag, 7), at);
            assert_eq!(one.field(tag), Some(&mut Some(7)), "{tag}");
            *one.field(tag).unwrap() = None;
            assert_eq!(one, Statistics::none(at), "{tag}");
        }
    }

    #[test]
    fn what_is_unknown_or_no_whole_entry_is_left_out() {
        let at = Instant::now();
        let free = |value| Statistics { free_memory: Some(value), ..Statistics::none(at) };
        for (bytes, expected) in [
            (vec![], Statistics::none(at)),
            (entry(16, 1), Statistics::none(at)),
            (entry(u16::MAX, u64::MAX), Statistics::none(at)),
            (entry(4, 5)[..9].to_vec(), Statistics::none(at)),
            ([entry(4, 5), vec![5; 9]].concat(), free(5)),
            ([entry(99, 1), entry(4, 5), entry(4, u64::MAX)].concat(), free(u64::MAX)),
            ([entry(4, 5).repeat(MAX_ENTRIES), entry(4, 6)].concat(), free(5)),
        ] {
            assert_eq!(Statistics::parse(&bytes, at), expected, "{bytes:?}");
        }
    }
}
