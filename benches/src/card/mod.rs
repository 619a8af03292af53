// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! A network card under load, natively: iperf3 in two namespaces, and between them what passes frames from the tap of the one to
//! the tap of the other. That is a plain loop of `read` and `write`, which is the most that a program can do with two taps on one
//! thread, or two cards of ours with a driver that gives each frame that one of them has received to the other to send.
//!
//! Both pass the same frames, with the same offloads, and copy each of them once from the one tap and once to the other.

mod driver;
mod iperf;
mod plain;

use std::fs::File;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use vmm_sys_util::eventfd::EventFd;

use crate::namespace::{Namespace, Tap};

/// What iperf3 does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Load {
    /// TCP over so many connections.
    Streams(u32),
    /// UDP of so many bytes a datagram, as fast as it can.
    Datagrams(u32),
}

/// What passes the frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Passer {
    /// A loop.
    Plain,
    /// Two cards.
    Cards,
}

/// What came of it.
#[derive(Clone, Copy, Debug)]
pub struct Outcome {
    /// Gbit a second of streams, or datagrams a second, as they arrived.
    pub rate: f64,
    /// Milliseconds of processor time a Gbit, or microseconds a datagram, of what passed them, without the driver's.
    pub cpu: f64,
}

/// Two namespaces, each with a tap. Those in it talk to each other as if the taps were the ends of a cable.
#[derive(Debug)]
pub struct Cable {
    ends: [Namespace; 2],
    taps: [Tap; 2],
}

/// Addresses for documentation (RFC 5737).
const ADDRESSES: [&str; 2] = ["198.51.100.1", "198.51.100.2"];

/// Tells something that passes frames to end.
#[derive(Debug)]
struct End {
    wanted: AtomicBool,
    /// Wakes it.
    wake: EventFd,
}

impl End {
    fn is_wanted(&self) -> bool {
        self.wanted.load(Ordering::Acquire)
    }
}

impl Cable {
    /// Makes both. This process has to have one thread, unless it is root's.
    pub fn new() -> Result<Self> {
        let end = |name, address: &str| -> Result<_> {
            Ok((Namespace::enter_new()?, Tap::make(name, false, &format!("{address}/30"))?))
        };
        let ((near, near_tap), (far, far_tap)) = (end("near", ADDRESSES[0])?, end("far", ADDRESSES[1])?);
        Ok(Self { ends: [near, far], taps: [near_tap, far_tap] })
    }

    fn open(&self) -> Result<[File; 2]> {
        let [near, far] = &self.ends;
        near.enter()?;
        let near = self.taps[0].open()?;
        far.enter()?;
        Ok([near, self.taps[1].open()?])
    }

    /// Passes frames while iperf3 sends for so many seconds, from the first end to the second.
    pub fn measure(&self, passer: Passer, load: Load, seconds: u64) -> Result<Outcome> {
        let taps = self.open()?;
        let end = Arc::new(End { wanted: AtomicBool::new(false), wake: EventFd::new(libc::EFD_NONBLOCK)? });
        let passing = {
            let end = end.clone();
            // The driver's threads need no namespace, and get that of the far end.
            thread::spawn(move || match passer {
                Passer::Plain => plain::pass(taps, &end),
                Passer::Cards => driver::pass(taps, &end),
            })
        };
        let report = iperf::run(self, load, seconds);
        end.wanted.store(true, Ordering::Release);
        end.wake.write(1).context("can't end what passes the frames")?;
        let cpu = passing.join().map_err(|_| io::Error::other("what passes the frames has panicked"))??;
        let report = report?;
        let factor = if matches!(load, Load::Streams(_)) { 1e3 } else { 1e6 };
        Ok(Outcome { rate: report.rate, cpu: cpu.as_secs_f64() * factor / report.count })
    }

    /// Runs what starts processes at an end, which stay there.
    fn at<T>(&self, end: usize, start: impl FnOnce() -> Result<T>) -> Result<T> {
        self.ends[end].enter()?;
        start()
    }
}

/// Whether iperf3 can be run. What is said when it can't has the cure in it.
pub fn look() -> Result<()> {
    iperf::look()
}

/// The offloads of both: those that any kernel's tap can do for TCP.
const OFFLOADS: u32 = libc::TUN_F_CSUM | libc::TUN_F_TSO4 | libc::TUN_F_TSO6 | libc::TUN_F_TSO_ECN;

/// What it took of the processor.
type Taken = Result<Duration>;
