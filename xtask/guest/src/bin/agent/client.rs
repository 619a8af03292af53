// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The side that asks.

use std::io::{Error, Read, Result, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use crate::address::Address;
use crate::pattern::Pattern;
use crate::server::end_of;

fn ask(to: &Address, what: &str) -> Result<UnixStream> {
    let mut stream = to.connect()?;
    stream.write_all(format!("{what}\n").as_bytes())?;
    Ok(stream)
}

pub(crate) fn send(to: &Address, bytes: u64) -> Result<String> {
    let mut stream = ask(to, &format!("send {bytes}"))?;
    Pattern::new().write(&mut stream, bytes)?;
    stream.shutdown(Shutdown::Write)?;
    let mut verdict = String::new();
    stream.read_to_string(&mut verdict)?;
    match verdict.as_str() {
        "ok" => Ok(String::new()),
        "" => Err(Error::other("the other side has gone before it had all")),
        other => Err(Error::other(other.to_owned())),
    }
}

pub(crate) fn receive(to: &Address, bytes: u64) -> Result<String> {
    let mut stream = ask(to, &format!("receive {bytes}"))?;
    Pattern::new().read(&mut stream, bytes)?;
    end_of(&mut stream)?;
    Ok(String::new())
}

/// A byte there and back.
fn trip(stream: &mut UnixStream, byte: u8) -> Result<()> {
    let mut back = [0];
    stream.write_all(&[byte])?;
    stream.read_exact(&mut back)?;
    if back == [byte] { Ok(()) } else { Err(Error::other("another byte came back than was sent")) }
}

pub(crate) fn echo(to: &Address, count: u64) -> Result<String> {
    let mut stream = ask(to, "echo")?;
    // The first one begins what those that follow find done.
    trip(&mut stream, 0)?;
    let times = (0..count).map(|number| timed(|| trip(&mut stream, number as u8))).collect::<Result<Vec<_>>>()?;
    Ok(latency(times))
}

pub(crate) fn many(to: &Address, count: u64) -> Result<String> {
    let mut streams = Vec::new();
    for number in 0..count {
        let stream = ask(to, "echo").map_err(|error| Error::other(format!("connection {number}: {error}")))?;
        streams.push(stream);
    }
    for (number, stream) in streams.iter_mut().enumerate() {
        trip(stream, number as u8).map_err(|error| Error::other(format!("connection {number}: {error}")))?;
    }
    Ok(String::new())
}

pub(crate) fn half_close(to: &Address, count: u64) -> Result<String> {
    let once = |_| {
        let mut stream = ask(to, "echo")?;
        trip(&mut stream, 1)?;
        timed(|| {
            stream.shutdown(Shutdown::Write)?;
            end_of(&mut stream)
        })
    };
    Ok(latency((0..count).map(once).collect::<Result<Vec<_>>>()?))
}

pub(crate) fn say(to: &Address, text: &str) -> Result<()> {
    let mut stream = ask(to, "say")?;
    stream.write_all(text.as_bytes())?;
    stream.shutdown(Shutdown::Write)?;
    end_of(&mut stream)
}

fn timed(what: impl FnOnce() -> Result<()>) -> Result<Duration> {
    let begun = Instant::now();
    what()?;
    Ok(begun.elapsed())
}

/// By the nearest rank.
fn latency(mut times: Vec<Duration>) -> String {
    times.sort_unstable();
    let count = times.len().max(1);
    let at = |rank: usize| times.get(rank - 1).copied().unwrap_or_default().as_nanos();
    let mean = (times.iter().sum::<Duration>() / count as u32).as_nanos();
    format!(" mean_ns={mean} median_ns={} p99_ns={}", at(count.div_ceil(2)), at((count * 99).div_ceil(100)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn latencies_are_by_the_nearest_rank() {
        let times = (1..=200).map(Duration::from_micros).collect();
        assert_eq!(latency(times), " mean_ns=100500 median_ns=100000 p99_ns=198000");
        assert_eq!(latency(Vec::new()), " mean_ns=0 median_ns=0 p99_ns=0");
    }
}
