// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! An ELF kernel: `vmlinux`, or another program that is entered by Linux' 64-bit protocol or by PVH.
//!
//! All of its headers are checked when it is opened, so that loading it is nothing but copying.

use arch::{BootProtocol, GuestRam, layout};
use linux_loader::elf::{Elf64_Ehdr, Elf64_Phdr, PT_INTERP, PT_LOAD, PT_NOTE};
use vm_memory::ByteValued;

use crate::{
    kernel::Placement,
    notes,
    source::{self, Source},
};

/// Program headers that a kernel may have. Linux has 5.
pub const MAX_PROGRAM_HEADERS: u16 = 128;
/// Bytes of notes that are looked through for a PVH entry. Linux has 512.
pub const MAX_NOTES: u64 = 1 << 16;

/// What is wrong with an ELF.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Reading failed.
    #[error(transparent)]
    Source(#[from] source::Error),
    /// The file ends before what its headers promise.
    #[error("is cut short: {what} ends at {end:#x} and the file has {size:#x} bytes")]
    Truncated {
        /// Which part.
        what: String,
        /// Where in the file it would end; `u64::MAX` when that is beyond all numbers.
        end: u64,
        /// Bytes that there are.
        size: u64,
    },
    /// The program headers are of another format.
    #[error("has program headers of {0} bytes, where an ELF of 64 bits has {size}", size = size_of::<Elf64_Phdr>())]
    HeaderSize(u16),
    /// There are none, or too many.
    #[error("has {0} program headers, where a kernel has 1 to {MAX_PROGRAM_HEADERS}")]
    HeaderCount(u16),
    /// No program header asks for memory.
    #[error("has no segment to load")]
    NothingToLoad,
    /// A program that a dynamic linker would have to start.
    #[error("is a program for an operating system and not a kernel: it names an interpreter")]
    Interpreter,
    /// A segment has more bytes in the file than in memory.
    #[error("segment {index} has {file:#x} bytes in the file and {memory:#x} in memory, where it can't have fewer")]
    SegmentSizes {
        /// The program header's index.
        index: usize,
        /// Bytes in the file.
        file: u64,
        /// Bytes in memory.
        memory: u64,
    },
    /// A segment lies where boot structures, firmware tables or devices are.
    #[error(
        "segment {index} is to be loaded at {address:#x} with {size:#x} bytes of memory, where it must lie between {:#x} and {:#x}",
        layout::HIGH_MEMORY_START,
        layout::MMIO_HOLE_START
    )]
    SegmentAddress {
        /// The program header's index.
        index: usize,
        /// Where it is to go.
        address: u64,
        /// Bytes in memory.
        size: u64,
    },
    /// Two segments want the same memory.
    #[error("segments {first} and {second} overlap at {address:#x}")]
    SegmentsOverlap {
        /// A program header's index.
        first: usize,
        /// Another's.
        second: usize,
        /// The first address that both want.
        address: u64,
    },
    /// There are more notes than anybody needs.
    #[error("has notes of {0:#x} bytes, where {MAX_NOTES:#x} are looked through")]
    TooManyNotes(u64),
    /// A note is malformed.
    #[error("has a malformed note: {0}")]
    Note(#[from] notes::Error),
    /// The 64-bit entry isn't in the kernel.
    #[error("its entry {0:#x} is in none of its segments, and it has no PVH entry")]
    EntryOutside(u64),
    /// The PVH entry isn't in the kernel.
    #[error("its PVH entry {0:#x} is in none of its segments")]
    PvhEntryOutside(u64),
    /// PVH was asked for.
    #[error(
        "has no PVH entry (the Xen note PHYS32_ENTRY): build it with CONFIG_PVH, or boot it by the 64-bit protocol"
    )]
    NoPvhEntry,
}

/// A segment to load. Its addresses are between 1 MiB and the hole, and its bytes are in the file.
#[derive(Clone, Copy, Debug)]
struct Segment {
    index: usize,
    offset: u64,
    file_size: u64,
    start: u64,
    end: u64,
}

/// An ELF whose headers are sound.
#[derive(Debug)]
pub(crate) struct Image {
    /// By address, without overlap; at least one.
    segments: Vec<Segment>,
    entry: u64,
    pvh_entry: Option<u64>,
}

impl Image {
    /// Reads and checks the headers of a file of `size` bytes that `identify` takes for an ELF.
    pub(crate) fn parse(source: &mut impl Source, size: u64) -> Result<Self, Error> {
        let mut header = Elf64_Ehdr::default();
        within(size, 0, size_of::<Elf64_Ehdr>() as u64, || "the ELF header".to_owned())?;
        source::read_at(source, 0, header.as_mut_slice())?;

        let mut segments = Vec::new();
        let mut pvh_entry = None;
        for (index, program) in program_headers(source, size, &header)?.into_iter().enumerate() {
            match program.p_type {
                PT_LOAD => segments.extend(segment(index, &program, size)?),
                PT_NOTE if pvh_entry.is_none() => pvh_entry = find_pvh_entry(source, size, &program)?,
                PT_INTERP => return Err(Error::Interpreter),
                _ => {}
            }
        }
        segments.sort_by_key(|segment| segment.start);
        if segments.is_empty() {
            return Err(Error::NothingToLoad);
        }
        for (first, second) in segments.iter().zip(segments.iter().skip(1)) {
            if second.start < first.end {
                return Err(Error::SegmentsOverlap { first: first.index, second: second.index, address: second.start });
            }
        }
        Ok(Self { segments, entry: header.e_entry, pvh_entry })
    }

    fn contains(&self, address: u64) -> bool {
        self.segments.iter().any(|segment| (segment.start..segment.end).contains(&address))
    }

    /// Whether there is a PVH entry that lies in the kernel.
    pub(crate) fn has_pvh(&self) -> bool {
        self.pvh_entry.is_some_and(|entry| self.contains(entry))
    }

    /// Chooses the protocol and its entry: what was asked for, else the 64-bit entry, else PVH.
    ///
    /// PVH is needed where the 64-bit entry lies outside of all segments, and where the two are one address: the code
    /// there can't be both, and a note is put there on purpose while a linker fills in the entry in any case.
    pub(crate) fn entry(&self, wanted: Option<BootProtocol>) -> Result<(BootProtocol, u64), Error> {
        let linux = || match self.entry {
            entry if self.contains(entry) => Ok((BootProtocol::Linux64, entry)),
            entry => Err(Error::EntryOutside(entry)),
        };
        let pvh = || match self.pvh_entry {
            Some(entry) if self.contains(entry) => Ok((BootProtocol::Pvh, entry)),
            Some(entry) => Err(Error::PvhEntryOutside(entry)),
            None => Err(Error::NoPvhEntry),
        };
        match wanted {
            Some(BootProtocol::Linux64) => linux(),
            Some(BootProtocol::Pvh) => pvh(),
            None if self.pvh_entry.is_some() && (!self.contains(self.entry) || self.pvh_entry == Some(self.entry)) => {
                pvh()
            }
            None => linux(),
        }
    }

    /// Where the kernel lies; it can't be moved.
    pub(crate) fn placement(&self, entry: u64) -> Placement {
        let start = self.segments.first().map_or(0, |segment| segment.start);
        let end = self.segments.last().map_or(0, |segment| segment.end);
        Placement { start, end, entry }
    }

    /// Copies the segments to where they belong. The rest of a segment that is larger in memory than in the file has to
    /// be zero, and is: RAM is fresh. Writing it would only touch pages that the guest may never need.
    pub(crate) fn load(&self, ram: &GuestRam, source: &mut impl Source) -> Result<(), source::Error> {
        self.segments
            .iter()
            .try_for_each(|segment| source::copy(ram, source, segment.offset, segment.file_size, segment.start))
    }
}

/// Checks that `length` bytes from `offset` on are in a file of `size` bytes.
fn within(size: u64, offset: u64, length: u64, what: impl FnOnce() -> String) -> Result<(), Error> {
    match offset.checked_add(length) {
        Some(end) if end <= size => Ok(()),
        end => Err(Error::Truncated { what: what(), end: end.unwrap_or(u64::MAX), size }),
    }
}

fn program_headers(source: &mut impl Source, size: u64, header: &Elf64_Ehdr) -> Result<Vec<Elf64_Phdr>, Error> {
    let (each, count) = (header.e_phentsize, header.e_phnum);
    if usize::from(each) != size_of::<Elf64_Phdr>() {
        return Err(Error::HeaderSize(each));
    }
    if count == 0 || count > MAX_PROGRAM_HEADERS {
        return Err(Error::HeaderCount(count));
    }
    let length = u64::from(each).saturating_mul(u64::from(count));
    within(size, header.e_phoff, length, || "the table of program headers".to_owned())?;

    let mut offset = header.e_phoff;
    let mut programs = Vec::with_capacity(usize::from(count));
    for _ in 0..count {
        let mut program = Elf64_Phdr::default();
        source::read_at(source, offset, program.as_mut_slice())?;
        programs.push(program);
        offset = offset.saturating_add(u64::from(each));
    }
    Ok(programs)
}

/// A segment that asks for memory; one that asks for none is left out.
fn segment(index: usize, program: &Elf64_Phdr, size: u64) -> Result<Option<Segment>, Error> {
    let &Elf64_Phdr { p_offset, p_paddr, p_filesz, p_memsz, .. } = program;
    if p_filesz > p_memsz {
        return Err(Error::SegmentSizes { index, file: p_filesz, memory: p_memsz });
    }
    if p_memsz == 0 {
        return Ok(None);
    }
    within(size, p_offset, p_filesz, || format!("segment {index}"))?;
    let outside = Error::SegmentAddress { index, address: p_paddr, size: p_memsz };
    match p_paddr.checked_add(p_memsz) {
        Some(end) if p_paddr >= layout::HIGH_MEMORY_START && end <= layout::MMIO_HOLE_START => {
            Ok(Some(Segment { index, offset: p_offset, file_size: p_filesz, start: p_paddr, end }))
        }
        _ => Err(outside),
    }
}

fn find_pvh_entry(source: &mut impl Source, size: u64, program: &Elf64_Phdr) -> Result<Option<u64>, Error> {
    let &Elf64_Phdr { p_offset, p_filesz, p_align, .. } = program;
    within(size, p_offset, p_filesz, || "a segment of notes".to_owned())?;
    if p_filesz > MAX_NOTES {
        return Err(Error::TooManyNotes(p_filesz));
    }
    let mut bytes = vec![0; usize::try_from(p_filesz).unwrap_or_default()];
    source::read_at(source, p_offset, &mut bytes)?;
    Ok(notes::pvh_entry(&bytes, p_align)?)
}
