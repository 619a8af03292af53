// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The host's random numbers, put right into guest memory.

use std::io;

use vm_memory::GuestMemoryBackend;

use crate::ram::GuestRam;
use crate::virtio::chain::Segment;

/// Whether the host has random numbers: very early in its life, it has none yet.
pub(crate) fn is_ready() -> bool {
    let mut byte = 0u8;
    // SAFETY: fills one byte, which lives on this stack.
    unsafe { libc::getrandom((&raw mut byte).cast(), 1, libc::GRND_NONBLOCK) == 1 }
}

/// Fills ranges of guest memory from the first one on, `limit` bytes at most; gives how many bytes were written, and the error
/// that has ended it before.
pub(crate) fn fill(mem: &GuestRam, segments: &[Segment], limit: usize) -> (usize, io::Result<()>) {
    let mut written = 0usize;
    for segment in segments {
        let len = usize::try_from(segment.len).unwrap_or(usize::MAX).min(limit.saturating_sub(written));
        if len == 0 {
            continue;
        }
        for slice in mem.get_slices(segment.address, len) {
            // Chains are in RAM: they were checked when they were read.
            let Ok(slice) = slice else { return (written, Err(io::Error::other("not all of it is RAM"))) };
            let guard = slice.ptr_guard_mut();
            let mut done = 0;
            while done < slice.len() {
                let at = guard.as_ptr().wrapping_add(done);
                let left = slice.len().saturating_sub(done);
                // SAFETY: `left` bytes at `at` are the rest of a slice of guest memory, which is mapped while `mem` is borrowed;
                // the kernel writes to them, and nobody has a reference to them.
                match usize::try_from(unsafe { libc::getrandom(at.cast(), left, libc::GRND_NONBLOCK) }) {
                    Ok(bytes) => {
                        done = done.saturating_add(bytes);
                        written = written.saturating_add(bytes);
                    }
                    Err(_) => {
                        let error = io::Error::last_os_error();
                        if error.kind() != io::ErrorKind::Interrupted {
                            return (written, Err(error));
                        }
                    }
                }
            }
        }
    }
    (written, Ok(()))
}

#[cfg(test)]
mod tests {
    use vm_memory::{Bytes, GuestAddress};

    use super::*;

    fn segments(parts: &[(u64, u32)]) -> Vec<Segment> {
        parts.iter().map(|&(address, len)| Segment { address: GuestAddress(address), len }).collect()
    }

    #[test]
    fn all_bytes_up_to_the_limit_are_written_and_none_beside_them() {
        assert!(is_ready());
        let mem = GuestRam::from_ranges(&[(GuestAddress(0), 0x1000), (GuestAddress(0x1000), 0x1000)]).unwrap();
        // The second one lies across two regions.
        let (written, result) = fill(&mem, &segments(&[(0x100, 64), (0xf80, 0x100), (0x1800, 0x100)]), 64 + 0x100 + 32);
        assert_eq!((written, result.is_ok()), (64 + 0x100 + 32, true));
        for (at, len, is_filled) in [
            (0, 0x100, false),
            (0x100, 64, true),
            (0x140, 0x100, false),
            (0xf80, 0x80, true),
            (0x1000, 0x80, true),
            (0x1080, 0x100, false),
            (0x1800, 32, true),
            (0x1820, 0x100, false),
        ] {
            let mut bytes = vec![0; len];
            mem.read_slice(&mut bytes, GuestAddress(at)).unwrap();
            assert_eq!(bytes.iter().any(|byte| *byte != 0), is_filled, "{at:#x}");
        }
    }

    #[test]
    fn what_is_not_ram_ends_it() {
        let mem = GuestRam::from_ranges(&[(GuestAddress(0), 0x1000)]).unwrap();
        let (written, result) = fill(&mem, &segments(&[(0, 16), (0x2000, 16)]), 1000);
        assert!(written == 16 && result.is_err());
    }
}
