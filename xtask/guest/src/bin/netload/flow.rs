// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What flows from one side to the other for as long as it is wanted, and is counted where it arrives.

use std::io::{Error, ErrorKind, Read, Result, Write};
use std::net::{Shutdown, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::batch::{self, Batch};

/// Of one system call that takes bytes, as most programs have it.
const CHUNK: usize = 128 << 10;
/// Of one that sends. The rest of each of them may be a small frame of its own, so that there are not many.
const SENT: usize = 1 << 20;
/// How often a thread that waits for datagrams looks whether it is to end.
const LOOK: Duration = Duration::from_millis(100);

/// The threads of one side, which end when it is dropped.
pub(crate) struct Flow {
    counted: Arc<AtomicU64>,
    ended: Arc<AtomicBool>,
    streams: Vec<TcpStream>,
    threads: Vec<JoinHandle<()>>,
}

/// What has arrived in a span of time.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Counted {
    /// Bytes of streams, or datagrams.
    pub(crate) count: u64,
    pub(crate) time: Duration,
}

impl Flow {
    fn new() -> Self {
        let (counted, ended) = (Arc::default(), Arc::default());
        Self { counted, ended, streams: Vec::new(), threads: Vec::new() }
    }

    fn spawn(&mut self, body: impl FnOnce(&AtomicU64, &AtomicBool) + Send + 'static) {
        let (counted, ended) = (self.counted.clone(), self.ended.clone());
        self.threads.push(thread::spawn(move || body(&counted, &ended)));
    }

    /// Sends over all of these until they end.
    pub(crate) fn from_streams(streams: Vec<TcpStream>) -> Result<Self> {
        let mut flow = Self::new();
        for stream in streams {
            let mut to = stream.try_clone()?;
            flow.spawn(move |_, _| {
                let chunk = vec![0x55; SENT];
                while to.write_all(&chunk).is_ok() {}
            });
            flow.streams.push(stream);
        }
        Ok(flow)
    }

    /// Takes and counts what comes over all of these.
    pub(crate) fn to_streams(streams: Vec<TcpStream>) -> Result<Self> {
        let mut flow = Self::new();
        for stream in streams {
            let mut from = stream.try_clone()?;
            flow.spawn(move |counted, _| {
                let mut chunk = vec![0; CHUNK];
                while let Ok(length @ 1..) = from.read(&mut chunk) {
                    counted.fetch_add(length as u64, Ordering::Relaxed);
                }
            });
            flow.streams.push(stream);
        }
        Ok(flow)
    }

    /// Sends datagrams of so many bytes, as fast as it can.
    pub(crate) fn from_socket(socket: UdpSocket, bytes: u32) -> Self {
        let mut flow = Self::new();
        flow.spawn(move |_, ended| {
            let mut batch = Batch::new(bytes as usize);
            while !ended.load(Ordering::Relaxed) {
                // What the kernel has no room for counts as lost, as does what nobody listens for any more.
                let _ = batch.send(&socket);
            }
        });
        flow
    }

    /// Takes and counts datagrams.
    pub(crate) fn to_socket(socket: UdpSocket) -> Result<Self> {
        let mut flow = Self::new();
        socket.set_read_timeout(Some(LOOK))?;
        batch::make_room(&socket);
        flow.spawn(move |counted, ended| {
            let mut batch = Batch::new(2048);
            while !ended.load(Ordering::Relaxed) {
                // An error is that nothing has come for a while, or that of a sender of before.
                let received = batch.receive(&socket).unwrap_or(0);
                counted.fetch_add(received as u64, Ordering::Relaxed);
            }
        });
        Ok(flow)
    }

    /// Lets it flow for a while, then counts what arrives in a span of time, whose begin is told.
    pub(crate) fn measure(
        &self,
        before: Duration,
        time: Duration,
        begun: impl FnOnce() -> Result<()>,
    ) -> Result<Counted> {
        thread::sleep(before);
        begun()?;
        let (start, first) = (Instant::now(), self.counted.load(Ordering::Relaxed));
        thread::sleep(time);
        let count = self.counted.load(Ordering::Relaxed) - first;
        let time = start.elapsed();
        if count == 0 {
            return Err(Error::new(ErrorKind::TimedOut, "nothing has arrived"));
        }
        Ok(Counted { count, time })
    }
}

impl Drop for Flow {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
        for stream in &self.streams {
            // One that the other side has ended is no more to be ended.
            let _ = stream.shutdown(Shutdown::Both);
        }
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// Takes so many connections.
pub(crate) fn accept(listener: &TcpListener, streams: u32) -> Result<Vec<TcpStream>> {
    (0..streams).map(|_| listener.accept().map(|(stream, _)| stream)).collect()
}
