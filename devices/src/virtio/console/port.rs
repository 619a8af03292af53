// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! One port: its queues on the guest's side, who is at it on the host's, and the bytes in between.

use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::time::{Duration, Instant};

use vmm_sys_util::epoll::EventSet;

use super::backlog::Backlog;
use super::device::{ConsoleBackend, ConsolePort, PortInput, PortOutput};
use super::log::Log;
use super::port_queue::PortQueue;
use super::watched::Watched;
use crate::throttle::Throttle;
use crate::virtio::queue::QueueError;
use crate::virtio::worker::{FIRST_TOKEN, Waits};

/// How many bytes are moved at once: a Linux driver gives buffers of a page.
pub(super) const CHUNK: usize = 4096;
/// How often that is done before it is somebody else's turn.
const MAX_CHUNKS: usize = 64;
/// How long output waits for a reader that takes nothing: a Linux guest's vCPU spins meanwhile. Then the oldest output is lost,
/// until the reader takes something again.
const PATIENCE: Duration = Duration::from_secs(1);
/// How long nobody is let in when the host has no descriptor for that.
const PAUSE: Duration = Duration::from_millis(100);
/// The longest size that is understood: two numbers, a blank and a new line.
const MAX_SIZE: usize = 16;

/// What a token is about.
const INPUT: u64 = 0;
const OUTPUT: u64 = 1;
const LISTENER: u64 = 2;
const SIZES: u64 = 3;
const TOKENS: u64 = 4;

fn token(port: usize, which: u64) -> u64 {
    FIRST_TOKEN.saturating_add(u64::try_from(port).unwrap_or(0).saturating_mul(TOKENS)).saturating_add(which)
}

fn watched<T: AsRawFd>(inner: T, token: u64) -> Watched<T> {
    let fd = inner.as_raw_fd();
    Watched::new(inner, fd, token)
}

/// What a port's driver is to be told (§5.3.6.2), in this order.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Due {
    pub(super) add: bool,
    pub(super) console: bool,
    pub(super) name: bool,
    pub(super) open: bool,
    pub(super) size: bool,
}

/// A port.
#[derive(Debug)]
pub(super) struct Port {
    index: usize,
    /// The device's and the port's names in log lines.
    device: String,
    label: String,
    /// What the guest calls it, if anything.
    pub(super) name: Option<String>,
    listener: Option<Watched<UnixListener>>,
    sizes: Option<Watched<UnixDatagram>>,
    input: Option<Watched<Box<dyn PortInput>>>,
    output: Option<Watched<Box<dyn PortOutput>>>,
    backlog: Backlog,
    log: Log,
    pub(super) receive: Option<PortQueue>,
    pub(super) transmit: Option<PortQueue>,
    /// The reader takes nothing since then, and the guest waits for it.
    patience_ends: Option<Instant>,
    /// Nobody waits for the reader.
    has_stalled: bool,
    /// When somebody is let in again.
    listen_at: Option<Instant>,
    pub(super) due: Due,
    /// The driver knows it.
    pub(super) is_ready: bool,
    /// A program of the guest's has it open.
    pub(super) is_open: bool,
    losses: Throttle,
    failures: Throttle,
}

impl Port {
    pub(super) fn new(index: usize, device: &str, options: ConsolePort) -> io::Result<Self> {
        let ConsolePort { name, backend, log } = options;
        let mut port = Self {
            index,
            device: device.to_owned(),
            label: name.clone().unwrap_or_else(|| index.to_string()),
            name,
            listener: None,
            sizes: None,
            input: None,
            output: None,
            backlog: Backlog::default(),
            log: Log::new(log),
            receive: None,
            transmit: None,
            patience_ends: None,
            has_stalled: false,
            listen_at: None,
            due: Due::default(),
            is_ready: false,
            is_open: false,
            losses: Throttle::new(),
            failures: Throttle::new(),
        };
        match backend {
            ConsoleBackend::Streams { input, output } => {
                port.attach(input, output);
            }
            ConsoleBackend::Socket { listener, sizes } => {
                listener.set_nonblocking(true)?;
                port.listener = Some(watched(listener, token(index, LISTENER)));
                if let Some(sizes) = sizes {
                    sizes.set_nonblocking(true)?;
                    port.sizes = Some(watched(sizes, token(index, SIZES)));
                }
            }
        }
        Ok(port)
    }

    fn attach(&mut self, input: Option<Box<dyn PortInput>>, output: Option<Box<dyn PortOutput>>) {
        let watched_input = |input: Box<dyn PortInput>| {
            let fd = input.as_raw_fd();
            Watched::new(input, fd, token(self.index, INPUT))
        };
        let watched_output = |output: Box<dyn PortOutput>| {
            let fd = output.as_raw_fd();
            Watched::new(output, fd, token(self.index, OUTPUT))
        };
        (self.input, self.output) = (input.map(watched_input), output.map(watched_output));
    }

    /// Which port a token of [`Watched`] belongs to, and which descriptor of it.
    pub(super) fn of_token(token: u64) -> Option<(usize, u64)> {
        let at = token.checked_sub(FIRST_TOKEN)?;
        Some((usize::try_from(at / TOKENS).ok()?, at % TOKENS))
    }

    /// A thread begins, which watches nothing yet.
    pub(super) fn begin(&mut self, waits: &Waits) {
        let Self { listener, sizes, input, output, .. } = self;
        input.iter_mut().for_each(Watched::begin);
        output.iter_mut().for_each(Watched::begin);
        listener.iter_mut().for_each(Watched::begin);
        sizes.iter_mut().for_each(Watched::begin);
        self.listen(true, waits);
        let watched = self.sizes.as_mut().map_or(Ok(()), |sizes| sizes.watch(Some(EventSet::IN), waits));
        if let Err(error) = watched {
            self.complain("sizes can't be heard", &error);
        }
    }

    /// Lets clients in, or not.
    fn listen(&mut self, listens: bool, waits: &Waits) {
        let interest = listens.then_some(EventSet::IN);
        let watched = self.listener.as_mut().map_or(Ok(()), |listener| listener.watch(interest, waits));
        if let Err(error) = watched {
            self.complain("nobody can attach", &error);
        }
    }

    /// When it wants to be asked whether its [`Self::time`] has come.
    pub(super) fn alarm(&self) -> Option<Instant> {
        [self.patience_ends, self.listen_at].into_iter().flatten().min()
    }

    /// Does what the time has come for.
    pub(super) fn time(&mut self, now: Instant, waits: &mut Waits) -> Result<(), QueueError> {
        if self.listen_at.is_some_and(|time| time <= now) {
            self.listen_at = None;
            self.listen(true, waits);
        }
        if self.patience_ends.is_some_and(|time| time <= now) {
            // Nobody waits for a reader any more that takes nothing.
            (self.has_stalled, self.patience_ends) = (true, None);
            self.put_out(waits)?;
        }
        Ok(())
    }

    /// What the driver has set is forgotten; whoever is at the port stays, and so does the last output.
    pub(super) fn reset(&mut self) {
        let Self {
            index: _,
            device: _,
            label: _,
            name: _,
            listener: _,
            sizes: _,
            input: _,
            output: _,
            backlog: _,
            log: _,
            receive,
            transmit,
            patience_ends,
            has_stalled: _,
            listen_at: _,
            due,
            is_ready,
            is_open,
            losses: _,
            failures: _,
        } = self;
        (*receive, *transmit, *patience_ends) = (None, None, None);
        (*due, *is_ready, *is_open) = (Due::default(), false, false);
    }

    fn complain(&self, what: &str, error: &io::Error) {
        if let Some(times) = self.failures.hit() {
            tracing::warn!(device = self.device, port = self.label, times, "{what}: {error}");
        }
    }

    fn is_socket(&self) -> bool {
        self.listener.is_some()
    }

    /// A descriptor is ready; gives a size that somebody has sent.
    pub(super) fn take_ready(
        &mut self,
        which: u64,
        ready: EventSet,
        waits: &mut Waits,
    ) -> Result<Option<(u16, u16)>, QueueError> {
        let has_ended = ready.intersects(EventSet::HANG_UP | EventSet::ERROR);
        match which {
            SIZES => return Ok(self.take_size()),
            LISTENER => self.take_caller(waits),
            INPUT => self.feed(waits)?,
            _ if has_ended => self.hang_up(waits)?,
            _ => self.put_out(waits)?,
        }
        Ok(None)
    }

    /// A datagram `COLUMNS ROWS`.
    fn take_size(&self) -> Option<(u16, u16)> {
        let mut bytes = [0; MAX_SIZE];
        let len = self.sizes.as_ref()?.inner.recv(&mut bytes).ok()?;
        let (columns, rows) = str::from_utf8(bytes.get(..len)?).ok()?.trim().split_once(' ')?;
        Some((columns.parse().ok()?, rows.trim().parse().ok()?))
    }

    /// Whoever comes takes the place of whoever is there, and is shown the last output.
    fn take_caller(&mut self, waits: &Waits) {
        let Some(listener) = &self.listener else { return };
        let client = match listener.inner.accept() {
            Ok((client, _)) => client,
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::WouldBlock | io::ErrorKind::ConnectionAborted | io::ErrorKind::Interrupted
                ) =>
            {
                return;
            }
            Err(error) => {
                self.complain("nobody can attach", &error);
                self.listen(false, waits);
                self.listen_at = Instant::now().checked_add(PAUSE);
                return;
            }
        };
        match client.set_nonblocking(true).and_then(|()| client.try_clone()) {
            Ok(output) => {
                self.let_go(waits);
                self.attach(Some(Box::new(client)), Some(Box::new(output)));
                self.backlog.rewind();
            }
            Err(error) => self.complain("nobody can attach", &error),
        }
    }

    /// Nobody is there any more.
    fn let_go(&mut self, waits: &Waits) {
        if let Some(mut input) = self.input.take() {
            let _ = input.watch(None, waits);
        }
        self.lose_output(waits);
    }

    fn lose_output(&mut self, waits: &Waits) {
        if let Some(mut output) = self.output.take() {
            let _ = output.watch(None, waits);
        }
        self.backlog.skip();
        (self.has_stalled, self.patience_ends) = (false, None);
    }

    /// Whoever has read the output is gone. What was sent before is still read, when the guest has room for it.
    fn hang_up(&mut self, waits: &mut Waits) -> Result<(), QueueError> {
        self.lose_output(waits);
        if self.is_socket()
            && let Some(input) = &mut self.input
        {
            input.read_unwatched(waits);
        }
        // The guest waits no more.
        self.put_out(waits)
    }

    /// Input is there, or may be: reads once, as much as there is room for.
    fn feed(&mut self, waits: &mut Waits) -> Result<(), QueueError> {
        let (Some(input), Some(receive)) = (&mut self.input, &mut self.receive) else { return Ok(()) };
        let room = receive.room().min(CHUNK);
        let mut bytes = [0; CHUNK];
        let Some(bytes) = bytes.get_mut(..room).filter(|bytes| !bytes.is_empty()) else { return Ok(()) };
        match input.inner.read(bytes) {
            Ok(len @ 1..) => {
                receive.put(bytes.get(..len).unwrap_or_default())?;
            }
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
            // A client that reads on is one that has said all it has to say.
            end => {
                if let Err(error) = end
                    && !self.is_socket()
                {
                    self.complain("its input has ended", &error);
                }
                if let Some(mut input) = self.input.take() {
                    let _ = input.watch(None, waits);
                }
            }
        }
        Ok(())
    }

    /// Sends what there is to send, as far as somebody takes it.
    fn flush(&mut self, waits: &Waits) {
        for _ in 0..MAX_CHUNKS {
            let Some(output) = &mut self.output else { return self.backlog.skip() };
            let unsent = self.backlog.unsent();
            let unsent = unsent.get(..CHUNK).unwrap_or(unsent);
            if unsent.is_empty() {
                break;
            }
            match output.inner.write(unsent) {
                Ok(len @ 1..) => {
                    self.backlog.advance(len);
                    (self.has_stalled, self.patience_ends) = (false, None);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(0) => break,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if self.is_socket() || error.kind() == io::ErrorKind::BrokenPipe => {
                    tracing::debug!(device = self.device, port = self.label, "nobody reads any more: {error}");
                    return self.lose_output(waits);
                }
                Err(error) => {
                    // A file that finds no room, say: it may find some later.
                    self.complain("output is lost", &error);
                    self.backlog.skip();
                }
            }
        }
        if !self.is_socket() {
            self.backlog.forget_sent();
        }
    }

    /// Whether the guest has to wait for the reader. Sets until when.
    fn must_wait(&mut self) -> bool {
        if self.output.is_none() || self.has_stalled || self.backlog.room() >= CHUNK {
            return false;
        }
        let now = Instant::now();
        if self.patience_ends.is_none() {
            self.patience_ends = now.checked_add(PATIENCE);
        }
        true
    }

    /// Moves output of the guest's to whoever reads it.
    pub(super) fn put_out(&mut self, waits: &mut Waits) -> Result<(), QueueError> {
        self.flush(waits);
        for _ in 0..MAX_CHUNKS {
            if self.must_wait() {
                return self.transmit.as_mut().map_or(Ok(()), PortQueue::announce);
            }
            let Some(transmit) = &mut self.transmit else { return Ok(()) };
            let mut bytes = [0; CHUNK];
            let Some(len) = transmit.get(&mut bytes)? else {
                if transmit.wait()? {
                    waits.again(transmit.index());
                }
                return Ok(());
            };
            let bytes = bytes.get(..len).unwrap_or_default();
            self.log.write(bytes, &self.device, &self.label);
            let lost = self.backlog.push(bytes);
            if lost > 0
                && self.output.is_some()
                && let Some(times) = self.losses.hit()
            {
                tracing::warn!(device = self.device, port = self.label, times, "nobody reads: output is lost");
            }
            self.flush(waits);
        }
        let Some(transmit) = &mut self.transmit else { return Ok(()) };
        waits.again(transmit.index());
        transmit.announce()
    }

    /// Looks for room for input, and has descriptors watched for what can be done with them now. `takes_input`: the driver
    /// wants input.
    pub(super) fn settle(&mut self, takes_input: bool, waits: &mut Waits) -> Result<(), QueueError> {
        let mut wants_input = false;
        if let Some(receive) = &mut self.receive {
            receive.announce()?;
            if takes_input && self.input.is_some() {
                wants_input = receive.has_room()?;
                if !wants_input && receive.wait()? {
                    waits.again(receive.index());
                }
            }
        }
        let is_socket = self.is_socket();
        let input = wants_input.then_some(EventSet::IN);
        let input = self.input.as_mut().map_or(Ok(()), |watched| watched.watch(input, waits));
        let has_output = !self.backlog.unsent().is_empty();
        let output = if has_output {
            Some(EventSet::OUT)
        } else {
            // That a client is gone is to be seen in any case.
            is_socket.then_some(EventSet::empty())
        };
        let output = self.output.as_mut().map_or(Ok(()), |watched| watched.watch(output, waits));
        // That it is a file is known once it was to be watched.
        if let (true, Some(input), Some(receive)) = (wants_input, &self.input, &self.receive)
            && input.is_always_ready()
        {
            waits.again(receive.index());
        }
        if let Err(error) = input.and(output) {
            self.complain("whoever is attached can't be watched", &error);
            self.let_go(waits);
        }
        Ok(())
    }

    /// The guest has something for the port's receive queue, or input of a file is to be read.
    pub(super) fn feed_again(&mut self, takes_input: bool, waits: &mut Waits) -> Result<(), QueueError> {
        if takes_input && self.input.as_ref().is_some_and(Watched::is_always_ready) {
            self.feed(waits)?;
        }
        Ok(())
    }

    /// What the guest has put out last, at a stop of its queue: its driver may not wait for it.
    pub(super) fn put_out_last(&mut self, waits: &mut Waits) {
        if self.put_out(waits).is_ok() {
            self.flush(waits);
        }
        self.patience_ends = None;
    }
}
