// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The buffers of one request as the kernel takes them, and how far they have come.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

use vm_memory::{GuestMemoryBackend, VolatileSlice};

use super::aligned::AlignedBuffer;
use super::disk::Alignment;
use crate::ram::{self, GuestRam};
use crate::virtio::chain::Segment;

/// Which way data goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Direction {
    /// From the file into guest memory.
    Read,
    /// From guest memory into the file.
    Write,
}

/// The most bytes that one call moves, so that a request of 4 GiB doesn't hold up a stop.
pub(crate) const PIECE: usize = 1 << 20;

/// The most bytes that one call moves through a buffer of ours. What a guest can make us hold is this much for each
/// descriptor of a queue.
pub(crate) const BOUNCE: usize = 128 << 10;

/// Where the buffer of ours lies if nobody demands anything else: any disk's blocks are that aligned.
const BOUNCE_ALIGNMENT: usize = 4096;

/// The most that one call takes (IOV_MAX in Linux).
const MAX_IOVECS: usize = 1024;

// SAFETY: the pointers in it are to guest memory, which whoever loads a transfer keeps mapped wherever it goes, and to a
// buffer that it owns. Nothing of it belongs to a thread.
unsafe impl Send for Transfer {}

/// What one call is to move.
#[derive(Clone, Copy, Debug)]
pub(super) struct Piece {
    pub(super) iovecs: *const libc::iovec,
    pub(super) count: u32,
    /// The first one of them.
    pub(super) first: libc::iovec,
}

/// Moves data between a file and guest memory, piece by piece: without a copy of ours, unless direct I/O demands one.
/// Reused from request to request, so that a transfer allocates nothing once it is warm.
///
/// The pointers in it are made from guest memory by [`Self::load`]; whoever loads keeps that memory mapped until
/// [`Self::clear`], or until the kernel has the last piece no more, whichever is later.
#[derive(Debug, Default)]
pub(crate) struct Transfer {
    iovecs: Vec<libc::iovec>,
    /// The first one that has bytes left.
    first: usize,
    /// How much of the iovec at `first` is held back from the present piece.
    held_back: usize,
    /// Whether the pieces go through `bounce`.
    bounced: bool,
    bounce: Option<AlignedBuffer>,
    /// What the file demands of its address.
    bounce_alignment: usize,
    /// The whole of `bounce`'s part in the present piece.
    bounce_iovec: Option<libc::iovec>,
}

impl Transfer {
    /// Takes on the `segments` of a request. `alignment` is what the file demands of addresses and lengths, if anything.
    pub(crate) fn load(
        &mut self,
        mem: &GuestRam,
        segments: &[Segment],
        alignment: Option<Alignment>,
    ) -> io::Result<()> {
        self.clear();
        for segment in segments {
            let count = usize::try_from(segment.len).map_err(io::Error::other)?;
            // Most segments lie in one region, which is quickly found.
            if let Some(slice) = ram::slice(mem, segment.address, count) {
                self.push(&slice);
                continue;
            }
            for slice in mem.get_slices(segment.address, count) {
                let slice = slice.map_err(io::Error::other).inspect_err(|_| self.iovecs.clear())?;
                self.push(&slice);
            }
        }
        if let Some(Alignment { memory, offset }) = alignment {
            let is_aligned = |iovec: &libc::iovec| {
                usize::try_from(memory).is_ok_and(|memory| iovec.iov_base.addr().is_multiple_of(memory))
                    && usize::try_from(offset).is_ok_and(|offset| iovec.iov_len.is_multiple_of(offset))
            };
            self.bounced = !self.iovecs.iter().all(is_aligned);
            self.bounce_alignment = usize::try_from(memory.max(offset)).map_err(io::Error::other)?;
        }
        Ok(())
    }

    fn push(&mut self, slice: &VolatileSlice<'_>) {
        if !slice.is_empty() {
            let guard = slice.ptr_guard_mut();
            self.iovecs.push(libc::iovec { iov_base: guard.as_ptr().cast(), iov_len: slice.len() });
        }
    }

    /// Lends the buffer that pieces go through, or takes it back: one is enough where one piece moves at a time.
    pub(crate) fn swap_bounce(&mut self, bounce: &mut Option<AlignedBuffer>) {
        std::mem::swap(&mut self.bounce, bounce);
    }

    /// Forgets the buffers.
    pub(crate) fn clear(&mut self) {
        let Self { iovecs, first, held_back, bounced, bounce: _, bounce_alignment: _, bounce_iovec } = self;
        iovecs.clear();
        (*first, *held_back, *bounced, *bounce_iovec) = (0, 0, false, None);
    }

    /// Moves the next piece from or to `offset` in the file by a call of preadv2 or pwritev2 with `flags`; gives how many
    /// bytes were moved. Nothing left is `Ok(0)`, the end of the file is `UnexpectedEof`.
    pub(crate) fn run(
        &mut self,
        direction: Direction,
        file: &File,
        offset: u64,
        flags: libc::c_int,
    ) -> io::Result<u32> {
        let at = libc::off_t::try_from(offset).map_err(|_| io::Error::from(io::ErrorKind::FileTooLarge))?;
        let Some(piece) = self.next_piece(direction) else { return Ok(0) };
        loop {
            let moved = call(direction, file, &piece, at, flags);
            let result = usize::try_from(moved).map_err(|_| io::Error::last_os_error());
            match result {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => return self.finish_piece(direction, result),
            }
        }
    }

    /// Moves the next piece through a buffer of ours, which `call` fills or takes from; gives how many bytes were moved.
    pub(crate) fn run_by(
        &mut self,
        direction: Direction,
        call: impl FnOnce(&mut [u8]) -> io::Result<()>,
    ) -> io::Result<u32> {
        self.bounced = true;
        let Some(piece) = self.next_piece(direction) else { return Ok(0) };
        let len = piece.first.iov_len;
        let buffer = self.bounce.as_mut().and_then(|bounce| bounce.bytes().get_mut(..len)).unwrap_or_default();
        let result = call(buffer).map(|()| len);
        self.finish_piece(direction, result)
    }

    /// What the next call is to move; `None` when all is moved. [`Self::finish_piece`] follows, and before that the
    /// transfer must not be touched while the kernel has the piece.
    pub(super) fn next_piece(&mut self, direction: Direction) -> Option<Piece> {
        if self.bounced {
            return self.next_bounced_piece(direction);
        }
        let rest = self.iovecs.get_mut(self.first..).unwrap_or_default();
        if let [only] = rest
            && only.iov_len <= PIECE
        {
            return Some(Piece { iovecs: &raw const *only, count: 1, first: *only });
        }
        let mut bytes = 0usize;
        let fits = |iovec: &&libc::iovec| {
            let sum = bytes.saturating_add(iovec.iov_len);
            (sum <= PIECE).then(|| bytes = sum).is_some()
        };
        let count = rest.iter().take(MAX_IOVECS).take_while(fits).count();
        let count = u32::try_from(count).unwrap_or(u32::MAX).max(1);
        let first = rest.first_mut()?;
        self.held_back = first.iov_len.saturating_sub(PIECE);
        first.iov_len = first.iov_len.min(PIECE);
        let first = *first;
        Some(Piece { iovecs: rest.as_ptr(), count, first })
    }

    fn next_bounced_piece(&mut self, direction: Direction) -> Option<Piece> {
        let alignment = self.bounce_alignment.max(BOUNCE_ALIGNMENT);
        let buffer = self.bounce.get_or_insert_with(|| AlignedBuffer::new(BOUNCE, alignment)).bytes();
        let left = self.iovecs.get(self.first..)?.iter().fold(0usize, |sum, iovec| sum.saturating_add(iovec.iov_len));
        let bytes = left.min(buffer.len());
        if bytes == 0 {
            return None;
        }
        if direction == Direction::Write {
            let buffer = buffer.get_mut(..bytes)?;
            copy(self.iovecs.get(self.first..)?, buffer, direction);
        }
        let buffer = self.bounce.as_mut()?.bytes();
        let first = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: bytes };
        Some(Piece { iovecs: &raw const *self.bounce_iovec.insert(first), count: 1, first })
    }

    /// Takes the outcome of the piece that [`Self::next_piece`] gave.
    pub(super) fn finish_piece(&mut self, direction: Direction, result: io::Result<usize>) -> io::Result<u32> {
        if let Some(first) = self.iovecs.get_mut(self.first) {
            first.iov_len = first.iov_len.saturating_add(std::mem::take(&mut self.held_back));
        }
        let moved = result?;
        if moved == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if self.bounced && direction == Direction::Read {
            let buffer = self.bounce.as_mut().and_then(|bounce| bounce.bytes().get_mut(..moved)).unwrap_or_default();
            copy(self.iovecs.get(self.first..).unwrap_or_default(), buffer, direction);
        }
        self.advance(moved);
        Ok(u32::try_from(moved).unwrap_or(u32::MAX))
    }

    /// Drops `bytes` from the front.
    fn advance(&mut self, mut bytes: usize) {
        if let [only] = self.iovecs.get(self.first..).unwrap_or_default()
            && only.iov_len == bytes
        {
            self.iovecs.clear();
            self.first = 0;
            return;
        }
        while let Some(iovec) = self.iovecs.get_mut(self.first) {
            if let Some(left) = iovec.iov_len.checked_sub(bytes).filter(|left| *left > 0) {
                iovec.iov_base = iovec.iov_base.wrapping_byte_add(bytes);
                iovec.iov_len = left;
                break;
            }
            bytes = bytes.saturating_sub(iovec.iov_len);
            self.first = self.first.saturating_add(1);
        }
    }
}

/// Has the kernel move a piece from or to `at`. Not by the functions of libc, which make a point of it where a thread may be
/// cancelled: nobody cancels ours.
fn call(direction: Direction, file: &File, piece: &Piece, at: libc::off_t, flags: libc::c_int) -> libc::c_long {
    // Each argument is as wide as a register.
    let [fd, count, flags] = [i64::from(file.as_raw_fd()), i64::from(piece.count), i64::from(flags)];
    // One buffer needs no list, unless there are flags.
    if let (1, 0) = (count, flags) {
        let call = match direction {
            Direction::Read => libc::SYS_pread64,
            Direction::Write => libc::SYS_pwrite64,
        };
        let libc::iovec { iov_base, iov_len } = piece.first;
        // SAFETY: the piece is borrowed until the call returns from its transfer, which was loaded by somebody who keeps guest
        // memory mapped, or from a buffer of the transfer's own. Guest memory is never seen as a reference, so bytes that
        // change below the call do no harm. The file is open.
        return unsafe { libc::syscall(call, fd, iov_base, iov_len, at) };
    }
    let call = match direction {
        Direction::Read => libc::SYS_preadv2,
        Direction::Write => libc::SYS_pwritev2,
    };
    // The second half of the offset is for processors of 32 bits.
    let no_offset: libc::c_long = 0;
    // SAFETY: as above; the iovecs belong to the transfer too.
    unsafe { libc::syscall(call, fd, piece.iovecs, count, at, no_offset, flags) }
}

/// Copies between a buffer of ours and as many of the guest's as it fills.
fn copy(iovecs: &[libc::iovec], mut buffer: &mut [u8], direction: Direction) {
    for iovec in iovecs {
        let len = iovec.iov_len.min(buffer.len());
        let Some((now, later)) = std::mem::take(&mut buffer).split_at_mut_checked(len) else { return };
        // SAFETY: the iovec is what is left of a slice of guest memory, which whoever loaded the transfer keeps mapped.
        let slice = unsafe { VolatileSlice::new(iovec.iov_base.cast(), len) };
        match direction {
            Direction::Read => slice.copy_from(now),
            Direction::Write => drop(slice.copy_to(now)),
        }
        buffer = later;
        if buffer.is_empty() {
            return;
        }
    }
}

#[cfg(test)]
#[path = "transfer_tests.rs"]
mod tests;
