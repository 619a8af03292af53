// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! One request, from its chain to its status byte: what is asked, what is left of it, and how it ended.
//!
//! Everything that the guest says is copied out of its memory once, here, and checked before the first byte moves.

use std::io;
use std::sync::atomic::Ordering;

use vm_memory::{Bytes, GuestAddress};

use super::image::{Image, SECTOR_SIZE};
use super::spec;
use crate::ram::{self, GuestRam};
use crate::virtio::chain::{Chain, Segment};

/// The most segments of a DISCARD or WRITE_ZEROES request.
pub(super) const MAX_RANGES: usize = 32;
/// The most sectors of such a segment: 2 GiB.
pub(super) const MAX_RANGE_SECTORS: u32 = 1 << 22;
/// The most that is discarded or made zero at once, in bytes, so that it doesn't hold up a stop.
const RANGE_PIECE: u64 = 64 << 20;

/// A part of the image, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Range {
    offset: u64,
    len: u64,
    unmap: bool,
}

/// What is to be done next for a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Read the next piece of the data to here.
    Read { offset: u64 },
    /// Write the next piece of the data from here.
    Write { offset: u64 },
    /// Make durable what was written.
    Sync,
    /// Free this range.
    Discard { offset: u64, len: u64 },
    /// Make this range zeros.
    Zero { offset: u64, len: u64, unmap: bool },
    /// Report this status.
    Finish(u8),
}

/// What the driver asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Kind {
    Read,
    Write,
    Flush,
    Discard,
    Zero,
    /// There is nothing to do but to report.
    #[default]
    Answer,
}

/// A request. Reused, so that taking one allocates nothing once it is warm.
#[derive(Debug, Default)]
pub(super) struct Request {
    kind: Kind,
    status: u8,
    status_at: GuestAddress,
    /// Where the data goes on in the image.
    offset: u64,
    /// Bytes of data, or of zeros, in all.
    size: u64,
    /// Bytes of data left.
    left: u64,
    /// Bytes of data that were written to the guest.
    written: u32,
    /// It is to be durable when it completes.
    durable: bool,
    /// Its writes are not durable by themselves then.
    sync_after: bool,
    /// What is left of the ranges, the last one first.
    ranges: Vec<Range>,
}

impl Request {
    /// Takes on the request in `chain`, whose data remains in there. `durable`: what it changes must be so when it
    /// completes. `false`: it can't report a status, and is not done.
    pub(super) fn parse(&mut self, image: &Image, mem: &GuestRam, chain: &mut Chain, durable: bool) -> bool {
        let Some(status_at) = chain.take_last_writable() else { return false };
        self.ranges.clear();
        let ranges = std::mem::take(&mut self.ranges);
        *self = Self { status_at, ranges, durable, ..Self::default() };
        self.status = match chain.take_header(mem) {
            Some(header) => self.accept(u128::to_ne_bytes(header), image, mem, chain).err().unwrap_or(spec::S_OK),
            None => spec::S_IOERR,
        };
        if self.status != spec::S_OK {
            self.kind = Kind::Answer;
        }
        true
    }

    fn accept(
        &mut self,
        header: [u8; spec::HEADER_SIZE],
        image: &Image,
        mem: &GuestRam,
        chain: &mut Chain,
    ) -> Result<(), u8> {
        let [t0, t1, t2, t3, _, _, _, _, sector @ ..] = header;
        let sector = u64::from_le_bytes(sector);
        let kind = u32::from_le_bytes([t0, t1, t2, t3]);
        let is_write = matches!(kind, spec::T_OUT | spec::T_DISCARD | spec::T_WRITE_ZEROES);
        if is_write && image.options.read_only {
            return Err(spec::S_IOERR);
        }
        // What was lost stays lost, though a later flush may find nothing more to complain about.
        let promises = kind == spec::T_FLUSH || is_write && self.durable;
        if promises && image.has_lost() {
            return Err(spec::S_IOERR);
        }
        match kind {
            spec::T_IN => self.set_data(Kind::Read, image, sector, chain.writable_len()),
            spec::T_OUT => self.set_data(Kind::Write, image, sector, chain.readable_len()),
            spec::T_FLUSH => {
                // A read-only image has nothing to make durable, and some files can't be synced when they are not open
                // for writing.
                self.kind = if image.options.read_only { Kind::Answer } else { Kind::Flush };
                Ok(())
            }
            spec::T_GET_ID => self.give_id(image, mem, chain),
            spec::T_DISCARD if image.discards.is_some() => self.set_ranges(Kind::Discard, image, mem, chain),
            spec::T_WRITE_ZEROES if image.discards.is_some() => self.set_ranges(Kind::Zero, image, mem, chain),
            _ => Err(spec::S_UNSUPP),
        }
    }

    fn set_data(&mut self, kind: Kind, image: &Image, sector: u64, len: u32) -> Result<(), u8> {
        self.offset = image.offset(sector, len.into()).ok_or(spec::S_IOERR)?;
        (self.size, self.left) = (len.into(), len.into());
        self.kind = kind;
        self.sync_after = self.durable && kind == Kind::Write && image.backend.raw().is_none();
        Ok(())
    }

    /// The whole number or nothing: a part of it would be another disk's.
    fn give_id(&mut self, image: &Image, mem: &GuestRam, chain: &Chain) -> Result<(), u8> {
        let mut id = image.options.serial.bytes().as_slice();
        if usize::try_from(chain.writable_len()).is_ok_and(|len| len < id.len()) {
            return Err(spec::S_IOERR);
        }
        for segment in chain.writable() {
            let len = usize::try_from(segment.len).unwrap_or(usize::MAX).min(id.len());
            let Some((now, later)) = id.split_at_checked(len) else { break };
            mem.write_slice(now, segment.address).map_err(|_| spec::S_IOERR)?;
            self.written = self.written.saturating_add(u32::try_from(len).unwrap_or_default());
            id = later;
        }
        self.kind = Kind::Answer;
        Ok(())
    }

    /// All segments are checked before the first one is done.
    fn set_ranges(&mut self, kind: Kind, image: &Image, mem: &GuestRam, chain: &mut Chain) -> Result<(), u8> {
        let len = usize::try_from(chain.readable_len()).map_err(|_| spec::S_IOERR)?;
        let count = len / spec::RANGE_SIZE;
        if !len.is_multiple_of(spec::RANGE_SIZE) || !(1..=MAX_RANGES).contains(&count) {
            return Err(spec::S_IOERR);
        }
        for _ in 0..count {
            let range = chain.take_header(mem).map(u128::to_ne_bytes).ok_or(spec::S_IOERR)?;
            let range = check_range(kind, image, range)?;
            if range.len > 0 {
                self.ranges.push(range);
            }
        }
        self.ranges.reverse();
        if kind == Kind::Zero {
            // A host that can't do better writes them.
            self.size = self.ranges.iter().fold(0, |sum, range| sum.saturating_add(range.len));
        }
        self.kind = kind;
        Ok(())
    }

    /// The buffers of the request's data, in the chain that it was taken from.
    pub(super) fn data<'a>(&self, chain: &'a Chain) -> &'a [Segment] {
        match self.kind {
            Kind::Read => chain.writable(),
            Kind::Write => chain.readable(),
            _ => &[],
        }
    }

    /// Bytes of data, or of zeros.
    pub(super) fn size(&self) -> u64 {
        self.size
    }

    /// What is to be done next.
    pub(super) fn step(&self) -> Step {
        if self.status != spec::S_OK {
            return Step::Finish(self.status);
        }
        match (self.kind, self.ranges.last()) {
            (Kind::Read, _) if self.left > 0 => Step::Read { offset: self.offset },
            (Kind::Write, _) if self.left > 0 => Step::Write { offset: self.offset },
            (Kind::Flush, _) => Step::Sync,
            (Kind::Discard, Some(range)) => Step::Discard { offset: range.offset, len: range.len.min(RANGE_PIECE) },
            (Kind::Zero, Some(&Range { offset, len, unmap })) => {
                Step::Zero { offset, len: len.min(RANGE_PIECE), unmap }
            }
            (Kind::Zero, None) if self.durable => Step::Sync,
            (Kind::Write, _) if self.sync_after => Step::Sync,
            _ => Step::Finish(self.status),
        }
    }

    /// The step is done, and has moved `bytes` if it moves any.
    pub(super) fn done(&mut self, step: Step, bytes: u32) {
        match step {
            Step::Read { .. } | Step::Write { .. } => {
                if self.kind == Kind::Read {
                    self.written = self.written.saturating_add(bytes);
                }
                self.offset = self.offset.saturating_add(bytes.into());
                // A call that moves nothing has nothing left to move.
                self.left = if bytes == 0 { 0 } else { self.left.saturating_sub(bytes.into()) };
            }
            Step::Discard { len, .. } | Step::Zero { len, .. } => {
                let Some(range) = self.ranges.last_mut() else { return };
                range.offset = range.offset.saturating_add(len);
                range.len = range.len.saturating_sub(len);
                if range.len == 0 {
                    self.ranges.pop();
                }
            }
            Step::Sync | Step::Finish(_) => self.kind = Kind::Answer,
        }
    }

    /// Makes zeros by another way from here on.
    pub(super) fn set_unmap(&mut self, unmap: bool) {
        self.ranges.iter_mut().for_each(|range| range.unmap = unmap);
    }

    /// The request has failed.
    pub(super) fn fail(&mut self, status: u8) {
        self.status = status;
    }

    /// Writes the status byte; gives how many bytes were written to the guest in all.
    pub(super) fn report(&self, mem: &GuestRam, status: u8) -> u32 {
        let reported =
            ram::slice(mem, self.status_at, 1).is_some_and(|slice| slice.store(status, 0, Ordering::Relaxed).is_ok());
        self.written.saturating_add(reported.into())
    }

    /// What is said of a step that failed.
    pub(super) fn describe(step: Step, error: &io::Error) -> String {
        let (what, offset) = match step {
            Step::Read { offset } => ("a read", offset),
            Step::Write { offset } => ("a write", offset),
            Step::Discard { offset, .. } => ("discarding", offset),
            Step::Zero { offset, .. } => ("making zeros", offset),
            Step::Sync | Step::Finish(_) => return format!("a flush failed: {error}"),
        };
        format!("{what} at sector {} failed: {error}", offset / SECTOR_SIZE)
    }
}

/// Checks one segment (virtio 1.3 §5.2.6.2): an unknown flag is UNSUPP, anything else that is wrong IOERR.
fn check_range(kind: Kind, image: &Image, bytes: [u8; spec::RANGE_SIZE]) -> Result<Range, u8> {
    let [s0, s1, s2, s3, s4, s5, s6, s7, n0, n1, n2, n3, flags @ ..] = bytes;
    let sector = u64::from_le_bytes([s0, s1, s2, s3, s4, s5, s6, s7]);
    let sectors = u32::from_le_bytes([n0, n1, n2, n3]);
    let flags = u32::from_le_bytes(flags);
    let known = if kind == Kind::Zero { spec::RANGE_UNMAP } else { 0 };
    if flags & !known != 0 {
        return Err(spec::S_UNSUPP);
    }
    if sectors > MAX_RANGE_SECTORS {
        return Err(spec::S_IOERR);
    }
    let len = u64::from(sectors).saturating_mul(SECTOR_SIZE);
    let offset = image.offset(sector, len).ok_or(spec::S_IOERR)?;
    Ok(Range { offset, len, unmap: flags & spec::RANGE_UNMAP != 0 })
}

#[cfg(test)]
#[path = "request_tests.rs"]
mod tests;
