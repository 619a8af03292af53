// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! MSI-X: a message for each vector, masks, and pending bits (PCI Local Bus 3.0 §6.8.2).
//!
//! The guest controls each bit of the table and both bits of the control register. What it writes as address and data is
//! passed on as it is: a message raises an interrupt in the guest that wrote it, in whichever of its vCPUs, and can reach
//! nothing else. A host that refuses a message leaves its vector silent.
//!
//! Events can be attached to a vector, by which others raise it without us. The host listens to them while the vector may fire;
//! while it is masked, an event keeps what it was told, and that is what is pending.

use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use vmm_sys_util::eventfd::EventFd;

use crate::interrupt::{MsiMessage, MsiVectors};
use crate::sys::doorbell;
use crate::throttle::Throttle;

/// The capability's ID.
pub const CAPABILITY_ID: u8 = 0x11;
/// Offset of Message Control in the capability.
pub const MESSAGE_CONTROL: usize = 2;
/// Bytes of a table entry.
pub const ENTRY_SIZE: u64 = 16;
/// The most vectors that a function can have: eleven bits.
pub const MAX_VECTORS: u16 = 0x800;

/// Message Control: MSI-X is on.
const ENABLE: u16 = 1 << 15;
/// Message Control: all vectors are masked.
const FUNCTION_MASK: u16 = 1 << 14;
/// Vector Control: the vector is masked.
const VECTOR_MASK: u32 = 1;

/// Gate: what is triggered goes out.
const OPEN: u8 = 1;
/// Gate: something was triggered while it was closed.
const PENDING: u8 = 2;

#[derive(Debug)]
struct Entry {
    message: MsiMessage,
    masked: bool,
    /// The message that the host knows of.
    routed: Option<MsiMessage>,
    events: Vec<Attached>,
}

/// An event that raises a vector.
#[derive(Debug)]
struct Attached {
    /// The queue that it is of.
    key: u16,
    event: EventFd,
    /// The host listens to it.
    connected: bool,
}

impl Attached {
    fn is_pending(&self) -> bool {
        !self.connected && doorbell::is_ringing(&self.event)
    }
}

#[derive(Debug)]
struct Table {
    control: u16,
    /// The function may send messages.
    bus_master: bool,
    entries: Vec<Entry>,
}

impl Table {
    /// Whether messages go out, unless their vector is masked.
    fn on(&self) -> bool {
        self.bus_master && self.control & (ENABLE | FUNCTION_MASK) == ENABLE
    }
}

/// The table, the pending bits, and the way to the host.
#[derive(Debug)]
pub struct Msix {
    vectors: Arc<dyn MsiVectors>,
    enabled: AtomicBool,
    /// One a vector. `OPEN` and `PENDING` are bits of one atomic so that a trigger either finds the gate open, or
    /// leaves its mark before whoever opens the gate takes the marks: there is no moment in between at which it could
    /// get lost or go out twice. So the way of an interrupt takes no lock.
    gates: Box<[AtomicU8]>,
    table: Mutex<Table>,
    refused: Throttle,
}

impl Msix {
    /// A table of `count` vectors, at most [`MAX_VECTORS`], all of them masked.
    pub fn new(vectors: Arc<dyn MsiVectors>, count: u16) -> Self {
        let count = count.min(MAX_VECTORS);
        let entry = |_| Entry { message: MsiMessage::default(), masked: true, routed: None, events: Vec::new() };
        Self {
            vectors,
            enabled: AtomicBool::new(false),
            gates: (0..count).map(|_| AtomicU8::new(0)).collect(),
            table: Mutex::new(Table { control: 0, bus_master: true, entries: (0..count).map(entry).collect() }),
            refused: Throttle::new(),
        }
    }

    /// How many vectors there are.
    pub fn count(&self) -> u16 {
        u16::try_from(self.gates.len()).unwrap_or(MAX_VECTORS)
    }

    /// Whether the guest has turned MSI-X on.
    pub fn enabled(&self) -> bool {
        self.enabled.load(Ordering::Acquire)
    }

    /// The body of the capability, and the bits of it that the guest may write, for a table and pending bits at offsets
    /// into `bar` that are multiples of 8.
    pub fn capability(&self, bar: u8, table: u32, pba: u32) -> ([u8; 10], [u8; 10]) {
        let [s0, s1] = self.count().saturating_sub(1).to_le_bytes();
        let [t0, t1, t2, t3] = (table | u32::from(bar)).to_le_bytes();
        let [p0, p1, p2, p3] = (pba | u32::from(bar)).to_le_bytes();
        let [_, control] = (ENABLE | FUNCTION_MASK).to_le_bytes();
        ([s0, s1, t0, t1, t2, t3, p0, p1, p2, p3], [0, control, 0, 0, 0, 0, 0, 0, 0, 0])
    }

    /// The guest has written Message Control.
    pub fn set_control(&self, control: u16) {
        let mut table = self.lock();
        if std::mem::replace(&mut table.control, control) == control {
            return;
        }
        self.enabled.store(control & ENABLE != 0, Ordering::Release);
        self.settle_all(&mut table);
    }

    /// Whether the function may send messages, which are writes to memory: while it may not, each vector keeps one pending.
    pub fn set_bus_master(&self, bus_master: bool) {
        let mut table = self.lock();
        if std::mem::replace(&mut table.bus_master, bus_master) != bus_master {
            self.settle_all(&mut table);
        }
    }

    /// Raises a vector once: now, or when it is unmasked. One that doesn't exist raises nothing.
    pub fn trigger(&self, index: u16) {
        let Some(gate) = self.gates.get(usize::from(index)) else { return };
        let close = |gate| (gate & OPEN == 0).then_some(gate | PENDING);
        if gate.fetch_update(Ordering::AcqRel, Ordering::Acquire, close).is_err() {
            self.vectors.trigger(index);
        }
    }

    /// Has `event`, which is new or has been attached before, raise a vector as [`Self::trigger`] does, without us. `key` is
    /// whose it is. `false`: there is no such vector, or the host has no such way.
    pub fn attach(&self, index: u16, key: u16, event: &EventFd) -> bool {
        let mut table = self.lock();
        let on = table.on();
        let Some(entry) = table.entries.get_mut(usize::from(index)) else { return false };
        let Ok(event) = event.try_clone() else { return false };
        let open = on && !entry.masked && entry.routed == Some(entry.message);
        // Also where the vector is masked: to see that there is such a way. What holds something has had it before.
        if open || !doorbell::is_ringing(&event) {
            if self.vectors.connect(index, &event).is_err() {
                return false;
            }
            if open {
                let _ = doorbell::take(&event);
            } else {
                self.vectors.disconnect(index, &event);
            }
        }
        entry.events.push(Attached { key, event, connected: open });
        true
    }

    /// Takes back what [`Self::attach`] did. What is pending stays so.
    pub fn detach(&self, index: u16, key: u16) {
        let mut table = self.lock();
        let Some(entry) = table.entries.get_mut(usize::from(index)) else { return };
        let mut is_pending = false;
        for attached in entry.events.extract_if(.., |attached| attached.key == key) {
            if attached.connected {
                self.vectors.disconnect(index, &attached.event);
            } else {
                is_pending |= doorbell::take(&attached.event).unwrap_or_default();
            }
        }
        drop(table);
        if is_pending {
            self.trigger(index);
        }
    }

    /// The machine is reset: off, all vectors masked and without a message, nothing pending. What the host knows of messages
    /// stays right.
    pub fn reset(&self, bus_master: bool) {
        let mut table = self.lock();
        let Table { control, bus_master: master, entries } = &mut *table;
        (*control, *master) = (0, bus_master);
        for Entry { message, masked, routed: _, events: _ } in entries {
            (*message, *masked) = (MsiMessage::default(), true);
        }
        self.enabled.store(false, Ordering::Release);
        self.settle_all(&mut table);
        drop(table);
        self.forget_pending();
    }

    /// Forgets what is pending: the device was reset, and has nothing to say of what was before.
    pub fn forget_pending(&self) {
        for gate in &self.gates {
            gate.fetch_and(!PENDING, Ordering::AcqRel);
        }
    }

    /// Reads the table. It takes aligned accesses of four and eight bytes, as all of MSI-X does (§6.8.2); others read
    /// zeros.
    pub fn read_table(&self, offset: u64, data: &mut [u8]) {
        let table = self.lock();
        read_dwords(offset, data, |offset| {
            let index = usize::try_from(offset / ENTRY_SIZE).unwrap_or(usize::MAX);
            let Entry { message, masked, routed: _, events: _ } = table.entries.get(index)?;
            let [a0, a1, a2, a3, a4, a5, a6, a7] = message.address.to_le_bytes();
            Some(match offset % ENTRY_SIZE {
                0 => u32::from_le_bytes([a0, a1, a2, a3]),
                4 => u32::from_le_bytes([a4, a5, a6, a7]),
                8 => message.data,
                _ => u32::from(*masked),
            })
        });
    }

    /// Writes the table; accesses that aren't aligned or of another width than four or eight bytes are ignored.
    pub fn write_table(&self, offset: u64, data: &[u8]) {
        if !is_dwords(offset, data.len()) {
            return;
        }
        let Ok(index) = u16::try_from(offset / ENTRY_SIZE) else { return };
        let mut table = self.lock();
        let on = table.on();
        let Table { entries, .. } = &mut *table;
        let Some(entry) = entries.get_mut(usize::from(index)) else { return };
        let (words, _) = data.as_chunks();
        for (word, at) in words.iter().zip((offset % ENTRY_SIZE..).step_by(4)) {
            let (value, message) = (u32::from_le_bytes(*word), &mut entry.message);
            match at {
                0 => message.address = message.address & !0xffff_ffff | u64::from(value),
                4 => message.address = message.address & 0xffff_ffff | u64::from(value) << 32,
                8 => message.data = value,
                _ => entry.masked = value & VECTOR_MASK != 0,
            }
        }
        self.settle(index, entry, on);
    }

    /// Reads the pending bits; the guest can't write them.
    pub fn read_pba(&self, offset: u64, data: &mut [u8]) {
        let table = self.lock();
        read_dwords(offset, data, |offset| {
            let first = usize::try_from(offset.checked_mul(8)?).ok()?;
            let mut bits = 0;
            for (bit, (gate, entry)) in (0..32).zip(self.gates.iter().zip(&table.entries).skip(first)) {
                let is_pending =
                    gate.load(Ordering::Acquire) & PENDING != 0 || entry.events.iter().any(Attached::is_pending);
                bits |= u32::from(is_pending) << bit;
            }
            Some(bits)
        });
    }

    fn settle_all(&self, table: &mut Table) {
        let on = table.on();
        let new = |entry: &Entry| on && !entry.masked && entry.routed != Some(entry.message);
        let messages =
            (0..).zip(&table.entries).filter(|(_, entry)| new(entry)).map(|(index, entry)| (index, entry.message));
        let messages: Vec<_> = messages.collect();
        // Should the host refuse them, each is tried alone below: only those that it doesn't take are silent.
        let routed = messages.len() > 1 && self.vectors.route(&messages).is_ok();
        for (index, entry) in (0..).zip(&mut table.entries) {
            if routed && new(entry) {
                entry.routed = Some(entry.message);
            }
            self.settle(index, entry, on);
        }
    }

    /// Opens or closes a vector's gate, as its entry now says; all are closed unless MSI-X is on. A message goes to the host
    /// only when it counts: routes are expensive, and a guest writes a masked entry in pieces.
    fn settle(&self, index: u16, entry: &mut Entry, on: bool) {
        let Some(gate) = self.gates.get(usize::from(index)) else { return };
        let mut open = on && !entry.masked;
        if open && entry.routed != Some(entry.message) {
            match self.vectors.route(&[(index, entry.message)]) {
                Ok(()) => entry.routed = Some(entry.message),
                Err(error) => {
                    if let Some(times) = self.refused.hit() {
                        tracing::warn!(times, "MSI-X vector {index} is silent, its message was refused: {error}");
                    }
                    open = false;
                }
            }
        }
        for attached in &mut entry.events {
            self.listen(index, attached, open);
        }
        if !open {
            // What was triggered just before may still be on its way, as a message on a bus may.
            gate.fetch_and(!OPEN, Ordering::AcqRel);
        } else if gate.swap(OPEN, Ordering::AcqRel) & PENDING != 0 {
            self.vectors.trigger(index);
        }
    }

    /// Has the host listen to an event, or not.
    fn listen(&self, index: u16, attached: &mut Attached, open: bool) {
        if attached.connected == open {
            return;
        }
        if !open {
            self.vectors.disconnect(index, &attached.event);
            attached.connected = false;
            return;
        }
        match self.vectors.connect(index, &attached.event) {
            Ok(()) => {
                attached.connected = true;
                // What it holds has raised the vector, and isn't to do so again.
                let _ = doorbell::take(&attached.event);
            }
            Err(error) => {
                if let Some(times) = self.refused.hit() {
                    tracing::warn!(times, "MSI-X vector {index} is silent, an event of it was refused: {error}");
                }
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn is_dwords(offset: u64, len: usize) -> bool {
    match len {
        4 => offset.is_multiple_of(4),
        8 => offset.is_multiple_of(8),
        _ => false,
    }
}

/// Fills `data` from 32-bit registers; where there is none, and for all other accesses, with zeros.
fn read_dwords(offset: u64, data: &mut [u8], register: impl Fn(u64) -> Option<u32>) {
    data.fill(0);
    if is_dwords(offset, data.len()) {
        let (words, _) = data.as_chunks_mut();
        for (word, at) in words.iter_mut().zip((offset..).step_by(4)) {
            *word = register(at).unwrap_or_default().to_le_bytes();
        }
    }
}

#[cfg(test)]
#[path = "msix_tests.rs"]
mod tests;
