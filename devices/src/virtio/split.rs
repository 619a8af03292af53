// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The split ring (virtio 1.3 §2.7): a table of descriptors, the ring of heads that the driver makes available, and the
//! ring of those that the device has used.
//!
//! The guest controls every byte of the three while the ring runs, and nothing else: where they lie was checked once, when
//! the ring was made, and each access goes to the host's mapping of that place. What is read is copied and not believed.

use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};

use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, MmapRegion, VolatileMemory, VolatileSlice};

use super::queue::{QueueConfig, QueueError};
use crate::GuestRam;

/// A descriptor (virtio 1.3 §2.7.5), as it was when it was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Descriptor {
    pub(super) address: u64,
    pub(super) len: u32,
    flags: u16,
    pub(super) next: u16,
}

impl Descriptor {
    const NEXT: u16 = 1;
    const WRITE: u16 = 2;
    const INDIRECT: u16 = 4;

    pub(super) fn has_next(self) -> bool {
        self.flags & Self::NEXT != 0
    }

    pub(super) fn is_writable(self) -> bool {
        self.flags & Self::WRITE != 0
    }

    pub(super) fn is_indirect(self) -> bool {
        self.flags & Self::INDIRECT != 0
    }
}

/// Descriptors in RAM: the ring's own, or an indirect table of the driver's.
#[derive(Clone, Copy, Debug)]
pub(super) struct DescriptorTable<'a> {
    bytes: VolatileSlice<'a>,
    pub(super) len: u16,
}

impl<'a> DescriptorTable<'a> {
    /// Bytes of a descriptor.
    pub(super) const ENTRY: usize = 16;

    pub(super) fn new(bytes: VolatileSlice<'a>, len: u16) -> Self {
        Self { bytes, len }
    }

    /// Reads a descriptor, all of it once. `None`: it is beyond the table.
    pub(super) fn read(&self, index: u16) -> Option<Descriptor> {
        if index >= self.len {
            return None;
        }
        let at = usize::from(index).checked_mul(Self::ENTRY)?;
        let bits = u128::from_le(self.bytes.get_ref(at).ok()?.load());
        #[expect(clippy::cast_possible_truncation, reason = "each field is some of the bits")]
        let (address, len, flags, next) = (bits as u64, (bits >> 64) as u32, (bits >> 96) as u16, (bits >> 112) as u16);
        Some(Descriptor { address, len, flags, next })
    }
}

/// One of the three parts of a ring: a range within a region of RAM, which it keeps mapped.
#[derive(Debug)]
struct Part {
    mapping: Arc<MmapRegion>,
    start: usize,
    len: usize,
}

impl Part {
    /// `None`: some of it is not in RAM, or it lies in two regions, which never touch each other.
    fn new(mem: &GuestRam, address: u64, len: u64) -> Option<Self> {
        let (region, start) = mem.to_region_addr(GuestAddress(address))?;
        let (start, len) = (usize::try_from(start.0).ok()?, usize::try_from(len).ok()?);
        let mapping = region.get_mmap();
        mapping.get_slice(start, len).ok()?;
        Some(Self { mapping, start, len })
    }

    /// Where it is in this process.
    fn host_address(&self) -> u64 {
        self.mapping.as_ptr().wrapping_add(self.start).expose_provenance() as u64
    }

    fn slice(&self, offset: usize, len: usize) -> Result<VolatileSlice<'_>, QueueError> {
        let end = offset.checked_add(len).filter(|end| *end <= self.len);
        let slice = end.and_then(|_| self.mapping.get_slice(self.start.checked_add(offset)?, len).ok());
        slice.ok_or(QueueError::Ring { offset })
    }

    fn load(&self, offset: usize, order: Ordering) -> Result<u16, QueueError> {
        self.slice(offset, 2)?.load(0, order).map(u16::from_le).map_err(|_| QueueError::Ring { offset })
    }

    fn store(&self, offset: usize, value: u16, order: Ordering) -> Result<(), QueueError> {
        self.slice(offset, 2)?.store(value.to_le(), 0, order).map_err(|_| QueueError::Ring { offset })
    }
}

/// Both rings have flags, an index and entries, in this order (virtio 1.3 §2.7.6 and §2.7.8); an event follows them.
const FLAGS: usize = 0;
const INDEX: usize = 2;
const ENTRIES: usize = 4;
/// In the avail ring: the driver wants no interrupt. In the used ring: the device wants no doorbell.
const NO_NOTIFICATION: u16 = 1;

/// Where the parts of a ring are in this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct HostAddresses {
    pub(crate) table: u64,
    pub(crate) avail: u64,
    pub(crate) used: u64,
}

/// A split ring with its place in RAM, and how far both sides have come.
#[derive(Debug)]
pub(super) struct SplitRing {
    size: u16,
    table: Part,
    avail: Part,
    used: Part,
    event_idx: bool,
    next_avail: u16,
    next_used: u16,
    /// What `next_used` was when the driver was told last.
    announced: u16,
}

impl SplitRing {
    /// A ring of a size that was checked, a power of two, that goes on at these indices.
    pub(super) fn new(
        config: QueueConfig,
        event_idx: bool,
        (next_avail, next_used): (u16, u16),
        mem: &GuestRam,
    ) -> Result<Self, QueueError> {
        let QueueConfig { size, descriptor_table, avail_ring, used_ring } = config;
        let entries = u64::from(size);
        let part = |part, address: u64, alignment, len| {
            if address.checked_rem(alignment) != Some(0) {
                return Err(QueueError::Misaligned { part, address, alignment });
            }
            Part::new(mem, address, len).ok_or(QueueError::NotInRam { part, address, len })
        };
        Ok(Self {
            size,
            table: part("descriptor table", descriptor_table, 16, entries.saturating_mul(16))?,
            // Three flags, indices or events of two bytes around the entries.
            avail: part("avail ring", avail_ring, 2, entries.saturating_mul(2).saturating_add(6))?,
            used: part("used ring", used_ring, 4, entries.saturating_mul(8).saturating_add(6))?,
            event_idx,
            next_avail,
            next_used,
            announced: next_used,
        })
    }

    pub(super) fn size(&self) -> u16 {
        self.size
    }

    pub(super) fn next_avail(&self) -> u16 {
        self.next_avail
    }

    pub(super) fn next_used(&self) -> u16 {
        self.next_used
    }

    pub(super) fn table(&self) -> Result<DescriptorTable<'_>, QueueError> {
        Ok(DescriptorTable::new(self.table.slice(0, self.table.len)?, self.size))
    }

    /// Where the entry of an index is, in entries of `bytes`. The size is a power of two.
    fn entry(&self, index: u16, bytes: usize) -> usize {
        usize::from(index & self.size.wrapping_sub(1)).saturating_mul(bytes).saturating_add(ENTRIES)
    }

    /// The available index: entries before it were written before it was.
    pub(super) fn avail_index(&self) -> Result<u16, QueueError> {
        self.avail.load(INDEX, Ordering::Acquire)
    }

    pub(super) fn host_addresses(&self) -> HostAddresses {
        let [table, avail, used] = [&self.table, &self.avail, &self.used].map(Part::host_address);
        HostAddresses { table, avail, used }
    }

    /// The head that is next in the avail ring.
    pub(super) fn next_head(&self) -> Result<u16, QueueError> {
        self.head_at(self.next_avail)
    }

    /// The head in the avail ring at an index.
    pub(super) fn head_at(&self, index: u16) -> Result<u16, QueueError> {
        self.avail.load(self.entry(index, 2), Ordering::Relaxed)
    }

    /// Goes on at this index, with nothing in flight.
    pub(super) fn go_on_at(&mut self, index: u16) {
        (self.next_avail, self.next_used, self.announced) = (index, index, index);
    }

    /// The used index as it is in the ring, where the driver can write it as well.
    pub(super) fn written_used_index(&self) -> Result<u16, QueueError> {
        self.used.load(INDEX, Ordering::Acquire)
    }

    /// The head that is next has been taken.
    pub(super) fn advance(&mut self) {
        self.next_avail = self.next_avail.wrapping_add(1);
    }

    /// Writes that a head is given back, with so many bytes written. The driver sees it when it is published.
    pub(super) fn push_used(&mut self, head: u16, written: u32) -> Result<(), QueueError> {
        let offset = self.entry(self.next_used, 8);
        let entry = u64::from(written) << 32 | u64::from(head);
        let slice = self.used.slice(offset, 8)?;
        slice.get_ref::<u64>(0).map_err(|_| QueueError::Ring { offset })?.store(entry.to_le());
        self.next_used = self.next_used.wrapping_add(1);
        Ok(())
    }

    /// Lets the driver see all heads that are given back.
    pub(super) fn publish_used(&self) -> Result<(), QueueError> {
        // The driver reads the entries, and what was written to its buffers, after it has read the index.
        self.used.store(INDEX, self.next_used, Ordering::Release)
    }

    /// Whether the driver wants to be told of what was given back since it was asked last.
    pub(super) fn needs_notification(&mut self) -> Result<bool, QueueError> {
        // It writes what it wants and then looks for what was used; we have done it the other way round.
        fence(Ordering::SeqCst);
        if !self.event_idx {
            return Ok(self.avail.load(FLAGS, Ordering::Relaxed)? & NO_NOTIFICATION == 0);
        }
        let used_event = self.avail.load(ENTRIES.saturating_add(self.entries(2)), Ordering::Relaxed)?;
        let announced = std::mem::replace(&mut self.announced, self.next_used);
        let since_event = self.next_used.wrapping_sub(used_event).wrapping_sub(1);
        Ok(since_event < self.next_used.wrapping_sub(announced))
    }

    /// Bytes of all entries of `bytes`.
    fn entries(&self, bytes: usize) -> usize {
        usize::from(self.size).saturating_mul(bytes)
    }

    /// Asks the driver for doorbells; `true`: it has made something available meanwhile.
    pub(super) fn enable_doorbell(&self) -> Result<bool, QueueError> {
        if self.event_idx {
            let event = ENTRIES.saturating_add(self.entries(8));
            self.used.store(event, self.next_avail, Ordering::Relaxed)?;
        } else {
            self.used.store(FLAGS, 0, Ordering::Relaxed)?;
        }
        // The driver writes the index and then looks at what we want; we do it the other way round.
        fence(Ordering::SeqCst);
        Ok(self.avail_index()? != self.next_avail)
    }

    /// Tells the driver that no doorbell is needed. With EVENT_IDX it knows: the index that it was told is behind.
    pub(super) fn disable_doorbell(&self) -> Result<(), QueueError> {
        if self.event_idx { Ok(()) } else { self.used.store(FLAGS, NO_NOTIFICATION, Ordering::Relaxed) }
    }
}
