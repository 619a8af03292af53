// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! All connections, and which of them are to send something to the guest.

use std::collections::{HashMap, VecDeque};
use std::os::unix::net::UnixStream;

use super::connection::{Connection, Ports, State};
use super::credit::LEAST;
use super::spec::{HOST_CID, Header, OP_RST};

/// The most connections that there are, those counted that are still to say which port they want, and those that are ending.
pub const MAX_CONNECTIONS: usize = 2048;
/// How many packets for connections that don't exist may wait for buffers before none is taken from the guest.
const MAX_RESETS: usize = 256;
/// How many places there are in the line before those of connections that have gone are taken out.
pub(super) const MAX_LINE: usize = 2 * MAX_CONNECTIONS;
/// How much all connections together have room for, beyond the least that each has, in bytes.
const POOL: u32 = 32 << 20;
/// The first port of the host's for connections from there, as Firecracker counts them.
const FIRST_PORT: u32 = 1 << 30;
/// What their ports are less than.
const END_OF_PORTS: u32 = 1 << 31;

const _: () = assert!(MAX_CONNECTIONS as u64 * LEAST as u64 + POOL as u64 <= 160 << 20, "what the documentation says");

/// That there is no such connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Reset {
    ports: Ports,
    kind: u16,
}

/// All connections.
#[derive(Debug)]
pub(super) struct Table {
    slots: Vec<Option<Connection>>,
    free: Vec<usize>,
    names: HashMap<Ports, usize>,
    /// Those that have something for the guest; some may be gone.
    line: VecDeque<(usize, u64)>,
    /// Those whose host is gone, or whose guest has forgotten them; some may be gone by now.
    over: VecDeque<(usize, u64)>,
    resets: VecDeque<Reset>,
    serial: u64,
    pool: u32,
    next_port: u32,
}

impl Table {
    pub(super) fn new() -> Self {
        Self {
            slots: Vec::new(),
            free: Vec::new(),
            names: HashMap::new(),
            line: VecDeque::new(),
            over: VecDeque::new(),
            resets: VecDeque::new(),
            serial: 0,
            pool: POOL,
            next_port: FIRST_PORT,
        }
    }

    pub(super) fn get(&mut self, slot: usize) -> Option<&mut Connection> {
        self.slots.get_mut(slot)?.as_mut()
    }

    /// The connection that was in a slot, if it still is.
    pub(super) fn get_same(&mut self, slot: usize, serial: u64) -> Option<&mut Connection> {
        self.get(slot).filter(|connection| connection.serial == serial)
    }

    /// The slot of the connection of that name.
    pub(super) fn find(&self, ports: Ports) -> Option<usize> {
        self.names.get(&ports).copied()
    }

    fn len(&self) -> usize {
        self.slots.len().saturating_sub(self.free.len())
    }

    /// Whether there is room for a connection more. One of which one side is done makes room: the one that has been so longest.
    pub(super) fn has_room(&mut self) -> bool {
        while self.len() >= MAX_CONNECTIONS {
            let Some((slot, serial)) = self.over.pop_front() else { return false };
            if self.get_same(slot, serial).is_some()
                && let Some(Connection { ports, state, .. }) = self.remove(slot)
                && matches!(state, State::Over)
            {
                self.reset(ports);
            }
        }
        true
    }

    /// Puts a connection in, for which there is room; one that is to say first which port it wants has no name.
    pub(super) fn insert(&mut self, ports: Option<Ports>, state: State, socket: Option<UnixStream>) -> usize {
        self.serial = self.serial.wrapping_add(1);
        let connection = Connection::new(self.serial, ports.unwrap_or(Ports { guest: 0, host: 0 }), state, socket);
        let slot = self.free.pop().unwrap_or(self.slots.len());
        match self.slots.get_mut(slot) {
            Some(empty) => *empty = Some(connection),
            None => self.slots.push(Some(connection)),
        }
        if let Some(ports) = ports {
            self.names.insert(ports, slot);
        }
        slot
    }

    /// Gives a connection to a port of the guest's a name that no other has.
    pub(super) fn name(&mut self, slot: usize, guest: u32) {
        let mut ports = Ports { guest, host: self.next_port };
        // Ends: there are many more ports than connections.
        while self.names.contains_key(&ports) {
            ports.host = following(ports.host);
        }
        self.next_port = following(ports.host);
        if let Some(connection) = self.get(slot) {
            connection.ports = ports;
            self.names.insert(ports, slot);
        }
    }

    /// Has the guest's side of a connection be free for another one.
    pub(super) fn forget_name(&mut self, slot: usize) {
        if let Some(Connection { ports, .. }) = self.get(slot) {
            let ports = *ports;
            if self.find(ports) == Some(slot) {
                self.names.remove(&ports);
            }
        }
    }

    /// Takes a connection out.
    pub(super) fn remove(&mut self, slot: usize) -> Option<Connection> {
        self.forget_name(slot);
        let connection = self.slots.get_mut(slot)?.take()?;
        self.free.push(slot);
        self.pool = self.pool.saturating_add(connection.credit.extra());
        Some(connection)
    }

    /// The slots that are in use.
    pub(super) fn slots(&self) -> Vec<usize> {
        let used = self.slots.iter().enumerate().filter(|(_, connection)| connection.is_some());
        used.map(|(slot, _)| slot).collect()
    }

    /// Has a connection that moves much have more room, if there is some.
    pub(super) fn grow(&mut self, slot: usize) {
        if let Some(Some(connection)) = self.slots.get_mut(slot) {
            connection.credit.grow(&mut self.pool);
        }
    }

    /// The connection has something for the guest, if it has: it stands in line then.
    pub(super) fn enqueue(&mut self, slot: usize) {
        if let Some(connection) = self.slots.get_mut(slot).and_then(Option::as_mut)
            && !connection.is_queued
            && connection.has_something()
        {
            connection.is_queued = true;
            self.line.push_back((slot, connection.serial));
        }
        // While the guest gives no buffers, those that have gone stay in it.
        if self.line.len() > MAX_LINE {
            let line = std::mem::take(&mut self.line);
            self.line = line.into_iter().filter(|(slot, serial)| self.get_same(*slot, *serial).is_some()).collect();
        }
    }

    /// Takes the first one out of the line.
    pub(super) fn next(&mut self) -> Option<usize> {
        loop {
            let (slot, serial) = self.line.pop_front()?;
            if let Some(connection) = self.get_same(slot, serial) {
                connection.is_queued = false;
                return Some(slot);
            }
        }
    }

    /// Whether there is something for the guest.
    pub(super) fn has_something(&self) -> bool {
        !self.line.is_empty() || !self.resets.is_empty()
    }

    /// The host of a connection is gone, or its guest has forgotten it: should there be no room, it makes some.
    pub(super) fn note_over(&mut self, slot: usize) {
        if let Some(connection) = self.get(slot) {
            let serial = connection.serial;
            self.over.push_back((slot, serial));
        }
        // Most of those that are over end soon, and leave this behind.
        if self.over.len() > MAX_CONNECTIONS {
            let over = std::mem::take(&mut self.over);
            self.over = over.into_iter().filter(|(slot, serial)| self.get_same(*slot, *serial).is_some()).collect();
        }
    }

    /// The guest is to be told that there is no such connection.
    pub(super) fn reset(&mut self, ports: Ports) {
        self.reset_kind(ports, super::spec::TYPE_STREAM);
    }

    /// The same, for a packet of whatever sort of socket.
    pub(super) fn reset_kind(&mut self, ports: Ports, kind: u16) {
        self.resets.push_back(Reset { ports, kind });
    }

    /// Whether nothing more should be taken from the guest that may have to be refused.
    pub(super) fn is_crowded(&self) -> bool {
        self.resets.len() >= MAX_RESETS
    }

    /// The next packet for a connection that doesn't exist.
    pub(super) fn next_reset(&mut self, cid: u64) -> Option<Header> {
        let Reset { ports, kind } = self.resets.pop_front()?;
        Some(Header { kind, ..header(ports, cid, OP_RST) })
    }

    /// All of them are gone.
    pub(super) fn clear(&mut self) {
        *self = Self { serial: self.serial, next_port: self.next_port, ..Self::new() };
    }
}

/// The header of a packet to the guest.
pub(super) fn header(ports: Ports, cid: u64, op: u16) -> Header {
    Header {
        src_cid: HOST_CID,
        dst_cid: cid,
        src_port: ports.host,
        dst_port: ports.guest,
        kind: super::spec::TYPE_STREAM,
        op,
        ..Header::default()
    }
}

fn following(port: u32) -> u32 {
    let next = port.saturating_add(1);
    if next >= END_OF_PORTS { FIRST_PORT } else { next }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_to_the_guest_have_ports_that_nobody_else_has() {
        let mut table = Table::new();
        table.next_port = END_OF_PORTS - 1;
        let taken = Ports { guest: 7, host: FIRST_PORT };
        table.insert(Some(taken), State::Open, None);
        let named = [0, 1].map(|_| {
            let slot = table.insert(None, State::Asked, None);
            table.name(slot, 7);
            table.get(slot).unwrap().ports
        });
        assert_eq!(named, [END_OF_PORTS - 1, FIRST_PORT + 1].map(|host| Ports { guest: 7, host }));
    }

    #[test]
    fn one_whose_host_is_gone_makes_room_and_the_guest_is_told() {
        let mut table = Table::new();
        let ports = |guest| Ports { guest, host: 1 };
        for guest in 0..MAX_CONNECTIONS as u32 {
            assert!(table.has_room());
            table.insert(Some(ports(guest)), State::Open, None);
        }
        assert!(!table.has_room());
        table.get(5).unwrap().state = State::Over;
        table.note_over(5);
        assert!(table.has_room() && table.find(ports(5)).is_none());
        let reset = table.next_reset(3).unwrap();
        assert_eq!((reset.op, reset.dst_port, reset.dst_cid), (OP_RST, 5, 3));
        assert_eq!(table.insert(Some(ports(9999)), State::Open, None), 5);
        assert!(!table.has_room());
    }

    #[test]
    fn the_line_has_a_bound_however_many_come_and_go() {
        let mut table = Table::new();
        for guest in 0..100_000 {
            let slot = table.insert(Some(Ports { guest, host: 1 }), State::Open, None);
            table.get(slot).unwrap().due.shutdown = true;
            table.enqueue(slot);
            table.remove(slot);
            assert!(table.line.len() <= MAX_LINE);
        }
    }

    #[test]
    fn the_line_forgets_who_has_gone() {
        let mut table = Table::new();
        let slots = [1, 2].map(|guest| table.insert(Some(Ports { guest, host: 1 }), State::Open, None));
        table.enqueue(slots[0]);
        assert!(!table.has_something(), "there is nothing to send");
        for slot in slots {
            table.get(slot).unwrap().due.shutdown = true;
            table.enqueue(slot);
            table.enqueue(slot);
        }
        table.remove(slots[0]);
        assert_eq!(table.insert(Some(Ports { guest: 3, host: 1 }), State::Open, None), slots[0]);
        assert_eq!((table.next(), table.next()), (Some(slots[1]), None));
    }
}
