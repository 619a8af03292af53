// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! An image whose bytes are the disk's: a file, or a block device.
//!
//! What comes here from the guest are ranges of the image, checked against its capacity. Nothing that it does makes a file
//! grow, unless the host shrinks it behind our back and the guest writes where it was.

use std::fs::File;
use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::sync::atomic::{AtomicBool, Ordering};

use super::image::BlockError;
use super::options::Topology;
use crate::sys::disk::{self, Alignment};
use crate::sys::transfer::{Direction, Transfer};

/// The page cache's unit, and the block size of most file systems.
const PAGE: u32 = 4096;

/// The host's side of a disk.
#[derive(Debug)]
pub(super) struct Raw {
    file: File,
    is_block_device: bool,
    /// What direct I/O demands; `None` when the page cache is used.
    alignment: Option<Alignment>,
    /// Nothing waits for a disk.
    in_memory: bool,
    /// The page cache tells when it would have to wait.
    nowait: AtomicBool,
    /// The file system makes zeros without freeing blocks.
    zero_range: AtomicBool,
    /// Tests pretend with it that the host has no room.
    #[cfg(test)]
    pub(super) full: AtomicBool,
    /// Tests pretend with it that the host can't make anything durable.
    #[cfg(test)]
    pub(super) forgetful: AtomicBool,
    /// Tests hold up with it what the threads of a pool do.
    #[cfg(test)]
    pub(super) gate: std::sync::Mutex<()>,
}

impl Raw {
    pub(super) fn new(file: File, direct: bool) -> io::Result<Self> {
        disk::set_blocking(&file)?;
        let metadata = file.metadata()?;
        let is_block_device = metadata.file_type().is_block_device();
        let alignment = direct.then(|| {
            disk::direct_alignment(&file).unwrap_or_else(|| {
                let logical = disk::block_sizes(&file).logical;
                let file_system = u32::try_from(metadata.blksize()).unwrap_or(PAGE).max(PAGE);
                let block = if logical == 0 { file_system } else { logical };
                Alignment { memory: block, offset: block }
            })
        });
        let in_memory = disk::is_in_memory(&file);
        let yes = || AtomicBool::new(true);
        Ok(Self {
            file,
            is_block_device,
            alignment,
            in_memory,
            nowait: yes(),
            zero_range: yes(),
            #[cfg(test)]
            full: AtomicBool::new(false),
            #[cfg(test)]
            forgetful: AtomicBool::new(false),
            #[cfg(test)]
            gate: std::sync::Mutex::default(),
        })
    }

    pub(super) fn file(&self) -> &File {
        &self.file
    }

    /// Unlike the metadata, the end of a block device is its size too.
    pub(super) fn size(&self) -> io::Result<u64> {
        (&self.file).seek(SeekFrom::End(0))
    }

    /// Makes the file larger.
    pub(super) fn grow(&self, size: u64) -> Result<(), BlockError> {
        if self.size().is_ok_and(|now| now == size) {
            return Ok(());
        }
        if self.is_block_device {
            return Err(BlockError::FixedSize);
        }
        self.file.set_len(size).map_err(BlockError::CantGrow)
    }

    /// What direct I/O demands; `None` when the page cache is used.
    pub(super) fn alignment(&self) -> Option<Alignment> {
        self.alignment
    }

    pub(super) fn is_block_device(&self) -> bool {
        self.is_block_device
    }

    pub(super) fn is_direct(&self) -> bool {
        self.alignment.is_some()
    }

    /// What the host says of block sizes. A file takes any sector, but the page cache and the file system below work on
    /// pages, so that is what a guest should align to.
    pub(super) fn topology(&self) -> Topology {
        let demanded = self.alignment.map_or(512, |alignment| alignment.offset).max(512);
        if !self.is_block_device {
            return topology(demanded, PAGE.max(demanded), PAGE, 0);
        }
        let disk::BlockSizes { logical, physical, minimum_io, optimal_io } = disk::block_sizes(&self.file);
        topology(logical.max(demanded), physical, minimum_io, optimal_io)
    }

    /// Whether ranges can be discarded and made zero without writing them.
    pub(super) fn can_discard(&self) -> bool {
        // A hole behind the end changes nothing. A block device that can't discard says so when it is asked to.
        self.is_block_device
            || self.size().and_then(|size| disk::allocate(&self.file, disk::PUNCH_HOLE, size, PAGE.into())).is_ok()
    }

    /// The unit that discarding frees, in bytes.
    pub(super) fn discard_unit(&self) -> u32 {
        if self.is_block_device { self.topology().block_size } else { PAGE }
    }

    /// Reads a piece if that needs no wait; `None`: it does.
    pub(super) fn read_cached(&self, transfer: &mut Transfer, offset: u64) -> Option<io::Result<u32>> {
        if self.is_direct() {
            return None;
        }
        if self.in_memory {
            return Some(self.read(transfer, offset));
        }
        if !self.nowait.load(Ordering::Relaxed) {
            return None;
        }
        let result = transfer.run(Direction::Read, &self.file, offset, libc::RWF_NOWAIT);
        match result.as_ref().err().and_then(io::Error::raw_os_error) {
            Some(libc::EAGAIN) => None,
            Some(libc::EOPNOTSUPP) => {
                self.nowait.store(false, Ordering::Relaxed);
                None
            }
            _ => Some(result),
        }
    }

    /// Reads a piece.
    pub(super) fn read(&self, transfer: &mut Transfer, offset: u64) -> io::Result<u32> {
        transfer.run(Direction::Read, &self.file, offset, 0)
    }

    /// Writes a piece.
    pub(super) fn write(&self, transfer: &mut Transfer, offset: u64, durable: bool) -> io::Result<u32> {
        transfer.run(Direction::Write, &self.file, offset, if durable { libc::RWF_DSYNC } else { 0 })
    }

    /// Makes durable what was written.
    pub(super) fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    /// Frees a range.
    pub(super) fn discard(&self, offset: u64, len: u64) -> io::Result<()> {
        match self.discard_mode() {
            Some(mode) => disk::allocate(&self.file, mode, offset, len),
            None => disk::discard(&self.file, offset, len),
        }
    }

    /// How [`disk::allocate`] frees a range; `None`: it can't, and a device has to be asked in another way.
    pub(super) fn discard_mode(&self) -> Option<libc::c_int> {
        (!self.is_block_device).then_some(disk::PUNCH_HOLE)
    }

    /// Makes a range zeros; with `unmap` its blocks may be freed.
    pub(super) fn make_zero(&self, offset: u64, len: u64, unmap: bool) -> io::Result<()> {
        disk::allocate(&self.file, self.zero_mode(unmap), offset, len)
    }

    /// How [`disk::allocate`] makes zeros.
    pub(super) fn zero_mode(&self, unmap: bool) -> libc::c_int {
        if unmap || !self.zero_range.load(Ordering::Relaxed) { disk::PUNCH_HOLE } else { disk::ZERO_RANGE }
    }

    /// Making zeros with `unmap` or without is not supported; whether the other one is worth a try.
    pub(super) fn other_zero(&self, unmap: bool) -> bool {
        if self.is_block_device {
            // One that frees nothing can write zeros, or have the host write them.
            return unmap;
        }
        // A file system that can't keep blocks can free them.
        self.zero_range.store(false, Ordering::Relaxed);
        !unmap
    }
}

/// Byte sizes in the units of the configuration space. What is no multiple of the block is left out.
fn topology(block_size: u32, physical: u32, minimum_io: u32, optimal_io: u32) -> Topology {
    let blocks = |bytes: u32| bytes.checked_div(block_size).unwrap_or_default();
    let physical_block_exp =
        blocks(physical).checked_ilog2().and_then(|exp| u8::try_from(exp).ok()).unwrap_or_default();
    let min_io_size = u16::try_from(blocks(minimum_io)).unwrap_or_default();
    Topology { block_size, physical_block_exp, min_io_size, opt_io_size: blocks(optimal_io) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_become_what_the_configuration_space_holds() {
        let expected = |block_size, physical_block_exp, min_io_size, opt_io_size| Topology {
            block_size,
            physical_block_exp,
            min_io_size,
            opt_io_size,
        };
        assert_eq!(topology(512, 4096, 4096, 1 << 20), expected(512, 3, 8, 2048));
        assert_eq!(topology(4096, 4096, 4096, 0), expected(4096, 0, 1, 0));
        assert_eq!(topology(512, 0, 0, 0), expected(512, 0, 0, 0));
        assert_eq!(topology(512, u32::MAX, u32::MAX, u32::MAX), expected(512, 22, 0, (1 << 23) - 1));
    }

    #[test]
    fn a_file_says_what_a_page_cache_likes() {
        let raw = Raw::new(tempfile::tempfile().unwrap(), false).unwrap();
        assert_eq!(raw.topology(), Topology { block_size: 512, physical_block_exp: 3, min_io_size: 8, opt_io_size: 0 });
        assert_eq!((raw.size().unwrap(), raw.is_direct()), (0, false));
    }
}
