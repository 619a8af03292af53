// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The thread that serves a queue: how it starts, and how it ends.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

use vmm_sys_util::eventfd::EventFd;

use super::engine::Engine;
use super::image::Image;
use super::options::EngineChoice;
use super::runner::Runner;
use crate::sys::ring::Setup;
use crate::throttle::Throttle;
use crate::virtio::device::QueueResources;
use crate::virtio::notifier::Notifier;
use crate::virtio::queue::QueueState;

/// Bytes of a worker's stack: many times what a request needs. The default of 2 MiB may get a huge page, all of which is
/// then resident.
pub(super) const STACK: usize = 256 << 10;

/// A running queue.
#[derive(Debug)]
pub(super) struct Worker {
    thread: JoinHandle<QueueState>,
    stop: Arc<AtomicBool>,
    doorbell: EventFd,
}

impl Worker {
    pub(super) fn start(index: u16, image: Arc<Image>, resources: QueueResources, durable: bool) -> io::Result<Self> {
        let QueueResources { queue, doorbell: wake, notifier } = resources;
        let setup = setup(&image, queue.size())?;
        let stop = Arc::new(AtomicBool::new(false));
        // The queue may hold chains already: a driver needn't ring before the device sleeps.
        let doorbell = wake.try_clone()?;
        doorbell.write(1)?;
        image.set_doorbell(index, Some(wake.try_clone()?));
        let stopped = stop.clone();
        let thread =
            thread::Builder::new().name(format!("{} q{index}", image.name)).stack_size(STACK).spawn(move || {
                let guard = FailGuard(&notifier);
                let engine = Engine::new(setup, queue.size(), doorbell, image.clone(), queue.mem().clone());
                let (failed, state) = match engine {
                    Ok(engine) => {
                        let (image, notifier) = (image.clone(), notifier.clone());
                        let mut runner = Runner::new(index, queue, engine, image, notifier, stopped, durable);
                        let failed = runner.run().err();
                        (failed, runner.queue.state())
                    }
                    Err(error) => (Some(error.into()), queue.state()),
                };
                if let Some(error) = failed {
                    if let Some(times) = image.lies.hit() {
                        tracing::warn!(disk = image.name, queue = index, times, "{error}");
                    }
                    notifier.set_needs_reset();
                }
                std::mem::forget(guard);
                state
            })?;
        Ok(Self { thread, stop, doorbell: wake })
    }

    /// Ends the thread after the step that it is at.
    pub(super) fn request_stop(&self) {
        self.stop.store(true, Ordering::Release);
        // Only a full counter makes this fail, and then the thread wakes up as well.
        let _ = self.doorbell.write(1);
    }

    /// Ends the thread, and waits for it; `None`: it has panicked, and where the queue stood is lost.
    pub(super) fn stop(self) -> Option<QueueState> {
        self.request_stop();
        self.thread.join().ok()
    }
}

/// Says once for all disks, and seldom again, what automatic ones do without.
pub(super) fn warn_of_no_ring(disk: &str, error: &io::Error) {
    static MISSING: Throttle = Throttle::new();
    if let Some(times) = MISSING.hit() {
        tracing::warn!(disk, times, "io_uring can't be used, so threads wait for the disk: {error}");
    }
}

/// The ring of an engine that has one.
fn setup(image: &Image, slots: u16) -> io::Result<Option<Setup>> {
    match (image.options.engine, Setup::new) {
        (EngineChoice::Sync, _) => Ok(None),
        (EngineChoice::IoUring, new) => new(slots).map(Some),
        // It was there when the disk was opened, so this is a limit that was reached since.
        (EngineChoice::Automatic, new) => Ok(new(slots).inspect_err(|error| warn_of_no_ring(&image.name, error)).ok()),
    }
}

/// Tells the driver when the thread ends by a panic, so that it doesn't wait for ever.
struct FailGuard<'a>(&'a Notifier);

impl Drop for FailGuard<'_> {
    fn drop(&mut self) {
        self.0.set_needs_reset();
    }
}

#[cfg(test)]
#[path = "worker_tests.rs"]
mod tests;
