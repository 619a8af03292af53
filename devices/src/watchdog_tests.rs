// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

use std::sync::mpsc::{self, Sender};

use super::*;

/// A tick of the slow clock is a little less.
const TICK: Duration = Duration::from_millis(1);

/// A timer, and the time that it is.
struct Rig {
    timer: Timer,
    now: Instant,
}

impl Rig {
    fn new() -> Self {
        Self { timer: Timer::new(), now: Instant::now() }
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        self.timer.write(offset, data, self.now);
    }

    fn unlocked(&mut self, offset: u64, data: &[u8]) {
        self.write(RELOAD, &[0x80, 0]);
        self.write(RELOAD, &[0x86, 0]);
        self.write(offset, data);
    }

    /// As Linux does (`esb_timer_start`, `esb_timer_set_heartbeat`).
    fn start(&mut self, ticks: u32) {
        self.unlocked(PRELOAD_1, &ticks.to_le_bytes());
        self.unlocked(PRELOAD_2, &ticks.to_le_bytes());
        self.unlocked(RELOAD, &[0, BEGIN]);
        self.timer.configure(INTERRUPT_TYPE, ENABLED, self.now);
    }

    fn pass(&mut self, time: Duration) -> bool {
        self.now += time;
        self.timer.pass(self.now)
    }

    fn has_expired(&self) -> bool {
        let mut data = [0xff; 2];
        self.timer.read(RELOAD, &mut data);
        data == [0, HAS_EXPIRED]
    }
}

#[test]
fn it_expires_once_when_both_stages_are_over() {
    let mut rig = Rig::new();
    rig.start(1000);
    assert!(!rig.pass(999 * TICK));
    assert!(!rig.pass(900 * TICK));
    assert!(!rig.has_expired());
    assert!(rig.pass(102 * TICK));
    assert!(rig.has_expired() && !rig.pass(1_000_000 * TICK));
    rig.unlocked(RELOAD, &[0, HAS_EXPIRED]);
    assert!(!rig.has_expired());
}

#[test]
fn both_stages_may_have_passed_before_somebody_looks() {
    let mut rig = Rig::new();
    rig.start(1000);
    assert!(rig.pass(2000 * TICK));
}

#[test]
fn who_begins_again_in_time_is_left_alone() {
    let mut rig = Rig::new();
    rig.start(1000);
    for _ in 0..10 {
        assert!(!rig.pass(1500 * TICK));
        rig.unlocked(RELOAD, &[0, BEGIN]);
    }
    rig.timer.configure(INTERRUPT_TYPE, 0, rig.now);
    assert!(!rig.pass(1_000_000 * TICK), "it was turned off");
}

#[test]
fn nothing_is_written_that_was_not_unlocked_right_before() {
    for writes in [
        &[][..],
        &[(RELOAD, &[0x80, 0][..])],
        &[(RELOAD, &[0x86, 0])],
        &[(RELOAD, &[0x86, 0]), (RELOAD, &[0x80, 0])],
        &[(RELOAD, &[0x80, 0]), (PRELOAD_2, &[0; 4]), (RELOAD, &[0x86, 0])],
        &[(RELOAD, &[0x80, 0]), (RELOAD, &[0x86, 0]), (0x8, &[0; 4])],
        &[(RELOAD, &[0x80, 1]), (RELOAD, &[0x86, 1])],
    ] {
        let mut rig = Rig::new();
        for (offset, data) in writes {
            rig.write(*offset, data);
        }
        rig.write(PRELOAD_1, &[5, 0, 0, 0]);
        assert_eq!(rig.timer.preloads, [PRELOAD; 2], "{writes:?}");
    }
    // One that starts over is none the worse for it.
    let mut rig = Rig::new();
    rig.write(RELOAD, &[0x80, 0]);
    rig.unlocked(PRELOAD_1, &u32::MAX.to_le_bytes());
    rig.unlocked(PRELOAD_2, &7u32.to_le_bytes());
    assert_eq!(rig.timer.preloads, [PRELOAD, 7]);
}

#[test]
fn free_running_and_harmless_timers_never_expire() {
    let mut rig = Rig::new();
    rig.start(0);
    rig.timer.configure(0, 0, rig.now);
    rig.timer.configure(0, ENABLED | FREE_RUN, rig.now);
    assert!((0..100).all(|_| !rig.pass(5 * TICK)));
    rig.timer.configure(NO_REBOOT, 0, rig.now);
    rig.timer.configure(NO_REBOOT, ENABLED, rig.now);
    assert!((0..100).all(|_| !rig.pass(5 * TICK)));
}

#[test]
fn nothing_waits_for_a_timer_that_begins_again_and_again() {
    let mut rig = Rig::new();
    rig.unlocked(PRELOAD_1, &[0; 4]);
    for lock in [ENABLED | FREE_RUN, ENABLED | FREE_RUN | LOCKED] {
        rig.timer.configure(FAST_CLOCK, lock, rig.now);
        rig.unlocked(RELOAD, &[0, BEGIN]);
        assert_eq!(rig.timer.running, None);
    }
    // It has an end as soon as it runs freely no more.
    rig.start(1000);
    assert!(!rig.pass(1000 * TICK) && rig.pass(1000 * TICK));
}

#[test]
fn the_fast_clock_is_a_thousand_times_as_fast() {
    let mut rig = Rig::new();
    rig.timer.configure(FAST_CLOCK, 0, rig.now);
    rig.unlocked(PRELOAD_1, &1000u32.to_le_bytes());
    rig.unlocked(PRELOAD_2, &1000u32.to_le_bytes());
    rig.timer.configure(FAST_CLOCK, ENABLED, rig.now);
    assert!(!rig.pass(Duration::from_micros(1900)) && rig.pass(Duration::from_micros(100)));
}

#[test]
fn any_access_is_answered() {
    let mut rig = Rig::new();
    for offset in [0, 1, 4, 8, 0xb, 0xc, 0xd, 0x10, 0xfff, u64::MAX] {
        for len in 0..9 {
            for byte in [0, 0x80, 0x86, 0xff] {
                rig.write(offset, &vec![byte; len]);
                rig.unlocked(offset, &vec![byte; len]);
                rig.timer.read(offset, &mut vec![0; len]);
                rig.timer.configure(byte, byte, rig.now);
                rig.pass(TICK);
            }
        }
    }
    rig.timer = Timer::new();
    rig.start(1);
    assert!(rig.pass(2 * TICK));
}

#[derive(Debug)]
struct Told(Mutex<Sender<()>>);

impl WatchdogSink for Told {
    fn expired(&self) {
        self.0.lock().unwrap().send(()).unwrap();
    }
}

#[test]
fn the_host_is_told_and_a_locked_watchdog_can_not_be_turned_off() {
    let (send, told) = mpsc::channel();
    let watchdog = I6300Esb::new(Arc::new(Told(Mutex::new(send)))).unwrap();
    let mut space = watchdog.config_space();
    for (offset, ticks) in [(PRELOAD_1, 20u32), (PRELOAD_2, 20)] {
        watchdog.write_bar(BAR, RELOAD, &[0x80, 0]);
        watchdog.write_bar(BAR, RELOAD, &[0x86, 0]);
        watchdog.write_bar(BAR, offset, &ticks.to_le_bytes());
    }
    assert!(watchdog.shared.lock().thread.is_none(), "nothing runs while it is off");
    for lock in [LOCKED | ENABLED, 0, LOCKED] {
        space.write(LOCK, &[lock, 0xff]);
        watchdog.wrote_config(&space, LOCK, 1);
        assert_eq!(space.get(LOCK), [LOCKED | ENABLED, 0]);
    }
    told.recv().unwrap();
    drop(watchdog);
    assert!(told.recv().is_err(), "the function keeps its sink no longer, and nothing is told twice");
}

#[test]
fn a_machine_that_is_reset_has_a_watchdog_that_is_off() {
    let (send, told) = mpsc::channel();
    let watchdog = I6300Esb::new(Arc::new(Told(Mutex::new(send)))).unwrap();
    let mut space = watchdog.config_space();
    space.write(LOCK, &[ENABLED]);
    watchdog.wrote_config(&space, LOCK, 1);
    assert!(watchdog.shared.lock().timer.running.is_some());
    watchdog.reset();
    assert!(watchdog.shared.lock().timer.running.is_none());
    drop(watchdog);
    assert!(told.recv().is_err(), "it has told nothing");
}
