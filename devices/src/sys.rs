// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The one place where this crate goes around the compiler: system calls on guest memory.

#![expect(unsafe_code, reason = "vectored I/O between a file and guest memory takes raw pointers")]

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, Ordering};

use vm_memory::GuestMemoryBackend;

use crate::GuestRam;
use crate::virtio::chain::Segment;

/// Which way data goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Direction {
    /// From the file into guest memory.
    Read,
    /// From guest memory into the file.
    Write,
}

/// Moves data between a file and guest memory without a copy of ours. Reused, so that a transfer allocates nothing.
#[derive(Debug, Default)]
pub(crate) struct VectoredIo {
    /// Empty outside of [`Self::transfer`], so no pointer outlives the memory that it was made from.
    iovecs: Vec<libc::iovec>,
}

// SAFETY: the vector is empty whenever no call is under way, and a call borrows it mutably; what is sent to another
// thread is a capacity and no pointer.
unsafe impl Send for VectoredIo {}

impl VectoredIo {
    /// Moves all of `segments` from or to `offset` in the file. Gives how many bytes were moved, with the error that
    /// ended it early, if any; the end of the file is `UnexpectedEof`, and a stop is `Interrupted`.
    pub(crate) fn transfer(
        &mut self,
        direction: Direction,
        file: &File,
        mem: &GuestRam,
        segments: &[Segment],
        offset: u64,
        stopped: &AtomicBool,
    ) -> (u32, io::Result<()>) {
        let result = self.gather(mem, segments);
        let outcome = match result {
            Ok(()) => self.run(direction, file, offset, stopped),
            Err(error) => (0, Err(error)),
        };
        self.iovecs.clear();
        outcome
    }

    fn gather(&mut self, mem: &GuestRam, segments: &[Segment]) -> io::Result<()> {
        self.iovecs.clear();
        for segment in segments {
            let count = usize::try_from(segment.len).map_err(io::Error::other)?;
            for slice in mem.get_slices(segment.address, count) {
                let slice = slice.map_err(io::Error::other)?;
                let guard = slice.ptr_guard_mut();
                self.iovecs.push(libc::iovec { iov_base: guard.as_ptr().cast(), iov_len: slice.len() });
            }
        }
        Ok(())
    }

    fn run(&mut self, direction: Direction, file: &File, offset: u64, stopped: &AtomicBool) -> (u32, io::Result<()>) {
        let (mut done, mut first) = (0u32, 0usize);
        loop {
            let Some(rest) = self.iovecs.get(first..).filter(|rest| !rest.is_empty()) else { return (done, Ok(())) };
            let at = offset.checked_add(u64::from(done)).and_then(|at| libc::off_t::try_from(at).ok());
            let Some(at) = at else { return (done, Err(io::ErrorKind::FileTooLarge.into())) };
            if stopped.load(Ordering::Acquire) {
                return (done, Err(io::ErrorKind::Interrupted.into()));
            }
            // A piece at a time, so that a request of 4 GiB doesn't hold up a stop.
            let mut room = PIECE;
            let fits = |iovec: &&libc::iovec| room.checked_sub(iovec.iov_len).inspect(|left| room = *left).is_some();
            let count = rest.iter().take(MAX_IOVECS).take_while(fits).count();
            let clipped = rest.first().map(|iovec| libc::iovec { iov_len: iovec.iov_len.min(PIECE), ..*iovec });
            let rest = if count == 0 { clipped.as_slice() } else { rest };
            let count = libc::c_int::try_from(count.max(1)).unwrap_or(libc::c_int::MAX);
            let fd = file.as_raw_fd();
            let moved = match direction {
                // SAFETY: `rest` holds at least `count` iovecs. Each was made by `gather` from a slice of `mem`, which
                // the caller of `transfer` borrows until it returns; guest memory is never seen as a reference, so
                // bytes that change below one do no harm. The descriptor is borrowed from an open file.
                Direction::Read => unsafe { libc::preadv(fd, rest.as_ptr(), count, at) },
                // SAFETY: as above.
                Direction::Write => unsafe { libc::pwritev(fd, rest.as_ptr(), count, at) },
            };
            match usize::try_from(moved) {
                Ok(0) => return (done, Err(io::ErrorKind::UnexpectedEof.into())),
                Ok(moved) => {
                    done = done.saturating_add(u32::try_from(moved).unwrap_or(u32::MAX));
                    first = self.advance(first, moved);
                }
                Err(_) => {
                    let error = io::Error::last_os_error();
                    if error.kind() != io::ErrorKind::Interrupted {
                        return (done, Err(error));
                    }
                }
            }
        }
    }

    /// Drops `bytes` from the iovecs from `first` on; gives the first one that has any left.
    fn advance(&mut self, mut first: usize, mut bytes: usize) -> usize {
        while let Some(iovec) = self.iovecs.get_mut(first) {
            if let Some(left) = iovec.iov_len.checked_sub(bytes).filter(|left| *left > 0) {
                iovec.iov_base = iovec.iov_base.wrapping_byte_add(bytes);
                iovec.iov_len = left;
                break;
            }
            bytes = bytes.saturating_sub(iovec.iov_len);
            first = first.saturating_add(1);
        }
        first
    }
}

/// The most bytes that one call moves.
const PIECE: usize = 1 << 20;

/// The most that one call takes (IOV_MAX in Linux).
const MAX_IOVECS: usize = 1024;

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::unix::fs::FileExt;

    use vm_memory::{Bytes, GuestAddress};

    use super::*;

    static GO: AtomicBool = AtomicBool::new(false);

    fn segments(parts: &[(u64, u32)]) -> Vec<Segment> {
        parts.iter().map(|&(address, len)| Segment { address: GuestAddress(address), len }).collect()
    }

    #[test]
    fn bytes_go_both_ways_and_only_where_they_belong() {
        let mem = GuestRam::from_ranges(&[(GuestAddress(0), 0x1000), (GuestAddress(0x1000), 0x1000)]).unwrap();
        let mut file = tempfile::tempfile().unwrap();
        let content: Vec<u8> = (0..200).collect();
        file.write_all(&content).unwrap();
        let mut io = VectoredIo::default();
        // The second one lies across two regions.
        let parts = segments(&[(0x10, 50), (0xfff, 100)]);
        let (done, result) = io.transfer(Direction::Read, &file, &mem, &parts, 20, &GO);
        assert_eq!((done, result.is_ok()), (150, true));
        let mut seen = [0; 102];
        mem.read_slice(&mut seen, GuestAddress(0xffe)).unwrap();
        assert_eq!((seen[0], &seen[1..101], seen[101]), (0, &content[70..170], 0));

        let (done, result) = io.transfer(Direction::Write, &file, &mem, &parts, 1000, &GO);
        assert_eq!((done, result.is_ok()), (150, true));
        let mut back = [0; 150];
        file.read_exact_at(&mut back, 1000).unwrap();
        assert_eq!(back, content[20..170]);
        assert!(io.iovecs.is_empty());
    }

    #[test]
    fn the_end_of_the_file_is_an_error_that_tells_how_far_it_went() {
        let mem = GuestRam::from_ranges(&[(GuestAddress(0), 0x1000)]).unwrap();
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(&[1; 100], 0).unwrap();
        let parts = segments(&[(0, 64), (0x100, 64)]);
        let (done, result) = VectoredIo::default().transfer(Direction::Read, &file, &mem, &parts, 0, &GO);
        assert_eq!((done, result.unwrap_err().kind()), (100, io::ErrorKind::UnexpectedEof));
    }

    #[test]
    fn a_segment_outside_of_ram_moves_nothing() {
        let mem = GuestRam::from_ranges(&[(GuestAddress(0), 0x1000)]).unwrap();
        let file = tempfile::tempfile().unwrap();
        let parts = segments(&[(0, 64), (0xff0, 64)]);
        let (done, result) = VectoredIo::default().transfer(Direction::Write, &file, &mem, &parts, 0, &GO);
        assert!(done == 0 && result.is_err());
        assert_eq!(file.metadata().unwrap().len(), 0);
    }

    #[test]
    fn more_segments_than_one_call_takes_are_all_moved() {
        let mem = GuestRam::from_ranges(&[(GuestAddress(0), 0x10000)]).unwrap();
        let file = tempfile::tempfile().unwrap();
        let parts: Vec<_> = (0..3000).map(|i| Segment { address: GuestAddress(i * 8), len: 3 }).collect();
        let (done, result) = VectoredIo::default().transfer(Direction::Write, &file, &mem, &parts, 0, &GO);
        assert_eq!((done, result.is_ok(), file.metadata().unwrap().len()), (9000, true, 9000));
    }

    #[test]
    fn a_large_request_is_moved_whole_unless_it_is_stopped() {
        let mem = GuestRam::from_ranges(&[(GuestAddress(0), 8 << 20)]).unwrap();
        let file = tempfile::tempfile().unwrap();
        file.set_len(8 << 20).unwrap();
        file.write_all_at(&[7; 5], (8 << 20) - 5).unwrap();
        let parts = segments(&[(0, 5 << 20), (5 << 20, 100), ((5 << 20) + 100, (3 << 20) - 100)]);
        let (done, result) = VectoredIo::default().transfer(Direction::Read, &file, &mem, &parts, 0, &GO);
        assert_eq!((done, result.is_ok()), (8 << 20, true));
        assert_eq!(mem.read_obj::<[u8; 5]>(GuestAddress((8 << 20) - 5)).unwrap(), [7; 5]);
        let stopped = AtomicBool::new(true);
        let (done, result) = VectoredIo::default().transfer(Direction::Read, &file, &mem, &parts, 0, &stopped);
        assert_eq!((done, result.unwrap_err().kind()), (0, io::ErrorKind::Interrupted));
    }
}
