// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Gives pages of guest memory back to the host. They are there again, and zero, when somebody touches them.

use std::io;

use vm_memory::{GuestMemoryBackend, GuestMemoryRegion};

use crate::ram::GuestRam;

/// Bytes of a page, of the guest's and of the host's.
pub(crate) const PAGE: u64 = 4096;

/// Gives back all pages that lie wholly in both a range and RAM; gives how many bytes that were. What the guest's memory is made
/// of says how: what is this process's alone is forgotten, and a file that others have mapped too gets a hole.
///
/// # Errors
///
/// What the host said when it didn't take a page.
pub(crate) fn discard(mem: &GuestRam, address: u64, len: u64) -> io::Result<u64> {
    let end = address.saturating_add(len);
    let mut discarded = 0u64;
    for region in mem.iter() {
        let first = region.start_addr().0;
        let last = first.saturating_add(region.len());
        let Some(from) = address.max(first).checked_next_multiple_of(PAGE) else { continue };
        let to = end.min(last) & !PAGE.saturating_sub(1);
        let Some(bytes) = to.checked_sub(from).filter(|bytes| *bytes > 0) else { continue };
        let (Ok(offset), Ok(size)) = (usize::try_from(from.saturating_sub(first)), usize::try_from(bytes)) else {
            continue;
        };
        let is_shared = region.flags() & libc::MAP_SHARED != 0;
        let advice = if is_shared { libc::MADV_REMOVE } else { libc::MADV_DONTNEED };
        let at = region.as_ptr().wrapping_add(offset);
        // SAFETY: `size` bytes at `at` are inside of the region's mapping, which stays while `mem` is borrowed. The advice makes
        // its pages zero and leaves the mapping as it is. Guest memory is only touched by volatile and atomic access, and
        // nobody relies on what it holds.
        if unsafe { libc::madvise(at.cast(), size, advice) } < 0 {
            return Err(io::Error::last_os_error());
        }
        discarded = discarded.saturating_add(bytes);
    }
    Ok(discarded)
}

#[cfg(test)]
pub(crate) mod tests {
    use std::fs::File;
    use std::os::fd::FromRawFd;
    use std::os::unix::fs::MetadataExt;

    use vm_memory::{Bytes, FileOffset, GuestAddress, GuestRegionMmap, MmapRegion};

    use super::*;

    /// Guest RAM that is a file in memory, and another handle to that.
    pub(crate) fn shared_ram(size: usize) -> (GuestRam, File) {
        // SAFETY: takes a name that ends in 0 and a number, and gives a number.
        let fd = unsafe { libc::memfd_create(c"test".as_ptr(), libc::MFD_CLOEXEC) };
        assert!(fd >= 0);
        // SAFETY: the kernel has just made this descriptor, and nobody else knows of it.
        let file = unsafe { File::from_raw_fd(fd) };
        file.set_len(size as u64).unwrap();
        let region = MmapRegion::from_file(FileOffset::new(file.try_clone().unwrap(), 0), size).unwrap();
        let region = GuestRegionMmap::new(region, GuestAddress(0)).unwrap();
        (GuestRam::from_regions(vec![region]).unwrap(), file)
    }

    /// How many pages of guest memory the host has.
    pub(crate) fn resident(mem: &GuestRam) -> usize {
        mem.iter().map(|region| resident_in(mem, region.start_addr().0, region.len())).sum()
    }

    /// How many pages of a range of whole pages the host has.
    pub(crate) fn resident_in(mem: &GuestRam, address: u64, bytes: u64) -> usize {
        let bytes = usize::try_from(bytes).unwrap();
        let slice = mem.get_slice(GuestAddress(address), bytes).unwrap();
        let mut map = vec![0u8; bytes / 4096];
        // SAFETY: a mapping of ours, and a byte for each of its pages.
        let result = unsafe { libc::mincore(slice.ptr_guard_mut().as_ptr().cast(), bytes, map.as_mut_ptr()) };
        assert_eq!(result, 0);
        map.iter().filter(|page| **page & 1 != 0).count()
    }

    fn fill(mem: &GuestRam) {
        for region in mem.iter() {
            mem.write_slice(&vec![7; region.len() as usize], region.start_addr()).unwrap();
        }
    }

    #[test]
    fn whole_pages_go_and_what_is_beside_them_stays() {
        let (file, _) = shared_ram(0x8000);
        for mem in [GuestRam::from_ranges(&[(GuestAddress(0), 0x8000)]).unwrap(), file] {
            for (address, len, bytes, gone) in [
                (0x1000, 0x2000, 0x2000, 0x1000..0x3000),
                (0x1001, 0x2000, 0x1000, 0x2000..0x3000),
                (0x1fff, 0x1001, 0x1000, 0x2000..0x3000),
                (0x1001, 0x1ffe, 0, 0..0),
                (0, 0xfff, 0, 0..0),
                (0x7000, u64::MAX, 0x1000, 0x7000..0x8000),
                (0x8000, 0x1000, 0, 0..0),
                (u64::MAX, 1, 0, 0..0),
                (u64::MAX - 0xfff, 0x1000, 0, 0..0),
            ] {
                fill(&mem);
                assert_eq!(discard(&mem, address, len).unwrap(), bytes, "{address:#x} {len:#x}");
                let mut content = vec![0u8; 0x8000];
                assert_eq!(resident(&mem), 8 - usize::try_from(bytes / PAGE).unwrap(), "{address:#x} {len:#x}");
                mem.read_slice(&mut content, GuestAddress(0)).unwrap();
                for (at, byte) in content.iter().enumerate() {
                    assert_eq!(*byte == 0, gone.contains(&at), "{address:#x} {len:#x}: {at:#x}");
                }
            }
        }
    }

    #[test]
    fn a_range_over_two_regions_and_the_hole_between_them_is_both_parts() {
        let mem = GuestRam::from_ranges(&[(GuestAddress(0), 0x3000), (GuestAddress(0x6000), 0x3000)]).unwrap();
        fill(&mem);
        assert_eq!(discard(&mem, 0x2000, 0x5000).unwrap(), 0x2000);
        assert_eq!(resident(&mem), 4);
    }

    #[test]
    fn a_file_loses_its_pages_for_everybody() {
        let (mem, file) = shared_ram(0x8000);
        fill(&mem);
        let blocks = file.metadata().unwrap().blocks();
        discard(&mem, 0, 0x4000).unwrap();
        assert_eq!(file.metadata().unwrap().blocks(), blocks / 2);
    }
}
