// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The thread that serves a queue: asleep until the doorbell rings, then at work until the queue is empty.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

use vmm_sys_util::eventfd::EventFd;

use super::device::Image;
use super::request::Server;
use crate::sys::VectoredIo;
use crate::virtio::chain::Chain;
use crate::virtio::device::QueueResources;
use crate::virtio::notifier::Notifier;
use crate::virtio::queue::{Queue, QueueError, QueueState};

/// Bytes of a worker's stack: many times what a request needs. The default of 2 MiB may get a huge page, all of which is
/// then resident.
const STACK: usize = 256 << 10;

/// A running queue.
#[derive(Debug)]
pub(super) struct Worker {
    thread: JoinHandle<QueueState>,
    stop: Arc<AtomicBool>,
    doorbell: EventFd,
}

impl Worker {
    pub(super) fn start(
        disk: &str,
        index: u16,
        image: Arc<Image>,
        resources: QueueResources,
        write_through: bool,
    ) -> io::Result<Self> {
        let QueueResources { mut queue, doorbell: wake, notifier } = resources;
        let stop = Arc::new(AtomicBool::new(false));
        // The queue may hold chains already: a driver needn't ring before the device sleeps.
        let doorbell = wake.try_clone()?;
        doorbell.write(1)?;
        let (stopped, name) = (stop.clone(), disk.to_owned());
        let thread = thread::Builder::new().name(format!("{disk} q{index}")).stack_size(STACK).spawn(move || {
            let guard = FailGuard(&notifier);
            let io = VectoredIo::default();
            let mut server = Server { name: &name, image: &image, write_through, io, stopped: &stopped };
            let mut chain = Chain::with_capacity(256);
            while doorbell.read().is_ok() && !stopped.load(Ordering::Acquire) {
                let drained = drain(&mut queue, &mut chain, &mut server, &stopped, || notifier.used(index));
                if let Err(error) = drained {
                    if let Some(times) = image.lies.hit() {
                        tracing::warn!(disk = name, times, "queue {index} lies and has stopped: {error}");
                    }
                    notifier.set_needs_reset();
                    break;
                }
            }
            std::mem::forget(guard);
            queue.state()
        })?;
        Ok(Self { thread, stop, doorbell: wake })
    }

    /// Ends the thread after the request that it is at.
    pub(super) fn request_stop(&self) {
        self.stop.store(true, Ordering::Release);
        // Only a full counter makes this fail, and then the thread wakes up as well.
        let _ = self.doorbell.write(1);
    }

    /// Ends the thread, and waits for it.
    pub(super) fn stop(self) -> QueueState {
        self.request_stop();
        self.thread.join().unwrap_or_default()
    }
}

/// Tells the driver when the thread ends by a panic, so that it doesn't wait for ever.
struct FailGuard<'a>(&'a Notifier);

impl Drop for FailGuard<'_> {
    fn drop(&mut self) {
        self.0.set_needs_reset();
    }
}

fn drain(
    queue: &mut Queue,
    chain: &mut Chain,
    server: &mut Server<'_>,
    stopped: &AtomicBool,
    interrupt: impl Fn(),
) -> Result<(), QueueError> {
    let mem = queue.mem().clone();
    // What `enable_doorbell` said of the turn before.
    let mut promised = false;
    loop {
        queue.disable_doorbell()?;
        let mut found = false;
        while let Some((head, usable)) = queue.pop(chain)? {
            found = true;
            let written = match usable {
                Ok(()) => server.serve(&mem, chain),
                Err(error) => {
                    if let Some(times) = server.image.failures.hit() {
                        tracing::debug!(disk = server.name, times, "a request is dropped: {error}");
                    }
                    0
                }
            };
            queue.complete(head, written)?;
            if queue.needs_notification()? {
                interrupt();
            }
            if stopped.load(Ordering::Acquire) {
                return Ok(());
            }
        }
        // A ring whose flags and index are the same bytes, say, would keep us here for ever.
        if promised && !found {
            return Err(QueueError::AvailIndexWentBack);
        }
        promised = queue.enable_doorbell()?;
        if !promised || stopped.load(Ordering::Acquire) {
            return Ok(());
        }
    }
}

#[cfg(test)]
#[path = "worker_tests.rs"]
mod tests;
