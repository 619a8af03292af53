// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! An image in the qcow2 format, read and written by imago, through plain system calls.
//!
//! What comes here from the guest are ranges of the disk, checked against its capacity. Whoever made the image controls its
//! header and tables, and could name any file of the host as what lies behind it: only files that the disk's owner has
//! permitted are opened, and only to be read. Guest memory isn't handed to the library, which takes references; all data
//! goes through a buffer of ours.

use std::collections::BTreeSet;
use std::fmt;
use std::fs;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use imago::file::File;
use imago::format::PreallocateMode;
use imago::raw::Raw;
use imago::{FormatAccess, StorageOpenOptions};
use thiserror::Error;

use super::options::{BlockOptions, LockBehind};
use crate::sys::transfer::{Direction, Transfer};
use ranges::write_zeros;

#[path = "qcow2_ranges.rs"]
mod ranges;

/// "QFI" and 0xfb.
const MAGIC: u32 = 0x5146_49fb;
/// The most images of a chain, the disk's own one included.
const MAX_DEPTH: usize = 16;
/// Bytes of the largest cluster.
const MAX_CLUSTER: u64 = 2 << 20;
/// The most bytes of a refcount table, as QEMU has it.
const MAX_REFCOUNT_TABLE: u64 = 8 << 20;
/// The most bytes of a disk. The library rounds up sizes, and adds to them.
const MAX_SIZE: u64 = 1 << 62;

/// A disk in a qcow2 image.
pub(super) struct Qcow2 {
    /// Read by whoever reads or writes data; written by what moves clusters about, which must be alone with them.
    image: RwLock<FormatAccess<File>>,
    /// Bytes of the disk right behind this image.
    backing_size: u64,
    /// What a try to make the disk larger has left that may hold anything: where it begins, and its bytes.
    unzeroed: Mutex<(u64, u64)>,
    /// The image's file, for what the library doesn't do with it.
    file: fs::File,
}

/// The tables couldn't be written. The library still has them, so nothing is lost, and the next flush may succeed.
#[derive(Debug, Error)]
#[error("the image's tables can't be written: {0}")]
pub(super) struct Unwritten(io::Error);

/// An image that is open, with what lies behind it.
struct Opened {
    image: FormatAccess<File>,
    backing_size: u64,
}

impl Qcow2 {
    /// Opens the image in `file`, and what it is based on if all of that is among what the options permit, or directly in a
    /// folder that is.
    pub(super) fn new(file: fs::File, options: &BlockOptions) -> io::Result<Self> {
        let find = |path: &PathBuf| {
            let missing =
                |error: io::Error| io::Error::new(error.kind(), format!("backing={}: {error}", path.display()));
            fs::canonicalize(path).map_err(missing)
        };
        let permitted = options.permitted.iter().map(find).collect::<io::Result<_>>()?;
        let behind = Behind { permitted, lock: options.lock_behind };
        let Opened { image, backing_size } = open(file.try_clone()?, !options.read_only, &behind, 1)?;
        Ok(Self { image: RwLock::new(image), backing_size, unzeroed: Mutex::default(), file })
    }

    fn shared(&self) -> RwLockReadGuard<'_, FormatAccess<File>> {
        self.image.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn alone(&self) -> RwLockWriteGuard<'_, FormatAccess<File>> {
        self.image.write().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn size(&self) -> u64 {
        self.shared().size()
    }

    /// Makes the disk larger; what is new reads as zeros, also where the image behind it is longer than this one was.
    pub(super) fn grow(&self, size: u64) -> io::Result<()> {
        let image = self.alone();
        let mut header = [0; 64];
        self.file.read_exact_at(&mut header, 0)?;
        if be32(&header, 4) < 3 && be32(&header, 60) != 0 {
            return Err(invalid("it has snapshots, which know their sizes from version 3 on"));
        }
        let mut unzeroed = self.unzeroed.lock().unwrap_or_else(PoisonError::into_inner);
        write_zeros(&image, unzeroed.0, unzeroed.1)?;
        *unzeroed = (0, 0);
        let old = image.size();
        if size == old {
            return Ok(());
        }
        if self.backing_size > old {
            image.resize_grow(size.min(self.backing_size), PreallocateMode::Zero)?;
        }
        // The rest of what was the last cluster may hold anything, as nobody could read it.
        let cluster = image.inner().zero_granularity().unwrap_or(MAX_CLUSTER);
        let rest = old.checked_next_multiple_of(cluster).map_or(0, |end| end.min(size).saturating_sub(old));
        image.resize_grow(size, PreallocateMode::None)?;
        *unzeroed = (old, rest);
        write_zeros(&image, old, rest)?;
        *unzeroed = (0, 0);
        image.flush()?;
        image.sync()
    }

    /// Reads or writes a piece.
    pub(super) fn run(&self, direction: Direction, transfer: &mut Transfer, offset: u64) -> io::Result<u32> {
        transfer.run_by(direction, |buffer| match direction {
            Direction::Read => self.shared().read(buffer, offset),
            Direction::Write => self.shared().write(&*buffer, offset),
        })
    }

    /// Makes durable what was written: first the tables that are only in memory, then the file.
    pub(super) fn sync(&self) -> io::Result<()> {
        let image = self.shared();
        image.flush().map_err(|error| io::Error::new(error.kind(), Unwritten(error)))?;
        image.sync()
    }
}

fn be32(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..).and_then(<[u8]>::first_chunk).map_or(0, |field| u32::from_be_bytes(*field))
}

fn be64(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..).and_then(<[u8]>::first_chunk).map_or(0, |field| u64::from_be_bytes(*field))
}

/// Refuses what the library takes without a look at it: encrypted images, whose bytes it would give to the guest as they are;
/// and, where it is to make room, refcounts that it would follow without end, or over the header (QEMU
/// docs/interop/qcow2.rst, "Header" and "Host cluster management").
fn check_header(file: &fs::File, writable: bool) -> io::Result<()> {
    let mut header = [0; 104];
    // A shorter file is none either, and its zeros say so.
    let _ = file.read_at(&mut header, 0)?;
    if be32(&header, 0) != MAGIC {
        return Err(invalid("it doesn't begin as one: is it a raw image?"));
    }
    if be32(&header, 32) != 0 {
        return Err(invalid("it is encrypted"));
    }
    if be64(&header, 24) > MAX_SIZE {
        return Err(invalid("its header is damaged: the disk is larger than any"));
    }
    if writable { check_refcounts(file, &header) } else { Ok(()) }
}

/// The first block of refcounts has to be there, as it counts the header itself. Each has to be in the file, aligned, and the
/// only one of its place, and to count something that is in the file: for a free cluster, all of them are looked through.
fn check_refcounts(file: &fs::File, header: &[u8]) -> io::Result<()> {
    let damaged = |what: &str| invalid(&format!("its refcounts are damaged: {what}"));
    let (cluster_bits, table, clusters) = (be32(header, 20), be64(header, 48), be32(header, 56));
    // Two bytes before version 3, which says how many bits.
    let order = if be32(header, 4) < 3 { 4 } else { be32(header, 96) };
    if order > 6 {
        return Err(invalid("its header is damaged: refcounts have 1 to 64 bits"));
    }
    let cluster = 1u64.checked_shl(cluster_bits).filter(|_| (9..=21).contains(&cluster_bits));
    let cluster = cluster.ok_or_else(|| invalid("its header is damaged: clusters have 512 bytes to 2 MiB"))?;
    let end = file.metadata()?.len();
    let len = u64::from(clusters).saturating_mul(cluster);
    let is_placed = table.is_multiple_of(cluster) && table.checked_add(len).is_some_and(|last| last <= end);
    if clusters == 0 || len > MAX_REFCOUNT_TABLE || !is_placed {
        return Err(damaged("their table is too large, or not in the file"));
    }
    // Bytes of the file that a block counts.
    let counted = cluster.saturating_mul(cluster << 3 >> order);
    let mut seen = BTreeSet::new();
    let mut blocks = 0u64;
    let mut part = vec![0; usize::try_from(cluster).map_err(io::Error::other)?];
    for index in 0..u64::from(clusters) {
        file.read_exact_at(&mut part, table.saturating_add(index.saturating_mul(cluster)))?;
        for entry in part.as_chunks::<8>().0 {
            let (block, first) = (u64::from_be_bytes(*entry), blocks == 0);
            let counts_from = blocks.saturating_mul(counted);
            blocks = blocks.saturating_add(1);
            if block == 0 && !first {
                continue;
            }
            // One that a write is about to make lies at the end, and may not be there yet.
            if block == 0 || !block.is_multiple_of(cluster) || block > end || !seen.insert(block) {
                return Err(damaged("a block of them is missing, or where it can't be"));
            }
            if counts_from > end {
                return Err(damaged("a block of them counts what is far behind the end of the file"));
            }
            if first && !counts_first(file, block, order).unwrap_or_default() {
                return Err(damaged("they say that the place of the header is free"));
            }
        }
    }
    Ok(())
}

/// Whether the first count in a block is one. Those of less than a byte begin at its lowest bit.
fn counts_first(file: &fs::File, block: u64, order: u32) -> io::Result<bool> {
    let mut count = [0; 8];
    file.read_exact_at(&mut count, block)?;
    let bits = 1u32 << order;
    let count = if bits < 8 {
        u64::from(count.first().copied().unwrap_or_default()) & (1u64 << bits).wrapping_sub(1)
    } else {
        u64::from_be_bytes(count) >> 64u32.saturating_sub(bits)
    };
    Ok(count > 0)
}

impl fmt::Debug for Qcow2 {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Qcow2({} bytes)", self.size())
    }
}

/// What may lie behind an image.
struct Behind {
    /// Files, or the folders that they are directly in; without links.
    permitted: Vec<PathBuf>,
    lock: Option<LockBehind>,
}

impl Behind {
    /// Opens a file that an image names, to read it.
    fn open(&self, image: &Path, name: &str) -> io::Result<fs::File> {
        let path = image.parent().unwrap_or(Path::new("/")).join(name);
        let based = |what: &dyn fmt::Display| format!("the image is based on {}, which {what}", path.display());
        let error = |error: &io::Error, what: &dyn fmt::Display| io::Error::new(error.kind(), based(what));
        let real = fs::canonicalize(&path).map_err(|source| error(&source, &format!("can't be found: {source}")))?;
        if !self.permitted.iter().any(|permitted| real == *permitted || real.parent() == Some(permitted)) {
            return Err(io::Error::new(
                io::ErrorKind::PermissionDenied,
                based(&"it may not open unless 'backing=' permits that"),
            ));
        }
        // The name that was checked, and not as a FIFO, which would wait for its other end.
        let file = fs::OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK | libc::O_NOFOLLOW).open(&real)?;
        if !file.metadata()?.is_file() {
            return Err(invalid(&based(&"is not a file")));
        }
        if let Some(lock) = self.lock {
            lock(&file, &path).map_err(|source| error(&source, &source))?;
        }
        Ok(file)
    }
}

/// Opens one image of a chain, and those behind it: the library would guess formats, and follow names without end.
fn open(file: fs::File, writable: bool, files: &Behind, depth: usize) -> io::Result<Opened> {
    check_header(&file, writable)?;
    // What lies behind the image may be named from where it is.
    let place = fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd()))?;
    let behind = |name: &String| files.open(&place, name);
    let mut image = imago::qcow2::Qcow2::<File>::open_image(storage(file, writable)?, writable)?;
    let data = match image.implicit_external_data_file() {
        _ if !image.requires_external_data_file() => None,
        Some(_) if writable => return Err(invalid("its data is in another file, which is only read: add readonly=on")),
        Some(name) => Some(storage(behind(name)?, false)?),
        None => return Err(invalid("its data is in another file, which it doesn't name")),
    };
    let backing = match (image.implicit_backing_file(), image.implicit_backing_format().map(String::as_str)) {
        (None, _) => None,
        (Some(name), Some("raw" | "file")) => {
            Some(FormatAccess::new(Raw::open_image(storage(behind(name)?, false)?, false)?))
        }
        (Some(name), Some("qcow2")) if depth < MAX_DEPTH => {
            Some(open(behind(name)?, false, files, depth.saturating_add(1))?.image)
        }
        (Some(_), Some("qcow2")) => return Err(invalid(&format!("it is a chain of more than {MAX_DEPTH} images"))),
        (Some(name), Some(format)) => {
            return Err(invalid(&format!(
                "its backing file {name} is of the format {format}: there are raw and qcow2"
            )));
        }
        // Otherwise it would be guessed from bytes that a guest may have written.
        (Some(name), None) => {
            let what =
                format!("it doesn't say of which format its backing file {name} is: 'qemu-img rebase -u' can add that");
            return Err(invalid(&what));
        }
    };
    let backing_size = backing.as_ref().map_or(0, FormatAccess::size);
    image.set_data_file(data);
    image.set_backing(backing);
    Ok(Opened { image: FormatAccess::new(image), backing_size })
}

fn storage(file: fs::File, writable: bool) -> io::Result<File> {
    File::from_open_file(file, StorageOpenOptions::new().write(writable))
}

fn invalid(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

#[cfg(test)]
#[path = "qcow2_tests.rs"]
mod tests;
