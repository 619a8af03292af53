// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What the host says of a file or block device, and what it can do to it but read and write.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

/// Frees the blocks of a range, which reads as zeros then; the file keeps its size.
pub(crate) const PUNCH_HOLE: libc::c_int = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
/// Makes a range read as zeros and keeps its blocks; the file keeps its size.
pub(crate) const ZERO_RANGE: libc::c_int = libc::FALLOC_FL_ZERO_RANGE | libc::FALLOC_FL_KEEP_SIZE;

/// `_IO(0x12, 119)` of `linux/fs.h`: two numbers of 64 bits, offset and length.
const BLKDISCARD: libc::Ioctl = 0x1277;

/// What direct I/O demands, in bytes: powers of two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Alignment {
    /// Of a buffer's address.
    pub(crate) memory: u32,
    /// Of an offset and a length.
    pub(crate) offset: u32,
}

/// Block sizes of a block device, in bytes. Zero where the host doesn't know.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct BlockSizes {
    pub(crate) logical: u32,
    pub(crate) physical: u32,
    pub(crate) minimum_io: u32,
    pub(crate) optimal_io: u32,
}

/// What direct I/O on `file` demands, where the host knows (`STATX_DIOALIGN`, Linux 6.1).
pub(crate) fn direct_alignment(file: &File) -> Option<Alignment> {
    // SAFETY: every field of the structure is a number, for which zero is a value.
    let mut statx: libc::statx = unsafe { std::mem::zeroed() };
    let (fd, flags) = (file.as_raw_fd(), libc::AT_EMPTY_PATH);
    // SAFETY: the path is an empty string that ends in a zero, the structure is the kernel's to fill during the call, and
    // the descriptor is borrowed from an open file.
    let result = unsafe { libc::statx(fd, c"".as_ptr(), flags, libc::STATX_DIOALIGN, &raw mut statx) };
    let (memory, offset) = (statx.stx_dio_mem_align, statx.stx_dio_offset_align);
    let known = result == 0 && statx.stx_mask & libc::STATX_DIOALIGN != 0;
    (known && memory.is_power_of_two() && offset.is_power_of_two()).then_some(Alignment { memory, offset })
}

/// The block sizes of a block device.
pub(crate) fn block_sizes(file: &File) -> BlockSizes {
    let number = |request| {
        let mut value: libc::c_uint = 0;
        // SAFETY: each of these requests fills an integer of this size (`linux/fs.h`), which lives on this stack.
        let result = unsafe { libc::ioctl(file.as_raw_fd(), request, &raw mut value) };
        if result == 0 { value } else { 0 }
    };
    BlockSizes {
        logical: number(libc::BLKSSZGET),
        physical: number(libc::BLKPBSZGET),
        minimum_io: number(libc::BLKIOMIN),
        optimal_io: number(libc::BLKIOOPT),
    }
}

/// Whether the file is in memory, and nothing ever waits for a disk.
pub(crate) fn is_in_memory(file: &File) -> bool {
    // SAFETY: every field of the structure is a number, for which zero is a value.
    let mut statfs: libc::statfs = unsafe { std::mem::zeroed() };
    // SAFETY: the structure is the kernel's to fill during the call, and the descriptor is borrowed from an open file.
    let result = unsafe { libc::fstatfs(file.as_raw_fd(), &raw mut statfs) };
    result == 0 && statfs.f_type == libc::TMPFS_MAGIC
}

/// Makes calls on the file wait, however it was opened: `io_uring` gives up on one that must not.
pub(crate) fn set_blocking(file: &File) -> io::Result<()> {
    // SAFETY: numbers, and a descriptor that is borrowed from an open file.
    let flags = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_GETFL) };
    if flags < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: as above.
    check(unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETFL, flags & !libc::O_NONBLOCK) })
}

/// Changes how a range of the file is kept: `mode` is [`PUNCH_HOLE`] or [`ZERO_RANGE`].
pub(crate) fn allocate(file: &File, mode: libc::c_int, offset: u64, len: u64) -> io::Result<()> {
    let (offset, len) = (signed(offset)?, signed(len)?);
    // SAFETY: numbers, and a descriptor that is borrowed from an open file.
    check(unsafe { libc::fallocate(file.as_raw_fd(), mode, offset, len) })
}

/// Tells a block device that nobody wants a range any more.
pub(crate) fn discard(file: &File, offset: u64, len: u64) -> io::Result<()> {
    let range = [offset, len];
    // SAFETY: the request reads two numbers of 64 bits, which live on this stack.
    check(unsafe { libc::ioctl(file.as_raw_fd(), BLKDISCARD, range.as_ptr()) })
}

fn signed(value: u64) -> io::Result<libc::off_t> {
    libc::off_t::try_from(value).map_err(|_| io::ErrorKind::FileTooLarge.into())
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{FileExt, MetadataExt};

    use super::*;

    #[test]
    fn a_hole_reads_as_zeros_and_a_range_beyond_the_end_grows_nothing() {
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(&[7; 16384], 0).unwrap();
        allocate(&file, PUNCH_HOLE, 4096, 4096).unwrap();
        allocate(&file, PUNCH_HOLE, 1 << 20, 4096).unwrap();
        let mut back = [1; 16384];
        file.read_exact_at(&mut back, 0).unwrap();
        assert_eq!(back[4096..8192], [0; 4096]);
        assert_eq!((back[4095], back[8192], file.metadata().unwrap().size()), (7, 7, 16384));
        assert!(allocate(&file, PUNCH_HOLE, u64::MAX, 1).is_err());
    }

    #[test]
    fn a_file_is_no_block_device() {
        let file = tempfile::tempfile().unwrap();
        assert_eq!(block_sizes(&file), BlockSizes::default());
        assert!(discard(&file, 0, 512).is_err());
    }
}
