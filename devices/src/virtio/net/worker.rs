// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The thread of a queue pair: how it starts, is told something, and ends.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};

use super::card::Card;
use super::pair::{Command, Pair, Role};
use super::port::Port;
use crate::virtio::device::QueueResources;
use crate::virtio::notifier::Notifier;
use crate::virtio::queue::QueueState;

/// Bytes of a worker's stack: many times what a frame needs. The default of 2 MiB may get a huge page, all of which is then
/// resident.
const STACK: usize = 256 << 10;

/// A thread that serves a pair, from when its first queue starts until the card is gone.
#[derive(Debug)]
pub(super) struct Worker {
    pair: u16,
    card: Arc<Card>,
    /// `None`: it is to end.
    commands: Option<Sender<Command>>,
    attention: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Worker {
    pub(super) fn start(
        pair: u16,
        card: Arc<Card>,
        port: Arc<Mutex<Port>>,
        notifier: Arc<Notifier>,
    ) -> io::Result<Self> {
        let (commands, receiver) = mpsc::channel();
        let attention = Arc::new(AtomicBool::new(false));
        let (told, shared) = (attention.clone(), card.clone());
        let name = format!("{} q{pair}", card.name);
        let thread = thread::Builder::new().name(name).stack_size(STACK).spawn(move || {
            let guard = FailGuard(&notifier);
            // Nobody else has it while this thread runs. What a thread left that has panicked is not to be trusted.
            let mut port = port.lock().unwrap_or_else(|poisoned| {
                let mut guard = poisoned.into_inner();
                guard.distrust(&shared, pair);
                port.clear_poison();
                guard
            });
            let ended = Pair::new(pair, shared.clone(), &mut port, receiver, told).run();
            if let Err(error) = ended {
                if let Some(times) = shared.refusals.hit() {
                    tracing::warn!(card = shared.name, pair, times, "its queues have stopped: {error}");
                }
                notifier.set_needs_reset();
            }
            std::mem::forget(guard);
        })?;
        Ok(Self { pair, card, commands: Some(commands), attention, thread: Some(thread) })
    }

    /// Whether it has ended by itself: it has panicked, or the host doesn't let it wait.
    pub(super) fn has_ended(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }

    fn tell(&self, command: Command) {
        if let Some(commands) = &self.commands {
            // A thread that has ended answers nothing, which is how that is seen.
            let _ = commands.send(command);
        }
        self.attention.store(true, Ordering::Release);
        self.card.wake(self.pair);
    }

    pub(super) fn start_queue(&self, role: Role, index: u16, resources: QueueResources, features: u64) {
        self.tell(Command::Start { role, index, resources, features });
    }

    /// Asks for the end of a queue, whose state comes out of what is given back.
    pub(super) fn stop_queue(&self, role: Role) -> Receiver<QueueState> {
        let (answer, state) = mpsc::sync_channel(1);
        self.tell(Command::Stop { role, answer });
        state
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let Self { pair, card, commands, attention, thread } = self;
        drop(commands.take());
        attention.store(true, Ordering::Release);
        card.wake(*pair);
        if let Some(thread) = thread.take() {
            // If it has panicked, the driver has been told.
            let _ = thread.join();
        }
    }
}

/// Tells the driver when the thread ends by a panic, so that it doesn't wait for ever.
struct FailGuard<'a>(&'a Notifier);

impl Drop for FailGuard<'_> {
    fn drop(&mut self) {
        self.0.set_needs_reset();
    }
}
