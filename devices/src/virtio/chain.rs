// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! A descriptor chain, copied out of guest memory once and checked.
//!
//! The guest controls every descriptor, and another vCPU may rewrite them at any time: each is read exactly once. What
//! comes out is a list of ranges that lie in RAM, the readable ones first, whose lengths add up to less than 4 GiB.

use thiserror::Error;
use vm_memory::{Address, ByteValued, Bytes, GuestAddress, GuestMemoryBackend, VolatileMemory};

use super::split::{Descriptor, DescriptorTable};
use crate::ram::{self, GuestRam};

/// A part of a chain: a range of RAM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// The first byte.
    pub address: GuestAddress,
    /// Bytes. Never zero: a descriptor without bytes is left out.
    pub len: u32,
}

impl Segment {
    /// Drops the first `bytes`, which are no more than it has.
    fn skip(&mut self, bytes: usize) {
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX).min(self.len);
        self.len = self.len.saturating_sub(bytes);
        // The end of a segment is in RAM, so its address can't wrap.
        self.address = GuestAddress(self.address.raw_value().saturating_add(u64::from(bytes)));
    }
}

/// A chain's lengths add up to less than 4 GiB, so nothing saturates.
fn len(segments: &[Segment]) -> u32 {
    segments.iter().fold(0, |total, segment| total.saturating_add(segment.len))
}

/// Why a chain can't be used. Its request fails; the queue goes on.
#[derive(Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum ChainError {
    /// More descriptors than the queue has: a loop, or a lie.
    #[error("the chain has more than {limit} descriptors")]
    TooLong {
        /// The queue's size.
        limit: u16,
    },
    /// A `next` field beyond the table.
    #[error("descriptor {index} is beyond the table's {len}")]
    BadIndex {
        /// What the driver wrote.
        index: u16,
        /// Descriptors in the table.
        len: u16,
    },
    /// A table or buffer, or part of it, is not in RAM.
    #[error("{len} bytes at {address:#x} are not in RAM")]
    NotInRam {
        /// The first byte.
        address: u64,
        /// Bytes.
        len: u32,
    },
    /// virtio 1.3 §2.7.4.2: all device-readable descriptors come first.
    #[error("a device-readable descriptor follows a device-writable one")]
    ReadableAfterWritable,
    /// The lengths add up to 4 GiB or more.
    #[error("the chain holds 4 GiB or more")]
    TooLarge,
    /// The feature was not negotiated.
    #[error("an indirect descriptor, though RING_INDIRECT_DESC was not negotiated")]
    IndirectNotNegotiated,
    /// virtio 1.3 §2.7.5.3.1: no table in a table, and none that has a next.
    #[error("an indirect descriptor inside an indirect table, or with a next descriptor")]
    BadIndirect,
    /// An indirect table must hold whole descriptors, at least one and at most as many as the queue.
    #[error("an indirect table of {len} bytes is not 1 to {limit} descriptors of 16 bytes")]
    BadIndirectLength {
        /// What the driver wrote.
        len: u32,
        /// The queue's size.
        limit: u16,
    },
}

/// The parts of one chain. Reused from chain to chain, so that taking one allocates nothing.
#[derive(Debug, Default)]
pub struct Chain {
    /// Readable segments, then writable ones.
    segments: Vec<Segment>,
    readable: usize,
}

impl Chain {
    /// A chain without segments, with room for the longest one of a queue of `queue_size`.
    pub fn with_capacity(queue_size: u16) -> Self {
        Self { segments: Vec::with_capacity(usize::from(queue_size)), readable: 0 }
    }

    /// What the device may read, in order.
    pub fn readable(&self) -> &[Segment] {
        self.segments.get(..self.readable).unwrap_or_default()
    }

    /// What the device may write, in order.
    pub fn writable(&self) -> &[Segment] {
        self.segments.get(self.readable..).unwrap_or_default()
    }

    /// Bytes that the device may read.
    pub fn readable_len(&self) -> u32 {
        len(self.readable())
    }

    /// Bytes that the device may write.
    pub fn writable_len(&self) -> u32 {
        len(self.writable())
    }

    /// Takes the first readable bytes, as many as a `T` has, however many descriptors they are spread over (virtio 1.3
    /// §2.7.4): copies them out and leaves the rest readable. `None`, and nothing taken, when there are fewer or they
    /// can't be read.
    pub fn take_header<T: ByteValued>(&mut self, mem: &GuestRam) -> Option<T> {
        let size = size_of::<T>();
        // Most drivers give the header a descriptor of its own.
        if let Some(first) = self.segments.get_mut(..self.readable)?.first_mut()
            && usize::try_from(first.len).is_ok_and(|len| len >= size)
            && let Some(slice) = ram::slice(mem, first.address, size)
        {
            first.skip(size);
            return Some(slice.get_ref(0).ok()?.load());
        }
        if usize::try_from(self.readable_len()).is_ok_and(|len| len < size) {
            return None;
        }
        let mut header = T::zeroed();
        let mut rest = header.as_mut_slice();
        for segment in self.segments.iter_mut().take(self.readable) {
            let take = usize::try_from(segment.len).unwrap_or(usize::MAX).min(rest.len());
            let (now, later) = std::mem::take(&mut rest).split_at_mut_checked(take)?;
            mem.read_slice(now, segment.address).ok()?;
            segment.skip(take);
            rest = later;
            if rest.is_empty() {
                break;
            }
        }
        Some(header)
    }

    /// Takes the first writable bytes, appends where they are to `taken`, and leaves the rest writable. `false`, and nothing
    /// taken, when there are fewer.
    pub(crate) fn take_first_writable(&mut self, bytes: u32, taken: &mut Vec<Segment>) -> bool {
        if self.writable_len() < bytes {
            return false;
        }
        let mut left = bytes;
        for segment in self.segments.iter_mut().skip(self.readable) {
            let len = segment.len.min(left);
            if len > 0 {
                taken.push(Segment { len, ..*segment });
            }
            segment.skip(usize::try_from(len).unwrap_or(usize::MAX));
            left = left.saturating_sub(len);
        }
        true
    }

    /// Leaves at most so many bytes readable, the first ones.
    pub(crate) fn truncate_readable(&mut self, bytes: u32) {
        let mut left = bytes;
        for segment in self.segments.iter_mut().take(self.readable) {
            segment.len = segment.len.min(left);
            left = left.saturating_sub(segment.len);
        }
    }

    /// Takes the last writable byte, where many devices report the outcome, and leaves the rest writable.
    pub fn take_last_writable(&mut self) -> Option<GuestAddress> {
        // Segments are never empty when they come in, and only this takes from the end.
        let last = self.segments.get_mut(self.readable..)?.iter_mut().rfind(|segment| segment.len > 0)?;
        last.len = last.len.checked_sub(1)?;
        last.address.checked_add(u64::from(last.len))
    }

    /// Reads the chain that starts at `head`. After an error it is empty.
    pub(super) fn read(
        &mut self,
        mem: &GuestRam,
        table: DescriptorTable<'_>,
        head: u16,
        indirect: bool,
    ) -> Result<(), ChainError> {
        self.segments.clear();
        self.readable = 0;
        let result = self.walk(mem, table, head, indirect);
        if result.is_err() {
            self.segments.clear();
            self.readable = 0;
        }
        result
    }

    fn walk<'a>(
        &mut self,
        mem: &'a GuestRam,
        queue: DescriptorTable<'a>,
        head: u16,
        indirect: bool,
    ) -> Result<(), ChainError> {
        let limit = queue.len;
        let (mut table, mut index, mut in_indirect) = (queue, head, false);
        let (mut left, mut total) = (limit, 0u32);
        // Ends: every turn but one (the step into an indirect table) takes from `left`.
        loop {
            let descriptor = table.read(index).ok_or(ChainError::BadIndex { index, len: table.len })?;
            if descriptor.is_indirect() {
                if !indirect {
                    return Err(ChainError::IndirectNotNegotiated);
                }
                if in_indirect || descriptor.has_next() {
                    return Err(ChainError::BadIndirect);
                }
                table = indirect_table(mem, descriptor, limit)?;
                (index, in_indirect) = (0, true);
                continue;
            }
            left = left.checked_sub(1).ok_or(ChainError::TooLong { limit })?;
            total = total.checked_add(descriptor.len).ok_or(ChainError::TooLarge)?;
            self.push(mem, descriptor)?;
            if !descriptor.has_next() {
                return Ok(());
            }
            index = descriptor.next;
        }
    }

    fn push(&mut self, mem: &GuestRam, descriptor: Descriptor) -> Result<(), ChainError> {
        let segment = Segment { address: GuestAddress(descriptor.address), len: descriptor.len };
        let writable = descriptor.is_writable();
        if !writable && self.segments.len() > self.readable {
            return Err(ChainError::ReadableAfterWritable);
        }
        if segment.len == 0 {
            return Ok(());
        }
        if !is_in_ram(mem, segment.address, segment.len) {
            return Err(ChainError::NotInRam { address: segment.address.raw_value(), len: segment.len });
        }
        self.segments.push(segment);
        if !writable {
            self.readable = self.segments.len();
        }
        Ok(())
    }
}

/// Whether all of a range is RAM. Most ranges lie in one region, which is quickly found.
fn is_in_ram(mem: &GuestRam, address: GuestAddress, len: u32) -> bool {
    ram::holds(mem, address, len.into()) || usize::try_from(len).is_ok_and(|len| mem.check_range(address, len))
}

/// The table that a descriptor refers to: in one region of RAM, as regions never touch each other.
fn indirect_table(mem: &GuestRam, descriptor: Descriptor, limit: u16) -> Result<DescriptorTable<'_>, ChainError> {
    let Descriptor { address, len, .. } = descriptor;
    let bytes = usize::try_from(len).unwrap_or(usize::MAX);
    let entries = u16::try_from(bytes / DescriptorTable::ENTRY)
        .ok()
        .filter(|entries| (1..=limit).contains(entries) && bytes.is_multiple_of(DescriptorTable::ENTRY))
        .ok_or(ChainError::BadIndirectLength { len, limit })?;
    let table = ram::slice(mem, GuestAddress(address), bytes).ok_or(ChainError::NotInRam { address, len })?;
    Ok(DescriptorTable::new(table, entries))
}

#[cfg(test)]
#[path = "chain_tests.rs"]
mod tests;
