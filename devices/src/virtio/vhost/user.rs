// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The frontend of vhost-user (QEMU docs/interop/vhost-user.rst): another process works off rings, and is told by a socket.
//!
//! The backend is given guest memory and the eventfds of rings, so it can do to the guest what it likes. To us it can say
//! numbers, which are looked at, and nothing else: descriptors that it sends are dropped. Each operation ends within a time,
//! whatever it does; one that doesn't answer, or answers something else, is not spoken with any more. No protocol feature is
//! demanded of it, but that there is one for many queues where there are many.

use std::io::{self, ErrorKind, Read};
use std::net::Shutdown;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use vm_memory::{GuestMemoryBackend, GuestMemoryRegion};
use vmm_sys_util::eventfd::EventFd;
use vmm_sys_util::sock_ctrl_msg::ScmSocket;

use super::Lines;
use super::patience::{Deadline, Patience};
use crate::GuestRam;
use crate::sys::poll::{self, Watch};
use crate::virtio::queue::Queue;

impl Drop for Frontend {
    fn drop(&mut self) {
        // Another handle may be open, and the backend is to know at once.
        let _ = self.socket.shutdown(Shutdown::Both);
    }
}

/// Requests, by their numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
#[expect(non_camel_case_types, reason = "the names of the specification")]
enum Request {
    GET_FEATURES = 1,
    SET_FEATURES = 2,
    SET_OWNER = 3,
    SET_MEM_TABLE = 5,
    SET_VRING_NUM = 8,
    SET_VRING_ADDR = 9,
    SET_VRING_BASE = 10,
    GET_VRING_BASE = 11,
    SET_VRING_KICK = 12,
    SET_VRING_CALL = 13,
    SET_VRING_ERR = 14,
    GET_PROTOCOL_FEATURES = 15,
    SET_PROTOCOL_FEATURES = 16,
    GET_QUEUE_NUM = 17,
    SET_VRING_ENABLE = 18,
}

/// Bytes of a message's header: request, flags, size.
const HEADER: usize = 12;
/// In the flags: the version of the protocol.
const VERSION: u32 = 1;
const VERSION_MASK: u32 = 3;
/// In the flags: this is an answer.
const REPLY: u32 = 1 << 2;
/// In the flags: there is to be an answer, which says whether it was done.
const NEED_REPLY: u32 = 1 << 3;

/// Feature: there are protocol features, and rings are to be enabled.
const F_PROTOCOL_FEATURES: u64 = 1 << 30;
/// Protocol feature: there is a number of queues.
const PROTOCOL_F_MQ: u64 = 1 << 0;
/// Protocol feature: each request can be answered.
const PROTOCOL_F_REPLY_ACK: u64 = 1 << 3;

/// The most regions of memory that any backend takes.
const MAX_REGIONS: usize = 8;

/// A backend that is spoken with.
#[derive(Debug)]
pub(crate) struct Frontend {
    socket: UnixStream,
    offered: u64,
    /// The protocol features in use.
    protocol: u64,
    /// What it was told of the driver's features, once it was.
    features: Option<u64>,
    knows_memory: bool,
    patience: Patience,
}

impl Frontend {
    /// Begins with a backend that has just been connected to, which is to have so many queue pairs, or rings if it isn't for
    /// a network.
    pub(crate) fn new(socket: UnixStream, pairs: u16) -> io::Result<Self> {
        socket.set_nonblocking(false)?;
        let patience = Patience::new(Instant::now());
        let mut this = Self { socket, offered: 0, protocol: 0, features: None, knows_memory: false, patience };
        let until = this.patience.begin(Instant::now());
        this.offered = this.ask_u64(Request::GET_FEATURES, until)?;
        let mut queues = None;
        if this.offered & F_PROTOCOL_FEATURES != 0 {
            let protocol = this.ask_u64(Request::GET_PROTOCOL_FEATURES, until)?;
            let protocol = protocol & (PROTOCOL_F_MQ | PROTOCOL_F_REPLY_ACK);
            this.tell(Request::SET_PROTOCOL_FEATURES, &protocol.to_ne_bytes(), &[], until)?;
            this.protocol = protocol;
            if protocol & PROTOCOL_F_MQ != 0 {
                queues = Some(this.ask_u64(Request::GET_QUEUE_NUM, until)?);
            }
        }
        this.tell(Request::SET_OWNER, &[], &[], until)?;
        // Some count pairs, others rings: who has as many pairs has enough by either.
        match queues {
            Some(queues) if queues < pairs.into() => {
                Err(io::Error::other(format!("it has {queues} queues or queue pairs, not {pairs}")))
            }
            None if pairs > 1 => Err(io::Error::other(format!(
                "it has one queue pair and not {pairs}: it lacks VHOST_USER_PROTOCOL_F_MQ"
            ))),
            _ => Ok(this),
        }
    }

    /// The features that it can do, among them some that no driver knows.
    pub(crate) fn offered(&self) -> u64 {
        self.offered
    }

    /// Another handle for the socket, to see its end.
    pub(crate) fn watch(&self) -> io::Result<UnixStream> {
        self.socket.try_clone()
    }

    /// Whether it has closed, as each process does that ends.
    pub(crate) fn has_closed(&self) -> bool {
        let mut watches = [Watch::new(&self.socket, false, false)];
        poll::wait(&mut watches, Some(Duration::ZERO)).is_ok() && watches.iter().any(Watch::has_ended)
    }

    /// Has it work off a ring, which has stopped or never run, from `base` on. While another one runs, features are the same.
    pub(crate) fn start(
        &mut self,
        index: u32,
        features: u64,
        queue: &Queue,
        base: u16,
        lines: &Lines<'_>,
    ) -> io::Result<()> {
        self.in_time(|this, until| this.set_up(index, features, queue, base, lines, until))
    }

    /// Does what the backend has to answer within a time.
    fn in_time<T>(&mut self, does: impl FnOnce(&mut Self, Deadline) -> io::Result<T>) -> io::Result<T> {
        let until = self.patience.begin(Instant::now());
        let done = does(self, until);
        self.patience.end(Instant::now());
        done
    }

    fn set_up(
        &mut self,
        index: u32,
        features: u64,
        queue: &Queue,
        base: u16,
        lines: &Lines<'_>,
        until: Deadline,
    ) -> io::Result<()> {
        if self.features != Some(features) {
            let all = features | self.offered & F_PROTOCOL_FEATURES;
            self.tell(Request::SET_FEATURES, &all.to_ne_bytes(), &[], until)?;
            self.features = Some(features);
        }
        if !self.knows_memory {
            self.set_memory(queue.mem(), until)?;
            self.knows_memory = true;
        }
        self.tell(Request::SET_VRING_NUM, &state(index, queue.size().into()), &[], until)?;
        self.tell(Request::SET_VRING_BASE, &state(index, base.into()), &[], until)?;
        let at = queue.host_addresses();
        // Index and flags, then the table, the used ring, the avail ring, and the log that there is none of.
        let addresses = [at.table, at.used, at.avail, 0].map(u64::to_ne_bytes).concat();
        self.tell(Request::SET_VRING_ADDR, &[state(index, 0).as_slice(), &addresses].concat(), &[], until)?;
        self.set_event(Request::SET_VRING_ERR, index, lines.error, until)?;
        self.set_event(Request::SET_VRING_CALL, index, lines.call, until)?;
        self.set_event(Request::SET_VRING_KICK, index, lines.kick, until)?;
        self.enable(index, true, until)
    }

    /// Stops a ring, and gives the index at which it goes on, as the backend says.
    pub(crate) fn stop(&mut self, index: u32) -> io::Result<u16> {
        let answer = self.in_time(|this, until| {
            this.enable(index, false, until)?;
            this.ask::<8>(Request::GET_VRING_BASE, &state(index, 0), until)
        })?;
        let [a, b, c, d, base @ ..] = answer;
        let (named, base) = (u32::from_ne_bytes([a, b, c, d]), u32::from_ne_bytes(base));
        match u16::try_from(base) {
            Ok(base) if named == index => Ok(base),
            _ => Err(nonsense(Request::GET_VRING_BASE)),
        }
    }

    fn enable(&mut self, index: u32, on: bool, until: Deadline) -> io::Result<()> {
        // Without protocol features, a ring is enabled when it starts.
        if self.offered & F_PROTOCOL_FEATURES == 0 {
            return Ok(());
        }
        self.tell(Request::SET_VRING_ENABLE, &state(index, on.into()), &[], until)
    }

    fn set_memory(&mut self, ram: &GuestRam, until: Deadline) -> io::Result<()> {
        let (mut body, mut files) = (Vec::new(), Vec::new());
        for region in ram.iter() {
            let part = region.file_offset().ok_or_else(|| {
                io::Error::other(
                    "guest memory can't be given to it: it is shared with nobody (--memory SIZE,shared=on)",
                )
            })?;
            let host_address = region.as_ptr().expose_provenance() as u64;
            let words = [region.start_addr().0, region.len(), host_address, part.start()];
            body.extend(words.map(u64::to_ne_bytes).concat());
            files.push(part.file().as_raw_fd());
        }
        if files.len() > MAX_REGIONS {
            return Err(io::Error::other("guest memory has too many parts"));
        }
        let count = state(u32::try_from(files.len()).unwrap_or(u32::MAX), 0);
        self.tell(Request::SET_MEM_TABLE, &[count.as_slice(), &body].concat(), &files, until)
    }

    fn set_event(&mut self, request: Request, index: u32, event: &EventFd, until: Deadline) -> io::Result<()> {
        self.tell(request, &u64::from(index).to_ne_bytes(), &[event.as_raw_fd()], until)
    }

    /// Sends what has no answer of its own, and waits until it was done where the backend can say so.
    fn tell(&mut self, request: Request, body: &[u8], files: &[RawFd], until: Deadline) -> io::Result<()> {
        let is_answered = self.protocol & PROTOCOL_F_REPLY_ACK != 0;
        self.send(request, if is_answered { NEED_REPLY } else { 0 }, body, files, until)?;
        if is_answered && u64::from_ne_bytes(self.receive(request, until)?) != 0 {
            return Err(io::Error::other(format!("it refuses {request:?}")));
        }
        Ok(())
    }

    fn ask<const N: usize>(&mut self, request: Request, body: &[u8], until: Deadline) -> io::Result<[u8; N]> {
        self.send(request, 0, body, &[], until)?;
        self.receive(request, until)
    }

    fn ask_u64(&mut self, request: Request, until: Deadline) -> io::Result<u64> {
        self.ask(request, &[], until).map(u64::from_ne_bytes)
    }

    fn send(&mut self, request: Request, flags: u32, body: &[u8], files: &[RawFd], until: Deadline) -> io::Result<()> {
        let size = u32::try_from(body.len()).map_err(io::Error::other)?;
        let header = [request as u32, VERSION | flags, size].map(u32::to_ne_bytes).concat();
        let message = [header.as_slice(), body].concat();
        let (mut rest, mut files) = (message.as_slice(), files);
        while !rest.is_empty() {
            self.socket.set_write_timeout(Some(left(until, request)?))?;
            match self.socket.send_with_fds(&[rest], files).map_err(io::Error::from) {
                Ok(sent) => {
                    rest = rest.get(sent..).unwrap_or_default();
                    // They went with the first byte.
                    files = &[];
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Err(slow(request, until)),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn receive<const N: usize>(&mut self, request: Request, until: Deadline) -> io::Result<[u8; N]> {
        let mut header = [0; HEADER];
        self.read(&mut header, request, until)?;
        let ([code, flags, size], _) = header.as_chunks::<4>() else { return Err(nonsense(request)) };
        let [code, flags, size] = [code, flags, size].map(|word| u32::from_ne_bytes(*word));
        let is_answer = flags & (REPLY | VERSION_MASK) == REPLY | VERSION;
        if code != request as u32 || !is_answer || usize::try_from(size) != Ok(N) {
            return Err(nonsense(request));
        }
        let mut body = [0; N];
        self.read(&mut body, request, until)?;
        Ok(body)
    }

    fn read(&mut self, mut to: &mut [u8], request: Request, until: Deadline) -> io::Result<()> {
        while !to.is_empty() {
            self.socket.set_read_timeout(Some(left(until, request)?))?;
            match self.socket.read(to) {
                Ok(0) => return Err(io::Error::new(ErrorKind::UnexpectedEof, "it was closed")),
                Ok(got) => to = to.get_mut(got..).unwrap_or_default(),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Err(slow(request, until)),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// Two numbers: `struct vhost_vring_state`, and what begins other messages.
fn state(index: u32, number: u32) -> [u8; 8] {
    let [[a, b, c, d], [e, f, g, h]] = [index, number].map(u32::to_ne_bytes);
    [a, b, c, d, e, f, g, h]
}

/// How long there is to wait, which is never zero: that would be for ever.
fn left(until: Deadline, request: Request) -> io::Result<Duration> {
    let left = until.at.saturating_duration_since(Instant::now());
    if left < Duration::from_micros(1) { Err(slow(request, until)) } else { Ok(left) }
}

fn slow(request: Request, until: Deadline) -> io::Error {
    // Not to the nanosecond.
    let of = Duration::from_millis(u64::try_from(until.of.as_millis()).unwrap_or(u64::MAX));
    io::Error::new(ErrorKind::TimedOut, format!("it hasn't answered {request:?} within {of:?}"))
}

fn nonsense(request: Request) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, format!("it answers {request:?} with something else"))
}
