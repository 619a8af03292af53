// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What is done for each packet of the guest's, each descriptor that is ready, and each time that comes.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use vmm_sys_util::epoll::EventSet;

use super::connection::{Connection, Ports, State};
use super::device::PortHandler;
use super::host::{self, Greeting};
use super::receive::{MAX_READ, Receive};
use super::spec::{self, HOST_CID, Header, SHUTDOWN_ALL};
use super::table::{Table, header};
use crate::sys::frame::{FrameBuffers, send_bytes};
use crate::throttle::Throttle;
use crate::virtio::active_queue::ActiveQueue;
use crate::virtio::queue::{QueueError, QueueState};
use crate::virtio::worker::{Event, FIRST_TOKEN, Service, Waits};

/// How long nobody is accepted when the host has no descriptor for that.
const PAUSE: Duration = Duration::from_millis(100);
/// How many programs of the host are accepted before it is somebody else's turn.
const MAX_ACCEPTS: usize = 64;
/// How many connections are served before commands are looked at.
const MAX_TURNS: usize = 256;

/// The token of the listener; connections come behind it, by their slot.
const LISTENER: u64 = FIRST_TOKEN;
const CONNECTIONS: u64 = FIRST_TOKEN + 1;

/// The device's work.
#[derive(Debug)]
pub(super) struct Muxer {
    pub(super) name: String,
    pub(super) cid: u64,
    /// Where programs of the host connect to, and its path.
    pub(super) host: Option<(UnixListener, PathBuf)>,
    /// Ports of the host that the embedder serves itself.
    pub(super) ports: BTreeMap<u32, Box<dyn PortHandler>>,
    pub(super) receive: Option<Receive>,
    pub(super) transmit: Option<(ActiveQueue, FrameBuffers)>,
    pub(super) event: Option<ActiveQueue>,
    pub(super) table: Table,
    /// Packets are left with the guest until those to it find room.
    pub(super) is_crowded: bool,
    /// The listener is watched.
    pub(super) accepts: bool,
    /// When somebody is accepted again.
    pub(super) accept_at: Option<Instant>,
    /// Those that wait for an answer or a listener, the first one first; some may have got it.
    pub(super) deadlines: VecDeque<(Instant, usize, u64)>,
    /// Those that are no use to the guest, the first one first; some may be by now.
    pub(super) long_deadlines: VecDeque<(Instant, usize, u64)>,
    /// Those that wait for a listener; some may be gone.
    pub(super) waiting: Vec<(usize, u64)>,
    /// When listeners are asked again.
    pub(super) retry_at: Option<Instant>,
    pub(super) strays: Throttle,
    pub(super) refusals: Throttle,
}

impl Muxer {
    pub(super) fn new(name: String, cid: u64, host: Option<(UnixListener, PathBuf)>) -> Self {
        Self {
            name,
            cid,
            host,
            ports: BTreeMap::new(),
            receive: None,
            transmit: None,
            event: None,
            table: Table::new(),
            is_crowded: false,
            accepts: false,
            accept_at: None,
            deadlines: VecDeque::new(),
            long_deadlines: VecDeque::new(),
            waiting: Vec::new(),
            retry_at: None,
            strays: Throttle::new(),
            refusals: Throttle::new(),
        }
    }

    /// Has the listener watched, or not.
    pub(super) fn accept(&mut self, accepts: bool, waits: &Waits) {
        let Some((listener, _)) = &self.host else { return };
        if accepts == self.accepts {
            return;
        }
        if !accepts {
            waits.unwatch(listener);
        } else if let Err(error) = waits.watch(listener, LISTENER, EventSet::IN) {
            tracing::warn!(device = self.name, "its socket can't be watched: {error}");
            return;
        }
        self.accepts = accepts;
    }

    /// Takes in programs of the host that want to connect.
    fn take_callers(&mut self, waits: &Waits) {
        for _ in 0..MAX_ACCEPTS {
            if !self.table.has_room() {
                // One that goes makes room.
                return self.accept(false, waits);
            }
            let Some((listener, _)) = &self.host else { return };
            let taken = listener.accept().and_then(|(socket, _)| socket.set_nonblocking(true).map(|()| socket));
            match taken {
                Ok(socket) => {
                    let slot = self.table.insert(None, State::Greeting(Greeting::default()), Some(socket));
                    self.expect_in_time(slot);
                    self.watch(slot, waits);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if matches!(error.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::Interrupted) => {
                }
                Err(error) => {
                    self.complain("nobody can be accepted", &error);
                    self.accept(false, waits);
                    self.accept_at = Instant::now().checked_add(PAUSE);
                    return;
                }
            }
        }
    }

    fn complain(&self, what: &str, error: &io::Error) {
        if let Some(times) = self.refusals.hit() {
            tracing::warn!(device = self.name, times, "{what}: {error}");
        }
    }

    /// Has a connection's socket watched as it wants it now.
    fn watch(&mut self, slot: usize, waits: &Waits) {
        let Some(connection) = self.table.get(slot) else { return };
        let (wanted, before) = (connection.interest(), connection.watched);
        let Some(socket) = &connection.socket else { return };
        if wanted == before {
            return;
        }
        let token = CONNECTIONS.saturating_add(u64::try_from(slot).unwrap_or(u64::MAX));
        let result = match (before, wanted) {
            (_, None) => {
                waits.unwatch(socket);
                Ok(())
            }
            (None, Some(interest)) => waits.watch(socket, token, interest),
            (Some(_), Some(interest)) => waits.watch_for(socket, token, interest),
        };
        connection.watched = wanted;
        if let Err(error) = result {
            self.complain("a connection can't be watched", &error);
            self.abort(slot, waits);
        }
    }

    /// Ends a connection at once; the guest is told, if it knows it.
    pub(super) fn abort(&mut self, slot: usize, waits: &Waits) {
        if let Some(connection) = self.remove(slot, waits)
            && !matches!(connection.state, State::Greeting(_) | State::Lingering)
            // Of what it was not asked yet, the guest knows nothing.
            && connection.due.begin != Some(spec::OP_REQUEST)
        {
            self.table.reset(connection.ports);
        }
    }

    /// Takes a connection out, and closes its socket with what is returned.
    pub(super) fn remove(&mut self, slot: usize, waits: &Waits) -> Option<Connection> {
        let connection = self.table.remove(slot)?;
        if let (Some(socket), Some(_)) = (&connection.socket, connection.watched) {
            waits.unwatch(socket);
        }
        self.accept_again(waits);
        Some(connection)
    }

    /// Something has changed for a connection: what waits is sent, and what is watched for is set.
    pub(super) fn settle(&mut self, slot: usize, waits: &Waits) {
        let Some(connection) = self.table.get(slot) else { return };
        if connection.is_flushed() && matches!(connection.state, State::Lingering) {
            self.remove(slot, waits);
            return;
        }
        if connection.credit.should_tell() && matches!(connection.state, State::Open) {
            connection.due.credit_update = true;
            self.table.grow(slot);
        }
        self.table.enqueue(slot);
        self.watch(slot, waits);
    }

    /// A connection's socket is ready for something.
    fn take_ready(&mut self, slot: usize, ready: EventSet, waits: &mut Waits) {
        let Some(connection) = self.table.get(slot) else { return };
        let has_ended = ready.intersects(EventSet::HANG_UP | EventSet::ERROR);
        match &mut connection.state {
            State::Greeting(greeting) => {
                let Some(socket) = &connection.socket else { return };
                match greeting.read(socket) {
                    Ok(None) => {}
                    Ok(Some(port)) => self.ask(slot, port, waits),
                    Err(error) => {
                        tracing::debug!(device = self.name, "a program of the host gets no connection: {error}");
                        self.remove(slot, waits);
                    }
                }
            }
            // Nobody waits for the answer any more.
            State::Asked if has_ended => self.abort(slot, waits),
            State::Lingering if has_ended => drop(self.remove(slot, waits)),
            State::Lingering => {
                connection.flush();
                self.settle(slot, waits);
            }
            State::Open => {
                if ready.contains(EventSet::OUT) {
                    connection.flush();
                    connection.pass_on_shutdown();
                }
                // It stands in line already, and nothing can be done for it just now.
                let waits_in_line = connection.is_readable;
                connection.is_readable |= ready.contains(EventSet::IN) && connection.wants_data();
                // One that is wanted no more is not to be heard of again.
                let is_idle = !connection.is_readable;
                if has_ended {
                    connection.hang_up();
                    self.end_if_over(slot, waits);
                }
                if waits_in_line || is_idle || has_ended || ready.contains(EventSet::OUT) {
                    self.settle(slot, waits);
                } else {
                    self.table.enqueue(slot);
                }
            }
            State::Asked | State::Waiting | State::Over => {}
        }
    }

    /// Lets go of the socket of a connection whose host is gone, once all that it has sent was read.
    fn end_if_over(&mut self, slot: usize, waits: &Waits) {
        if let Some(connection) = self.table.get(slot)
            && matches!(connection.state, State::Open)
            && connection.host_shutdown == SHUTDOWN_ALL
        {
            if let (Some(socket), Some(_)) = (connection.socket.take(), connection.watched.take()) {
                waits.unwatch(&socket);
            }
            connection.state = State::Over;
            self.table.note_over(slot);
            self.accept_again(waits);
        }
    }

    /// There may be room again for a program of the host.
    fn accept_again(&mut self, waits: &Waits) {
        if self.accept_at.is_none() {
            self.accept(true, waits);
        }
    }

    /// A program of the host wants a port of the guest's.
    fn ask(&mut self, slot: usize, port: u32, waits: &mut Waits) {
        self.table.name(slot, port);
        if let Some(connection) = self.table.get(slot) {
            connection.state = State::Asked;
            connection.due.begin = Some(spec::OP_REQUEST);
            let serial = connection.serial;
            self.expect_by_deadline(slot, serial);
            self.settle(slot, waits);
        }
    }

    /// The guest wants a port of the host's.
    fn connect(&mut self, ports: Ports, credit: (u32, u32), waits: &mut Waits) {
        if !self.table.has_room() {
            if let Some(times) = self.refusals.hit() {
                tracing::warn!(device = self.name, times, "there are too many connections, and one more is refused");
            }
            return self.table.reset(ports);
        }
        let (state, socket) = match self.reach(ports.host) {
            Ok(socket) => (State::Open, Some(socket)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => (State::Waiting, None),
            Err(error) => {
                // That nobody listens is an answer and no trouble.
                if !matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) {
                    self.complain("a connection of the guest's leads nowhere", &error);
                }
                return self.table.reset(ports);
            }
        };
        let slot = self.table.insert(Some(ports), state, socket);
        if let Some(connection) = self.table.get(slot) {
            connection.credit.learn(credit.0, credit.1);
            if matches!(connection.state, State::Open) {
                connection.due.begin = Some(spec::OP_RESPONSE);
            } else {
                let serial = connection.serial;
                self.waiting.push((slot, serial));
                self.expect_by_deadline(slot, serial);
            }
        }
        self.settle(slot, waits);
    }

    /// Whoever serves a port of the host's.
    pub(super) fn reach(&mut self, port: u32) -> io::Result<UnixStream> {
        if let Some(handler) = self.ports.get_mut(&port) {
            let (ours, theirs) = UnixStream::pair()?;
            ours.set_nonblocking(true)?;
            handler.connected(theirs);
            return Ok(ours);
        }
        match &self.host {
            Some((_, path)) => host::connect(path, port),
            None => Err(io::ErrorKind::ConnectionRefused.into()),
        }
    }

    /// The guest agrees to a connection.
    fn agree(&mut self, slot: usize, waits: &mut Waits) {
        let Some(connection) = self.table.get(slot) else { return };
        let Some(socket) = &connection.socket else { return };
        let answer = format!("OK {}\n", connection.ports.host);
        // A socket that has just been made has room for a line.
        if send_bytes(socket, answer.as_bytes()).is_ok_and(|sent| sent == answer.len()) {
            connection.state = State::Open;
            self.settle(slot, waits);
        } else {
            self.abort(slot, waits);
        }
    }

    /// The guest won't do something any more.
    fn shut_down(&mut self, slot: usize, flags: u32, waits: &mut Waits) {
        let Some(connection) = self.table.get(slot) else { return };
        connection.guest_shutdown |= flags & SHUTDOWN_ALL;
        let ports = connection.ports;
        if connection.guest_shutdown != SHUTDOWN_ALL {
            connection.pass_on_shutdown();
            return self.settle(slot, waits);
        }
        // It waits for nothing but our word that it is over, and gets it while the host still reads.
        self.table.forget_name(slot);
        self.table.reset(ports);
        if let Some(connection) = self.table.get(slot) {
            (connection.state, connection.due) = (State::Lingering, super::connection::Due::default());
        }
        self.settle(slot, waits);
        // If it hasn't gone by now: the host has time to read, unless others need the place.
        self.table.note_over(slot);
        self.accept_again(waits);
    }

    /// Works off packets of the guest's.
    fn transmit(&mut self, waits: &mut Waits) -> Result<(), QueueError> {
        let Some((mut queue, mut frames)) = self.transmit.take() else { return Ok(()) };
        let result = self.transmit_from(&mut queue, &mut frames, waits);
        self.transmit = Some((queue, frames));
        result
    }

    fn transmit_from(
        &mut self,
        queue: &mut ActiveQueue,
        frames: &mut FrameBuffers,
        waits: &mut Waits,
    ) -> Result<(), QueueError> {
        for _ in 0..queue.begin()? {
            self.is_crowded = self.table.is_crowded();
            if self.is_crowded {
                // It goes on when packets to the guest find room.
                return queue.announce();
            }
            let Some((head, usable)) = queue.take()? else { break };
            let header: Option<spec::Words> = if usable.is_ok() { queue.take_header() } else { None };
            let moved = header.map_or(0, |words| self.take_packet(Header::from_words(words), queue, frames, waits));
            queue.give_back(head, 0, moved)?;
        }
        if queue.end()? {
            waits.again(spec::TRANSMIT);
        }
        Ok(())
    }

    /// Takes one packet; gives how much data was in it.
    fn take_packet(
        &mut self,
        header: Header,
        queue: &mut ActiveQueue,
        frames: &mut FrameBuffers,
        waits: &mut Waits,
    ) -> u32 {
        let Header { src_cid, dst_cid, src_port, dst_port, len, kind, op, flags, buf_alloc, fwd_cnt } = header;
        let ports = Ports { guest: src_port, host: dst_port };
        if src_cid != self.cid || dst_cid != HOST_CID {
            if let Some(times) = self.strays.hit() {
                tracing::debug!(device = self.name, times, "a packet from {src_cid} to {dst_cid} is dropped");
            }
            return 0;
        }
        if kind != spec::TYPE_STREAM {
            if op != spec::OP_RST {
                self.table.reset_kind(ports, kind);
            }
            return 0;
        }
        let Some(slot) = self.table.find(ports) else {
            match op {
                spec::OP_REQUEST => self.connect(ports, (buf_alloc, fwd_cnt), waits),
                spec::OP_RST => {}
                _ => self.table.reset(ports),
            }
            return 0;
        };
        let Some(connection) = self.table.get(slot) else { return 0 };
        connection.credit.learn(buf_alloc, fwd_cnt);
        if connection.lacks_credit && connection.credit.guest_room() > 0 {
            connection.lacks_credit = false;
            self.table.enqueue(slot);
        }
        let Some(connection) = self.table.get(slot) else { return 0 };
        match (op, &connection.state) {
            (spec::OP_RST, _) => drop(self.remove(slot, waits)),
            (spec::OP_RESPONSE, State::Asked) => self.agree(slot, waits),
            (spec::OP_RW, State::Open) if connection.guest_shutdown & spec::SHUTDOWN_SEND == 0 => {
                // What the header says is there, or the packet is a lie.
                let is_whole = len <= queue.chain.readable_len() && connection.credit.receive(len);
                if !is_whole {
                    self.abort(slot, waits);
                    return 0;
                }
                queue.chain.truncate_readable(len);
                frames.clear();
                let (_, bytes) = frames.push(queue.chain.readable());
                connection.take_data(frames, bytes);
                frames.clear();
                waits.note_sent(bytes);
                self.settle(slot, waits);
                return len;
            }
            (spec::OP_SHUTDOWN, State::Open | State::Over) => self.shut_down(slot, flags, waits),
            // With less room for itself, it waits for less of ours.
            (spec::OP_CREDIT_UPDATE, State::Open) => self.settle(slot, waits),
            (spec::OP_CREDIT_UPDATE, State::Over) => {}
            (spec::OP_CREDIT_REQUEST, State::Open) => {
                connection.due.credit_update = true;
                self.table.enqueue(slot);
            }
            _ => self.abort(slot, waits),
        }
        0
    }

    /// Sends what there is to the guest, as far as it has given buffers.
    fn deliver(&mut self, waits: &mut Waits) -> Result<(), QueueError> {
        let Some(mut receive) = self.receive.take() else { return Ok(()) };
        let result = self.deliver_to(&mut receive, waits);
        self.receive = Some(receive);
        result
    }

    fn deliver_to(&mut self, receive: &mut Receive, waits: &mut Waits) -> Result<(), QueueError> {
        for _ in 0..MAX_TURNS {
            if !self.table.has_something() {
                return receive.announce();
            }
            if !receive.has_room()? {
                if receive.wait_for_room()? {
                    waits.again(spec::RECEIVE);
                }
                return Ok(());
            }
            if let Some(reset) = self.table.next_reset(self.cid) {
                receive.put(reset)?;
            } else if let Some(slot) = self.table.next() {
                self.send(slot, receive, waits)?;
            }
        }
        waits.again(spec::RECEIVE);
        receive.announce()
    }

    /// Sends one thing of a connection's to the guest, for which there is a buffer.
    fn send(&mut self, slot: usize, receive: &mut Receive, waits: &mut Waits) -> Result<(), QueueError> {
        let cid = self.cid;
        let Some(connection) = self.table.get(slot) else { return Ok(()) };
        let told = |connection: &mut Connection, op| {
            let (buf_alloc, fwd_cnt) = connection.credit.tell();
            Header { buf_alloc, fwd_cnt, ..header(connection.ports, cid, op) }
        };
        if let Some(op) = connection.due.take() {
            // Any packet says how much room there is.
            connection.due.credit_update = false;
            let flags = if op == spec::OP_SHUTDOWN { connection.host_shutdown } else { 0 };
            let header = Header { flags, ..told(connection, op) };
            receive.put(header)?;
            self.settle_after_send(slot, waits);
            return Ok(());
        }
        if !connection.has_something() {
            return Ok(());
        }
        let Some(socket) = &connection.socket else { return Ok(()) };
        let room = usize::try_from(connection.credit.guest_room()).unwrap_or(usize::MAX);
        if room == 0 {
            // It says when it has some. Should it have said so and that be lost, it is asked.
            (connection.lacks_credit, connection.due.credit_request) = (true, true);
        } else {
            let (asked, read) = receive.read(socket, room.min(MAX_READ));
            match read {
                Ok(0) => {
                    connection.end_of_data();
                    self.end_if_over(slot, waits);
                }
                Ok(bytes) => {
                    connection.credit.send(u32::try_from(bytes).unwrap_or(u32::MAX));
                    connection.due.credit_update = false;
                    // Less than there was room for: that was all, or the socket is still ready and says so.
                    connection.is_readable = bytes == asked || connection.has_hung_up;
                    let header = told(connection, spec::OP_RW);
                    receive.put_data(header, bytes)?;
                    waits.note_received(bytes);
                }
                Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {
                    connection.is_readable = false;
                }
                Err(_) => {
                    self.abort(slot, waits);
                    return Ok(());
                }
            }
        }
        self.settle_after_send(slot, waits);
        Ok(())
    }

    fn settle_after_send(&mut self, slot: usize, waits: &mut Waits) {
        self.table.enqueue(slot);
        let is_served_soon =
            self.table.get(slot).is_some_and(|connection| connection.is_queued && !connection.lacks_credit);
        // It is watched as before then, so that nothing is asked of the kernel for each packet.
        if !is_served_soon {
            self.watch(slot, waits);
        }
    }
}

impl Service for Muxer {
    fn begin(&mut self, waits: &mut Waits) {
        // A reset before this may have done so already.
        self.accept(false, waits);
        self.accept(true, waits);
    }

    fn start(&mut self, queue: ActiveQueue, _: u64, _: &mut Waits) {
        match queue.index() {
            spec::RECEIVE => self.receive = Some(Receive::new(queue)),
            spec::TRANSMIT => {
                let frames = FrameBuffers::new(queue.mem().clone());
                self.transmit = Some((queue, frames));
            }
            _ => self.event = Some(queue),
        }
    }

    fn stop(&mut self, index: u16, _: &mut Waits) -> Option<QueueState> {
        match index {
            spec::RECEIVE => Some(self.receive.take()?.into_state()),
            spec::TRANSMIT => Some(self.transmit.take()?.0.into_state()),
            _ => Some(self.event.take()?.into_state()),
        }
    }

    fn serve(&mut self, event: Event, waits: &mut Waits) -> Result<(), QueueError> {
        match event {
            Event::Queue(spec::TRANSMIT) => self.transmit(waits)?,
            Event::Ready { token: LISTENER, .. } => self.take_callers(waits),
            Event::Ready { token, ready } => {
                if let Ok(slot) = usize::try_from(token.saturating_sub(CONNECTIONS)) {
                    self.take_ready(slot, ready, waits);
                }
            }
            Event::Time => self.expire(waits),
            // Events are put into the queue of their own when there are some: nothing happens to a guest yet that it would
            // have to be told.
            Event::Queue(_) | Event::Poked => {}
        }
        Ok(())
    }

    fn finish(&mut self, waits: &mut Waits) -> Result<(), QueueError> {
        self.deliver(waits)?;
        if self.is_crowded && !self.table.is_crowded() {
            self.is_crowded = false;
            waits.again(spec::TRANSMIT);
        }
        self.set_alarm(waits);
        Ok(())
    }

    fn reset(&mut self, waits: &mut Waits) {
        let Self {
            name: _,
            cid: _,
            host: _,
            ports: _,
            receive,
            transmit,
            event,
            table,
            is_crowded,
            accepts: _,
            accept_at: _,
            deadlines,
            long_deadlines,
            waiting,
            retry_at,
            strays: _,
            refusals: _,
        } = self;
        (*receive, *transmit, *event, *is_crowded) = (None, None, None, false);
        deadlines.clear();
        long_deadlines.clear();
        waiting.clear();
        *retry_at = None;
        for slot in table.slots() {
            if let Some(Connection { socket: Some(socket), .. }) = table.remove(slot) {
                waits.unwatch(&socket);
            }
        }
        table.clear();
        if self.accept_at.is_none() {
            self.accept(true, waits);
        }
    }
}
