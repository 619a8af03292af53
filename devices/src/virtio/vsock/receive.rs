// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The guest's buffers, and packets that are put into them.
//!
//! A buffer has room for a header and data. Several of them are taken beforehand, so that one call reads data from a socket into
//! all of them: a Linux driver gives buffers of a page.

use std::collections::VecDeque;
use std::io;
use std::os::fd::AsRawFd;

use super::spec::{HEADER_SIZE, Header};
use crate::sys::frame::FrameBuffers;
use crate::virtio::active_queue::ActiveQueue;
use crate::virtio::chain::Segment;
use crate::virtio::queue::{QueueError, QueueState};

/// How many buffers are taken beforehand at most.
const MAX_ROOMS: u16 = 64;
/// How many bytes are read from a socket at once at most, so that it is others' turn soon.
pub(super) const MAX_READ: usize = 256 << 10;

/// A buffer that was taken and is empty.
#[derive(Debug)]
struct Room {
    head: u16,
    /// How many ranges of `headers` are its.
    header_ranges: usize,
    /// How many ranges of `data` are its.
    ranges: usize,
    /// Bytes of data that it has room for.
    bytes: usize,
}

/// The receive queue.
#[derive(Debug)]
pub(super) struct Receive {
    queue: ActiveQueue,
    rooms: VecDeque<Room>,
    /// Where their headers are.
    headers: FrameBuffers,
    /// Where their data is.
    data: FrameBuffers,
    /// The bytes of `rooms` in all.
    bytes: usize,
    header: Vec<Segment>,
}

impl Receive {
    pub(super) fn new(queue: ActiveQueue) -> Self {
        let (headers, data) = (FrameBuffers::new(queue.mem().clone()), FrameBuffers::new(queue.mem().clone()));
        Self { queue, rooms: VecDeque::new(), headers, data, bytes: 0, header: Vec::new() }
    }

    /// Looks for buffers, if none is there. `false`: the guest has given none that has room for a packet.
    pub(super) fn has_room(&mut self) -> Result<bool, QueueError> {
        if self.rooms.is_empty() {
            self.fill()?;
        }
        Ok(!self.rooms.is_empty())
    }

    /// Has the guest ring when it gives a buffer. `true`: there is one already.
    pub(super) fn wait_for_room(&mut self) -> Result<bool, QueueError> {
        self.queue.end()
    }

    /// Takes as many buffers as are there, up to a bound.
    fn fill(&mut self) -> Result<(), QueueError> {
        let chains = self.queue.begin()?;
        for _ in 0..chains {
            if self.rooms.len() >= MAX_ROOMS.into() || self.headers.is_full() || self.data.is_full() {
                break;
            }
            let Some((head, usable)) = self.queue.take()? else { break };
            self.header.clear();
            let is_whole = usable.is_ok() && self.queue.chain.take_first_writable(HEADER_SIZE, &mut self.header);
            let bytes = usize::try_from(self.queue.chain.writable_len()).unwrap_or(0);
            if !is_whole || bytes == 0 || !self.push(head, bytes) {
                // It has no room for a packet.
                self.queue.give_back(head, 0, 0)?;
            }
        }
        Ok(())
    }

    /// `false`: it is in too many pieces.
    fn push(&mut self, head: u16, bytes: usize) -> bool {
        let (header_ranges, header_bytes) = self.headers.push(&self.header);
        let (ranges, data_bytes) = self.data.push(self.queue.chain.writable());
        if header_bytes < HEADER_SIZE as usize || data_bytes < bytes {
            self.headers.drop_last(header_ranges);
            self.data.drop_last(ranges);
            return false;
        }
        self.rooms.push_back(Room { head, header_ranges, ranges, bytes });
        self.bytes = self.bytes.saturating_add(bytes);
        true
    }

    /// Puts a packet without data into a buffer, which is there.
    pub(super) fn put(&mut self, header: Header) -> Result<(), QueueError> {
        self.headers.write(0, &Header { len: 0, ..header }.to_bytes());
        self.use_first(0)
    }

    /// Gives the first buffer back, with so many bytes of data.
    fn use_first(&mut self, len: u32) -> Result<(), QueueError> {
        let Some(Room { head, header_ranges, ranges, bytes }) = self.rooms.pop_front() else { return Ok(()) };
        self.headers.drop_first(header_ranges);
        self.data.drop_first(ranges);
        self.bytes = self.bytes.saturating_sub(bytes);
        self.queue.give_back(head, HEADER_SIZE.saturating_add(len), len)
    }

    /// Reads at most `max` bytes into the buffers that are there, without giving them back; gives how many were asked for, and
    /// how many came.
    pub(super) fn read(&mut self, from: &impl AsRawFd, max: usize) -> (usize, io::Result<usize>) {
        let asked = max.min(self.bytes).min(MAX_READ);
        (asked, self.data.receive(from, &mut [], 0..asked, &mut []))
    }

    /// Makes packets of the bytes that [`Self::read`] has brought, with this header.
    pub(super) fn put_data(&mut self, header: Header, bytes: usize) -> Result<(), QueueError> {
        let (mut left, mut used, mut header_ranges, mut ranges) = (bytes, 0usize, 0usize, 0usize);
        for room in &self.rooms {
            if left == 0 {
                break;
            }
            let len = u32::try_from(room.bytes.min(left)).unwrap_or(u32::MAX);
            self.headers.write(used.saturating_mul(HEADER_SIZE as usize), &Header { len, ..header }.to_bytes());
            left = left.saturating_sub(room.bytes);
            used = used.saturating_add(1);
            header_ranges = header_ranges.saturating_add(room.header_ranges);
            ranges = ranges.saturating_add(room.ranges);
        }
        self.headers.drop_first(header_ranges);
        self.data.drop_first(ranges);
        let mut left = bytes;
        for room in self.rooms.drain(..used) {
            let len = room.bytes.min(left);
            left = left.saturating_sub(len);
            self.bytes = self.bytes.saturating_sub(room.bytes);
            let len = u32::try_from(len).unwrap_or(u32::MAX);
            self.queue.give_back(room.head, HEADER_SIZE.saturating_add(len), len)?;
        }
        Ok(())
    }

    /// Tells the driver of what was given back, if it wants to know.
    pub(super) fn announce(&mut self) -> Result<(), QueueError> {
        self.queue.announce()
    }

    /// Where the queue stands: buffers that are empty are taken again.
    pub(super) fn into_state(self) -> QueueState {
        self.queue.into_state()
    }
}
