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
//!
//! It says `netload: end COMMAND bytes=N ns=N cpu_ns=N` and more, as in `received=N`. The last of those three is the processor
//! time of this process, in user and in kernel mode. Whatever goes wrong, a byte that is another one than was sent included, is
//! said as `netload: error: …`, and ends it with status 1. The server says `netload: ready` first.

mod clock;
mod datagrams;
mod pattern;
mod server;
mod streams;

use std::io::{Read, Result, Write};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::process::ExitCode;
use std::time::Instant;

const USAGE: &str = "usage: netload serve PORT | send ADDRESS BYTES [STREAMS] | receive ADDRESS BYTES [STREAMS] \
                     | echo ADDRESS COUNT | datagrams ADDRESS COUNT BYTES";

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
        _ => return Err(USAGE.to_owned()),
    };
    let cpu = clock::processor_time().map_err(said)?.saturating_sub(cpu);
    println!("netload: end {command} bytes={bytes} ns={} cpu_ns={}{more}", begun.elapsed().as_nanos(), cpu.as_nanos());
    Ok(())
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
            ] {
                assert_eq!(run(command), Ok(()), "{command:?}");
            }
        });
    }

    #[test]
    fn what_is_no_command_line_is_refused() {
        for command in [&[][..], &["serve"], &["send", "127.0.0.1:1"], &["fetch", "127.0.0.1:1", "1"], &["serve", "x"]]
        {
            assert!(run(command).is_err(), "{command:?}");
        }
        assert!(run(&["send", "127.0.0.1:1", "x"]).unwrap_err().contains("is no number"));
    }
}
