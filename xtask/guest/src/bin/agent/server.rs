// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The side that does what the other one asks for: by a line, behind which comes what it is about.

use std::io::{Error, Read, Result, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::thread;

use crate::address::{Address, Listener, read_line};
use crate::pattern::Pattern;

/// Of a system call.
const CHUNK: usize = 64 << 10;
/// Bytes of a thread's stack: there may be a thousand of them, in a small guest.
const STACK: usize = 256 << 10;

/// Serves whoever connects, until the process is killed.
pub(crate) fn serve(address: &Address) -> Result<()> {
    let server = Server::listen(address)?;
    println!("agent: ready");
    server.run();
    Ok(())
}

pub(crate) struct Server(Listener);

impl Server {
    pub(crate) fn listen(address: &Address) -> Result<Self> {
        Ok(Self(address.listen()?))
    }

    pub(crate) fn run(&self) {
        let pattern = Arc::new(Pattern::new());
        loop {
            let stream = match self.0.accept() {
                Ok(stream) => stream,
                Err(error) => {
                    eprintln!("agent: error: {error}");
                    return;
                }
            };
            let pattern = pattern.clone();
            let one = move || {
                if let Err(error) = serve_one(stream, &pattern) {
                    eprintln!("agent: error: {error}");
                }
            };
            if let Err(error) = thread::Builder::new().stack_size(STACK).spawn(one) {
                eprintln!("agent: error: {error}");
            }
        }
    }
}

fn serve_one(mut stream: UnixStream, pattern: &Pattern) -> Result<()> {
    let line = read_line(&mut stream)?;
    let number = |text: &str| text.parse::<u64>().map_err(Error::other);
    match line.split_once(' ').unwrap_or((&line, "")) {
        ("send", bytes) => {
            let bytes = number(bytes)?;
            let compared = pattern.read(&mut stream, bytes).and_then(|()| end_of(&mut stream));
            let verdict = compared.map_or_else(|error| error.to_string(), |()| "ok".to_owned());
            stream.write_all(verdict.as_bytes())
        }
        ("receive", bytes) => {
            pattern.write(&mut stream, number(bytes)?)?;
            // The last bytes have arrived when the other side has closed.
            stream.shutdown(Shutdown::Write)?;
            end_of(&mut stream)
        }
        ("echo", _) => {
            let mut chunk = vec![0; CHUNK];
            loop {
                match stream.read(&mut chunk)? {
                    0 => return Ok(()),
                    length => stream.write_all(&chunk[..length])?,
                }
            }
        }
        ("say", _) => {
            let mut text = String::new();
            stream.read_to_string(&mut text)?;
            println!("agent: heard {text}");
            Ok(())
        }
        _ => Err(Error::other(format!("was asked for {line:?}"))),
    }
}

/// Waits for the end of a stream, before which nothing more may come.
pub(crate) fn end_of(stream: &mut UnixStream) -> Result<()> {
    match stream.read(&mut [0])? {
        0 => Ok(()),
        _ => Err(Error::other("there is more than was sent")),
    }
}
