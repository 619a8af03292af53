// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! How fast a network is: a case for a span of time, counted where it arrives.
//!
//! The side that asks says `measure CASE PORT MILLISECONDS`, in which the port is where it takes datagrams. The other one answers
//! with a port of its own, for connections or for datagrams; where it is the one that counts, it says `begin` and `end COUNT NS`.
//! A quarter of the time goes by before, so that all code was run, and windows are open.

use std::cell::Cell;
use std::io::{BufRead, BufReader, Error, Read, Result, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use crate::ask;
use crate::case::Case;
use crate::clock;
use crate::flow::{self, Counted, Flow};

/// What was seen.
#[derive(Debug)]
pub(crate) struct Outcome {
    /// Bytes, datagrams or round trips.
    pub(crate) count: u64,
    pub(crate) time: Duration,
    /// Of this process.
    pub(crate) cpu: Duration,
    /// Of the round trips, in the order of their length.
    pub(crate) round_trips: Option<Latency>,
}

/// How long round trips take.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Latency {
    pub(crate) mean: Duration,
    pub(crate) median: Duration,
    pub(crate) p99: Duration,
}

/// Asks the other side, and does this one's part. `begun` is called when the span begins.
pub(crate) fn run(to: SocketAddr, case: Case, time: Duration, begun: impl FnOnce()) -> Result<Outcome> {
    let before = time / 4;
    if case == Case::RoundTrips {
        return round_trips(to, before, time, begun);
    }
    let any: IpAddr = if to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let bind = || UdpSocket::bind(SocketAddr::new(any, 0));
    let own = if matches!(case, Case::UdpReceive(_)) { Some(bind()?) } else { None };
    let port = own.as_ref().map_or(Ok(0), |socket| socket.local_addr().map(|address| address.port()))?;
    let stream = ask(to, &format!("measure {case} {port} {}", time.as_millis()))?;
    let mut reader = BufReader::new(&stream);
    let there = SocketAddr::new(to.ip(), number(&read_line(&mut reader)?)?);
    let connect = |streams| (0..streams).map(|_| TcpStream::connect(there)).collect::<Result<Vec<_>>>();
    let cpu = Cell::new(Duration::ZERO);
    let begin = || {
        cpu.set(clock::processor_time()?);
        begun();
        Ok(())
    };
    let Counted { count, time } = match (case, own) {
        (Case::TcpReceive(streams), _) => Flow::to_streams(connect(streams)?)?.measure(before, time, begin)?,
        (Case::UdpReceive(_), Some(socket)) => {
            socket.connect(there)?;
            Flow::to_socket(socket)?.measure(before, time, begin)?
        }
        (Case::TcpSend(streams), _) => {
            let _flow = Flow::from_streams(connect(streams)?)?;
            counts_there(&mut reader, begin)?
        }
        (Case::UdpSend(bytes), _) => {
            let socket = bind()?;
            socket.connect(there)?;
            let _flow = Flow::from_socket(socket, bytes);
            counts_there(&mut reader, begin)?
        }
        _ => return Err(Error::other("there is nothing to be counted")),
    };
    Ok(Outcome { count, time, cpu: clock::processor_time()?.saturating_sub(cpu.get()), round_trips: None })
}

fn counts_there(reader: &mut impl BufRead, begin: impl FnOnce() -> Result<()>) -> Result<Counted> {
    let said = read_line(reader)?;
    if said != "begin" {
        return Err(Error::other(format!("the other side says {said:?}")));
    }
    begin()?;
    let said = read_line(reader)?;
    match said.split(' ').collect::<Vec<_>>()[..] {
        ["end", count, ns] => Ok(Counted { count: number(count)?, time: Duration::from_nanos(number(ns)?) }),
        _ => Err(Error::other(format!("the other side says {said:?}"))),
    }
}

/// Does what the side that asks wants of this one.
pub(crate) fn serve(stream: &TcpStream, reader: &mut impl BufRead, words: [&str; 3]) -> Result<()> {
    let [case, port, milliseconds] = words;
    let case: Case = case.parse().map_err(Error::other)?;
    let time = Duration::from_millis(number(milliseconds)?);
    let (local, peer) = (stream.local_addr()?.ip(), SocketAddr::new(stream.peer_addr()?.ip(), number(port)?));
    let say = |line: String| -> Result<()> {
        let mut writer = stream;
        writer.write_all(format!("{line}\n").as_bytes())
    };
    let counts = |flow: &Flow| {
        let Counted { count, time } = flow.measure(time / 4, time, || say("begin".to_owned()))?;
        say(format!("end {count} {}", time.as_nanos()))
    };
    match case {
        Case::TcpSend(streams) | Case::TcpReceive(streams) => {
            let listener = TcpListener::bind(SocketAddr::new(local, 0))?;
            say(listener.local_addr()?.port().to_string())?;
            let streams = flow::accept(&listener, streams)?;
            if matches!(case, Case::TcpSend(_)) {
                return counts(&Flow::to_streams(streams)?);
            }
            let _flow = Flow::from_streams(streams)?;
            wait_for_end(reader)
        }
        Case::UdpSend(_) => {
            let socket = UdpSocket::bind(SocketAddr::new(local, 0))?;
            say(socket.local_addr()?.port().to_string())?;
            counts(&Flow::to_socket(socket)?)
        }
        Case::UdpReceive(bytes) => {
            let socket = UdpSocket::bind(SocketAddr::new(local, 0))?;
            socket.connect(peer)?;
            say(socket.local_addr()?.port().to_string())?;
            let _flow = Flow::from_socket(socket, bytes);
            wait_for_end(reader)
        }
        Case::RoundTrips => Err(Error::other("round trips are asked for by their own name")),
    }
}

/// The other side closes the connection when it has seen enough.
fn wait_for_end(reader: &mut impl BufRead) -> Result<()> {
    reader.read_line(&mut String::new()).map(drop)
}

fn round_trips(to: SocketAddr, before: Duration, time: Duration, begun: impl FnOnce()) -> Result<Outcome> {
    let mut stream = ask(to, "echo")?;
    let mut trips = |time: Duration| -> Result<(Vec<Duration>, Duration)> {
        let (start, mut trips) = (Instant::now(), Vec::new());
        loop {
            let sent = [trips.len() as u8];
            let mut back = [0];
            let begin = start.elapsed();
            stream.write_all(&sent)?;
            stream.read_exact(&mut back)?;
            let end = start.elapsed();
            if back != sent {
                return Err(Error::other("another byte came back than was sent"));
            }
            trips.push(end - begin);
            if end >= time {
                return Ok((trips, end));
            }
        }
    };
    trips(before)?;
    let cpu = clock::processor_time()?;
    begun();
    let (trips, time) = trips(time)?;
    let cpu = clock::processor_time()?.saturating_sub(cpu);
    Ok(Outcome { count: trips.len() as u64, time, cpu, round_trips: Some(Latency::of(trips)) })
}

impl Latency {
    fn of(mut trips: Vec<Duration>) -> Self {
        trips.sort_unstable();
        let count = trips.len().max(1);
        let at = |index: usize| trips.get(index).copied().unwrap_or_default();
        let mean = trips.iter().sum::<Duration>() / count as u32;
        // The nearest rank: so many of a hundred are no longer than that.
        Self { mean, median: at(count.div_ceil(2) - 1), p99: at((count * 99).div_ceil(100) - 1) }
    }
}

fn read_line(reader: &mut impl BufRead) -> Result<String> {
    let mut line = String::new();
    if reader.take(200).read_line(&mut line)? == 0 {
        return Err(Error::other("the other side has gone"));
    }
    Ok(line.trim_end().to_owned())
}

fn number<T: std::str::FromStr>(text: &str) -> Result<T> {
    text.parse().map_err(|_| Error::other(format!("{text:?} is no number")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn latencies_are_by_the_nearest_rank() {
        let trips = |range: std::ops::RangeInclusive<u64>| range.map(Duration::from_micros).collect::<Vec<_>>();
        let micros = |mean, median, p99| {
            let [mean, median, p99] = [mean, median, p99].map(Duration::from_nanos);
            Latency { mean, median, p99 }
        };
        assert_eq!(Latency::of(trips(1..=200)), micros(100_500, 100_000, 198_000));
        assert_eq!(Latency::of(trips(7..=7)), micros(7_000, 7_000, 7_000));
        assert_eq!(Latency::of(Vec::new()), micros(0, 0, 0));
    }
}
