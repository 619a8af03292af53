// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! A queue of a tap: a frame a call, with a virtio header in front if it was made so.

use std::fs::File;
use std::io;
use std::sync::Arc;

use super::counters::Reason;
use super::port::{Loss, Outgoing, Received, Sent};
use super::spec;
use crate::sys::frame::{FrameBuffers, Peer};
use crate::sys::poll::Watch;
use crate::sys::tap;

/// How much is read of a frame that is thrown away: a tap cuts off what doesn't fit.
const DISCARDED: usize = 64;

#[derive(Debug)]
pub(super) struct Tap {
    file: Arc<File>,
    vnet_header: bool,
    /// It isn't a socket that plays one.
    is_kernels: bool,
    /// Its interface is there.
    alive: bool,
    /// It is one of the interface's queues just now.
    attached: bool,
}

impl Tap {
    /// A tap that is attached, and set up.
    pub(super) fn new(file: Arc<File>, vnet_header: bool, is_kernels: bool) -> Self {
        Self { file, vnet_header, is_kernels, alive: true, attached: true }
    }

    fn is_usable(&self) -> bool {
        self.alive && self.attached
    }

    /// Makes it one of the interface's queues, or none: the kernel gives frames only to those.
    pub(super) fn set_attached(&mut self, attached: bool) -> io::Result<()> {
        if self.attached == attached {
            return Ok(());
        }
        // What fails once isn't tried with every frame.
        self.attached = attached;
        if self.is_kernels && self.alive { tap::set_attached(&self.file, attached) } else { Ok(()) }
    }

    pub(super) fn send(&self, frame: Outgoing<'_>) -> Sent {
        let Outgoing { header, prefix, buffers, .. } = frame;
        let header: &[u8] = if self.vnet_header { header } else { &[] };
        match buffers.send(&*self.file, Peer::Tap, [header, prefix], prefix.len(), 0) {
            Ok(_) => Sent::Done,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Sent::Blocked,
            Err(error) if is_end(&error) => Sent::Gone(Loss::Host(error)),
            Err(error) => Sent::Refused(error),
        }
    }

    pub(super) fn receive(
        &self,
        header: &mut [u8; spec::HEADER_SIZE],
        buffers: &mut FrameBuffers,
        room: usize,
        rest: &mut [u8],
    ) -> Received {
        if !self.is_usable() {
            return Received::Empty;
        }
        let head = if self.vnet_header { header.as_mut_slice() } else { &mut [] };
        let head_len = head.len();
        let bytes = match buffers.receive(&*self.file, head, spec::HEADER_SIZE..room, rest) {
            Ok(bytes) => bytes,
            Err(error) => return failed(error),
        };
        match bytes.checked_sub(head_len) {
            // A tap has no empty frames: this is a file that has ended.
            _ if bytes == 0 => Received::Gone(Loss::Closed),
            None | Some(0..spec::MIN_FRAME) => Received::Dropped(Reason::BadLength),
            Some(frame) if frame > spec::MAX_FRAME => Received::Dropped(Reason::BadLength),
            Some(frame) => Received::Frame(frame),
        }
    }

    pub(super) fn discard(&self, reason: Reason) -> Received {
        if !self.is_usable() {
            return Received::Empty;
        }
        match io::Read::read(&mut &*self.file, &mut [0; DISCARDED]) {
            Ok(0) => Received::Gone(Loss::Closed),
            Ok(_) => Received::Dropped(reason),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Received::Empty,
            Err(error) => failed(error),
        }
    }

    pub(super) fn lose(&mut self) {
        self.alive = false;
    }

    /// Looks whether the interface is there again. `true`: it was gone, and is.
    pub(super) fn revive(&mut self) -> bool {
        if self.alive {
            return false;
        }
        self.alive = !self.is_kernels || tap::interface(&self.file).is_ok();
        self.alive
    }

    pub(super) fn watch(&self, readable: bool, writable: bool) -> Watch<'_> {
        // One without an interface has ended, and says so again and again.
        if self.is_usable() { Watch::new(&*self.file, readable, writable) } else { Watch::nothing() }
    }
}

fn failed(error: io::Error) -> Received {
    if error.kind() == io::ErrorKind::WouldBlock { Received::Empty } else { Received::Gone(Loss::Host(error)) }
}

/// Whether it isn't just this frame that can't be sent.
fn is_end(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EBADFD | libc::EBADF | libc::EPIPE | libc::ECONNREFUSED | libc::ECONNRESET | libc::ENOTCONN)
    )
}
