// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! A unified kernel image: a kernel, an initrd and a command line in one PE file, as `ukify` makes it (the UAPI group's
//! specification "Unified Kernel Image"; Microsoft's "PE Format").
//!
//! Its EFI stub is never run: the sections are read as what they are.

use crate::source::{self, Source};

/// Where the offset of the PE header is.
const PE_OFFSET: u64 = 0x3c;
/// Bytes from the signature to behind the COFF header.
const COFF_END: u64 = 24;
/// Bytes of a section's header.
const SECTION: usize = 40;
/// The most sections that Windows' loader takes, and more than any image has.
const MAX_SECTIONS: u16 = 96;
/// x86-64, as the COFF header says it.
const MACHINE_AMD64: u16 = 0x8664;
/// The most bytes of a command line; the boot protocol's own limit is below.
const MAX_CMDLINE: u64 = 64 << 10;

/// What is wrong with a unified kernel image.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Reading failed.
    #[error(transparent)]
    Source(#[from] source::Error),
    /// It is for another processor.
    #[error("is a unified kernel image for machine {0:#06x} and not for x86-64 (0x8664)")]
    Machine(u16),
    /// A section lies beyond the end.
    #[error("is cut short: its section {name} ends at {end:#x} and the file has {size:#x} bytes")]
    Truncated {
        /// Which section.
        name: &'static str,
        /// Where it would end.
        end: u64,
        /// Bytes that there are.
        size: u64,
    },
    /// The command line is none.
    #[error("has a command line of {0} bytes, where 65536 are the most")]
    LongCmdline(u64),
    /// The command line is none.
    #[error("has a command line that is not UTF-8")]
    BadCmdline,
}

/// Where a section's content is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Section {
    /// The first byte, in the file.
    pub offset: u64,
    /// Bytes.
    pub len: u64,
}

/// The parts of a unified kernel image that matter without EFI.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Uki {
    /// `.linux`: a kernel.
    pub linux: Section,
    /// `.initrd`, if it isn't empty.
    pub initrd: Option<Section>,
    /// `.cmdline`.
    pub cmdline: Option<String>,
}

impl Uki {
    /// Looks whether a source is one. `None`: it is something else, of which nothing is said here.
    ///
    /// # Errors
    ///
    /// [`Error`] when it is one, and malformed, or can't be read.
    pub fn read(source: &mut impl Source) -> Result<Option<Self>, Error> {
        let size = source::size(source).map_err(source::Error::Read)?;
        let Some(sections) = sections(source, size)? else { return Ok(None) };
        let Some(linux) = sections.find(".linux", size)? else { return Ok(None) };
        // Another section of that name is for other firmware, or another profile.
        if sections.machine != MACHINE_AMD64 {
            return Err(Error::Machine(sections.machine));
        }
        let initrd = sections.find(".initrd", size)?.filter(|section| section.len > 0);
        let cmdline = sections.find(".cmdline", size)?.map(|section| cmdline(source, section)).transpose()?;
        Ok(Some(Self { linux, initrd, cmdline }))
    }
}

/// The section headers of a PE file.
struct Sections {
    machine: u16,
    headers: Vec<[u8; SECTION]>,
}

/// `None`: it is no PE file, or none with sections.
fn sections(source: &mut impl Source, size: u64) -> Result<Option<Sections>, source::Error> {
    let mut read = |at: u64, bytes: &mut [u8]| {
        let fits = at.checked_add(bytes.len() as u64).is_some_and(|end| end <= size);
        if fits { source::read_at(source, at, bytes).map(|()| true) } else { Ok(false) }
    };
    let (mut magic, mut offset, mut coff) = ([0; 2], [0; 4], [0; COFF_END as usize]);
    if !read(0, &mut magic)? || &magic != b"MZ" || !read(PE_OFFSET, &mut offset)? {
        return Ok(None);
    }
    let pe = u64::from(u32::from_le_bytes(offset));
    if !read(pe, &mut coff)? || !coff.starts_with(b"PE\0\0") {
        return Ok(None);
    }
    let [_, _, _, _, m0, m1, n0, n1, .., o0, o1, _, _] = coff;
    let (machine, count) = (u16::from_le_bytes([m0, m1]), u16::from_le_bytes([n0, n1]));
    // Behind the optional header, whose size is the last but one field.
    let optional = u64::from(u16::from_le_bytes([o0, o1]));
    let mut at = pe.saturating_add(COFF_END).saturating_add(optional);
    let mut headers = Vec::new();
    for _ in 0..count.min(MAX_SECTIONS) {
        let mut header = [0; SECTION];
        if !read(at, &mut header)? {
            break;
        }
        headers.push(header);
        at = at.saturating_add(SECTION as u64);
    }
    Ok(Some(Sections { machine, headers }))
}

impl Sections {
    /// The first section of that name, which has at most eight letters.
    fn find(&self, name: &'static str, size: u64) -> Result<Option<Section>, Error> {
        let named = |header: &&[u8; SECTION]| {
            let (own, _) = header.split_at(8);
            own.split(|byte| *byte == 0).next() == Some(name.as_bytes())
        };
        let Some(header) = self.headers.iter().find(named) else { return Ok(None) };
        let field =
            |at: usize| header.get(at..).and_then(<[u8]>::first_chunk).map_or(0, |bytes| u32::from_le_bytes(*bytes));
        // What is in the file is rounded up to its alignment; the size in memory is the real one.
        let (virtual_size, raw_size, offset) = (field(8), field(16), u64::from(field(20)));
        let len = u64::from(if virtual_size == 0 { raw_size } else { virtual_size.min(raw_size) });
        let end = offset.saturating_add(len);
        if end > size {
            return Err(Error::Truncated { name, end, size });
        }
        Ok(Some(Section { offset, len }))
    }
}

/// The text of a section, without what makers put behind it.
fn cmdline(source: &mut impl Source, section: Section) -> Result<String, Error> {
    let Section { offset, len } = section;
    let room = usize::try_from(len).ok().filter(|_| len <= MAX_CMDLINE).ok_or(Error::LongCmdline(len))?;
    let mut bytes = vec![0; room];
    source::read_at(source, offset, &mut bytes)?;
    let text = bytes.split(|byte| *byte == 0).next().unwrap_or_default();
    let text = std::str::from_utf8(text).map_err(|_| Error::BadCmdline)?;
    Ok(text.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;

    /// A PE file with these sections: name, bytes, and bytes that its size in memory has less.
    fn pe(machine: u16, sections: &[(&str, &[u8])]) -> Vec<u8> {
        const PE: usize = 0x80;
        const OPTIONAL: u16 = 0xf0;
        let mut image = vec![0; 0x400];
        image[..2].copy_from_slice(b"MZ");
        image[0x3c..0x40].copy_from_slice(&(PE as u32).to_le_bytes());
        image[PE..PE + 4].copy_from_slice(b"PE\0\0");
        image[PE + 4..PE + 6].copy_from_slice(&machine.to_le_bytes());
        image[PE + 6..PE + 8].copy_from_slice(&(sections.len() as u16).to_le_bytes());
        image[PE + 20..PE + 22].copy_from_slice(&OPTIONAL.to_le_bytes());
        let mut at = PE + 24 + usize::from(OPTIONAL);
        for (name, content) in sections {
            let offset = image.len().next_multiple_of(512);
            image.resize(offset, 0);
            image.extend_from_slice(content);
            image.resize(image.len().next_multiple_of(512), 0);
            let raw = (image.len() - offset) as u32;
            let fields = [content.len() as u32, 0, raw, offset as u32];
            image[at..at + name.len()].copy_from_slice(name.as_bytes());
            for (field, place) in fields.iter().zip((at + 8..).step_by(4)) {
                image[place..place + 4].copy_from_slice(&field.to_le_bytes());
            }
            at += SECTION;
        }
        image
    }

    fn read(image: &[u8]) -> Result<Option<Uki>, String> {
        Uki::read(&mut Cursor::new(image.to_vec())).map_err(|error| error.to_string())
    }

    #[test]
    fn the_parts_are_found_by_name_with_their_real_sizes() {
        let image = pe(
            MACHINE_AMD64,
            &[
                (".osrel", b"ID=x"),
                (".cmdline", b"console=ttyS0 quiet\n\0\0"),
                (".linux", &[1; 700]),
                (".initrd", b"rd"),
            ],
        );
        let uki = read(&image).unwrap().unwrap();
        assert_eq!(uki.cmdline.as_deref(), Some("console=ttyS0 quiet"));
        let content = |section: Section| image[section.offset as usize..][..section.len as usize].to_vec();
        assert_eq!((content(uki.linux), content(uki.initrd.unwrap())), (vec![1; 700], b"rd".to_vec()));
        let small = read(&pe(MACHINE_AMD64, &[(".linux", b"k"), (".initrd", b"")])).unwrap().unwrap();
        assert_eq!((small.initrd, small.cmdline), (None, None));
    }

    #[test]
    fn what_is_none_is_left_to_others() {
        let bare = pe(MACHINE_AMD64, &[(".text", b"x")]);
        for image in [b"".to_vec(), b"MZ".to_vec(), vec![0; 4096], bare, pe(0, &[])] {
            assert_eq!(read(&image), Ok(None));
        }
        let mut far = pe(MACHINE_AMD64, &[(".linux", b"k")]);
        far[0x3c..0x40].copy_from_slice(&u32::MAX.to_le_bytes());
        assert_eq!(read(&far), Ok(None));
    }

    #[test]
    fn what_is_wrong_with_one_is_said() {
        let image = pe(0xaa64, &[(".linux", b"k")]);
        assert_eq!(
            read(&image).unwrap_err(),
            "is a unified kernel image for machine 0xaa64 and not for x86-64 (0x8664)"
        );
        let whole = pe(MACHINE_AMD64, &[(".linux", &[1; 700]), (".cmdline", b"\xff")]);
        assert_eq!(read(&whole).unwrap_err(), "has a command line that is not UTF-8");
        assert_eq!(
            read(&whole[..0x500]).unwrap_err(),
            "is cut short: its section .linux ends at 0x6bc and the file has 0x500 bytes"
        );
        let long = pe(MACHINE_AMD64, &[(".linux", b"k"), (".cmdline", &[b' '; 65_537])]);
        assert_eq!(read(&long).unwrap_err(), "has a command line of 65537 bytes, where 65536 are the most");
    }

    #[test]
    fn a_file_of_any_bytes_is_never_more_than_an_error() {
        let good = pe(MACHINE_AMD64, &[(".linux", b"k"), (".initrd", b"i"), (".cmdline", b"c")]);
        for at in 0..0x300 {
            for value in [0, 1, 0x7f, 0xff] {
                let mut image = good.clone();
                image[at] = value;
                let _ = read(&image);
            }
        }
        for len in 0..good.len() {
            let _ = read(&good[..len]);
        }
    }
}
