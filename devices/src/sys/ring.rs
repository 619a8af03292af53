// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! `io_uring`: many requests at once, whose buffers belong to the kernel until it says that it is done with them.
//!
//! A [`Ring`] owns the buffers of all its slots, and the guest memory that they point into. It gives a slot's [`Transfer`]
//! out only while the kernel has none of it, and it doesn't end before the kernel has given everything back. That holds
//! too when its thread ends by a panic; a kernel that can't be asked any more ends the process, as anything else would
//! free memory that is still written.

use std::cell::UnsafeCell;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::time::Duration;

use io_uring::{IoUring, Probe, opcode, squeue, types};
use vmm_sys_util::eventfd::EventFd;

use super::doorbell;
use super::transfer::{Direction, Transfer};
use crate::GuestRam;

/// Marks the completion of the doorbell's read. Slots are numbers of 16 bits.
const DOORBELL: u64 = u64::MAX;
/// Marks the completion of a cancellation.
const CANCEL: u64 = u64::MAX - 1;

/// Submissions that are no slot's: the doorbell's read, and two to cancel.
const OVERHEAD: u32 = 3;

/// The most threads of the kernel's that work for a ring: for flushes, say, which a guest can ask for in any number.
const KERNEL_THREADS: u32 = 16;

/// What the kernel shall do for a slot.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Operation {
    /// Move the next piece of the slot's transfer, with `RWF_` flags.
    Transfer {
        /// Which way.
        direction: Direction,
        /// Where in the file.
        offset: u64,
        /// `RWF_` flags.
        flags: libc::c_int,
    },
    /// `fdatasync`.
    Sync,
    /// `fallocate`.
    Allocate {
        /// `FALLOC_FL_` flags.
        mode: libc::c_int,
        /// The first byte.
        offset: u64,
        /// Bytes.
        len: u64,
    },
}

/// A ring that has not been given to its thread yet.
pub(crate) struct Setup(IoUring);

impl Setup {
    /// Asks the kernel for a ring with room for `slots` operations at once.
    pub(crate) fn new(slots: u16) -> io::Result<Self> {
        let entries = u32::from(slots).saturating_add(OVERHEAD);
        // Completions are looked for by one thread, which asks for them: no interrupt to it is needed (Linux 6.1).
        let best = IoUring::builder()
            .setup_r_disabled()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_taskrun_flag()
            .build(entries);
        let uring = match best {
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
                IoUring::builder().setup_r_disabled().build(entries)?
            }
            best => best?,
        };
        let mut probe = Probe::new();
        uring.submitter().register_probe(&mut probe)?;
        let needed = [
            opcode::Read::CODE,
            opcode::Readv::CODE,
            opcode::Write::CODE,
            opcode::Writev::CODE,
            opcode::Fsync::CODE,
            opcode::Fallocate::CODE,
            opcode::AsyncCancel::CODE,
        ];
        let params = uring.params();
        if !params.is_feature_ext_arg()
            || !params.is_feature_nodrop()
            || !needed.iter().all(|&op| probe.is_supported(op))
        {
            return Err(io::Error::new(io::ErrorKind::Unsupported, "this kernel's io_uring is too old"));
        }
        Ok(Self(uring))
    }
}

/// One thread's ring.
pub(crate) struct Ring {
    uring: IoUring,
    /// One a slot. The vector never grows, so nothing in it moves.
    transfers: Vec<Transfer>,
    /// What the kernel has of each slot.
    in_kernel: Vec<Option<Operation>>,
    operations: usize,
    doorbell: EventFd,
    /// Where the kernel puts the doorbell's count, which nobody wants.
    doorbell_count: Box<UnsafeCell<u64>>,
    doorbell_armed: bool,
    stopping: bool,
    /// Keeps mapped what the transfers point into.
    _mem: GuestRam,
}

/// An operation that the kernel has done.
pub(crate) struct Completion {
    /// Whose.
    pub(crate) slot: u16,
    /// Bytes that were moved, if it was a transfer.
    pub(crate) result: io::Result<u32>,
}

impl Ring {
    /// Starts a ring on this thread, which has to keep it. It listens to `doorbell`, whose reads block.
    pub(crate) fn new(setup: Setup, slots: u16, doorbell: EventFd, mem: GuestRam) -> io::Result<Self> {
        let Setup(uring) = setup;
        uring.submitter().register_enable_rings()?;
        // Linux 5.15; before that, there are as many as the kernel thinks best.
        let _ = uring.submitter().register_iowq_max_workers(&mut [KERNEL_THREADS; 2]);
        let slots = usize::from(slots);
        Ok(Self {
            uring,
            transfers: std::iter::repeat_with(Transfer::default).take(slots).collect(),
            in_kernel: vec![None; slots],
            operations: 0,
            doorbell,
            doorbell_count: Box::default(),
            doorbell_armed: false,
            stopping: false,
            _mem: mem,
        })
    }

    /// The transfer of a slot; `None` while the kernel has it.
    pub(crate) fn transfer(&mut self, slot: u16) -> Option<&mut Transfer> {
        let slot = usize::from(slot);
        self.in_kernel.get(slot)?.is_none().then(|| self.transfers.get_mut(slot)).flatten()
    }

    /// Operations that the kernel has, or will have with the next call.
    pub(crate) fn operations(&self) -> usize {
        self.operations
    }

    /// Gives an operation to the kernel, with the next call of [`Self::submit`] or [`Self::wait`]. `Ok(false)`: there is
    /// nothing left to be moved.
    pub(crate) fn start(&mut self, slot: u16, operation: Operation, file: &File) -> io::Result<bool> {
        let busy = || io::Error::from(io::ErrorKind::ResourceBusy);
        let fd = types::Fd(file.as_raw_fd());
        let entry = match operation {
            Operation::Transfer { direction, offset, flags } => {
                let Some(piece) = self.transfer(slot).ok_or_else(busy)?.next_piece(direction) else { return Ok(false) };
                let (base, len) = (piece.first.iov_base.cast::<u8>(), u32::try_from(piece.first.iov_len));
                match (direction, piece.count, len) {
                    (Direction::Read, 1, Ok(len)) => {
                        opcode::Read::new(fd, base, len).offset(offset).rw_flags(flags).build()
                    }
                    (Direction::Write, 1, Ok(len)) => {
                        opcode::Write::new(fd, base, len).offset(offset).rw_flags(flags).build()
                    }
                    (Direction::Read, count, _) => {
                        opcode::Readv::new(fd, piece.iovecs, count).offset(offset).rw_flags(flags).build()
                    }
                    (Direction::Write, count, _) => {
                        opcode::Writev::new(fd, piece.iovecs, count).offset(offset).rw_flags(flags).build()
                    }
                }
            }
            Operation::Sync => opcode::Fsync::new(fd).flags(types::FsyncFlags::DATASYNC).build(),
            Operation::Allocate { mode, offset, len } => {
                opcode::Fallocate::new(fd, len).offset(offset).mode(mode).build()
            }
        };
        let state = self.in_kernel.get_mut(usize::from(slot)).filter(|state| state.is_none()).ok_or_else(busy)?;
        *state = Some(operation);
        let pushed = self.push(&entry.user_data(slot.into()));
        match &pushed {
            Ok(()) => self.operations = self.operations.saturating_add(1),
            Err(_) => drop(self.give_back(slot)),
        }
        pushed.map(|()| true)
    }

    fn give_back(&mut self, slot: u16) -> Option<Operation> {
        self.in_kernel.get_mut(usize::from(slot))?.take()
    }

    fn listen(&mut self) -> io::Result<()> {
        let count = self.doorbell_count.get().cast();
        let entry = opcode::Read::new(types::Fd(self.doorbell.as_raw_fd()), count, 8).build();
        self.push(&entry.user_data(DOORBELL))?;
        self.doorbell_armed = true;
        Ok(())
    }

    fn push(&mut self, entry: &squeue::Entry) -> io::Result<()> {
        // SAFETY: what an entry of ours points to is either the doorbell's count or a slot's piece. Both are owned by
        // this ring at addresses that don't change, the piece with what it points to in turn, and `Drop` keeps them until
        // the completion has come; `transfer` gives nobody a piece that is on its way. The files are open while the entry
        // is submitted, and the kernel holds them from then on.
        let pushed = unsafe { self.uring.submission().push(entry) };
        pushed.map_err(|_| io::ErrorKind::QuotaExceeded.into())
    }

    /// Gives the kernel what was started, and doesn't wait.
    pub(crate) fn submit(&mut self) -> io::Result<()> {
        passable(self.uring.submit())
    }

    /// Gives the kernel what was started, and waits until something is done, the doorbell rings or `timeout` is over.
    pub(crate) fn wait(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        if self.operations == 0 && !self.doorbell_armed {
            // A plain read costs less than one through the ring, and there is nothing else to wait for.
            return doorbell::wait(&self.doorbell, timeout);
        }
        if !self.doorbell_armed && !self.stopping {
            self.listen()?;
        }
        match timeout {
            None => passable(self.uring.submit_and_wait(1)),
            Some(timeout) => {
                let time = types::Timespec::from(timeout);
                passable(self.uring.submitter().submit_with_args(1, &types::SubmitArgs::new().timespec(&time)))
            }
        }
    }

    /// The next operation that is done.
    pub(crate) fn next(&mut self) -> io::Result<Option<Completion>> {
        loop {
            let Some(entry) = self.uring.completion().next() else { return Ok(None) };
            let result = entry.result();
            let result = u32::try_from(result).map_err(|_| io::Error::from_raw_os_error(result.saturating_neg()));
            match entry.user_data() {
                CANCEL => {}
                DOORBELL => {
                    self.doorbell_armed = false;
                    if !self.stopping {
                        let interrupted = |error: &io::Error| error.kind() == io::ErrorKind::Interrupted;
                        result.map(drop).or_else(|error| if interrupted(&error) { Ok(()) } else { Err(error) })?;
                    }
                }
                slot => {
                    let Ok(slot) = u16::try_from(slot) else { continue };
                    let Some(operation) = self.give_back(slot) else { continue };
                    self.operations = self.operations.saturating_sub(1);
                    let result = match (operation, self.transfer(slot)) {
                        (Operation::Transfer { direction, .. }, Some(transfer)) => {
                            let result = result.map(|moved| usize::try_from(moved).unwrap_or(usize::MAX));
                            transfer.finish_piece(direction, result)
                        }
                        _ => result,
                    };
                    return Ok(Some(Completion { slot, result }));
                }
            }
        }
    }

    /// Asks the kernel to give back what it has not begun with. The doorbell is not listened to any more.
    pub(crate) fn cancel(&mut self) -> io::Result<()> {
        if std::mem::replace(&mut self.stopping, true) {
            return Ok(());
        }
        // Linux 5.19 takes the second one, for all that is under way; before that, the rest is waited for.
        let all = types::CancelBuilder::any();
        self.push(&opcode::AsyncCancel::new(DOORBELL).build().user_data(CANCEL))?;
        self.push(&opcode::AsyncCancel2::new(all).build().user_data(CANCEL))
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        let mut cancelled = self.cancel();
        while self.operations > 0 || self.doorbell_armed {
            if cancelled.and_then(|()| self.wait(None)).is_err() {
                // The kernel may write to our buffers at any time from now on: nothing that we can do is safe.
                std::process::abort();
            }
            cancelled = loop {
                match self.next() {
                    Ok(Some(_)) => {}
                    Ok(None) => break Ok(()),
                    Err(error) => break Err(error),
                }
            };
        }
    }
}

/// Errors of a call that are none for us: it is made again.
fn passable(result: io::Result<usize>) -> io::Result<()> {
    match result.as_ref().err().and_then(io::Error::raw_os_error) {
        Some(libc::EINTR | libc::ETIME | libc::EAGAIN | libc::EBUSY) => Ok(()),
        _ => result.map(drop),
    }
}

#[cfg(test)]
#[path = "ring_tests.rs"]
mod tests;
