// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The initial RAM disk. Its content is the kernel's business; here it is bytes that need a place.

use std::{fs::File, io};

use arch::{GuestRam, memory::MIB};

use crate::source::{self, Source};

/// Linux frees an initrd by the page.
const PAGE: u64 = 0x1000;

/// Why an initrd can't be loaded. The messages go behind the name of its file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Reading failed.
    #[error(transparent)]
    Source(#[from] source::Error),
    /// It is a directory.
    #[error("is a directory and not an initrd: pack it first, with find . | cpio -o -H newc")]
    Directory,
    /// There is nothing in it.
    #[error("is an empty file and not an initrd: was it copied or built to the end?")]
    Empty,
    /// The guest has too little memory.
    #[error(
        "has {size} bytes ({} MiB) and there are {room} bytes ({} MiB) for it between the kernel, which ends at {start:#x}, and {limit:#x}: give the guest more memory",
        .size.div_ceil(MIB),
        room / MIB
    )]
    NoRoom {
        /// Bytes of the initrd.
        size: u64,
        /// Bytes that there are.
        room: u64,
        /// Where the room for it starts.
        start: u64,
        /// Where it ends.
        limit: u64,
    },
}

/// Where an initrd lies in guest memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Range {
    /// Its first address, at a page.
    pub(crate) start: u64,
    /// Its bytes.
    pub(crate) size: u64,
}

/// An initrd that isn't empty; its file stays open until it is loaded.
#[derive(Debug)]
pub struct Initrd<S = File> {
    source: S,
    size: u64,
}

impl<S: Source> Initrd<S> {
    /// Looks at its size.
    ///
    /// # Errors
    ///
    /// [`Error`] when it can't be read or is empty.
    pub fn open(source: S) -> Result<Self, Error> {
        let mut initrd = Self { source, size: 0 };
        initrd.check_again()?;
        Ok(initrd)
    }

    /// Does the same once more, as somebody may have written to the file since.
    ///
    /// # Errors
    ///
    /// Those of [`Self::open`].
    pub fn check_again(&mut self) -> Result<(), Error> {
        let Self { source, size } = self;
        // A directory has a size but can't be read; a character device can be read but has no size.
        source::head(source, &mut [0]).map_err(unreadable)?;
        *size = source::size(source).map_err(source::Error::Read)?;
        if *size == 0 { Err(Error::Empty) } else { Ok(()) }
    }

    /// Its bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Finds the highest place for it, between the kernel's end and `limit`: the farther from the kernel, the less has
    /// the kernel to move when it sets up its memory.
    pub(crate) fn place(&self, kernel_end: u64, limit: u64) -> Result<Range, Error> {
        let size = self.size;
        let lowest = kernel_end.checked_next_multiple_of(PAGE).unwrap_or(u64::MAX);
        // Down to a page.
        let start = limit.checked_sub(size).map(|start| start & !PAGE.wrapping_sub(1));
        match start {
            Some(start) if start >= lowest => Ok(Range { start, size }),
            _ => Err(Error::NoRoom { size, room: limit.saturating_sub(lowest), start: lowest, limit }),
        }
    }

    /// Copies it to its place.
    pub(crate) fn load(&mut self, ram: &GuestRam, range: Range) -> Result<(), Error> {
        Ok(source::copy(ram, &mut self.source, 0, range.size, range.start)?)
    }
}

/// A directory can be opened and not be read.
fn unreadable(error: io::Error) -> Error {
    match error.kind() {
        io::ErrorKind::IsADirectory => Error::Directory,
        _ => source::Error::Read(error).into(),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;

    fn initrd(size: u64) -> Initrd<Cursor<Vec<u8>>> {
        Initrd { source: Cursor::new(vec![]), size }
    }

    #[test]
    fn it_goes_as_high_as_it_can_at_a_page() {
        let cases = [
            // size, kernel's end, limit, start
            (1, 0x20_0000, 0x800_0000, 0x7ff_f000),
            (0x1000, 0x20_0000, 0x800_0000, 0x7ff_f000),
            (0x1001, 0x20_0000, 0x800_0000, 0x7ff_e000),
            (0x1001, 0x20_0000, 0x8000_0000, 0x7fff_e000),
            (0x10_0000, 0x20_0000, 0x30_0000, 0x20_0000),
            (0xf_f000, 0x20_0001, 0x30_0000, 0x20_1000),
            (0xff0, 0x20_0000, 0x30_0ff0, 0x30_0000),
        ];
        for (size, end, limit, start) in cases {
            assert_eq!(initrd(size).place(end, limit).unwrap(), Range { start, size });
        }
    }

    #[test]
    fn one_that_does_not_fit_names_the_sizes() {
        let error = initrd(0x10_0001).place(0x20_0000, 0x30_0000).unwrap_err();
        assert_eq!(
            error.to_string(),
            "has 1048577 bytes (2 MiB) and there are 1048576 bytes (1 MiB) for it between the kernel, which ends at \
             0x200000, and 0x300000: give the guest more memory"
        );
        for (size, end, limit) in
            [(0xf_f001, 0x20_0001, 0x30_0000), (u64::MAX, 0, 1 << 32), (1, u64::MAX, 1), (1, 5, 4)]
        {
            assert!(matches!(initrd(size).place(end, limit), Err(Error::NoRoom { .. })), "{size:#x}");
        }
    }

    #[test]
    fn an_empty_one_is_refused() {
        assert!(matches!(Initrd::open(Cursor::new(vec![])), Err(Error::Empty)));
        assert_eq!(Initrd::open(Cursor::new(vec![0; 7])).unwrap().size(), 7);
    }
}
