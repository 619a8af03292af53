// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What is done to the guest's network, and what is said of it: the other side of `netload measure` (`xtask/guest`).

use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::comparison::{Column, Unit};
use crate::cpu::ProcessorTime;

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Bytes of TCP.
    Stream,
    /// Datagrams of UDP.
    Datagrams,
    /// A byte there and back.
    RoundTrips,
}

/// One way of loading a network.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    /// For people.
    pub what: &'static str,
    /// For `netload`, which runs in the host: what it sends goes to the guest.
    pub word: &'static str,
    /// What counts.
    pub kind: Kind,
}

/// All that is measured, of each guest.
pub const CASES: [Case; 7] = [
    Case { what: "TCP to the guest, 1 stream", word: "tcp-send:1", kind: Kind::Stream },
    Case { what: "TCP from the guest, 1 stream", word: "tcp-receive:1", kind: Kind::Stream },
    Case { what: "TCP to the guest, 8 streams", word: "tcp-send:8", kind: Kind::Stream },
    Case { what: "TCP from the guest, 8 streams", word: "tcp-receive:8", kind: Kind::Stream },
    Case { what: "UDP to the guest, 64 bytes", word: "udp-send:64", kind: Kind::Datagrams },
    Case { what: "UDP from the guest, 64 bytes", word: "udp-receive:64", kind: Kind::Datagrams },
    Case { what: "round trip, mean", word: "tcp-rr", kind: Kind::RoundTrips },
];

impl Case {
    /// Those of the table: more than one where a case tells more than one thing.
    pub fn columns(&self) -> Vec<Column> {
        let column = |what, unit, cpu, aim| Column { what, unit, cpu, aim: Some(aim) };
        match self.kind {
            Kind::Stream => vec![column(self.what, Unit::Gigabits, "ms/Gbit", 1.5)],
            Kind::Datagrams => vec![column(self.what, Unit::Datagrams, "µs/datagram", 1.5)],
            Kind::RoundTrips => vec![
                column(self.what, Unit::Micros, "µs/round trip", 0.8),
                column("median", Unit::Micros, "", 0.8),
                column("99th percentile", Unit::Micros, "", 0.8),
            ],
        }
    }
}

/// One turn's outcome.
#[derive(Clone, Debug)]
pub struct Done {
    /// Bytes, datagrams or round trips, where they arrived.
    pub count: u64,
    /// By the clock of who counted them.
    pub time: Duration,
    /// Of round trips.
    pub latency: Option<Latency>,
    /// What the VMM took of the host's processor, all of the guest included.
    pub cpu: ProcessorTime,
    /// What passed the tap meanwhile, for people.
    pub traffic: Option<String>,
}

/// How long round trips take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Latency {
    /// All of them by their number.
    pub mean: Duration,
    /// The one in the middle.
    pub median: Duration,
    /// So many of a hundred are no longer than that.
    pub p99: Duration,
}

impl Done {
    /// One for each column of a case of this kind.
    pub fn values(&self, kind: Kind) -> Vec<f64> {
        let micros = |time: Duration| time.as_secs_f64() * 1e6;
        match (kind, self.latency) {
            (Kind::RoundTrips, Some(Latency { mean, median, p99 })) => [mean, median, p99].map(micros).into(),
            _ => vec![self.units(kind) / self.time.as_secs_f64()],
        }
    }

    /// Processor time by what was done with it, as the columns have it.
    pub fn cpu_each(&self, kind: Kind, time: Duration) -> f64 {
        let factor = if kind == Kind::Stream { 1e3 } else { 1e6 };
        time.as_secs_f64() * factor / self.units(kind)
    }

    /// Gbit where bytes are counted.
    fn units(&self, kind: Kind) -> f64 {
        if kind == Kind::Stream { self.count as f64 * 8e-9 } else { self.count as f64 }
    }
}

/// Settings of either side, below `/proc/sys/net/ipv4/`.
///
/// TCP makes frames as large as what it sends in a millisecond or so, and larger ones where round trips are shorter than half of
/// one. Where all is emulated they take longer, so that frames get small, and all gets slower still: two speeds that a VMM has no
/// part in. At the least 45 segments are 64 KiB, as they are on a machine of usual speed. And no connection begins with what was
/// learnt from one before, maybe in the turn of another case.
pub const SETTINGS: [(&str, &str); 2] = [("tcp_min_tso_segs", "45"), ("tcp_no_metrics_save", "1")];

/// What the guest runs, with the second address of the host's network: it says how many queues its card has, and serves.
pub fn command(address: &str) -> String {
    let settings = SETTINGS.map(|(name, value)| format!("echo {value} > /proc/sys/net/ipv4/{name}; ")).concat();
    format!(
        "{settings}echo 1 > /proc/sys/net/ipv6/conf/eth0/disable_ipv6; \
        ip address add {address} dev eth0; ip link set eth0 up; \
        echo netload: queues $(ls -d /sys/class/net/eth0/queues/rx-* | wc -l); netload serve {PORT}"
    )
}

/// Where it serves.
pub const PORT: u16 = 5201;

/// Lines that [`Said::parse`] knows begin so.
pub const BEGINNINGS: [&str; 2] = ["netload: ", "vmm.run: "];

/// What `netload` said, in the guest or beside it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Said {
    /// The guest's card has so many queue pairs.
    Queues(u32),
    /// The guest serves.
    Ready,
    /// It begins to count.
    Begin {
        /// For which case.
        word: String,
    },
    /// It has counted.
    End {
        /// For which case.
        word: String,
        /// That of [`Done`].
        count: u64,
        /// That of [`Done`].
        time: Duration,
        /// That of [`Done`].
        latency: Option<Latency>,
    },
}

impl Said {
    /// A line, without its end. That something failed is an error, as is that the guest no longer serves.
    pub fn parse(line: &str) -> Result<Self> {
        let words: Vec<_> = line.split(' ').collect();
        match words[..] {
            ["netload:", "ready"] => Ok(Self::Ready),
            ["netload:", "queues", count] => {
                Ok(Self::Queues(count.parse().with_context(|| format!("{count:?} is no number of queues"))?))
            }
            ["netload:", "begin", word] => Ok(Self::Begin { word: word.to_owned() }),
            ["netload:", "end", word, ref values @ ..] => {
                let number = |name: &str| -> Option<u64> {
                    let value = |text: &&str| text.strip_prefix(name)?.strip_prefix('=')?.parse().ok();
                    values.iter().find_map(value)
                };
                let needed = |name| number(name).with_context(|| format!("there is no {name}=N in {line:?}"));
                let (count, time) = (needed("count")?, Duration::from_nanos(needed("ns")?));
                if count == 0 || time.is_zero() {
                    bail!("nothing was done: {line:?}");
                }
                let of = |name| number(name).map(Duration::from_nanos);
                let latency = || Some(Latency { mean: of("mean_ns")?, median: of("median_ns")?, p99: of("p99_ns")? });
                Ok(Self::End { word: word.to_owned(), count, time, latency: latency() })
            }
            _ => bail!("it said {line:?}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_understood() {
        assert_eq!(Said::parse("netload: ready").unwrap(), Said::Ready);
        assert_eq!(Said::parse("netload: queues 2").unwrap(), Said::Queues(2));
        assert_eq!(Said::parse("netload: begin tcp-rr").unwrap(), Said::Begin { word: "tcp-rr".to_owned() });
        let time = Duration::from_secs(3);
        let end = |word: &str, count, latency| Said::End { word: word.to_owned(), count, time, latency };
        let line = "netload: end tcp-send:8 count=12 ns=3000000000 cpu_ns=5000";
        assert_eq!(Said::parse(line).unwrap(), end("tcp-send:8", 12, None));
        let line = "netload: end tcp-rr count=3 ns=3000000000 cpu_ns=5 mean_ns=1000 median_ns=2000 p99_ns=3000";
        let [mean, median, p99] = [1, 2, 3].map(Duration::from_micros);
        assert_eq!(Said::parse(line).unwrap(), end("tcp-rr", 3, Some(Latency { mean, median, p99 })));
    }

    #[test]
    fn anything_else_is_an_error() {
        for line in [
            "netload: error: 192.0.2.2:5201: Connection refused",
            "netload: end tcp-rr count=3",
            "netload: end tcp-rr count=0 ns=3",
            "netload: end tcp-rr count=3 ns=0",
            "netload: end tcp-rr count=-3 ns=1",
            "netload: queues x",
            "netload: begin",
            "vmm.run: exit status 1",
        ] {
            assert!(Said::parse(line).is_err(), "{line}");
        }
    }

    #[test]
    fn values_are_those_of_the_columns() {
        let done = |latency| Done {
            count: 1_000_000,
            time: Duration::from_secs(2),
            latency,
            cpu: ProcessorTime::default(),
            traffic: None,
        };
        let near = |value: f64, expected: f64| assert!((value - expected).abs() < 1e-9, "{value} {expected}");
        near(done(None).values(Kind::Stream)[0], 0.004);
        near(done(None).values(Kind::Datagrams)[0], 500_000.0);
        near(done(None).cpu_each(Kind::Stream, Duration::from_millis(4)), 500.0);
        near(done(None).cpu_each(Kind::Datagrams, Duration::from_secs(1)), 1.0);
        let [mean, median, p99] = [30, 20, 90].map(Duration::from_micros);
        let values = done(Some(Latency { mean, median, p99 })).values(Kind::RoundTrips);
        for (value, expected) in values.iter().zip([30.0, 20.0, 90.0]) {
            near(*value, expected);
        }
        for case in CASES {
            let latency = (case.kind == Kind::RoundTrips).then_some(Latency { mean, median, p99 });
            assert_eq!(done(latency).values(case.kind).len(), case.columns().len(), "{}", case.what);
        }
    }
}
