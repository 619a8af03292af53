// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The real-time clock of a PC (MC146818), read-only: it shows the host's time in UTC and has no alarm.
//!
//! The guest controls the index port. Writes to the data port are dropped: no guest sets its host's clock, and there is
//! no CMOS memory to keep anything in.

use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::bus::BusDevice;

/// Register B: 24-hour mode, binary-coded decimal.
const STATUS_B_24_HOUR: u8 = 1 << 1;
/// Register D: the time is valid, the battery is good.
const STATUS_D_VALID: u8 = 1 << 7;
/// Register A: the 32,768 Hz time base, no update in progress.
const STATUS_A_TIME_BASE: u8 = 0x20;
/// The index port's top bit masks NMIs on a PC; it isn't part of the index.
const INDEX_MASK: u8 = 0x7f;

/// Seconds since 1970-01-01 00:00:00 UTC.
type Clock = fn() -> u64;

/// The clock: an index port, and a data port behind it.
#[derive(Debug)]
pub struct Rtc {
    clock: Clock,
    index: AtomicU8,
}

impl Rtc {
    /// A clock that shows the host's time.
    pub fn new() -> Self {
        Self::with_clock(|| SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()))
    }

    fn with_clock(clock: Clock) -> Self {
        Self { clock, index: AtomicU8::new(0) }
    }

    fn register(&self, index: u8) -> u8 {
        let time = CivilTime::from_unix((self.clock)());
        match index {
            0x00 => bcd(time.second),
            0x02 => bcd(time.minute),
            0x04 => bcd(time.hour),
            0x06 => bcd(time.weekday),
            0x07 => bcd(time.day),
            0x08 => bcd(time.month),
            0x09 => bcd(time.year % 100),
            0x0a => STATUS_A_TIME_BASE,
            0x0b => STATUS_B_24_HOUR,
            0x0d => STATUS_D_VALID,
            // The century, where Linux looks for it when the FADT names the register.
            0x32 => bcd(time.year / 100),
            _ => 0,
        }
    }
}

impl Default for Rtc {
    fn default() -> Self {
        Self::new()
    }
}

impl BusDevice for Rtc {
    fn read(&self, offset: u64, data: &mut [u8]) {
        if let (1, [first]) = (offset, data) {
            *first = self.register(self.index.load(Ordering::Relaxed) & INDEX_MASK);
        }
    }

    fn write(&self, offset: u64, data: &[u8]) {
        if let (0, &[index]) = (offset, data) {
            self.index.store(index, Ordering::Relaxed);
        }
    }

    fn reset(&self) {
        self.index.store(0, Ordering::Relaxed);
    }
}

/// Two decimal digits in one byte; higher digits are dropped, which no field of a date has.
fn bcd(value: u64) -> u8 {
    let (tens, ones) = ((value / 10) % 10, value % 10);
    u8::try_from((tens << 4) | ones).unwrap_or(0)
}

#[derive(Debug, PartialEq, Eq)]
struct CivilTime {
    year: u64,
    month: u64,
    day: u64,
    hour: u64,
    minute: u64,
    second: u64,
    /// 1 is Sunday.
    weekday: u64,
}

impl CivilTime {
    /// The proleptic Gregorian calendar, counted from 1970 by whole years and then by months.
    #[expect(
        clippy::arithmetic_side_effects,
        reason = "the clock is the host's; seconds / 86,400 leaves room for every sum below, and days stay above the \
                  length of the year or month that is taken off"
    )]
    fn from_unix(seconds: u64) -> Self {
        let (mut days, rest) = (seconds / 86_400, seconds % 86_400);
        let weekday = (days + 4) % 7 + 1;
        // A 400-year cycle has 146,097 days; cycles are taken off first so that the loops below are short.
        let mut year = 1970 + 400 * (days / 146_097);
        days %= 146_097;
        while days >= year_length(year) {
            days -= year_length(year);
            year += 1;
        }
        let mut month = 1;
        while days >= month_length(year, month) {
            days -= month_length(year, month);
            month += 1;
        }
        Self { year, month, day: days + 1, hour: rest / 3600, minute: rest / 60 % 60, second: rest % 60, weekday }
    }
}

fn is_leap(year: u64) -> bool {
    year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
}

fn year_length(year: u64) -> u64 {
    if is_leap(year) { 366 } else { 365 }
}

fn month_length(year: u64, month: u64) -> u64 {
    match month {
        2 if is_leap(year) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(rtc: &Rtc, index: u8) -> u8 {
        rtc.write(0, &[index]);
        let mut data = [0xff];
        rtc.read(1, &mut data);
        data[0]
    }

    #[test]
    fn the_registers_show_the_time_in_bcd() {
        // 2024-02-29 23:59:58 UTC, a Thursday.
        let rtc = Rtc::with_clock(|| 1_709_251_198);
        let expected = [(0, 0x58), (2, 0x59), (4, 0x23), (6, 5), (7, 0x29), (8, 2), (9, 0x24), (0x32, 0x20)];
        for (index, value) in expected {
            assert_eq!(read(&rtc, index), value, "register {index:#x}");
            assert_eq!(read(&rtc, index | 0x80), value, "register {index:#x} with the NMI bit");
        }
        assert_eq!(read(&rtc, 0x0a) & 0x80, 0, "an update is never in progress");
    }

    #[test]
    fn the_calendar_knows_leap_years_and_centuries() {
        for (seconds, year, month, day) in [
            (0, 1970, 1, 1),
            (951_782_400, 2000, 2, 29),
            (951_868_800, 2000, 3, 1),
            (4_107_542_400, 2100, 3, 1),
            (253_402_300_799, 9999, 12, 31),
            (12_622_780_800, 2370, 1, 1),
        ] {
            let time = CivilTime::from_unix(seconds);
            assert_eq!((time.year, time.month, time.day), (year, month, day), "{seconds}");
        }
    }

    #[test]
    fn writes_to_the_data_port_and_odd_widths_change_nothing() {
        let rtc = Rtc::with_clock(|| 0);
        rtc.write(0, &[9]);
        rtc.write(1, &[0x99]);
        rtc.write(0, &[1, 2]);
        rtc.write(0, &[]);
        assert_eq!(read(&rtc, 9), 0x70);
        let mut wide = [0xff; 4];
        rtc.read(1, &mut wide);
        rtc.read(0, &mut wide);
        assert_eq!(wide, [0xff; 4]);
    }
}
