// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Bytes over TCP, from the side that asked.

use std::io::{Error, Read, Result};
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread;

use crate::ask;
use crate::pattern::Pattern;

/// Sends or receives so many bytes, by so many connections at the same time.
pub(crate) fn run(send: bool, to: SocketAddr, bytes: u64, streams: u64) -> Result<()> {
    let pattern = Arc::new(Pattern::new());
    let threads: Vec<_> = (0..streams)
        .map(|number| {
            let pattern = pattern.clone();
            // The first ones take what doesn't divide.
            let share = bytes / streams + u64::from(number < bytes % streams);
            thread::spawn(move || if send { send_one(to, share, &pattern) } else { receive_one(to, share, &pattern) })
        })
        .collect();
    let ends = threads.into_iter().map(|thread| thread.join().map_err(|_| Error::other("a thread has panicked"))?);
    ends.collect::<Vec<_>>().into_iter().collect()
}

fn send_one(to: SocketAddr, bytes: u64, pattern: &Pattern) -> Result<()> {
    let mut stream = ask(to, &format!("send {bytes}"))?;
    pattern.write(&mut stream, bytes)?;
    // The other side says what it thinks of them, and that is when they have arrived.
    let mut said = String::new();
    stream.read_to_string(&mut said)?;
    match said.trim() {
        "ok" => Ok(()),
        "" => Err(Error::other("the other side has gone before it had all")),
        said => Err(Error::other(said.to_owned())),
    }
}

fn receive_one(to: SocketAddr, bytes: u64, pattern: &Pattern) -> Result<()> {
    let mut stream = ask(to, &format!("receive {bytes}"))?;
    pattern.read(&mut stream, bytes)
}
