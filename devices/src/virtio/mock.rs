// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The driver's side of a virtqueue, for tests, fuzz targets and benchmarks: well-behaved by default, and able to write
//! anything anywhere.

#![allow(
    clippy::unwrap_used,
    clippy::arithmetic_side_effects,
    reason = "the mock plays the guest: it works on memory and numbers that a test made, and a mistake should end the test"
)]

use std::sync::atomic::Ordering;

use vm_memory::{Bytes, GuestAddress};
use vmm_sys_util::eventfd::EventFd;

use super::notifier::DeviceInterrupt;
use super::queue::QueueConfig;
use crate::GuestRam;

/// Descriptor flags (virtio 1.3 §2.7.5).
pub const NEXT: u16 = 1;
/// The device may write the buffer.
pub const WRITE: u16 = 2;
/// The buffer is a table of descriptors.
pub const INDIRECT: u16 = 4;

/// A buffer to be put into a chain.
#[derive(Clone, Copy, Debug)]
pub struct Buffer {
    /// The first byte.
    pub address: u64,
    /// Bytes.
    pub len: u32,
    /// Whether the device may write it.
    pub writable: bool,
}

/// A buffer that the device reads.
pub fn readable(address: u64, len: u32) -> Buffer {
    Buffer { address, len, writable: false }
}

/// A buffer that the device writes.
pub fn writable(address: u64, len: u32) -> Buffer {
    Buffer { address, len, writable: true }
}

/// `size` bytes of guest RAM from address 0 on.
pub fn ram(size: usize) -> GuestRam {
    GuestRam::from_ranges(&[(GuestAddress(0), size)]).unwrap()
}

/// Interrupts that a test can wait for: each of a queue adds 1 to the count, each of the configuration 2^32.
#[derive(Debug)]
pub struct Interrupts(pub EventFd);

impl DeviceInterrupt for Interrupts {
    fn queue(&self, _: u16) {
        self.0.write(1).unwrap();
    }
    fn config(&self) {
        self.0.write(1 << 32).unwrap();
    }
}

/// The driver of one queue.
#[derive(Debug)]
pub struct MockDriver {
    /// Guest RAM.
    pub mem: GuestRam,
    /// Where the queue's parts lie.
    pub config: QueueConfig,
    next_descriptor: u16,
    avail_index: u16,
    used_seen: u16,
}

impl MockDriver {
    /// A queue of `size` descriptors whose table, avail ring and used ring follow one another from `base` on, which is
    /// aligned to 16 bytes.
    pub fn new(mem: &GuestRam, base: u64, size: u16) -> Self {
        let avail_ring = base + 16 * u64::from(size);
        let used_ring = (avail_ring + 6 + 2 * u64::from(size)).next_multiple_of(4);
        let config = QueueConfig { size, descriptor_table: base, avail_ring, used_ring };
        Self { mem: mem.clone(), config, next_descriptor: 0, avail_index: 0, used_seen: 0 }
    }

    /// The first address behind the queue.
    pub fn end(&self) -> u64 {
        self.config.used_ring + 6 + 8 * u64::from(self.config.size)
    }

    /// Writes one descriptor of the queue's table.
    pub fn descriptor(&self, index: u16, address: u64, len: u32, flags: u16, next: u16) {
        self.descriptor_in(self.config.descriptor_table, index, address, len, flags, next);
    }

    /// Writes one descriptor of a table anywhere.
    pub fn descriptor_in(&self, table: u64, index: u16, address: u64, len: u32, flags: u16, next: u16) {
        let (len, flags, next) = (u128::from(len), u128::from(flags), u128::from(next));
        let descriptor = u128::from(address) | len << 64 | flags << 96 | next << 112;
        self.mem.write_obj(descriptor.to_le(), GuestAddress(table + 16 * u64::from(index))).unwrap();
    }

    /// Writes a chain into the next descriptors of the table, round and round; gives its head.
    pub fn chain(&mut self, buffers: &[Buffer]) -> u16 {
        let size = self.config.size;
        let head = self.next_descriptor;
        for (i, buffer) in buffers.iter().enumerate() {
            let index = self.next_descriptor;
            self.next_descriptor = (index + 1) % size;
            let last = i + 1 == buffers.len();
            let flags = if buffer.writable { WRITE } else { 0 } | if last { 0 } else { NEXT };
            self.descriptor(index, buffer.address, buffer.len, flags, self.next_descriptor);
        }
        head
    }

    /// Makes a head available.
    pub fn offer(&mut self, head: u16) {
        let slot = self.config.avail_ring + 4 + 2 * u64::from(self.avail_index % self.config.size);
        self.mem.write_obj(head.to_le(), GuestAddress(slot)).unwrap();
        self.set_avail_index(self.avail_index.wrapping_add(1));
    }

    /// Writes a chain and makes it available; gives its head.
    pub fn submit(&mut self, buffers: &[Buffer]) -> u16 {
        let head = self.chain(buffers);
        self.offer(head);
        head
    }

    /// Moves the available index, to wherever.
    pub fn set_avail_index(&mut self, index: u16) {
        self.avail_index = index;
        self.mem.store(index.to_le(), GuestAddress(self.config.avail_ring + 2), Ordering::Release).unwrap();
    }

    /// Says after which used index the device shall interrupt (EVENT_IDX).
    pub fn set_used_event(&self, index: u16) {
        let address = self.config.avail_ring + 4 + 2 * u64::from(self.config.size);
        self.mem.store(index.to_le(), GuestAddress(address), Ordering::Release).unwrap();
    }

    /// At which available index the device wants a doorbell (EVENT_IDX).
    pub fn avail_event(&self) -> u16 {
        let address = self.config.used_ring + 4 + 8 * u64::from(self.config.size);
        u16::from_le(self.mem.load(GuestAddress(address), Ordering::Acquire).unwrap())
    }

    /// The available index, as it was last written.
    pub fn avail_index(&self) -> u16 {
        self.avail_index
    }

    /// How many chains the device has given back so far, modulo 2^16.
    pub fn used_index(&self) -> u16 {
        u16::from_le(self.mem.load(GuestAddress(self.config.used_ring + 2), Ordering::Acquire).unwrap())
    }

    /// The next chain that the device has given back: its head, and how much it wrote.
    pub fn take_used(&mut self) -> Option<(u32, u32)> {
        if self.used_seen == self.used_index() {
            return None;
        }
        let slot = self.config.used_ring + 4 + 8 * u64::from(self.used_seen % self.config.size);
        self.used_seen = self.used_seen.wrapping_add(1);
        let [head, written]: [u32; 2] = [0, 4].map(|at| self.mem.read_obj(GuestAddress(slot + at)).unwrap());
        Some((u32::from_le(head), u32::from_le(written)))
    }
}
