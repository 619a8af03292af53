// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! A watchdog: the timer of Intel's 6300ESB I/O controller hub, as a PCI function of its own (Intel 300641, chapter 16; Linux
//! `drivers/watchdog/i6300esb.c`).
//!
//! The guest controls every register, and with them when its own watchdog expires. It counts twice: when the first stage is over,
//! the second one begins, and when that is over, [`WatchdogSink::expired`] is called, once, and the timer is off as at power-on.
//! A guest that has locked its watchdog can't turn it off any more. There is no interrupt at the end of the first stage.

use std::fmt::Debug;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::pci::{ConfigError, ConfigSpace, Identity, PciFunction};
use crate::throttle::Throttle;

const IDENTITY: Identity =
    Identity { vendor: 0x8086, device: 0x25ab, revision: 0, class: 0x08_8000, subsystem_vendor: 0, subsystem: 0 };
const BAR: u8 = 0;
/// The registers are 16 bytes; a BAR is a page at least.
const BAR_SIZE: u64 = 0x1000;

/// Registers of configuration space.
const CONFIG: usize = 0x60;
const LOCK: usize = 0x68;
/// `CONFIG`: the interrupt of the first stage, a clock of 1 MHz in place of 1 kHz, and nothing happens at the end.
const INTERRUPT_TYPE: u8 = 0b11;
const FAST_CLOCK: u8 = 1 << 2;
const NO_REBOOT: u8 = 1 << 5;
/// `LOCK`: as it is for ever; the timer runs; it begins again instead of expiring, which nobody would see.
const LOCKED: u8 = 1;
const ENABLED: u8 = 1 << 1;
const FREE_RUN: u8 = 1 << 2;

/// Registers in the BAR.
const PRELOAD_1: u64 = 0x0;
const PRELOAD_2: u64 = 0x4;
const RELOAD: u64 = 0xc;
/// What is written to `RELOAD`, one after the other, before any other register can be written once.
const UNLOCK: [u8; 2] = [0x80, 0x86];
/// `RELOAD`, high byte: begin again; it has expired before.
const BEGIN: u8 = 1;
const HAS_EXPIRED: u8 = 1 << 1;
/// Bits of a preload value.
const PRELOAD: u32 = 0xf_ffff;

/// Bytes of the timer's stack.
const STACK: usize = 64 << 10;

/// Told when a guest's watchdog has expired, on a thread of the watchdog's.
pub trait WatchdogSink: Debug + Send + Sync {
    /// The guest has let both stages pass. Doesn't block. A guest can have this called as often as it likes, by what it writes.
    fn expired(&self);
}

/// A stage of the timer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    First,
    Second,
}

/// What the guest has written, and what follows from it.
#[derive(Debug, Default)]
struct Timer {
    preloads: [u32; 2],
    /// How much of [`UNLOCK`] was written.
    unlocked: usize,
    /// The lowest byte of each register of configuration space.
    config: u8,
    lock: u8,
    has_expired: bool,
    /// Which stage it is in, and when that is over.
    running: Option<(Stage, Instant)>,
}

/// Whether a timer has an end that anybody sees, by its register `LOCK`. One that begins again and again has none, so nothing
/// of ours runs for it: a guest could have it begin millions of times a second.
fn can_expire(lock: u8) -> bool {
    lock & (ENABLED | FREE_RUN) == ENABLED
}

impl Timer {
    /// A timer as it is at power-on.
    fn new() -> Self {
        Self { preloads: [PRELOAD; 2], ..Self::default() }
    }

    fn begin(&mut self, stage: Stage, now: Instant) {
        let [first, second] = self.preloads;
        let ticks = u64::from(if stage == Stage::First { first } else { second });
        // The PCI clock has 33 MHz; a tick is 2^15 of it, or 2^5.
        let clocks = if self.config & FAST_CLOCK != 0 { ticks << 5 } else { ticks << 15 };
        let time = Duration::from_nanos(clocks.saturating_mul(1000) / 33);
        self.running = now.checked_add(time).map(|end| (stage, end));
    }

    /// The registers in configuration space were written.
    fn configure(&mut self, config: u8, lock: u8, now: Instant) {
        self.config = config;
        let before = std::mem::replace(&mut self.lock, lock);
        match (can_expire(before), can_expire(lock)) {
            (false, true) => self.begin(Stage::First, now),
            (true, false) => self.running = None,
            _ => {}
        }
    }

    /// Writes two or four bytes to the BAR; of other widths only one that unlocks.
    fn write(&mut self, offset: u64, data: &[u8], now: Instant) {
        if offset == RELOAD
            && let Some((first, rest)) = data.split_first()
            && rest.iter().all(|byte| *byte == 0)
        {
            if UNLOCK.get(self.unlocked) == Some(first) {
                self.unlocked = self.unlocked.saturating_add(1);
                return;
            }
            if UNLOCK.first() == Some(first) {
                self.unlocked = 1;
                return;
            }
        }
        if std::mem::take(&mut self.unlocked) != UNLOCK.len() {
            return;
        }
        match (offset, data) {
            (PRELOAD_1 | PRELOAD_2, &[a, b, c, d]) => {
                let [first, second] = &mut self.preloads;
                *(if offset == PRELOAD_1 { first } else { second }) = u32::from_le_bytes([a, b, c, d]) & PRELOAD;
            }
            (RELOAD, [_, high, ..]) => {
                if high & BEGIN != 0 && can_expire(self.lock) {
                    self.begin(Stage::First, now);
                }
                if high & HAS_EXPIRED != 0 {
                    self.has_expired = false;
                }
            }
            _ => {}
        }
    }

    fn read(&self, offset: u64, data: &mut [u8]) {
        data.fill(0);
        if let (RELOAD, Some(high), true) = (offset, data.get_mut(1), self.has_expired) {
            *high = HAS_EXPIRED;
        }
    }

    /// Does what is due at `now`. `true`: both stages are over.
    fn pass(&mut self, now: Instant) -> bool {
        let Some((stage, end)) = self.running else { return false };
        if now < end {
            return false;
        }
        match stage {
            Stage::First => self.begin(Stage::Second, end),
            Stage::Second if self.config & NO_REBOOT != 0 => self.running = None,
            Stage::Second => {
                *self = Self { has_expired: true, ..Self::new() };
                return true;
            }
        }
        // The second stage may be over as well.
        self.pass(now)
    }
}

/// What the function and its thread share.
#[derive(Debug)]
struct Shared {
    sink: Arc<dyn WatchdogSink>,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug)]
struct State {
    timer: Timer,
    /// There once the guest has first turned the timer on.
    thread: Option<JoinHandle<()>>,
    ended: bool,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for what is due until the function is gone.
    fn run(&self) {
        let mut state = self.lock();
        while !state.ended {
            let now = Instant::now();
            if state.timer.pass(now) {
                drop(state);
                self.sink.expired();
                state = self.lock();
                continue;
            }
            let left = state.timer.running.map(|(_, end)| end.saturating_duration_since(now));
            state = match left {
                None => self.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
                Some(left) => self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0,
            };
        }
    }
}

/// The function. It needs a thread once the guest has turned its timer on.
#[derive(Debug)]
pub struct I6300Esb {
    space: ConfigSpace,
    shared: Arc<Shared>,
    failures: Throttle,
}

impl I6300Esb {
    /// A watchdog that is off.
    ///
    /// # Errors
    ///
    /// None that a guest or a host has a part in: its registers fit.
    pub fn new(sink: Arc<dyn WatchdogSink>) -> Result<Self, ConfigError> {
        let mut space = ConfigSpace::new(IDENTITY);
        space.add_bar(BAR, BAR_SIZE)?;
        space.add_register(CONFIG, INTERRUPT_TYPE | FAST_CLOCK | NO_REBOOT, 0);
        space.add_register(LOCK, LOCKED | ENABLED | FREE_RUN, LOCKED);
        let state = Mutex::new(State { timer: Timer::new(), thread: None, ended: false });
        let shared = Arc::new(Shared { sink, state, changed: Condvar::new() });
        Ok(Self { space, shared, failures: Throttle::new() })
    }

    fn start(&self) -> io::Result<JoinHandle<()>> {
        let shared = self.shared.clone();
        thread::Builder::new().name("watchdog".to_owned()).stack_size(STACK).spawn(move || shared.run())
    }

    /// Changes the timer, and wakes its thread if that has to look sooner than it would.
    fn change(&self, change: impl FnOnce(&mut Timer, Instant)) {
        let mut state = self.shared.lock();
        let before = state.timer.running.map(|(_, end)| end);
        change(&mut state.timer, Instant::now());
        let Some((_, end)) = state.timer.running else { return };
        if state.thread.is_none() {
            match self.start() {
                Ok(thread) => state.thread = Some(thread),
                Err(error) => {
                    if let Some(times) = self.failures.hit() {
                        tracing::warn!(times, "the guest's watchdog has no thread, and never expires: {error}");
                    }
                }
            }
        } else if before.is_none_or(|before| end < before) {
            self.shared.changed.notify_one();
        }
    }
}

impl PciFunction for I6300Esb {
    fn config_space(&self) -> ConfigSpace {
        self.space.clone()
    }

    fn wrote_config(&self, space: &ConfigSpace, register: usize, len: usize) -> bool {
        let end = register.saturating_add(len);
        if (CONFIG..=LOCK).any(|at| (register..end).contains(&at)) {
            let ([config], [lock]) = (space.get(CONFIG), space.get(LOCK));
            self.change(|timer, now| timer.configure(config, lock, now));
        }
        false
    }

    fn reset(&self) {
        // Its thread looks again when it wakes, and finds nothing to wait for.
        self.shared.lock().timer = Timer::new();
    }

    fn read_bar(&self, _: u8, offset: u64, data: &mut [u8]) {
        self.shared.lock().timer.read(offset, data);
    }

    fn write_bar(&self, _: u8, offset: u64, data: &[u8]) {
        self.change(|timer, now| timer.write(offset, data, now));
    }
}

impl Drop for I6300Esb {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.ended = true;
        let thread = state.thread.take();
        drop(state);
        self.shared.changed.notify_one();
        if let Some(thread) = thread {
            // A sink that has panicked has ended nothing else.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
#[path = "watchdog_tests.rs"]
mod tests;
