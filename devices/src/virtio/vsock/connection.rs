// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! One connection: how far it has come, what is to be sent of it in either direction, and what is waited for.

use std::io;
use std::net::Shutdown;
use std::os::unix::net::UnixStream;

use vmm_sys_util::epoll::EventSet;

use super::credit::Credit;
use super::host::Greeting;
use super::spec::{self, SHUTDOWN_ALL, SHUTDOWN_RCV, SHUTDOWN_SEND};
use crate::sys::frame::{FrameBuffers, Peer, send_bytes};

/// From how many bytes on the room of what waits for the host is given back once it is empty.
const KEPT: usize = 64 << 10;

/// A connection's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Ports {
    pub(super) guest: u32,
    pub(super) host: u32,
}

/// How far a connection has come.
#[derive(Debug)]
pub(super) enum State {
    /// A program of the host has connected, and is to say which port it wants. It has no name yet.
    Greeting(Greeting),
    /// The guest is asked for it.
    Asked,
    /// The guest wants it, and whoever listens takes nobody just now.
    Waiting,
    /// Data passes.
    Open,
    /// The guest is done with it, and has forgotten it. What it has sent still goes to the host.
    Lingering,
    /// The host is gone, and the guest is to see that.
    Over,
}

/// Packets without data that are to be sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Due {
    /// REQUEST or RESPONSE, which comes first.
    pub(super) begin: Option<u16>,
    pub(super) shutdown: bool,
    pub(super) credit_update: bool,
    pub(super) credit_request: bool,
}

impl Due {
    /// Takes the next one: its operation.
    pub(super) fn take(&mut self) -> Option<u16> {
        self.begin.take().or_else(|| {
            let rest = [
                (&mut self.credit_update, spec::OP_CREDIT_UPDATE),
                (&mut self.credit_request, spec::OP_CREDIT_REQUEST),
                (&mut self.shutdown, spec::OP_SHUTDOWN),
            ];
            rest.into_iter().find_map(|(due, op)| std::mem::take(due).then_some(op))
        })
    }

    pub(super) fn is_nothing(self) -> bool {
        self == Self::default()
    }
}

/// Bytes of the guest's that the host's socket had no room for.
#[derive(Debug, Default)]
struct Backlog {
    bytes: Vec<u8>,
    /// How many of them have gone.
    gone: usize,
}

/// A connection.
#[derive(Debug)]
pub(super) struct Connection {
    /// Tells it from those that had its place before.
    pub(super) serial: u64,
    pub(super) ports: Ports,
    pub(super) state: State,
    pub(super) socket: Option<UnixStream>,
    pub(super) credit: Credit,
    pub(super) due: Due,
    backlog: Backlog,
    /// It stands in line for packets to the guest.
    pub(super) is_queued: bool,
    /// The host's socket has something, or may have: data, or its end.
    pub(super) is_readable: bool,
    /// The guest has no room for more.
    pub(super) lacks_credit: bool,
    /// What the guest has said that it won't do any more.
    pub(super) guest_shutdown: u32,
    /// What the host won't do any more, as the guest is told.
    pub(super) host_shutdown: u32,
    /// The program of the host has closed its socket.
    pub(super) has_hung_up: bool,
    /// For what the socket is watched.
    pub(super) watched: Option<EventSet>,
}

impl Connection {
    pub(super) fn new(serial: u64, ports: Ports, state: State, socket: Option<UnixStream>) -> Self {
        Self {
            serial,
            ports,
            state,
            socket,
            credit: Credit::new(),
            due: Due::default(),
            backlog: Backlog::default(),
            is_queued: false,
            is_readable: false,
            lacks_credit: false,
            guest_shutdown: 0,
            host_shutdown: 0,
            has_hung_up: false,
            watched: None,
        }
    }

    /// For what its socket should be watched; `None`: for nothing, not even its end.
    pub(super) fn interest(&self) -> Option<EventSet> {
        let when = |condition: bool, event: EventSet| if condition { event } else { EventSet::empty() };
        match self.state {
            State::Greeting(_) => Some(EventSet::IN),
            State::Asked => Some(EventSet::empty()),
            // Its end was seen, and would be said again and again.
            State::Open if self.has_hung_up => None,
            State::Open => {
                // Of one that stands in line it is known, if it isn't served soon.
                let reads = self.wants_data() && !self.is_readable && !self.lacks_credit;
                Some(when(reads, EventSet::IN) | when(!self.backlog.is_empty(), EventSet::OUT))
            }
            State::Lingering => Some(EventSet::OUT),
            State::Waiting | State::Over => None,
        }
    }

    /// Whether data of the host's is still wanted, and still comes.
    pub(super) fn wants_data(&self) -> bool {
        matches!(self.state, State::Open)
            && self.guest_shutdown & SHUTDOWN_RCV == 0
            && self.host_shutdown & SHUTDOWN_SEND == 0
    }

    /// Whether there is something of it to send to the guest just now.
    pub(super) fn has_something(&self) -> bool {
        !self.due.is_nothing() || self.is_readable && !self.lacks_credit && self.wants_data()
    }

    /// Whether all that the guest has sent has gone to the host, or isn't wanted.
    pub(super) fn is_flushed(&self) -> bool {
        self.backlog.is_empty()
    }

    /// Takes data of the guest's: the first `len` bytes in `frames`, for which there was credit.
    pub(super) fn take_data(&mut self, frames: &mut FrameBuffers, len: usize) {
        let sent = match &self.socket {
            Some(socket) if self.host_shutdown & SHUTDOWN_RCV == 0 => {
                if self.backlog.is_empty() {
                    match frames.send(socket, Peer::Socket, [&[], &[]], 0, 0) {
                        Ok(sent) => sent.min(len),
                        Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
                        Err(_) => return self.refuse_data(len),
                    }
                } else {
                    0
                }
            }
            _ => return self.credit.forward(len),
        };
        if sent < len {
            self.backlog.append(frames, sent, len.saturating_sub(sent));
        }
        self.credit.forward(sent);
    }

    /// The host wants no more data, of which `len` bytes have just come.
    fn refuse_data(&mut self, len: usize) {
        self.credit.forward(len.saturating_add(self.backlog.len()));
        self.backlog = Backlog::default();
        self.host_shutdown |= SHUTDOWN_RCV;
        self.due.shutdown = true;
    }

    /// Sends what has waited, as far as the socket has room.
    pub(super) fn flush(&mut self) {
        let Some(socket) = &self.socket else { return };
        match self.backlog.send(socket) {
            Ok(sent) => self.credit.forward(sent),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(_) => self.refuse_data(0),
        }
    }

    /// Tells the host what the guest won't do any more, once it has all that was sent before.
    pub(super) fn pass_on_shutdown(&self) {
        let Some(socket) = &self.socket else { return };
        // Fails for one whose other side is gone, which is seen elsewhere. To say it twice does no harm.
        if self.guest_shutdown & SHUTDOWN_RCV != 0 {
            let _ = socket.shutdown(Shutdown::Read);
        }
        if self.guest_shutdown & SHUTDOWN_SEND != 0 && self.backlog.is_empty() {
            let _ = socket.shutdown(Shutdown::Write);
        }
    }

    /// The host's data has come to its end.
    pub(super) fn end_of_data(&mut self) {
        self.is_readable = false;
        self.host_shutdown |= if self.has_hung_up { SHUTDOWN_ALL } else { SHUTDOWN_SEND };
        self.due.shutdown = true;
    }

    /// The program of the host has closed its socket. What it has sent before can still be read.
    pub(super) fn hang_up(&mut self) {
        self.has_hung_up = true;
        self.is_readable = true;
        self.credit.forward(self.backlog.len());
        self.backlog = Backlog::default();
        if !self.wants_data() {
            self.end_of_data();
        }
    }
}

impl Backlog {
    fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    fn len(&self) -> usize {
        self.bytes.len().saturating_sub(self.gone)
    }

    /// Appends `len` bytes from byte `at` of the frames on.
    fn append(&mut self, frames: &FrameBuffers, at: usize, len: usize) {
        // No more is kept than was promised room for.
        self.bytes.drain(..self.gone.min(self.bytes.len()));
        self.gone = 0;
        let before = self.bytes.len();
        self.bytes.reserve_exact(len);
        self.bytes.resize(before.saturating_add(len), 0);
        frames.read(at, self.bytes.get_mut(before..).unwrap_or_default());
    }

    fn send(&mut self, socket: &UnixStream) -> io::Result<usize> {
        let rest = self.bytes.get(self.gone..).unwrap_or_default();
        let sent = send_bytes(socket, rest)?;
        self.gone = self.gone.saturating_add(sent);
        // What has gone is let go when that is most of it, so that nothing is moved often.
        if self.gone >= self.bytes.len() {
            if self.bytes.capacity() > KEPT {
                self.bytes = Vec::new();
            }
            self.bytes.clear();
            self.gone = 0;
        } else if self.gone > self.bytes.len() / 2 {
            self.bytes.drain(..self.gone);
            self.gone = 0;
        }
        Ok(sent)
    }
}
