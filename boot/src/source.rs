// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Where a kernel or an initrd is read from: a file, or bytes in memory.

use std::io::{self, ErrorKind, Read, Seek, SeekFrom};

use arch::GuestRam;
use vm_memory::{GuestAddress, GuestMemoryBackend, GuestMemoryError, ReadVolatile, VolatileMemoryError};

/// What can be loaded from: a `File`, or a `Cursor` over bytes.
pub trait Source: Read + Seek + ReadVolatile {}

impl<T: Read + Seek + ReadVolatile> Source for T {}

/// Why bytes of a file didn't reach guest memory.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Reading failed.
    #[error("can't be read: {0}")]
    Read(#[from] io::Error),
    /// There are fewer bytes than when the file was opened.
    #[error("became shorter while it was read: it had {size} bytes at offset {offset}; is it still being written?")]
    Shrank {
        /// Where in the file the part starts.
        offset: u64,
        /// Bytes that the part had.
        size: u64,
    },
    /// Guest memory can't take them.
    #[error("can't be put into guest memory at {address:#x}: {source}")]
    Memory {
        /// Where it was to go.
        address: u64,
        /// What guest memory says.
        source: GuestMemoryError,
    },
}

/// Bytes in the source.
pub(crate) fn size(source: &mut impl Seek) -> io::Result<u64> {
    source.seek(SeekFrom::End(0))
}

/// Reads the start of the source: as much of `head` as there is.
pub(crate) fn head<'a>(source: &mut impl Source, head: &'a mut [u8]) -> io::Result<&'a [u8]> {
    source.rewind()?;
    let mut filled = 0usize;
    while let Some(rest) = head.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match source.read(rest) {
            Ok(0) => break,
            Ok(read) => filled = filled.saturating_add(read),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(head.get(..filled).unwrap_or_default())
}

/// Fills `bytes` from `offset` on.
pub(crate) fn read_at(source: &mut impl Source, offset: u64, bytes: &mut [u8]) -> Result<(), Error> {
    source.seek(SeekFrom::Start(offset))?;
    source.read_exact(bytes).map_err(|error| match error.kind() {
        ErrorKind::UnexpectedEof => Error::Shrank { offset, size: bytes.len() as u64 },
        _ => Error::Read(error),
    })
}

/// Copies `count` bytes from `offset` on to guest memory, with no stop on the way.
pub(crate) fn copy(
    ram: &GuestRam,
    source: &mut impl Source,
    offset: u64,
    count: u64,
    address: u64,
) -> Result<(), Error> {
    let memory = |source| Error::Memory { address, source };
    source.seek(SeekFrom::Start(offset))?;
    let bytes = usize::try_from(count).map_err(|_| memory(GuestMemoryError::GuestAddressOverflow))?;
    for slice in ram.get_slices(GuestAddress(address), bytes) {
        // Slice by slice and not by `read_volatile_from`, which takes a short read for the end: Linux never reads more
        // than 2 GiB less a page at once.
        let mut slice = slice.map_err(memory)?;
        source.read_exact_volatile(&mut slice).map_err(|error| match error {
            VolatileMemoryError::IOError(error) if error.kind() == ErrorKind::UnexpectedEof => {
                Error::Shrank { offset, size: count }
            }
            VolatileMemoryError::IOError(error) => Error::Read(error),
            other => memory(other.into()),
        })?;
    }
    Ok(())
}
