// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! SIGTERM, SIGINT, SIGHUP and SIGQUIT: the first one asks the guest to power off, the second one stops the VM.

use std::io::{self, IsTerminal};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM};
use vmm::Control;
use vmm::event_manager::{EventOps, EventSet, Events, MutEventSubscriber};

/// Becomes readable when one of the signals comes. To be made before any thread starts.
pub(crate) struct Signals {
    pipe: UnixStream,
}

impl Signals {
    pub(crate) fn catch() -> io::Result<Self> {
        let (pipe, write) = UnixStream::pair()?;
        pipe.set_nonblocking(true)?;
        for signal in [SIGTERM, SIGINT, SIGHUP, SIGQUIT] {
            signal_hook::low_level::pipe::register(signal, write.try_clone()?)?;
        }
        Ok(Self { pipe })
    }
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.pipe.as_fd()
    }
}

impl Signals {
    /// Whether one has come.
    pub(crate) fn take(&mut self) -> bool {
        io::Read::read(&mut self.pipe, &mut [0]).is_ok_and(|len| len > 0)
    }
}

/// Serves the signals in the event loop.
pub(crate) struct Watcher {
    pub(crate) signals: Signals,
    pub(crate) control: Control,
    pub(crate) grace: Duration,
    pub(crate) seen: bool,
}

impl MutEventSubscriber for Watcher {
    fn init(&mut self, ops: &mut EventOps<'_>) {
        if let Err(error) = ops.add(Events::new(&self.signals.pipe, EventSet::IN)) {
            tracing::error!("signals can't be watched: {error}");
        }
    }

    fn process(&mut self, _: Events, _: &mut EventOps<'_>) {
        while self.signals.take() {
            if std::mem::replace(&mut self.seen, true) {
                say(format_args!("a second signal: the VM is stopped"));
                self.control.stop();
            } else {
                say(format_args!(
                    "the power button is pressed; a guest that hasn't powered off in {:?} is stopped, and so it is by a second signal",
                    self.grace
                ));
                self.control.shutdown(self.grace);
            }
        }
    }
}

/// For the person who pressed Ctrl-C; a program that sent a signal knows what it wanted, and finds the line in the log.
fn say(what: std::fmt::Arguments<'_>) {
    if io::stderr().is_terminal() {
        eprintln!("vmm: {what}");
    } else {
        tracing::info!("{what}");
    }
}
