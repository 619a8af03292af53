// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! `netload`: loads a network, checks every byte that arrives, and tells how much it was.
//!
//! One side is `netload serve PORT`, which goes on until it is killed, on all addresses of the machine. On the other side:
//!
//! | command | does |
//! |---|---|
//! | `netload send ADDRESS BYTES [STREAMS]` | sends so many bytes over TCP, shared by the streams |
//! | `netload receive ADDRESS BYTES [STREAMS]` | has so many bytes sent to it |
//! | `netload echo ADDRESS COUNT` | sends a byte and waits until it is back, so many times |
//! | `netload datagrams ADDRESS COUNT BYTES` | sends so many UDP datagrams as fast as it can, and asks how many came |
//! | `netload measure ADDRESS CASE SECONDS` | a case for so long: `tcp-send:STREAMS`, `tcp-receive:STREAMS`, `udp-send:BYTES`, `udp-receive:BYTES`, `tcp-rr` |
//!
//! It says `netload: end COMMAND bytes=N ns=N cpu_ns=N` and more, as in `received=N`. The last of those three is the processor
//! time of this process, in user and in kernel mode. Whatever goes wrong, a byte that is another one than was sent included, is
//! said as `netload: error: …`, and ends it with status 1. The server says `netload: ready` first.
//!
//! `measure` compares no bytes. It says `netload: begin CASE` when it begins to count, and `netload: end CASE count=N ns=N cpu_ns=N`:
//! bytes of TCP or datagrams, as they arrived, or round trips, of which there is `mean_ns=N median_ns=N p99_ns=N` as well.

mod batch;
mod case;
mod clock;
mod datagrams;
mod flow;
mod measure;
mod pattern;
mod server;
mod streams;

use std::io::{Read, Result, Write};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use case::Case;
use measure::{Latency, Outcome};

const USAGE: &str = "usage: netload serve PORT | send ADDRESS BYTES [STREAMS] | receive ADDRESS BYTES [STREAMS] \
                     | echo ADDRESS COUNT | datagrams ADDRESS COUNT BYTES | measure ADDRESS CASE SECONDS";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match run(&arguments.iter().map(String::as_str).collect::<Vec<_>>()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // One line, whatever is in it: that is what is looked for on a console.
            eprintln!("netload: error: {}", error.replace('\n', " "));
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &[&str]) -> std::result::Result<(), String> {
    let number = |text: &str| text.parse::<u64>().map_err(|_| format!("{text:?} is no number"));
    let said = |error: std::io::Error| error.to_string();
    let [command, rest @ ..] = arguments else { return Err(USAGE.to_owned()) };
    let (begun, cpu) = (Instant::now(), clock::processor_time().map_err(said)?);
    let (bytes, more) = match (*command, rest) {
        ("serve", [port]) => {
            let port = port.parse().map_err(|_| format!("{port:?} is no port"))?;
            return server::serve(port).map_err(said);
        }
        ("send" | "receive", [address, bytes, streams @ ..]) if streams.len() <= 1 => {
            let (bytes, streams) = (number(bytes)?, number(streams.first().unwrap_or(&"1"))?.max(1));
            let to = resolve(address)?;
            streams::run(*command == "send", to, bytes, streams).map_err(|error| format!("{address}: {error}"))?;
            (bytes, format!(" streams={streams}"))
        }
        ("echo", [address, count]) => {
            let count = number(count)?;
            echo(resolve(address)?, count).map_err(|error| format!("{address}: {error}"))?;
            (count, String::new())
        }
        ("datagrams", [address, count, bytes]) => {
            let (count, bytes) = (number(count)?, number(bytes)?);
            let received = datagrams::send(resolve(address)?, count, bytes);
            let received = received.map_err(|error| format!("{address}: {error}"))?;
            (count * bytes, format!(" sent={count} received={received}"))
        }
        ("measure", [address, case, seconds]) => return measure(address, case.parse()?, parse_seconds(seconds)?),
        _ => return Err(USAGE.to_owned()),
    };
    let cpu = clock::processor_time().map_err(said)?.saturating_sub(cpu);
    println!("netload: end {command} bytes={bytes} ns={} cpu_ns={}{more}", begun.elapsed().as_nanos(), cpu.as_nanos());
    Ok(())
}

fn measure(address: &str, case: Case, time: Duration) -> std::result::Result<(), String> {
    let begun = || println!("netload: begin {case}");
    let outcome = measure::run(resolve(address)?, case, time, begun);
    let Outcome { count, time, cpu, round_trips } = outcome.map_err(|error| format!("{address}: {case}: {error}"))?;
    let more = round_trips.map_or_else(String::new, |Latency { mean, median, p99 }| {
        format!(" mean_ns={} median_ns={} p99_ns={}", mean.as_nanos(), median.as_nanos(), p99.as_nanos())
    });
    println!("netload: end {case} count={count} ns={} cpu_ns={}{more}", time.as_nanos(), cpu.as_nanos());
    Ok(())
}

/// A number, which may have a fraction.
fn parse_seconds(text: &str) -> std::result::Result<Duration, String> {
    let seconds = text.parse().ok().and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    seconds.filter(|time| !time.is_zero()).ok_or_else(|| format!("{text:?} is no number of seconds"))
}

/// `192.0.2.1:80`, `[2001:db8::1]:80` or `name:80`.
fn resolve(text: &str) -> std::result::Result<SocketAddr, String> {
    let mut found = text.to_socket_addrs().map_err(|error| format!("{text}: {error}"))?;
    found.next().ok_or_else(|| format!("{text} has no address"))
}

/// Connects, and says what is to be done.
fn ask(to: SocketAddr, what: &str) -> Result<TcpStream> {
    let mut stream = TcpStream::connect(to)?;
    stream.set_nodelay(true)?;
    stream.write_all(format!("{what}\n").as_bytes())?;
    Ok(stream)
}

fn echo(to: SocketAddr, count: u64) -> Result<()> {
    let mut stream = ask(to, "echo")?;
    for number in 0..count {
        let (sent, mut back) = ([number as u8], [0]);
        stream.write_all(&sent)?;
        stream.read_exact(&mut back)?;
        if back != sent {
            return Err(std::io::Error::other("another byte came back than was sent"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_server(test: impl FnOnce(&str)) {
        let server = server::Server::listen(0).unwrap();
        let address = format!("127.0.0.1:{}", server.port().unwrap());
        std::thread::spawn(move || server.run());
        test(&address);
    }

    #[test]
    fn every_command_comes_to_its_end() {
        with_server(|address| {
            for command in [
                &["send", address, "3000000"][..],
                &["send", address, "3000001", "3"],
                &["receive", address, "3000000"],
                &["receive", address, "5", "8"],
                &["send", address, "0"],
                &["echo", address, "10"],
                &["datagrams", address, "10", "64"],
                &["measure", address, "tcp-send:1", "0.02"],
                &["measure", address, "tcp-send:3", "0.02"],
                &["measure", address, "tcp-receive:3", "0.02"],
                &["measure", address, "udp-send:64", "0.02"],
                &["measure", address, "udp-receive:64", "0.02"],
                &["measure", address, "tcp-rr", "0.02"],
            ] {
                assert_eq!(run(command), Ok(()), "{command:?}");
            }
        });
    }

    #[test]
    fn what_is_no_command_line_is_refused() {
        for command in [
            &[][..],
            &["serve"],
            &["send", "127.0.0.1:1"],
            &["fetch", "127.0.0.1:1", "1"],
            &["serve", "x"],
            &["measure", "127.0.0.1:1", "tcp-rr"],
            &["measure", "127.0.0.1:1", "tcp-rr", "0"],
            &["measure", "127.0.0.1:1", "tcp-send:1", "x"],
            &["measure", "127.0.0.1:1", "tcp", "1"],
        ] {
            assert!(run(command).is_err(), "{command:?}");
        }
        assert!(run(&["send", "127.0.0.1:1", "x"]).unwrap_err().contains("is no number"));
    }
}
