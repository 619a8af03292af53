// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Where a disk's bytes are: in an image as they are, or in one of a format.

use std::fs::File;
use std::io;

use super::image::BlockError;
use super::options::{BlockOptions, ImageFormat, Topology};
use super::qcow2::Qcow2;
use super::raw::Raw;
use crate::sys::disk::Alignment;
use crate::sys::transfer::{Direction, Transfer};

/// The host's side of a disk.
#[derive(Debug)]
pub(super) enum Backend {
    /// The bytes of the image are the disk's.
    Raw(Raw),
    /// They are not; the kernel can't do it for us.
    Qcow2(Qcow2),
}

impl Backend {
    pub(super) fn new(file: File, options: &BlockOptions) -> Result<Self, BlockError> {
        match options.format {
            ImageFormat::Raw => Raw::new(file, options.direct).map(Self::Raw).map_err(BlockError::Size),
            ImageFormat::Qcow2 => Qcow2::new(file, options).map(Self::Qcow2).map_err(BlockError::Qcow2),
        }
    }

    /// The image, if the kernel can work on it for us.
    pub(super) fn raw(&self) -> Option<&Raw> {
        match self {
            Self::Raw(raw) => Some(raw),
            Self::Qcow2(_) => None,
        }
    }

    /// Bytes of the disk.
    pub(super) fn size(&self) -> io::Result<u64> {
        match self {
            Self::Raw(raw) => raw.size(),
            Self::Qcow2(qcow2) => Ok(qcow2.size()),
        }
    }

    /// Makes the disk larger: so many bytes. What is new reads as zeros.
    pub(super) fn grow(&self, size: u64) -> Result<(), BlockError> {
        match self {
            Self::Raw(raw) => raw.grow(size),
            Self::Qcow2(qcow2) => qcow2.grow(size).map_err(BlockError::CantGrow),
        }
    }

    /// What the host says of block sizes.
    pub(super) fn topology(&self) -> Topology {
        match self {
            Self::Raw(raw) => raw.topology(),
            Self::Qcow2(_) => Topology { block_size: 512, physical_block_exp: 3, min_io_size: 8, opt_io_size: 0 },
        }
    }

    /// What the kernel demands of the guest's buffers. A format demands nothing: its data is copied.
    pub(super) fn alignment(&self) -> Option<Alignment> {
        self.raw().and_then(Raw::alignment)
    }

    /// The unit that discarding frees, in bytes; `None`: nothing can be discarded, or made zero without writing it.
    pub(super) fn discard_unit(&self) -> Option<u32> {
        match self {
            Self::Raw(raw) => raw.can_discard().then(|| raw.discard_unit()),
            Self::Qcow2(qcow2) => qcow2.discard_unit(),
        }
    }

    /// Reads a piece.
    pub(super) fn read(&self, transfer: &mut Transfer, offset: u64) -> io::Result<u32> {
        match self {
            Self::Raw(raw) => raw.read(transfer, offset),
            Self::Qcow2(qcow2) => qcow2.run(Direction::Read, transfer, offset),
        }
    }

    /// Writes a piece.
    pub(super) fn write(&self, transfer: &mut Transfer, offset: u64, durable: bool) -> io::Result<u32> {
        match self {
            Self::Raw(raw) => raw.write(transfer, offset, durable),
            // What makes it durable is a step of its own: the request has moved on when that fails.
            Self::Qcow2(qcow2) => qcow2.run(Direction::Write, transfer, offset),
        }
    }

    /// Makes durable what was written.
    pub(super) fn sync(&self) -> io::Result<()> {
        match self {
            Self::Raw(raw) => raw.sync(),
            Self::Qcow2(qcow2) => qcow2.sync(),
        }
    }

    /// Frees a range.
    pub(super) fn discard(&self, offset: u64, len: u64) -> io::Result<()> {
        match self {
            Self::Raw(raw) => raw.discard(offset, len),
            Self::Qcow2(qcow2) => qcow2.discard(offset, len),
        }
    }

    /// Makes a range zeros; with `unmap` its blocks may be freed.
    pub(super) fn make_zero(&self, offset: u64, len: u64, unmap: bool) -> io::Result<()> {
        match self {
            Self::Raw(raw) => raw.make_zero(offset, len, unmap),
            Self::Qcow2(qcow2) => qcow2.make_zero(offset, len, unmap),
        }
    }
}
