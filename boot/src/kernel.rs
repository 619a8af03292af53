// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! A kernel of either format.

use std::{fs::File, io};

use arch::{BootProtocol, GuestRam, layout};
use linux_loader::bootparam::setup_header;

use crate::{
    bzimage, cmdline, elf,
    identify::{self, Format, NotAKernel},
    source::{self, Source},
};

/// Why a kernel can't be loaded. The messages go behind the name of its file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Reading failed.
    #[error(transparent)]
    Source(#[from] source::Error),
    /// It is something else.
    #[error(transparent)]
    NotAKernel(#[from] NotAKernel),
    /// It is a malformed ELF.
    #[error(transparent)]
    Elf(#[from] elf::Error),
    /// It is a malformed bzImage.
    #[error(transparent)]
    BzImage(#[from] bzimage::Error),
    /// PVH was asked for.
    #[error(
        "is a bzImage, which has no PVH entry: extract the vmlinux in it (scripts/extract-vmlinux), or boot it without PVH"
    )]
    PvhBzImage,
    /// The guest has too little memory.
    #[error(
        "needs memory up to {end:#x} and there is none behind {ram:#x}: give the guest {} MiB or more",
        .end.div_ceil(arch::memory::MIB)
    )]
    NoRoom {
        /// Where the kernel ends.
        end: u64,
        /// Where RAM below the device hole ends.
        ram: u64,
    },
}

/// Where a kernel lies in guest memory, and where it is entered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Placement {
    /// Its first address, at 1 MiB or above.
    pub(crate) start: u64,
    /// The first address behind it and behind the memory that it uses before it has a memory map; below the hole.
    pub(crate) end: u64,
    /// Its first instruction.
    pub(crate) entry: u64,
}

/// A kernel that was recognised and whose headers were found sound; its file stays open until it is loaded.
#[derive(Debug)]
pub struct Kernel<S = File> {
    source: S,
    image: Image,
}

#[derive(Debug)]
enum Image {
    Elf(elf::Image),
    BzImage(bzimage::Image),
}

impl Image {
    fn read<S: Source>(source: &mut S) -> Result<Self, Error> {
        let mut head = [0; identify::HEAD];
        let head = source::head(source, &mut head).map_err(unreadable)?;
        let format = identify::identify(head)?;
        let size = source::size(source).map_err(source::Error::Read)?;
        Ok(match format {
            Format::Elf => Self::Elf(elf::Image::parse(source, size)?),
            Format::BzImage => Self::BzImage(bzimage::Image::parse(head, size)?),
        })
    }
}

impl<S: Source> Kernel<S> {
    /// Recognises a kernel by its content and checks its headers.
    ///
    /// # Errors
    ///
    /// [`Error`] when it can't be read, is something else, or is malformed.
    pub fn open(mut source: S) -> Result<Self, Error> {
        let image = Image::read(&mut source)?;
        Ok(Self { source, image })
    }

    /// Does the same once more, as somebody may have written to the file since.
    ///
    /// # Errors
    ///
    /// Those of [`Self::open`].
    pub fn check_again(&mut self) -> Result<(), Error> {
        self.image = Image::read(&mut self.source)?;
        Ok(())
    }

    /// Its format.
    pub fn format(&self) -> Format {
        match self.image {
            Image::Elf(_) => Format::Elf,
            Image::BzImage(_) => Format::BzImage,
        }
    }

    /// Whether it can be entered by PVH.
    pub fn has_pvh(&self) -> bool {
        match &self.image {
            Image::Elf(image) => image.has_pvh(),
            Image::BzImage(_) => false,
        }
    }

    /// The protocol that it will be entered by when `wanted` is asked for. `None` leaves it to the kernel: the 64-bit
    /// entry, unless it has none.
    ///
    /// # Errors
    ///
    /// [`Error`] when it can't be entered like that.
    pub fn protocol(&self, wanted: Option<BootProtocol>) -> Result<BootProtocol, Error> {
        match (&self.image, wanted) {
            (Image::Elf(image), wanted) => Ok(image.entry(wanted)?.0),
            (Image::BzImage(_), Some(BootProtocol::Pvh)) => Err(Error::PvhBzImage),
            (Image::BzImage(_), _) => Ok(BootProtocol::Linux64),
        }
    }

    /// Bytes of command line that it takes, without the NUL.
    pub fn cmdline_limit(&self) -> usize {
        match &self.image {
            Image::Elf(_) => cmdline::LIMIT,
            Image::BzImage(image) => usize::try_from(image.header().cmdline_size).unwrap_or(usize::MAX),
        }
    }

    /// The first address that an initrd may not reach. For an ELF any below 4 GiB: the header's limit of 2 GiB is about
    /// the 32-bit code of a bzImage, none of which runs, and `vmlinux` takes an initrd from all of RAM.
    pub(crate) fn initrd_limit(&self) -> u64 {
        match &self.image {
            Image::Elf(_) => layout::MMIO_HOLE_START,
            Image::BzImage(image) => image.initrd_limit(),
        }
    }

    /// The header that goes into the zero page, where the kernel brings one.
    pub(crate) fn setup_header(&self) -> Option<&setup_header> {
        match &self.image {
            Image::Elf(_) => None,
            Image::BzImage(image) => Some(image.header()),
        }
    }

    /// Settles where it goes in RAM that ends at `ram`.
    pub(crate) fn place(&self, protocol: BootProtocol, ram: u64) -> Result<Placement, Error> {
        let placement = match &self.image {
            Image::Elf(image) => image.placement(image.entry(Some(protocol))?.1),
            Image::BzImage(image) => image.placement(),
        };
        if placement.end > ram {
            return Err(Error::NoRoom { end: placement.end, ram });
        }
        Ok(placement)
    }

    /// Copies it to where [`Self::place`] says.
    pub(crate) fn load(&mut self, ram: &GuestRam) -> Result<(), Error> {
        match &self.image {
            Image::Elf(image) => Ok(image.load(ram, &mut self.source)?),
            Image::BzImage(image) => Ok(image.load(ram, &mut self.source)?),
        }
    }
}

/// A directory can be opened and not be read.
fn unreadable(error: io::Error) -> Error {
    match error.kind() {
        io::ErrorKind::IsADirectory => NotAKernel::new("a directory", "name the file in it").into(),
        _ => source::Error::Read(error).into(),
    }
}
