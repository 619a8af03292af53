// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The kernel's asynchronous I/O (io_submit(2), Linux `include/uapi/linux/aio_abi.h`). All `unsafe` of this program is in
//! here.

#![expect(unsafe_code, reason = "system calls take raw pointers")]

use std::fs::File;
use std::io::{Error, ErrorKind, Result};
use std::mem::MaybeUninit;
use std::os::fd::AsRawFd;
use std::ptr;
use std::time::Duration;

use libc::{c_long, c_ulong};

use crate::case::{BLOCK, Case};

const IOCB_CMD_PREAD: u16 = 0;
const IOCB_CMD_PWRITE: u16 = 1;

/// `struct io_event`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
struct IoEvent {
    data: u64,
    obj: u64,
    res: i64,
    res2: i64,
}

/// A part of a buffer, aligned as O_DIRECT wants it.
#[repr(C, align(4096))]
#[derive(Clone)]
struct Block([u8; BLOCK as usize]);

/// Requests of one kind to one device, each in a slot with a buffer of its own.
pub(crate) struct Queue<'a> {
    device: &'a File,
    context: c_ulong,
    opcode: u16,
    bytes: u32,
    buffers: Vec<Block>,
    /// One for each slot; those that are prepared and not yet submitted come first.
    requests: Vec<libc::iocb>,
    prepared: usize,
    in_flight: usize,
    events: Vec<IoEvent>,
}

impl<'a> Queue<'a> {
    /// As many slots as the case has requests in flight.
    pub(crate) fn new(device: &'a File, case: Case) -> Result<Self> {
        let depth = usize::from(case.depth);
        let blocks = depth * (case.bytes / BLOCK) as usize;
        // What is written is nothing that a host could take for a hole.
        let buffers = vec![Block(std::array::from_fn(|at| at as u8 | 1)); blocks];
        let mut context: c_ulong = 0;
        // SAFETY: the kernel writes one word, which is 0 as it asks for, to a place that lives until the call is over.
        check(unsafe { libc::syscall(libc::SYS_io_setup, c_long::from(case.depth), &raw mut context) })?;
        Ok(Self {
            device,
            context,
            opcode: if case.pattern.writes() { IOCB_CMD_PWRITE } else { IOCB_CMD_PREAD },
            bytes: case.bytes,
            buffers,
            requests: vec![empty_request(); depth],
            prepared: 0,
            in_flight: 0,
            events: vec![IoEvent::default(); depth],
        })
    }

    /// Takes the slot, which has no request in flight, for a request at the offset.
    pub(crate) fn prepare(&mut self, slot: u16, offset: u64) {
        let first = usize::from(slot) * (self.bytes / BLOCK) as usize;
        let request = &mut self.requests[self.prepared];
        *request = empty_request();
        request.aio_data = slot.into();
        request.aio_lio_opcode = self.opcode;
        request.aio_fildes = self.device.as_raw_fd().cast_unsigned();
        request.aio_buf = self.buffers[first..].as_mut_ptr().expose_provenance() as u64;
        request.aio_nbytes = self.bytes.into();
        request.aio_offset = offset.cast_signed();
        self.prepared += 1;
    }

    /// Submits what is prepared.
    pub(crate) fn submit(&mut self) -> Result<()> {
        let mut pointers: Vec<_> = self.requests[..self.prepared].iter_mut().map(ptr::from_mut).collect();
        let mut left = &mut pointers[..];
        while !left.is_empty() {
            let (count, first) = (left.len() as c_long, left.as_mut_ptr());
            // SAFETY: the kernel copies the requests that the pointers are to before the call is over. The buffers that
            // they name are `self.buffers`, each of at least `bytes` from the slot's first one on; nobody else touches
            // them, they never move, and they are freed after `drop` has waited for all that is in flight.
            let submitted = check(unsafe { libc::syscall(libc::SYS_io_submit, self.context, count, first) })?;
            if submitted == 0 {
                return Err(Error::other("io_submit took no request"));
            }
            self.in_flight += submitted as usize;
            left = &mut left[submitted as usize..];
        }
        self.prepared = 0;
        Ok(())
    }

    /// Waits until something is done: the slots that are free again. A request that failed or was short is an error.
    pub(crate) fn wait(&mut self) -> Result<Vec<u16>> {
        let count = loop {
            let (most, events) = (self.events.len() as c_long, self.events.as_mut_ptr());
            let no_timeout = ptr::null_mut::<libc::timespec>();
            // SAFETY: the kernel writes at most `most` events to a vector of as many, which lives until the call is over.
            match check(unsafe { libc::syscall(libc::SYS_io_getevents, self.context, 1, most, events, no_timeout) }) {
                Ok(count) => break count as usize,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        };
        self.in_flight -= count;
        self.events[..count].iter().map(|event| slot_of(event, self.bytes)).collect()
    }

    /// Waits for all that is in flight.
    pub(crate) fn finish(&mut self) -> Result<()> {
        while self.in_flight > 0 {
            self.wait()?;
        }
        Ok(())
    }
}

impl Drop for Queue<'_> {
    fn drop(&mut self) {
        // SAFETY: the context is ours; the call waits until nothing is in flight any more, and touches no memory of ours.
        unsafe { libc::syscall(libc::SYS_io_destroy, self.context) };
    }
}

fn slot_of(event: &IoEvent, bytes: u32) -> Result<u16> {
    match event.res {
        res if res == i64::from(bytes) => u16::try_from(event.data).map_err(Error::other),
        res if res < 0 => Err(Error::from_raw_os_error(i32::try_from(-res).unwrap_or(libc::EIO))),
        res => Err(Error::other(format!("a request moved {res} of {bytes} bytes"))),
    }
}

fn empty_request() -> libc::iocb {
    // SAFETY: it is made of numbers, for each of which zero bits are a value.
    unsafe { MaybeUninit::zeroed().assume_init() }
}

/// What this process has taken of the processor so far, in user and in kernel mode.
pub(crate) fn processor_time() -> Result<Duration> {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the kernel writes one timespec to a place that lives until the call is over.
    check(unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &raw mut time) }.into())?;
    Ok(Duration::new(time.tv_sec.cast_unsigned(), time.tv_nsec as u32))
}

/// Turns the C convention of -1 and `errno` into a result.
fn check(result: c_long) -> Result<c_long> {
    if result == -1 { Err(Error::last_os_error()) } else { Ok(result) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_whole_request_frees_its_slot() {
        let event = |res| IoEvent { data: 7, res, ..IoEvent::default() };
        assert_eq!(slot_of(&event(4096), 4096).unwrap(), 7);
        let error = |res| slot_of(&event(res), 4096).unwrap_err();
        assert_eq!(error(-i64::from(libc::EIO)).raw_os_error(), Some(libc::EIO));
        assert_eq!(error(512).to_string(), "a request moved 512 of 4096 bytes");
        assert_eq!(error(0).to_string(), "a request moved 0 of 4096 bytes");
    }
}
