// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The side that does what the other one asks for.

use std::io::{BufRead, BufReader, Error, Read, Result, Write};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;

use crate::pattern::Pattern;
use crate::{datagrams, measure};

/// Serves whoever connects, until the process is killed.
pub(crate) fn serve(port: u16) -> Result<()> {
    let server = Server::listen(port)?;
    println!("netload: ready");
    server.run();
    Ok(())
}

pub(crate) struct Server(TcpListener);

impl Server {
    pub(crate) fn listen(port: u16) -> Result<Self> {
        // Of both kinds, unless there is no IPv6.
        let any = |address| TcpListener::bind(SocketAddr::new(address, port));
        Ok(Self(any(Ipv6Addr::UNSPECIFIED.into()).or_else(|_| any(Ipv4Addr::UNSPECIFIED.into()))?))
    }

    #[cfg(test)]
    pub(crate) fn port(&self) -> Result<u16> {
        Ok(self.0.local_addr()?.port())
    }

    pub(crate) fn run(&self) {
        let pattern = Arc::new(Pattern::new());
        for stream in self.0.incoming().flatten() {
            let pattern = pattern.clone();
            thread::spawn(move || {
                if let Err(error) = serve_one(&stream, &pattern) {
                    eprintln!("netload: error: {error}");
                }
            });
        }
    }
}

fn serve_one(stream: &TcpStream, pattern: &Pattern) -> Result<()> {
    stream.set_nodelay(true)?;
    let (mut reader, mut writer) = (BufReader::new(stream), stream);
    let mut line = String::new();
    reader.by_ref().take(100).read_line(&mut line)?;
    let number = |text: &str| text.parse::<u64>().map_err(Error::other);
    match line.split_whitespace().collect::<Vec<_>>()[..] {
        ["send", bytes] => {
            let outcome = pattern.read(&mut reader, number(bytes)?);
            writer.write_all(outcome.as_ref().map_or_else(ToString::to_string, |()| "ok".to_owned()).as_bytes())?;
            outcome
        }
        ["receive", bytes] => pattern.write(&mut writer, number(bytes)?),
        ["echo"] => {
            let mut byte = [0];
            while reader.read(&mut byte)? == 1 {
                writer.write_all(&byte)?;
            }
            Ok(())
        }
        ["measure", case, port, milliseconds] => measure::serve(stream, &mut reader, [case, port, milliseconds]),
        ["datagrams"] => datagrams::count(stream, &mut reader),
        _ => Err(Error::other(format!("{line:?} is nothing that can be asked for"))),
    }
}
