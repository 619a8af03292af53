// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What the guest does to its disk, and what it says of it: the other side of `blockload` (`xtask/guest`).

use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::comparison::Unit;
use crate::cpu::ProcessorTime;

/// One way of loading a disk.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    /// For people.
    pub what: &'static str,
    /// For `blockload`.
    pub word: &'static str,
    /// What counts.
    pub rate: Unit,
}

/// All that is measured, in each guest.
pub const CASES: [Case; 4] = [
    Case { what: "4 KiB read, depth 1", word: "randread:4096:1", rate: Unit::Iops },
    Case { what: "4 KiB read, depth 32", word: "randread:4096:32", rate: Unit::Iops },
    Case { what: "4 KiB write, depth 32", word: "randwrite:4096:32", rate: Unit::Iops },
    Case { what: "128 KiB sequential read, depth 8", word: "read:131072:8", rate: Unit::Throughput },
];

/// One case's outcome.
#[derive(Clone, Copy, Debug)]
pub struct Done {
    /// Requests that were done.
    pub requests: u64,
    /// Bytes that they moved.
    pub bytes: u64,
    /// By the guest's clock.
    pub time: Duration,
    /// What the load itself took of the guest's processor.
    pub guest_cpu: Duration,
    /// What the VMM's process took of the host's, all of the guest included.
    pub cpu: ProcessorTime,
}

impl Done {
    /// In the case's unit: MiB a second, or else requests.
    pub fn rate(&self, rate: Unit) -> f64 {
        let seconds = self.time.as_secs_f64();
        match rate {
            Unit::Throughput => self.bytes as f64 / f64::from(1 << 20) / seconds,
            _ => self.requests as f64 / seconds,
        }
    }

    /// Microseconds of a time that fall on one request.
    pub fn micros_a_request(&self, time: Duration) -> f64 {
        time.as_secs_f64() * 1e6 / self.requests as f64
    }
}

/// The command that runs all cases, again and again.
pub fn command(device: &str, time: Duration, rounds: u32) -> String {
    let words: Vec<_> = CASES.iter().map(|case| case.word).collect();
    format!("blockload {device} {} {rounds} {}", time.as_secs_f64(), words.join(" "))
}

/// Lines that [`Said::parse`] knows begin so.
pub const BEGINNINGS: [&str; 2] = ["blockload: ", "vmm.run: "];

/// What the guest said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Said {
    /// A pause, and then the first case.
    Ready,
    /// A case begins.
    Begin {
        /// Which one.
        word: String,
    },
    /// A case has ended; a pause follows.
    End {
        /// Which one.
        word: String,
        /// Those of [`Done`].
        requests: u64,
        /// Those of [`Done`].
        bytes: u64,
        /// That of [`Done`].
        time: Duration,
        /// That of [`Done`].
        guest_cpu: Duration,
    },
}

impl Said {
    /// A line, without its end. That the load failed is an error, as is that it ended: it never does while it is listened to.
    pub fn parse(line: &str) -> Result<Self> {
        let words: Vec<_> = line.split(' ').collect();
        match words[..] {
            ["blockload:", "ready"] => Ok(Self::Ready),
            ["blockload:", "begin", word] => Ok(Self::Begin { word: word.to_owned() }),
            ["blockload:", "end", word, requests, bytes, ns, cpu_ns] => {
                let number = |name: &str, text: &str| -> Result<u64> {
                    let value = text.strip_prefix(name).and_then(|rest| rest.strip_prefix('='));
                    value
                        .and_then(|value| value.parse().ok())
                        .with_context(|| format!("{text:?} is no {name}=N in {line:?}"))
                };
                let (requests, bytes) = (number("requests", requests)?, number("bytes", bytes)?);
                let (ns, cpu_ns) = (number("ns", ns)?, number("cpu_ns", cpu_ns)?);
                if requests == 0 || ns == 0 {
                    bail!("nothing was done: {line:?}");
                }
                let (time, guest_cpu) = (Duration::from_nanos(ns), Duration::from_nanos(cpu_ns));
                Ok(Self::End { word: word.to_owned(), requests, bytes, time, guest_cpu })
            }
            _ => bail!("the guest said {line:?}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_has_all_cases() {
        let expected = "blockload /dev/vdb 2.5 3 randread:4096:1 randread:4096:32 randwrite:4096:32 read:131072:8";
        assert_eq!(command("/dev/vdb", Duration::from_millis(2500), 3), expected);
    }

    #[test]
    fn lines_are_understood() {
        assert_eq!(
            Said::parse("blockload: begin read:4096:1").unwrap(),
            Said::Begin { word: "read:4096:1".to_owned() }
        );
        let line = "blockload: end read:4096:1 requests=12 bytes=49152 ns=3000000000 cpu_ns=5000";
        let expected = Said::End {
            word: "read:4096:1".to_owned(),
            requests: 12,
            bytes: 49152,
            time: Duration::from_secs(3),
            guest_cpu: Duration::from_micros(5),
        };
        assert_eq!(Said::parse(line).unwrap(), expected);
        assert_eq!(Said::parse("blockload: ready").unwrap(), Said::Ready);
    }

    #[test]
    fn anything_else_is_an_error() {
        for line in [
            "blockload: error: /dev/vdb, read:4096:1: Input/output error",
            "blockload: end read:4096:1 requests=12 bytes=49152 ns=3000000000",
            "blockload: end read:4096:1 bytes=49152 requests=12 ns=3000000000 cpu_ns=5000",
            "blockload: end read:4096:1 requests=-1 bytes=49152 ns=3000000000 cpu_ns=5000",
            "blockload: end read:4096:1 requests=0 bytes=0 ns=3000000000 cpu_ns=5000",
            "blockload: end read:4096:1 requests=1 bytes=1 ns=0 cpu_ns=0",
            "blockload: begin",
            "vmm.run: exit status 1",
            "vmm.run: exit status 0",
        ] {
            assert!(Said::parse(line).is_err(), "{line}");
        }
    }

    #[test]
    fn rates_are_by_the_guests_clock() {
        let (time, cpu) = (Duration::from_secs(2), ProcessorTime::default());
        let done = Done { requests: 1000, bytes: 64 << 20, time, guest_cpu: Duration::ZERO, cpu };
        assert!((done.rate(Unit::Iops) - 500.0).abs() < 1e-9);
        assert!((done.rate(Unit::Throughput) - 32.0).abs() < 1e-9);
        assert!((done.micros_a_request(Duration::from_millis(7)) - 7.0).abs() < 1e-9);
    }
}
