// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! One request, from its chain to its status byte.

use std::io;
use std::sync::atomic::AtomicBool;

use vm_memory::{Bytes, GuestAddress};

use super::device::{Image, SECTOR_SIZE};
use super::spec;
use crate::GuestRam;
use crate::sys::{Direction, VectoredIo};
use crate::virtio::chain::Chain;

/// Serves requests on an image. What it needs for that is kept from request to request.
#[derive(Debug)]
pub(super) struct Server<'a> {
    pub(super) name: &'a str,
    pub(super) image: &'a Image,
    pub(super) write_through: bool,
    pub(super) io: VectoredIo,
    /// Set when the queue is to stop: a long request ends early then.
    pub(super) stopped: &'a AtomicBool,
}

/// How a request ended, and how many bytes of data were written to the guest.
type Outcome = (u8, u32);

impl Server<'_> {
    /// Serves the request in `chain`, and gives how many bytes were written to its writable part: none when it has no
    /// byte to report a status in.
    pub(super) fn serve(&mut self, mem: &GuestRam, chain: &mut Chain) -> u32 {
        let Some(status_at) = chain.take_last_writable() else { return 0 };
        let mut header = [0; spec::HEADER_SIZE];
        let (status, written) =
            if chain.take_header(mem, &mut header) { self.execute(header, mem, chain) } else { (spec::S_IOERR, 0) };
        self.report(mem, status_at, status, written)
    }

    fn report(&self, mem: &GuestRam, at: GuestAddress, status: u8, written: u32) -> u32 {
        match mem.write_obj(status, at) {
            Ok(()) => written.saturating_add(1),
            Err(_) => written,
        }
    }

    fn execute(&mut self, header: [u8; spec::HEADER_SIZE], mem: &GuestRam, chain: &Chain) -> Outcome {
        let [t0, t1, t2, t3, _, _, _, _, sector @ ..] = header;
        let sector = u64::from_le_bytes(sector);
        match u32::from_le_bytes([t0, t1, t2, t3]) {
            spec::T_IN => self.read(sector, mem, chain),
            spec::T_OUT if self.image.read_only => (spec::S_IOERR, 0),
            spec::T_OUT => self.write(sector, mem, chain),
            spec::T_FLUSH => (self.flush(), 0),
            _ => (spec::S_UNSUPP, 0),
        }
    }

    fn read(&mut self, sector: u64, mem: &GuestRam, chain: &Chain) -> Outcome {
        let Some(offset) = self.image.offset(sector, chain.writable_len()) else { return (spec::S_IOERR, 0) };
        let (done, result) =
            self.io.transfer(Direction::Read, &self.image.file, mem, chain.writable(), offset, self.stopped);
        (self.status("read", sector, result), done)
    }

    fn write(&mut self, sector: u64, mem: &GuestRam, chain: &Chain) -> Outcome {
        let Some(offset) = self.image.offset(sector, chain.readable_len()) else { return (spec::S_IOERR, 0) };
        let (_, result) =
            self.io.transfer(Direction::Write, &self.image.file, mem, chain.readable(), offset, self.stopped);
        match self.status("write", sector, result) {
            spec::S_OK if self.write_through => (self.flush(), 0),
            status => (status, 0),
        }
    }

    fn flush(&self) -> u8 {
        // Nothing to make durable, and some files can't be synced when they are not open for writing.
        if self.image.read_only {
            return spec::S_OK;
        }
        self.status("flush", 0, self.image.file.sync_data())
    }

    fn status(&self, what: &str, sector: u64, result: io::Result<()>) -> u8 {
        let Err(error) = result else { return spec::S_OK };
        if let Some(times) = self.image.failures.hit() {
            tracing::warn!(disk = self.name, times, "{what} at sector {sector} failed: {error}");
        }
        spec::S_IOERR
    }
}

impl Image {
    /// Where `len` bytes at `sector` start in the file; `None` unless they are whole sectors of the image.
    fn offset(&self, sector: u64, len: u32) -> Option<u64> {
        let len = u64::from(len);
        let end = sector.checked_add(len / SECTOR_SIZE)?;
        if !len.is_multiple_of(SECTOR_SIZE) || end > self.sectors {
            return None;
        }
        sector.checked_mul(SECTOR_SIZE)
    }
}

#[cfg(test)]
#[path = "request_tests.rs"]
mod tests;
