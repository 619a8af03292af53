// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Giving space back, and making zeros, in a qcow2 image.
//!
//! The format knows clusters that read as zeros and have no room in the file, and the library makes such ones of whole
//! clusters. What a guest asks for begins and ends anywhere: the rest of a cluster is written. What is no data is left
//! alone, so that a guest which discards an empty disk, as mkfs does, doesn't make tables for all of it. The library marks
//! the room of a cluster as free, for others to come; here it is given back to the host as well.

use std::io;

use imago::file::File;
use imago::{FormatAccess, Mapping, ShallowMapping};

use super::Qcow2;
use crate::sys::disk;

/// What becomes of a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wish {
    /// Nobody wants it any more. Parts of clusters stay what they are.
    Discard,
    /// It reads as zeros and has no room in the file any more.
    ZeroAndFree,
    /// It reads as zeros and keeps its room.
    Zero,
}

/// A piece of the disk that lies in one stretch, and where its data is in the image's file if it is nobody else's.
struct Piece {
    start: u64,
    end: u64,
    host: Option<u64>,
}

impl Qcow2 {
    /// Bytes of what can be freed: a cluster. `None`: the image's version knows no zeros.
    pub(crate) fn discard_unit(&self) -> Option<u32> {
        self.shared().inner().zero_granularity().and_then(|cluster| u32::try_from(cluster).ok())
    }

    /// Frees a range.
    pub(crate) fn discard(&self, offset: u64, len: u64) -> io::Result<()> {
        self.change(offset, len, Wish::Discard)
    }

    /// Makes a range zeros; with `unmap` its room is freed.
    pub(crate) fn make_zero(&self, offset: u64, len: u64, unmap: bool) -> io::Result<()> {
        self.change(offset, len, if unmap { Wish::ZeroAndFree } else { Wish::Zero })
    }

    fn change(&self, offset: u64, len: u64, wish: Wish) -> io::Result<()> {
        let mut image = self.alone();
        let end = offset.checked_add(len).ok_or(io::ErrorKind::InvalidInput)?;
        let mut start = offset;
        while start < end {
            let (mapping, known) = image.get_shallow_mapping(start, end.saturating_sub(start))?;
            let (is_data, host) = match mapping {
                ShallowMapping::Raw { offset, writable, .. } => (true, writable.then_some(offset)),
                // It was never written here: what lies behind it is nothing that could be freed.
                ShallowMapping::Indirect { .. } => (wish != Wish::Discard, None),
                ShallowMapping::Zero { .. } => (false, None),
                ShallowMapping::Eof { .. } => return Err(io::ErrorKind::UnexpectedEof.into()),
                // Compressed, say.
                _ => (true, None),
            };
            if known == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let piece = Piece { start, end: start.saturating_add(known), host };
            start = piece.end;
            if is_data {
                self.change_piece(&mut image, &piece, wish)?;
            }
        }
        Ok(())
    }

    fn change_piece(&self, image: &mut FormatAccess<File>, piece: &Piece, wish: Wish) -> io::Result<()> {
        let cluster = image.inner().zero_granularity().ok_or_else(|| io::Error::from_raw_os_error(libc::EOPNOTSUPP))?;
        let &Piece { start, end, host } = piece;
        // Whole clusters; the last one of the disk is whole wherever the disk ends in it.
        let first = start.checked_next_multiple_of(cluster).map_or(end, |first| first.min(end));
        let rest = end.checked_rem(cluster).filter(|_| end != image.size()).unwrap_or_default();
        let last = end.saturating_sub(rest).max(first);
        if wish != Wish::Discard {
            write_zeros(image, start, first.saturating_sub(start))?;
            write_zeros(image, last, end.saturating_sub(last))?;
        }
        let len = last.saturating_sub(first);
        if len == 0 {
            return Ok(());
        }
        if wish == Wish::Zero {
            return image.write_zeroes(first, len);
        }
        image.discard_to_zero(first, len)?;
        // Nothing else in the image lies there, and nothing can have come to lie there since: this thread is alone with it. It
        // is free already, so a file system that can't make holes takes nothing from the guest.
        if let Some(host) = host.and_then(|host| host.checked_add(first.saturating_sub(start))) {
            let _ = disk::allocate(&self.file, disk::PUNCH_HOLE, host, len);
        }
        Ok(())
    }
}

/// Makes a range zeros: writes them, where it doesn't read as such already.
pub(super) fn write_zeros(image: &FormatAccess<File>, mut offset: u64, mut len: u64) -> io::Result<()> {
    static ZEROS: [u8; 64 << 10] = [0; 64 << 10];
    while len > 0 {
        let (mapping, known) = image.get_mapping(offset, len)?;
        let piece = if matches!(mapping, Mapping::Zero { .. }) {
            known
        } else {
            let part = known.min(u64::try_from(ZEROS.len()).unwrap_or(u64::MAX));
            image.write(ZEROS.get(..usize::try_from(part).unwrap_or_default()).unwrap_or_default(), offset)?;
            part
        };
        if piece == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        (offset, len) = (offset.saturating_add(piece), len.saturating_sub(piece));
    }
    Ok(())
}
