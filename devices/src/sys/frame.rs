// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Frames between guest memory and a tap or socket: one call a frame, and no copy.

use std::io;
use std::ops::Range;
use std::os::fd::AsRawFd;

use vm_memory::{GuestMemoryBackend, VolatileSlice};

use crate::ram::{self, GuestRam};
use crate::virtio::chain::Segment;

/// The most ranges that one call takes (IOV_MAX in Linux).
const MAX_IOVECS: usize = 1024;
/// The most ranges of guest memory: two of ours go with them in a call.
const MAX_RANGES: usize = MAX_IOVECS - 2;

/// Who is at the other end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Peer {
    /// A device.
    Tap,
    /// A socket, which may have lost its other end: that is an error and no signal.
    Socket,
}

/// Ranges of guest memory, one after the other, that frames are sent from or received into. Reused from frame to frame, so
/// that a frame allocates nothing.
///
/// The ranges are pointers into `mem`, which is kept mapped as long as they are here.
#[derive(Debug)]
pub(crate) struct FrameBuffers {
    mem: GuestRam,
    ranges: Vec<libc::iovec>,
    /// What one call takes.
    call: Vec<libc::iovec>,
}

// SAFETY: the ranges are pointers to guest memory, which is kept mapped with `mem` wherever it goes; what a call took of them is
// only looked at by the call. Nothing of it belongs to a thread.
unsafe impl Send for FrameBuffers {}

impl FrameBuffers {
    pub(crate) fn new(mem: GuestRam) -> Self {
        Self { mem, ranges: Vec::with_capacity(MAX_RANGES), call: Vec::with_capacity(MAX_IOVECS) }
    }

    /// Appends segments as far as there is room for their ranges; gives how many ranges and bytes were appended.
    pub(crate) fn push(&mut self, segments: &[Segment]) -> (usize, usize) {
        let before = self.ranges.len();
        let mut bytes = 0usize;
        let ranges = &mut self.ranges;
        let mut push = |slice: &VolatileSlice<'_>| {
            let fits = ranges.len() < MAX_RANGES;
            if fits && !slice.is_empty() {
                let guard = slice.ptr_guard_mut();
                ranges.push(libc::iovec { iov_base: guard.as_ptr().cast(), iov_len: slice.len() });
                bytes = bytes.saturating_add(slice.len());
            }
            fits
        };
        'segments: for segment in segments {
            let Ok(len) = usize::try_from(segment.len) else { break };
            // Most segments lie in one region, which is quickly found.
            if let Some(slice) = ram::slice(&self.mem, segment.address, len) {
                if !push(&slice) {
                    break;
                }
                continue;
            }
            for slice in self.mem.get_slices(segment.address, len) {
                let Ok(slice) = slice else { break 'segments };
                if !push(&slice) {
                    break 'segments;
                }
            }
        }
        (self.ranges.len().saturating_sub(before), bytes)
    }

    /// Whether no range more can be appended.
    pub(crate) fn is_full(&self) -> bool {
        self.ranges.len() >= MAX_RANGES
    }

    /// Forgets the first ranges.
    pub(crate) fn drop_first(&mut self, ranges: usize) {
        self.ranges.drain(..ranges.min(self.ranges.len()));
    }

    /// Forgets the last ranges.
    pub(crate) fn drop_last(&mut self, ranges: usize) {
        self.ranges.truncate(self.ranges.len().saturating_sub(ranges));
    }

    /// Forgets all.
    pub(crate) fn clear(&mut self) {
        self.ranges.clear();
    }

    /// Calls `visit` with the parts of the ranges that are bytes `from..to` of them all.
    fn parts(ranges: &[libc::iovec], Range { start, end }: Range<usize>, mut visit: impl FnMut(libc::iovec)) {
        let (mut skip, mut left) = (start, end.saturating_sub(start));
        for range in ranges {
            if left == 0 {
                return;
            }
            let Some(len) = range.iov_len.checked_sub(skip).filter(|len| *len > 0) else {
                skip = skip.saturating_sub(range.iov_len);
                continue;
            };
            let part = libc::iovec { iov_base: range.iov_base.wrapping_byte_add(skip), iov_len: len.min(left) };
            (skip, left) = (0, left.saturating_sub(part.iov_len));
            visit(part);
        }
    }

    /// Copies bytes of ours to byte `at` of the ranges and on.
    pub(crate) fn write(&self, at: usize, mut bytes: &[u8]) {
        Self::parts(&self.ranges, at..at.saturating_add(bytes.len()), |part| {
            let Some((now, later)) = bytes.split_at_checked(part.iov_len) else { return };
            // SAFETY: the part is one of a range of guest memory, which is kept mapped with `self.mem`.
            unsafe { VolatileSlice::new(part.iov_base.cast(), part.iov_len) }.copy_from(now);
            bytes = later;
        });
    }

    /// Copies byte `at` of the ranges and on into a buffer of ours; gives how many bytes there were.
    pub(crate) fn read(&self, at: usize, bytes: &mut [u8]) -> usize {
        let mut rest = &mut *bytes;
        let mut copied = 0usize;
        Self::parts(&self.ranges, at..at.saturating_add(rest.len()), |part| {
            let Some((now, later)) = std::mem::take(&mut rest).split_at_mut_checked(part.iov_len) else { return };
            // SAFETY: as in `write`.
            unsafe { VolatileSlice::new(part.iov_base.cast(), part.iov_len) }.copy_to(now);
            copied = copied.saturating_add(part.iov_len);
            rest = later;
        });
        copied
    }

    /// Sends two buffers of ours and then the ranges from byte `at` on, but for the first `skip` bytes of it all, by one
    /// call; gives how many bytes went.
    pub(crate) fn send(
        &mut self,
        to: &impl AsRawFd,
        peer: Peer,
        own: [&[u8]; 2],
        at: usize,
        mut skip: usize,
    ) -> io::Result<usize> {
        self.call.clear();
        for bytes in own {
            let rest = bytes.get(skip..).unwrap_or_default();
            skip = skip.saturating_sub(bytes.len());
            if !rest.is_empty() {
                self.call.push(libc::iovec { iov_base: rest.as_ptr().cast_mut().cast(), iov_len: rest.len() });
            }
        }
        let call = &mut self.call;
        Self::parts(&self.ranges, at.saturating_add(skip)..usize::MAX, |part| call.push(part));
        let fd = to.as_raw_fd();
        let (iovecs, count) = (self.call.as_ptr(), self.call.len());
        repeat(|| match peer {
            Peer::Tap => {
                let count = libc::c_int::try_from(count).unwrap_or(libc::c_int::MAX);
                // SAFETY: `count` iovecs, which are only read from: buffers that are borrowed until the call returns, and
                // ranges of guest memory, which is kept mapped with `self.mem` and never seen as a reference. The
                // descriptor is borrowed.
                unsafe { libc::writev(fd, iovecs, count) }
            }
            Peer::Socket => {
                // SAFETY: every field of the structure is a number or a pointer, for which zero is a value.
                let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
                (message.msg_iov, message.msg_iovlen) = (iovecs.cast_mut(), count);
                // SAFETY: as above; the message has nothing but the iovecs, and lives on this stack.
                unsafe { libc::sendmsg(fd, &raw const message, libc::MSG_NOSIGNAL) }
            }
        })
    }

    /// Receives into a buffer of ours, then bytes `range` of the ranges, and then another buffer of ours, by one call;
    /// gives how many bytes came.
    pub(crate) fn receive(
        &mut self,
        from: &impl AsRawFd,
        head: &mut [u8],
        range: Range<usize>,
        tail: &mut [u8],
    ) -> io::Result<usize> {
        let own = |bytes: &mut [u8]| libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() };
        self.call.clear();
        if !head.is_empty() {
            self.call.push(own(head));
        }
        let call = &mut self.call;
        Self::parts(&self.ranges, range, |part| call.push(part));
        if !tail.is_empty() {
            self.call.push(own(tail));
        }
        let count = libc::c_int::try_from(self.call.len()).unwrap_or(libc::c_int::MAX);
        // SAFETY: as in `send`, but that they are written to: the buffers are borrowed for that.
        repeat(|| unsafe { libc::readv(from.as_raw_fd(), self.call.as_ptr(), count) })
    }
}

/// Sends bytes of ours into a socket that may have lost its other end: that is an error and no signal.
pub(crate) fn send_bytes(to: &impl AsRawFd, bytes: &[u8]) -> io::Result<usize> {
    // SAFETY: the buffer is borrowed until the call returns, and only read from. The descriptor is borrowed.
    repeat(|| unsafe { libc::send(to.as_raw_fd(), bytes.as_ptr().cast(), bytes.len(), libc::MSG_NOSIGNAL) })
}

/// Makes a call until no signal interrupts it.
fn repeat(mut call: impl FnMut() -> libc::ssize_t) -> io::Result<usize> {
    loop {
        match usize::try_from(call()) {
            Ok(moved) => return Ok(moved),
            Err(_) => {
                let error = io::Error::last_os_error();
                if error.kind() != io::ErrorKind::Interrupted {
                    return Err(error);
                }
            }
        }
    }
}

#[cfg(test)]
#[path = "frame_tests.rs"]
mod tests;
