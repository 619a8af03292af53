// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The host's side of a queue pair, as its thread sees it.

use std::fmt;
use std::io;
use std::time::{Duration, Instant};

use super::card::Card;
use super::counters::Reason;
use super::lent::Vhost;
use super::spec;
use super::stream::Stream;
use super::tap::Tap;
use super::user::Watcher;
use crate::sys::frame::FrameBuffers;
use crate::sys::poll::Watch;

/// The pause before the first try to connect again.
pub const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// The pause that others grow to.
pub const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// What came of a frame of the guest's.
#[derive(Debug)]
pub(super) enum Sent {
    /// It went.
    Done,
    /// There is no room: it is to be sent again, or the rest of it, when there is.
    Blocked,
    /// The host doesn't take this one.
    Refused(io::Error),
    /// There is nobody any more.
    Gone(Loss),
}

/// What came for the guest.
#[derive(Debug)]
pub(super) enum Received {
    /// A frame of so many bytes is there: in the buffers, and what they don't hold behind them.
    Frame(usize),
    /// Nothing, or not yet all of a frame.
    Empty,
    /// A frame that is gone.
    Dropped(Reason),
    /// There is nobody any more.
    Gone(Loss),
}

/// How a backend ended.
#[derive(Debug)]
pub(super) enum Loss {
    /// The other side has closed it, or the interface is gone.
    Closed,
    /// The host says so.
    Host(io::Error),
    /// A frame was announced that is none.
    BadLength(u32),
    /// It doesn't take a ring.
    NotLent(io::Error),
}

impl fmt::Display for Loss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Closed => f.write_str("it was closed"),
            Self::Host(error) => write!(f, "{error}"),
            Self::NotLent(error) => write!(f, "it doesn't take a queue: {error}"),
            Self::BadLength(len) => {
                write!(f, "it announced a frame of {len} bytes: 1 to {} are possible", spec::MAX_FRAME)
            }
        }
    }
}

/// The frame that is sent: a header that was checked, the first bytes if they were looked at, and the rest in the guest's
/// memory.
#[derive(Debug)]
pub(super) struct Outgoing<'a> {
    pub(super) header: &'a [u8; spec::HEADER_SIZE],
    pub(super) prefix: &'a [u8],
    pub(super) buffers: &'a mut FrameBuffers,
    /// Bytes of the frame, the prefix included.
    pub(super) len: usize,
}

#[derive(Debug)]
pub(super) enum Kind {
    Tap(Tap),
    Stream(Stream),
    /// A backend of vhost-user, to which no frame goes by us; the first pair sees to it.
    User(Option<Watcher>),
}

/// A backend, and what is known of it.
#[derive(Debug)]
pub(super) struct Port {
    pub(super) kind: Kind,
    /// Who moves its frames in our place.
    pub(super) vhost: Option<Vhost>,
    /// It may have a frame: nothing has said otherwise since.
    pub(super) readable: bool,
    /// It may have room.
    pub(super) writable: bool,
}

impl Port {
    pub(super) fn new(kind: Kind) -> Self {
        Self { kind, vhost: None, readable: true, writable: true }
    }

    /// Sends a frame, or what is left of it.
    pub(super) fn send(&mut self, frame: Outgoing<'_>) -> Sent {
        let sent = match &mut self.kind {
            Kind::Tap(tap) => tap.send(frame),
            Kind::Stream(stream) => stream.send(frame),
            Kind::User(_) => Sent::Blocked,
        };
        self.writable &= !matches!(sent, Sent::Blocked);
        sent
    }

    /// Whether some of the frame that is being sent went, and the other side waits for the rest.
    pub(super) fn has_begun(&self) -> bool {
        match &self.kind {
            Kind::Tap(_) | Kind::User(_) => false,
            Kind::Stream(stream) => stream.has_begun(),
        }
    }

    /// Keeps what is left of a frame of which some went: the other side waits for it. `true`: there was something.
    pub(super) fn keep_rest(&mut self, frame: &Outgoing<'_>) -> bool {
        match &mut self.kind {
            Kind::Tap(_) | Kind::User(_) => false,
            Kind::Stream(stream) => stream.keep_rest(frame),
        }
    }

    /// How many bytes the next frame has: `Ok(None)` if that can't be known before it is there.
    pub(super) fn expected(&mut self) -> Result<Option<usize>, Received> {
        match &mut self.kind {
            Kind::Tap(_) => Ok(None),
            Kind::User(_) => Err(Received::Empty),
            Kind::Stream(stream) => {
                let expected = stream.expected();
                self.readable &= !matches!(expected, Err(Received::Empty));
                expected.map(Some)
            }
        }
    }

    /// Receives the next frame, or the rest of it, into the first `room` bytes of the buffers, behind the room for the
    /// header, which goes into `header`. What there is no room for goes into `rest`, if its length wasn't known before.
    pub(super) fn receive(
        &mut self,
        header: &mut [u8; spec::HEADER_SIZE],
        buffers: &mut FrameBuffers,
        room: usize,
        rest: &mut [u8],
    ) -> Received {
        *header = [0; spec::HEADER_SIZE];
        let received = match &mut self.kind {
            Kind::Tap(tap) => tap.receive(header, buffers, room, rest),
            Kind::Stream(stream) => stream.receive(buffers, room),
            Kind::User(_) => Received::Empty,
        };
        self.readable &= !matches!(received, Received::Empty);
        received
    }

    /// Throws away the next frame, or the rest of it, for this reason.
    pub(super) fn discard(&mut self, reason: Reason) -> Received {
        let received = match &mut self.kind {
            Kind::Tap(tap) => tap.discard(reason),
            Kind::Stream(stream) => stream.discard(reason),
            Kind::User(_) => Received::Empty,
        };
        self.readable &= !matches!(received, Received::Empty);
        received
    }

    /// Nobody will receive the rest of the frame of which there is some in the guest's buffers.
    pub(super) fn abandon(&mut self) {
        if let Kind::Stream(stream) = &mut self.kind {
            stream.abandon();
        }
    }

    /// The other side is gone: nothing more is tried with it.
    pub(super) fn lose(&mut self, loss: &Loss, card: &Card, pair: u16) {
        match &mut self.kind {
            Kind::Tap(tap) => tap.lose(),
            Kind::Stream(stream) => stream.lose(Instant::now()),
            Kind::User(None) => return,
            Kind::User(Some(watcher)) => return watcher.lose(loss, card, Instant::now()),
        }
        if let Some(times) = card.losses.hit() {
            tracing::warn!(card = card.name, pair, times, "the link is down, as its backend is gone: {loss}");
        }
        card.set_gone(pair, true);
    }

    /// Does what is to be done with the backend before frames: takes it into use or out of it, tries to get it back if it is
    /// gone, and sends what was kept.
    pub(super) fn maintain(&mut self, card: &Card, pair: u16) {
        match &mut self.kind {
            Kind::Tap(tap) => {
                if let Err(error) = tap.set_attached(card.is_active(pair))
                    && let Some(times) = card.refusals.hit()
                {
                    tracing::warn!(card = card.name, pair, times, "the tap's queue can't be switched: {error}");
                }
            }
            Kind::User(None) => {}
            Kind::User(Some(watcher)) => watcher.maintain(card, Instant::now()),
            Kind::Stream(stream) => {
                if stream.try_again(Instant::now()) {
                    if let Some(times) = card.losses.hit() {
                        tracing::info!(card = card.name, pair, times, "the link is up again");
                    }
                    (self.readable, self.writable) = (true, true);
                    card.set_gone(pair, false);
                }
                if self.writable && stream.has_rest() {
                    match stream.send_rest() {
                        Sent::Gone(loss) => self.lose(&loss, card, pair),
                        sent => self.writable = matches!(sent, Sent::Done),
                    }
                }
            }
        }
    }

    /// Nobody knows where it stands: a stream may be in the middle of a frame.
    pub(super) fn distrust(&mut self, card: &Card, pair: u16) {
        (self.readable, self.writable) = (true, true);
        if let Kind::Stream(stream) = &mut self.kind {
            stream.lose(Instant::now());
            card.set_gone(pair, true);
        }
    }

    /// A queue starts: what was gone may be there again.
    pub(super) fn revive(&mut self, card: &Card, pair: u16) {
        if let Kind::Tap(tap) = &mut self.kind
            && tap.revive()
        {
            card.set_gone(pair, false);
        }
    }

    /// When [`Self::maintain`] has something to do by itself.
    pub(super) fn due(&self) -> Option<Instant> {
        match &self.kind {
            Kind::Tap(_) | Kind::User(None) => None,
            Kind::Stream(stream) => stream.due(),
            Kind::User(Some(watcher)) => watcher.due(),
        }
    }

    /// Waits for what is wanted, and for its end.
    pub(super) fn watch(&self, readable: bool, writable: bool) -> Watch<'_> {
        match &self.kind {
            Kind::Tap(tap) => tap.watch(readable, writable),
            Kind::Stream(stream) => stream.watch(readable, writable || stream.has_rest()),
            Kind::User(None) => Watch::nothing(),
            Kind::User(Some(watcher)) => watcher.watch(),
        }
    }
}
