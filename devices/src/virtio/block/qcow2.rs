// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! An image in the qcow2 format, read and written by imago, one request after the other.
//!
//! What comes here from the guest are ranges of the disk, checked against its capacity. Whoever made the image controls its
//! header and tables, and could name any file of the host as what lies behind it: only files that the disk's owner has
//! permitted are opened, and only to be read. Guest memory isn't handed to the library, which takes references; all data
//! goes through a buffer of ours.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use imago::file::File;
use imago::format::builder::FormatDriverBuilder;
use imago::format::gate::ImplicitOpenGate;
use imago::{FormatAccess, Storage, StorageOpenOptions};

use crate::sys::transfer::{Direction, Transfer};

/// A disk in a qcow2 image.
pub(super) struct Qcow2(FormatAccess<File>);

impl Qcow2 {
    /// Opens the image in `file`, and what it is based on if all of that is among `permitted` or in a folder that is.
    pub(super) fn new(file: fs::File, writable: bool, permitted: &[PathBuf]) -> io::Result<Self> {
        let gate = PermittedFiles(permitted.iter().map(fs::canonicalize).collect::<io::Result<_>>()?);
        if writable {
            check_refcounts(&file)?;
        }
        // What lies behind the image may be named from where it is.
        let name = fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd()))?;
        let opened = StorageOpenOptions::new().filename(name).write(writable);
        let mut image = imago::qcow2::Qcow2::<File>::open_image(File::from_open_file(file, opened)?, writable)?;
        // Otherwise it would be guessed from bytes that a guest may have written.
        if let (Some(name), None) = (image.implicit_backing_file(), image.implicit_backing_format()) {
            let what =
                format!("it doesn't say of which format its backing file {name} is: 'qemu-img rebase -u' can add that");
            return Err(io::Error::new(io::ErrorKind::InvalidData, what));
        }
        image.open_implicit_dependencies_gated(gate)?;
        Ok(Self(FormatAccess::new(image)))
    }

    pub(super) fn size(&self) -> u64 {
        self.0.size()
    }

    /// Reads or writes a piece.
    pub(super) fn run(&self, direction: Direction, transfer: &mut Transfer, offset: u64) -> io::Result<u32> {
        transfer.run_by(direction, |buffer| match direction {
            Direction::Read => self.0.read(buffer, offset),
            Direction::Write => self.0.write(&*buffer, offset),
        })
    }

    /// Makes durable what was written: first the tables that are only in memory, then the file.
    pub(super) fn sync(&self) -> io::Result<()> {
        self.0.flush()?;
        self.0.sync()
    }
}

fn be32(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..).and_then(<[u8]>::first_chunk).map_or(0, |field| u32::from_be_bytes(*field))
}

fn be64(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..).and_then(<[u8]>::first_chunk).map_or(0, |field| u64::from_be_bytes(*field))
}

/// Refuses refcounts that the library would follow without end, or over the header, when it looks for room: the first block of
/// them has to be there, as it counts the header itself, and each has to be in the file, aligned, and the only one of its
/// place (QEMU docs/interop/qcow2.rst, "Host cluster management").
fn check_refcounts(file: &fs::File) -> io::Result<()> {
    let damaged = |what: &str| io::Error::new(io::ErrorKind::InvalidData, format!("its refcounts are damaged: {what}"));
    let mut header = [0; 60];
    file.read_exact_at(&mut header, 0)?;
    let (cluster_bits, table, clusters) = (be32(&header, 20), be64(&header, 48), be32(&header, 56));
    let cluster = 1u64.checked_shl(cluster_bits).filter(|_| (9..=21).contains(&cluster_bits));
    let cluster = cluster.ok_or_else(|| damaged("the cluster size is none"))?;
    let end = file.metadata()?.len();
    let len = u64::from(clusters).saturating_mul(cluster);
    if clusters == 0 || !table.is_multiple_of(cluster) || table.checked_add(len).is_none_or(|last| last > end) {
        return Err(damaged("their table is not in the file"));
    }
    let mut seen = BTreeSet::new();
    let mut part = vec![0; usize::try_from(cluster).map_err(io::Error::other)?];
    for index in 0..u64::from(clusters) {
        file.read_exact_at(&mut part, table.saturating_add(index.saturating_mul(cluster)))?;
        for (at, entry) in part.as_chunks::<8>().0.iter().enumerate() {
            let block = u64::from_be_bytes(*entry);
            if block == 0 && (index > 0 || at > 0) {
                continue;
            }
            // One that a write is about to make lies at the end, and may not be there yet.
            if block == 0 || !block.is_multiple_of(cluster) || block > end || !seen.insert(block) {
                return Err(damaged("a block of them is missing, or where it can't be"));
            }
        }
    }
    Ok(())
}

impl std::fmt::Debug for Qcow2 {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "Qcow2({} bytes)", self.size())
    }
}

/// Opens the files in its list, and those in the folders there, and no others.
struct PermittedFiles(Vec<PathBuf>);

impl PermittedFiles {
    fn check(&self, path: Option<&Path>) -> io::Result<()> {
        let Some(path) = path else { return Err(io::ErrorKind::PermissionDenied.into()) };
        let real = fs::canonicalize(path)?;
        if !self.0.iter().any(|permitted| real.starts_with(permitted)) {
            let what = format!("the image is based on {}, which it may not open", path.display());
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, what));
        }
        // Opening a FIFO would wait for its other end.
        if !fs::metadata(&real)?.is_file() {
            let what = format!("the image is based on {}, which is not a file", path.display());
            return Err(io::Error::new(io::ErrorKind::InvalidInput, what));
        }
        Ok(())
    }
}

impl ImplicitOpenGate<File> for PermittedFiles {
    fn open_format<F: FormatDriverBuilder<File>>(&mut self, builder: F) -> io::Result<FormatAccess<File>> {
        self.check(builder.get_image_path().as_deref())?;
        Ok(FormatAccess::new(builder.write(false).open(Self(self.0.clone()))?))
    }

    fn open_storage(&mut self, options: StorageOpenOptions) -> io::Result<File> {
        self.check(options.get_filename())?;
        File::open(options)
    }
}

#[cfg(test)]
#[path = "qcow2_tests.rs"]
mod tests;
