// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! A Linux image of the x86 boot protocol (Linux Documentation/arch/x86/boot.rst), entered in 64-bit mode. The real-mode
//! part is never loaded: only its header is taken over.

use arch::{GuestRam, layout};
use linux_loader::bootparam::{XLF_CAN_BE_LOADED_ABOVE_4G, XLF_KERNEL_64, setup_header};
use vm_memory::ByteValued;

use crate::{
    kernel::Placement,
    source::{self, Source},
};

/// Where the setup header starts.
const SETUP_HEADER: usize = 0x1f1;
/// Where the byte is that tells the header's end, as an offset from the one behind it ("the kernel header's size").
const HEADER_LENGTH: usize = 0x201;
/// A sector, the unit of `setup_sects`.
const SECTOR: u64 = 512;
/// A paragraph, the unit of `syssize`.
const PARAGRAPH: u64 = 16;
/// `setup_sects` of a kernel that says 0.
const DEFAULT_SETUP_SECTORS: u8 = 4;
/// Where the 64-bit entry is in the protected-mode part.
const ENTRY_64: u64 = 0x200;
/// The first protocol with `xloadflags`.
const VERSION_2_12: u16 = 0x20c;

/// What is wrong with a bzImage.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The file ends before what its header promises.
    #[error("is cut short: {what} ends at {end:#x} and the file has {size:#x} bytes")]
    Truncated {
        /// Which part.
        what: &'static str,
        /// Where in the file it would end.
        end: u64,
        /// Bytes that there are.
        size: u64,
    },
    /// The kernel is from before 2013 (Linux 3.8).
    #[error("has boot protocol {}.{:02}, where the 64-bit entry needs 2.12 or later (Linux 3.8)", .0 >> 8, .0 & 0xff)]
    Version(u16),
    /// The kernel can't be entered in 64-bit mode.
    #[error("has no 64-bit entry (xloadflags is {0:#x} without bit 0): it is a 32-bit kernel")]
    No64BitEntry(u16),
    /// There is no code at the entry.
    #[error("has {0:#x} bytes of protected-mode code, where its entry is at {ENTRY_64:#x}")]
    NoCode(u64),
    /// A relocatable kernel can't be aligned.
    #[error("asks for an alignment of {0:#x}, where it must be a power of two up to 1 GiB")]
    Alignment(u32),
    /// The kernel wants to lie where it can't.
    #[error(
        "wants to be loaded at {address:#x} with {size:#x} bytes of memory, where it must lie between {:#x} and {:#x}",
        layout::HIGH_MEMORY_START,
        layout::MMIO_HOLE_START
    )]
    Address {
        /// Where it wants to lie.
        address: u64,
        /// Bytes of memory that it needs there.
        size: u64,
    },
}

/// A bzImage whose header is sound.
#[derive(Debug)]
pub(crate) struct Image {
    header: setup_header,
    /// Where in the file the protected-mode code is.
    offset: u64,
    /// Its bytes.
    size: u64,
    placement: Placement,
}

impl Image {
    /// Checks the header of a file of `size` bytes that starts with `head` and that `identify` takes for a bzImage.
    pub(crate) fn parse(head: &[u8], size: u64) -> Result<Self, Error> {
        let header = setup_header(head, size)?;
        let setup_header { version, xloadflags, .. } = header;
        if version < VERSION_2_12 {
            return Err(Error::Version(version));
        }
        if xloadflags & XLF_KERNEL_64 == 0 {
            return Err(Error::No64BitEntry(xloadflags));
        }
        let sectors = if header.setup_sects == 0 { DEFAULT_SETUP_SECTORS } else { header.setup_sects };
        // One more: the boot sector isn't counted.
        let offset = u64::from(sectors).saturating_add(1).saturating_mul(SECTOR);
        let code = u64::from(header.syssize).saturating_mul(PARAGRAPH);
        if code <= ENTRY_64 {
            return Err(Error::NoCode(code));
        }
        // A signature may follow the code. The last paragraph needn't be full.
        let end = offset.saturating_add(code);
        if end.saturating_sub(PARAGRAPH) >= size {
            return Err(Error::Truncated { what: "the protected-mode code", end, size });
        }
        let code = code.min(size.saturating_sub(offset));
        let placement = place(&header, code)?;
        Ok(Self { header, offset, size: code, placement })
    }

    pub(crate) fn header(&self) -> &setup_header {
        &self.header
    }

    pub(crate) fn placement(&self) -> Placement {
        self.placement
    }

    /// The first address that an initrd may not reach.
    ///
    /// The field is kept at its default of 2 GiB by all kernels, for what decompressed itself in 32-bit mode. One that
    /// can be loaded above 4 GiB (since 3.8) takes an initrd from anywhere.
    pub(crate) fn initrd_limit(&self) -> u64 {
        let setup_header { xloadflags, initrd_addr_max, .. } = self.header;
        if xloadflags & XLF_CAN_BE_LOADED_ABOVE_4G != 0 {
            return u64::MAX;
        }
        u64::from(initrd_addr_max).saturating_add(1)
    }

    pub(crate) fn load(&self, ram: &GuestRam, source: &mut impl Source) -> Result<(), source::Error> {
        source::copy(ram, source, self.offset, self.size, self.placement.start)
    }
}

/// Copies the setup header, as far as the kernel says that it goes and no further than is known here.
fn setup_header(head: &[u8], size: u64) -> Result<setup_header, Error> {
    let truncated = |end: usize| Error::Truncated { what: "the setup header", end: end as u64, size };
    let length = head.get(HEADER_LENGTH).copied().ok_or_else(|| truncated(HEADER_LENGTH))?;
    let end = HEADER_LENGTH.saturating_add(1).saturating_add(usize::from(length));
    let bytes = head.get(SETUP_HEADER..end).ok_or_else(|| truncated(end))?;
    let mut header = setup_header::default();
    header.as_mut_slice().iter_mut().zip(bytes).for_each(|(to, from)| *to = *from);
    Ok(header)
}

/// Where the kernel is to lie. Where it prefers to, when that is possible: a relocatable one that is loaded lower moves
/// itself up to there in any case, so a lower place would help nothing, and needs `init_size` bytes from there on.
fn place(header: &setup_header, code: u64) -> Result<Placement, Error> {
    const LARGEST_ALIGNMENT: u32 = 1 << 30;
    let &setup_header { pref_address, init_size, kernel_alignment, relocatable_kernel, .. } = header;
    let size = u64::from(init_size).max(code);
    let mut start = pref_address;
    if relocatable_kernel != 0 {
        if !kernel_alignment.is_power_of_two() || kernel_alignment > LARGEST_ALIGNMENT {
            return Err(Error::Alignment(kernel_alignment));
        }
        start =
            start.max(layout::HIGH_MEMORY_START).checked_next_multiple_of(u64::from(kernel_alignment)).unwrap_or(start);
    }
    match start.checked_add(size) {
        Some(end) if start >= layout::HIGH_MEMORY_START && end <= layout::MMIO_HOLE_START => {
            Ok(Placement { start, end, entry: start.saturating_add(ENTRY_64) })
        }
        _ => Err(Error::Address { address: start, size }),
    }
}
