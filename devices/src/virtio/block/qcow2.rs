// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! An image in the qcow2 format, read and written by imago, one request after the other.
//!
//! What comes here from the guest are ranges of the disk, checked against its capacity. Whoever made the image controls its
//! header and tables, and could name any file of the host as what lies behind it: only files that the disk's owner has
//! permitted are opened, and only to be read. Guest memory isn't handed to the library, which takes references; all data
//! goes through a buffer of ours.

use std::fs;
use std::io;
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
        let mut image = imago::qcow2::Qcow2::<File>::open_image(File::try_from(file)?, writable)?;
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
