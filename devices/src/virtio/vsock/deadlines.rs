// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! For how long is waited: for answers of the guest, for listeners of the host, and for programs of the host to say what they want.

use std::io;
use std::time::{Duration, Instant};

use super::connection::{Connection, State};
use super::service::Muxer;
use super::spec;
use super::table::MAX_LINE;
use crate::virtio::worker::Waits;

/// How long the guest has for its answer to a connection, and a listener that takes nobody just now to take one.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long a program of the host has to say which port it wants.
const LONG_PATIENCE: Duration = Duration::from_secs(60);
/// How often a listener that takes nobody just now is asked again.
const RETRY: Duration = Duration::from_millis(5);

impl Muxer {
    /// A program of the host has a long time to say which port it wants: it may be a person.
    pub(super) fn expect_in_time(&mut self, slot: usize) {
        if let Some(connection) = self.table.get(slot)
            && let Some(deadline) = Instant::now().checked_add(LONG_PATIENCE)
        {
            self.long_deadlines.push_back((deadline, slot, connection.serial));
        }
    }

    pub(super) fn expect_by_deadline(&mut self, slot: usize, serial: u64) {
        if let Some(deadline) = Instant::now().checked_add(PATIENCE) {
            self.deadlines.push_back((deadline, slot, serial));
        }
        // Those that have got it are let go from the front, and where the first one waits, here.
        if self.deadlines.len() > MAX_LINE {
            let deadlines = std::mem::take(&mut self.deadlines);
            self.deadlines =
                deadlines.into_iter().filter(|(_, slot, serial)| self.is_waiting(*slot, *serial)).collect();
        }
    }

    /// Gives up on those whose time is over, and asks again for those that wait for a listener.
    pub(super) fn expire(&mut self, waits: &mut Waits) {
        let now = Instant::now();
        while let Some((deadline, slot, serial)) = self.deadlines.front().copied() {
            if self.is_waiting(slot, serial) {
                if deadline > now {
                    break;
                }
                self.abort(slot, waits);
            }
            self.deadlines.pop_front();
        }
        while let Some((deadline, slot, serial)) = self.long_deadlines.front().copied() {
            if self.is_greeting(slot, serial) {
                if deadline > now {
                    break;
                }
                self.remove(slot, waits);
            }
            self.long_deadlines.pop_front();
        }
        if self.retry_at.is_some_and(|time| time <= now) {
            self.retry_at = None;
            for (slot, serial) in std::mem::take(&mut self.waiting) {
                self.retry(slot, serial, waits);
            }
        }
        if self.accept_at.is_some_and(|time| time <= now) {
            self.accept_at = None;
            self.accept(true, waits);
        }
    }

    /// Asks a listener again that took nobody.
    fn retry(&mut self, slot: usize, serial: u64, waits: &Waits) {
        let Some(Connection { state: State::Waiting, ports, .. }) = self.table.get_same(slot, serial) else { return };
        let port = ports.host;
        match self.reach(port) {
            Ok(socket) => {
                if let Some(connection) = self.table.get(slot) {
                    (connection.state, connection.socket) = (State::Open, Some(socket));
                    connection.due.begin = Some(spec::OP_RESPONSE);
                }
                self.settle(slot, waits);
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.waiting.push((slot, serial)),
            Err(_) => self.abort(slot, waits),
        }
    }

    fn is_greeting(&mut self, slot: usize, serial: u64) -> bool {
        let connection = self.table.get_same(slot, serial);
        connection.is_some_and(|connection| matches!(connection.state, State::Greeting(_)))
    }

    fn is_waiting(&mut self, slot: usize, serial: u64) -> bool {
        self.table
            .get_same(slot, serial)
            .is_some_and(|connection| matches!(connection.state, State::Asked | State::Waiting))
    }

    /// Sets when the thread wakes by itself, if at all.
    pub(super) fn set_alarm(&mut self, waits: &mut Waits) {
        while let Some((_, slot, serial)) = self.deadlines.front().copied() {
            if self.is_waiting(slot, serial) {
                break;
            }
            self.deadlines.pop_front();
        }
        while let Some((_, slot, serial)) = self.long_deadlines.front().copied() {
            if self.is_greeting(slot, serial) {
                break;
            }
            self.long_deadlines.pop_front();
        }
        if self.waiting.is_empty() {
            self.retry_at = None;
        } else if self.retry_at.is_none() {
            self.retry_at = Instant::now().checked_add(RETRY);
        }
        let deadline = self.deadlines.front().map(|(deadline, ..)| *deadline);
        let long_deadline = self.long_deadlines.front().map(|(deadline, ..)| *deadline);
        waits.wake_at([deadline, long_deadline, self.retry_at, self.accept_at].into_iter().flatten().min());
    }
}
