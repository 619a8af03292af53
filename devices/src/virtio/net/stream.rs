// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The stream of passt: each frame behind its length, of four bytes, big endian.
//!
//! The other side may give and take any part of a frame at a time. One call receives the rest of a frame and the length of
//! the next one.

use std::io::{self, Read};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use super::counters::Reason;
use super::options::Reconnect;
use super::port::{FIRST_PAUSE, LONGEST_PAUSE, Loss, Outgoing, Received, Sent};
use super::spec;
use crate::sys::frame::{self, FrameBuffers, Peer};
use crate::sys::poll::Watch;

/// Bytes of a length.
const LENGTH: usize = 4;
/// The longest frame that passt takes; it closes the stream of whoever sends a longer one.
const LONGEST: usize = 65_535;
/// How much is thrown away by one call.
const SCRATCH: usize = 4096;

#[derive(Debug)]
pub(super) struct Stream {
    /// `None`: the other side is gone.
    socket: Option<UnixStream>,
    reconnect: Option<Box<dyn Reconnect>>,
    /// When to try that next, and how long to wait after it.
    again: Option<Instant>,
    pause: Duration,
    /// Since when there is somebody.
    since: Instant,
    /// How much of the frame that is being sent went to him, its length included. It is his alone: to the next one, that frame
    /// goes from its beginning.
    begun: usize,
    incoming: Incoming,
    /// What is left of a frame whose queue has stopped.
    rest: Vec<u8>,
}

/// How far the next frame has come.
#[derive(Debug, Default)]
struct Incoming {
    length: [u8; LENGTH],
    /// How much of `length` is there.
    have: usize,
    /// Bytes of the frame, when they are known.
    frame: Option<usize>,
    /// How much of it was read.
    got: usize,
    /// It is thrown away.
    reason: Option<Reason>,
    /// The last call has got less than it could have: there is nothing more just now.
    drained: bool,
}

impl Stream {
    /// A stream on a socket that doesn't wait.
    pub(super) fn new(socket: UnixStream, reconnect: Option<Box<dyn Reconnect>>) -> Self {
        let (again, pause, since, incoming) = (None, FIRST_PAUSE, Instant::now(), Incoming::default());
        Self { socket: Some(socket), reconnect, again, pause, since, begun: 0, incoming, rest: Vec::new() }
    }

    pub(super) fn send(&mut self, frame: Outgoing<'_>) -> Sent {
        match self.send_rest() {
            Sent::Done => {}
            sent => return sent,
        }
        let Some(socket) = &self.socket else { return Sent::Gone(Loss::Closed) };
        let Outgoing { header: _, prefix, buffers, len } = frame;
        if len > LONGEST {
            return Sent::Refused(io::ErrorKind::InvalidInput.into());
        }
        let length = length_of(len);
        // Ends: each turn sends some of it.
        while self.begun < LENGTH.saturating_add(len) {
            match buffers.send(socket, Peer::Socket, [&length, prefix], prefix.len(), self.begun) {
                Ok(0) => return Sent::Blocked,
                Ok(more) => self.begun = self.begun.saturating_add(more),
                Err(error) => return unsent(error),
            }
        }
        self.begun = 0;
        Sent::Done
    }

    /// Whether some of the frame that is being sent went, and the other side waits for the rest.
    pub(super) fn has_begun(&self) -> bool {
        self.begun > 0
    }

    /// Whether there is something that was kept.
    pub(super) fn has_rest(&self) -> bool {
        !self.rest.is_empty()
    }

    /// Sends what was kept.
    pub(super) fn send_rest(&mut self) -> Sent {
        let Some(socket) = &self.socket else { return Sent::Gone(Loss::Closed) };
        while !self.rest.is_empty() {
            match frame::send_bytes(socket, &self.rest) {
                Ok(0) => return Sent::Blocked,
                Ok(sent) => drop(self.rest.drain(..sent.min(self.rest.len()))),
                Err(error) => return unsent(error),
            }
        }
        Sent::Done
    }

    pub(super) fn keep_rest(&mut self, frame: &Outgoing<'_>) -> bool {
        let Outgoing { header: _, prefix, buffers, len } = frame;
        let begun = std::mem::take(&mut self.begun);
        if begun == 0 || self.socket.is_none() {
            return false;
        }
        let mut bytes = vec![0; *len];
        let (first, behind) = bytes.split_at_mut(prefix.len().min(*len));
        for (to, from) in first.iter_mut().zip(*prefix) {
            *to = *from;
        }
        buffers.read(prefix.len(), behind);
        self.rest = [length_of(*len).as_slice(), bytes.as_slice()].concat();
        self.rest.drain(..begun.min(self.rest.len()));
        true
    }

    /// Bytes of the frame that is next, once its length is there.
    pub(super) fn expected(&mut self) -> Result<usize, Received> {
        let Some(socket) = &mut self.socket else { return Err(Received::Empty) };
        let incoming = &mut self.incoming;
        if let Some(frame) = incoming.frame {
            return Ok(frame);
        }
        if std::mem::take(&mut incoming.drained) {
            return Err(Received::Empty);
        }
        let missing = incoming.length.get_mut(incoming.have..).unwrap_or_default();
        if !missing.is_empty() {
            let got = read(socket, missing)?;
            incoming.have = incoming.have.saturating_add(got);
            if incoming.have < LENGTH {
                return Err(Received::Empty);
            }
        }
        let length = u32::from_be_bytes(incoming.length);
        let frame = usize::try_from(length).ok().filter(|frame| (1..=spec::MAX_FRAME).contains(frame));
        let Some(frame) = frame else { return Err(Received::Gone(Loss::BadLength(length))) };
        let reason = (frame < spec::MIN_FRAME).then_some(Reason::BadLength);
        *incoming = Incoming { frame: Some(frame), reason, ..Incoming::default() };
        Ok(frame)
    }

    /// Takes in that so many bytes more were read of a frame of `frame` bytes, and of the length behind it.
    fn take(&mut self, frame: usize, bytes: usize) -> Received {
        let incoming = &mut self.incoming;
        let of_frame = frame.saturating_sub(incoming.got).min(bytes);
        incoming.got = incoming.got.saturating_add(of_frame);
        if incoming.got < frame {
            return Received::Empty;
        }
        let reason = incoming.reason;
        let have = bytes.saturating_sub(of_frame);
        *incoming = Incoming { length: incoming.length, have, drained: have < LENGTH, ..Incoming::default() };
        reason.map_or(Received::Frame(frame), Received::Dropped)
    }

    pub(super) fn receive(&mut self, buffers: &mut FrameBuffers, room: usize) -> Received {
        let frame = match self.expected() {
            Ok(frame) => frame,
            Err(received) => return received,
        };
        let end = frame.saturating_add(spec::HEADER_SIZE);
        if self.incoming.reason.is_some() || end > room {
            return self.discard(Reason::NoRoom);
        }
        let Some(socket) = &self.socket else { return Received::Empty };
        let from = self.incoming.got.saturating_add(spec::HEADER_SIZE);
        match buffers.receive(socket, &mut [], from..end, &mut self.incoming.length) {
            Ok(0) => Received::Gone(Loss::Closed),
            Ok(bytes) => self.take(frame, bytes),
            Err(error) => failed(error),
        }
    }

    pub(super) fn discard(&mut self, reason: Reason) -> Received {
        let frame = match self.expected() {
            Ok(frame) => frame,
            Err(received) => return received,
        };
        self.incoming.reason.get_or_insert(reason);
        let Some(socket) = &mut self.socket else { return Received::Empty };
        let mut scratch = [0; SCRATCH];
        // Ends: each turn reads some of the frame.
        loop {
            let left = frame.saturating_sub(self.incoming.got);
            let part = scratch.get_mut(..left.min(SCRATCH)).unwrap_or_default();
            let bytes = match read(socket, part) {
                Ok(bytes) => bytes,
                Err(received) => return received,
            };
            if bytes == left {
                let received = self.take(frame, bytes);
                // Nobody has asked for the length that comes next.
                self.incoming.drained = false;
                return received;
            }
            self.incoming.got = self.incoming.got.saturating_add(bytes);
        }
    }

    pub(super) fn abandon(&mut self) {
        if self.incoming.got > 0 {
            self.incoming.reason.get_or_insert(Reason::LinkDown);
        }
    }

    pub(super) fn lose(&mut self, now: Instant) {
        let Self { socket, reconnect, again, pause, since, begun, incoming, rest } = self;
        *socket = None;
        *begun = 0;
        // Somebody who comes only to go again is waited for as long as nobody is.
        let stayed = now.saturating_duration_since(*since) >= LONGEST_PAUSE;
        *pause = if stayed { FIRST_PAUSE } else { pause.saturating_mul(2).min(LONGEST_PAUSE) };
        *again = reconnect.as_ref().and_then(|_| now.checked_add(*pause));
        *incoming = Incoming::default();
        rest.clear();
    }

    /// Tries to connect if it is time. `true`: there is somebody again.
    pub(super) fn try_again(&mut self, now: Instant) -> bool {
        let (Some(reconnect), Some(_)) = (&mut self.reconnect, self.again.filter(|again| *again <= now)) else {
            return false;
        };
        let connected = reconnect.try_connect().and_then(|socket| socket.set_nonblocking(true).map(|()| socket));
        self.socket = connected.ok();
        self.again = if self.socket.is_some() {
            self.since = now;
            None
        } else {
            self.pause = self.pause.saturating_mul(2).min(LONGEST_PAUSE);
            now.checked_add(self.pause)
        };
        self.socket.is_some()
    }

    pub(super) fn due(&self) -> Option<Instant> {
        self.again
    }

    pub(super) fn watch(&self, readable: bool, writable: bool) -> Watch<'_> {
        self.socket.as_ref().map_or_else(Watch::nothing, |socket| Watch::new(socket, readable, writable))
    }
}

fn length_of(frame: usize) -> [u8; LENGTH] {
    // A frame was checked to be far shorter.
    u32::try_from(frame).unwrap_or(u32::MAX).to_be_bytes()
}

/// Reads at least one byte.
fn read(socket: &mut UnixStream, bytes: &mut [u8]) -> Result<usize, Received> {
    loop {
        match socket.read(bytes) {
            Ok(0) => return Err(Received::Gone(Loss::Closed)),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result.map_err(failed),
        }
    }
}

fn failed(error: io::Error) -> Received {
    if error.kind() == io::ErrorKind::WouldBlock { Received::Empty } else { Received::Gone(Loss::Host(error)) }
}

fn unsent(error: io::Error) -> Sent {
    if error.kind() == io::ErrorKind::WouldBlock { Sent::Blocked } else { Sent::Gone(Loss::Host(error)) }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use vm_memory::GuestAddress;

    use super::*;
    use crate::virtio::chain::Segment;
    use crate::virtio::mock::ram;

    #[derive(Debug)]
    struct Next(Option<UnixStream>);

    impl Reconnect for Next {
        fn try_connect(&mut self) -> io::Result<UnixStream> {
            self.0.take().ok_or_else(|| io::ErrorKind::NotConnected.into())
        }
    }

    #[test]
    fn what_went_to_one_who_is_gone_is_not_continued_to_the_next() {
        const LEN: usize = 60_000;
        let mut buffers = FrameBuffers::new(ram(1 << 20));
        buffers.push(&[Segment { address: GuestAddress(0), len: LEN as u32 }]);
        let (ours, _first) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        let (next, mut second) = UnixStream::pair().unwrap();
        let mut stream = Stream::new(ours, Some(Box::new(Next(Some(next)))));
        let mut send = |stream: &mut Stream| {
            let header = [0; spec::HEADER_SIZE];
            let sent = stream.send(Outgoing { header: &header, prefix: &[], buffers: &mut buffers, len: LEN });
            matches!(sent, Sent::Done)
        };
        while send(&mut stream) {}
        assert!(stream.has_begun());
        let now = Instant::now();
        stream.lose(now);
        assert!(!stream.has_begun());
        assert!(!stream.try_again(now), "there is a pause");
        assert!(stream.try_again(now + LONGEST_PAUSE));
        assert!(send(&mut stream));
        let mut length = [0; LENGTH];
        second.read_exact(&mut length).unwrap();
        assert_eq!(length, length_of(LEN), "it goes from its beginning");
        stream.lose(now + LONGEST_PAUSE);
        assert!(stream.pause > FIRST_PAUSE, "who goes at once is waited for longer");
    }
}
