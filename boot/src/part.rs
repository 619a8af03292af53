// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! A part of a source, which is read as if there was nothing else.

use std::io::{self, ErrorKind, Read, Seek, SeekFrom};

use vm_memory::bitmap::BitmapSlice;
use vm_memory::{ReadVolatile, VolatileMemory, VolatileMemoryError, VolatileSlice};

use crate::source::Source;

/// Bytes of a source from one offset on, up to another; or all of it.
///
/// Others may read the same file meanwhile, by a descriptor that shares its offset: each read says first where it begins. Two
/// threads at once may not.
#[derive(Debug)]
pub struct Part<S> {
    source: S,
    start: u64,
    /// `None`: as far as it goes.
    len: Option<u64>,
    /// Where the next read is, from `start` on.
    position: u64,
}

impl<S: Source> Part<S> {
    /// All of a source.
    pub fn whole(source: S) -> Self {
        Self { source, start: 0, len: None, position: 0 }
    }

    /// `len` bytes from `start` on.
    pub fn new(source: S, start: u64, len: u64) -> Self {
        Self { source, start, len: Some(len), position: 0 }
    }

    /// Prepares a read of `wanted` bytes; gives how many it may have.
    fn begin(&mut self, wanted: usize) -> io::Result<usize> {
        self.source.seek(SeekFrom::Start(self.start.saturating_add(self.position)))?;
        let left = self.len.map_or(u64::MAX, |len| len.saturating_sub(self.position));
        Ok(usize::try_from(left).unwrap_or(usize::MAX).min(wanted))
    }

    fn advance(&mut self, read: usize) -> usize {
        self.position = self.position.saturating_add(read as u64);
        read
    }
}

impl<S: Source> Read for Part<S> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let room = self.begin(bytes.len())?;
        let read = self.source.read(bytes.get_mut(..room).unwrap_or_default())?;
        Ok(self.advance(read))
    }
}

impl<S: Source> Seek for Part<S> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let (from, offset) = match to {
            SeekFrom::Start(position) => (position, 0),
            SeekFrom::Current(offset) => (self.position, offset),
            SeekFrom::End(offset) => {
                // A part of a file that has become shorter ends where that does.
                let end = self.source.seek(SeekFrom::End(0))?.saturating_sub(self.start);
                (self.len.map_or(end, |len| len.min(end)), offset)
            }
        };
        self.position = from.checked_add_signed(offset).ok_or(ErrorKind::InvalidInput)?;
        Ok(self.position)
    }
}

impl<S: Source> ReadVolatile for Part<S> {
    fn read_volatile<B: BitmapSlice>(
        &mut self,
        slice: &mut VolatileSlice<'_, B>,
    ) -> Result<usize, VolatileMemoryError> {
        let room = self.begin(slice.len()).map_err(VolatileMemoryError::IOError)?;
        let mut slice = slice.get_slice(0, room)?;
        let read = self.source.read_volatile(&mut slice)?;
        Ok(self.advance(read))
    }
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;

    #[test]
    fn a_part_ends_where_it_says_or_where_the_source_does() {
        let text = || Cursor::new(b"0123456789".to_vec());
        let all = |mut part: Part<Cursor<Vec<u8>>>| {
            let mut bytes = Vec::new();
            part.read_to_end(&mut bytes).unwrap();
            let size = part.seek(SeekFrom::End(0)).unwrap();
            assert_eq!(size, bytes.len() as u64);
            String::from_utf8(bytes).unwrap()
        };
        assert_eq!(all(Part::whole(text())), "0123456789");
        assert_eq!(all(Part::new(text(), 3, 4)), "3456");
        assert_eq!(all(Part::new(text(), 8, 100)), "89");
        assert_eq!(all(Part::new(text(), u64::MAX, 1)), "");
        let mut part = Part::new(text(), 2, 5);
        assert_eq!(part.seek(SeekFrom::End(-2)).unwrap(), 3);
        let mut bytes = [0; 10];
        let mut slice = VolatileSlice::from(bytes.as_mut_slice());
        assert_eq!(part.read_volatile(&mut slice).unwrap(), 2);
        assert_eq!(bytes[..3], *b"56\0");
        assert!(part.seek(SeekFrom::Current(-100)).is_err());
    }
}
