// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! ELF notes, of which one tells of the PVH entry (Xen docs/misc/pvh.pandoc, xen/include/public/elfnote.h).

/// The note's owner, with its NUL.
const XEN: &[u8] = b"Xen\0";
/// `XEN_ELFNOTE_PHYS32_ENTRY`.
const PHYS32_ENTRY: u32 = 18;

/// What is wrong with a note.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Its sizes reach beyond the segment.
    #[error(
        "at offset {offset:#x} a name of {name:#x} and a descriptor of {descriptor:#x} bytes don't fit in {size:#x}"
    )]
    Cut {
        /// Where in the segment the note starts.
        offset: usize,
        /// Bytes of the owner's name.
        name: u32,
        /// Bytes of the descriptor.
        descriptor: u32,
        /// Bytes of the segment.
        size: usize,
    },
    /// The entry isn't a number of 32 or 64 bits.
    #[error("the PVH entry has {0} bytes, where it has 4 or 8")]
    EntrySize(usize),
    /// The entry can't be reached in 32-bit mode.
    #[error("the PVH entry is {0:#x}, where it must be below 4 GiB")]
    EntryTooHigh(u64),
}

/// Looks for the PVH entry in a segment of notes with that `p_align`.
pub(crate) fn pvh_entry(notes: &[u8], alignment: u64) -> Result<Option<u64>, Error> {
    // Linux aligns by 4 and so do most; 8 is the ELF64 specification's and is used where the segment says so.
    let alignment = if alignment == 8 { 8 } else { 4 };
    let mut offset = 0;
    // What is left at the end and holds no header is padding.
    while let Some((name_size, descriptor_size, kind)) = header(notes, offset) {
        let cut = || Error::Cut { offset, name: name_size, descriptor: descriptor_size, size: notes.len() };
        let name_start = offset.checked_add(HEADER).ok_or_else(cut)?;
        let name_end = end(name_start, name_size).ok_or_else(cut)?;
        let start = name_end.checked_next_multiple_of(alignment).ok_or_else(cut)?;
        let end = end(start, descriptor_size).ok_or_else(cut)?;
        let name = notes.get(name_start..name_end).ok_or_else(cut)?;
        // The padding behind the last name may be missing when no descriptor follows.
        let descriptor = if descriptor_size == 0 { Some(&[][..]) } else { notes.get(start..end) }.ok_or_else(cut)?;
        if name == XEN && kind == PHYS32_ENTRY {
            return entry(descriptor).map(Some);
        }
        offset = end.checked_next_multiple_of(alignment).ok_or_else(cut)?;
    }
    Ok(None)
}

/// Bytes of a note's header: sizes of name and descriptor, and the type.
const HEADER: usize = 12;

fn header(notes: &[u8], offset: usize) -> Option<(u32, u32, u32)> {
    let words = notes.get(offset..)?.first_chunk::<HEADER>()?;
    let (words, _) = words.as_chunks::<4>();
    match *words {
        [name, descriptor, kind] => {
            Some((u32::from_le_bytes(name), u32::from_le_bytes(descriptor), u32::from_le_bytes(kind)))
        }
        _ => None,
    }
}

fn end(start: usize, size: u32) -> Option<usize> {
    start.checked_add(usize::try_from(size).ok()?)
}

fn entry(descriptor: &[u8]) -> Result<u64, Error> {
    let entry = match *descriptor {
        [a, b, c, d] => u64::from(u32::from_le_bytes([a, b, c, d])),
        [a, b, c, d, e, f, g, h] => u64::from_le_bytes([a, b, c, d, e, f, g, h]),
        _ => return Err(Error::EntrySize(descriptor.len())),
    };
    if u32::try_from(entry).is_err() { Err(Error::EntryTooHigh(entry)) } else { Ok(entry) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn note(name: &[u8], descriptor: &[u8], kind: u32, alignment: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        bytes.extend((name.len() as u32).to_le_bytes());
        bytes.extend((descriptor.len() as u32).to_le_bytes());
        bytes.extend(kind.to_le_bytes());
        bytes.extend(name);
        bytes.resize(bytes.len().next_multiple_of(alignment), 0xee);
        bytes.extend(descriptor);
        bytes.resize(bytes.len().next_multiple_of(alignment), 0xee);
        bytes
    }

    #[test]
    fn the_entry_is_found_among_others_in_both_widths_and_alignments() {
        for alignment in [4, 8] {
            for descriptor in [&[0, 0, 0x20, 1][..], &[0, 0, 0x20, 1, 0, 0, 0, 0]] {
                let mut notes = note(b"Xen\0", b"linux\0", 6, alignment);
                notes.extend(note(b"GNU\0", b"0123456789", PHYS32_ENTRY, alignment));
                notes.extend(note(b"", b"", 0, alignment));
                notes.extend(note(b"Xen\0", descriptor, PHYS32_ENTRY, alignment));
                assert_eq!(pvh_entry(&notes, alignment as u64), Ok(Some(0x120_0000)));
            }
        }
    }

    #[test]
    fn notes_without_it_are_fine_and_so_is_padding() {
        let notes = note(b"Linux\0", &[0; 4], 0x100, 4);
        for padding in 0..40 {
            let mut notes = notes.clone();
            notes.resize(notes.len() + padding, 0);
            assert_eq!(pvh_entry(&notes, 4), Ok(None), "{padding} bytes behind");
        }
        assert_eq!(pvh_entry(&[], 4), Ok(None));
    }

    #[test]
    fn a_malformed_note_is_named() {
        let xen = |descriptor: &[u8]| note(b"Xen\0", descriptor, PHYS32_ENTRY, 4);
        let mut endless = xen(&[0; 4]);
        endless[0..4].copy_from_slice(&u32::MAX.to_le_bytes());
        let mut long = xen(&[0; 4]);
        long[4..8].copy_from_slice(&5u32.to_le_bytes());
        let cases = [
            (xen(&[1, 2, 3]), Error::EntrySize(3)),
            (xen(&[]), Error::EntrySize(0)),
            (xen(&[0, 0, 0, 0, 1, 0, 0, 0]), Error::EntryTooHigh(1 << 32)),
            (endless, Error::Cut { offset: 0, name: u32::MAX, descriptor: 4, size: 20 }),
            (long, Error::Cut { offset: 0, name: 4, descriptor: 5, size: 20 }),
        ];
        for (notes, error) in cases {
            assert_eq!(pvh_entry(&notes, 4), Err(error));
        }
    }

    #[test]
    fn cut_anywhere_it_is_an_error_or_absent() {
        let notes = note(b"Xen\0", &[0; 8], PHYS32_ENTRY, 4);
        for length in 0..notes.len() {
            assert_ne!(pvh_entry(&notes[..length], 4), Ok(Some(0)), "{length} bytes");
        }
    }
}
