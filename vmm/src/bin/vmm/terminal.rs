// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The terminal: raw while the VM runs, as it was before on every way out.

use std::fs::File;
use std::io::{self, IsTerminal, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;

use rustix::termios::{self, OptionalActions, OutputModes, Termios};
use signal_hook::consts::SIGWINCH;
use vmm::event_manager::{EventOps, EventSet, Events, MutEventSubscriber};
use vmm::{Console, ConsoleControl, Control};

use crate::escape::{Action, Escape};

const KEYS: &str = "
Ctrl-a x       end the VM at once
Ctrl-a p       press the power button
Ctrl-a h       show these keys
Ctrl-a Ctrl-a  send a Ctrl-a to the guest
";

/// Standard input as it was before, to be restored when this is dropped.
pub(crate) struct RawTerminal {
    input: File,
    before: Termios,
}

impl RawTerminal {
    /// Makes standard input raw if it is a terminal.
    pub(crate) fn enter() -> io::Result<Option<Self>> {
        let stdin = io::stdin();
        if !stdin.is_terminal() {
            return Ok(None);
        }
        let input = File::from(stdin.as_fd().try_clone_to_owned()?);
        let before = termios::tcgetattr(&input)?;
        let mut raw = before.clone();
        raw.make_raw();
        // Log lines and the guest's own new lines start at the left edge all the same.
        raw.output_modes |= before.output_modes & (OutputModes::OPOST | OutputModes::ONLCR);
        termios::tcsetattr(&input, OptionalActions::Now, &raw)?;
        Ok(Some(Self { input, before }))
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        // Nothing can be done about a terminal that is gone.
        let _ = termios::tcsetattr(&self.input, OptionalActions::Now, &self.before);
    }
}

/// What a person types: read at once, so that the keys work however busy the guest is, and handed on to it as it likes.
pub(crate) struct Keyboard {
    input: File,
    escape: Escape,
    control: Control,
    /// Where the guest's console reads; never waited for.
    guest: UnixStream,
}

/// A console on the terminal, and the end of its input that a [`Keyboard`] fills.
pub(crate) fn console() -> io::Result<(Console, UnixStream)> {
    let (guest, input) = UnixStream::pair()?;
    guest.set_nonblocking(true)?;
    let output = vmm::output_that_never_waits(io::stdout().as_fd())?;
    Ok((Console { input: Some(Box::new(input)), output: Box::new(output) }, guest))
}

/// The terminal's columns and rows, if it has any.
pub(crate) fn size() -> Option<(u16, u16)> {
    let size = termios::tcgetwinsize(io::stdin()).ok()?;
    Some((size.ws_col, size.ws_row)).filter(|size| *size != (0, 0))
}

/// Becomes readable when the terminal's size changes.
pub(crate) fn size_changes() -> io::Result<UnixStream> {
    let (changes, write) = UnixStream::pair()?;
    changes.set_nonblocking(true)?;
    signal_hook::low_level::pipe::register(SIGWINCH, write)?;
    Ok(changes)
}

/// Tells the guest how large the terminal is.
pub(crate) struct Window {
    changes: UnixStream,
    console: ConsoleControl,
}

impl Window {
    pub(crate) fn new(console: ConsoleControl) -> io::Result<Self> {
        Ok(Self { changes: size_changes()?, console })
    }

    fn tell(&self) {
        if let Some((columns, rows)) = size() {
            self.console.resize(columns, rows);
        }
    }
}

impl MutEventSubscriber for Window {
    fn init(&mut self, ops: &mut EventOps<'_>) {
        self.tell();
        if let Err(error) = ops.add(Events::new(&self.changes, EventSet::IN)) {
            tracing::error!("the terminal's size can't be watched: {error}");
        }
    }

    fn process(&mut self, _: Events, _: &mut EventOps<'_>) {
        while self.changes.read(&mut [0; 64]).is_ok_and(|len| len > 0) {}
        self.tell();
    }
}

impl Keyboard {
    pub(crate) fn new(guest: UnixStream, control: Control) -> io::Result<Self> {
        let input = File::from(io::stdin().as_fd().try_clone_to_owned()?);
        Ok(Self { input, escape: Escape::default(), control, guest })
    }

    fn act(control: &Control, action: Action) {
        match action {
            // A terminal that can't be written to can't show them.
            Action::Help => drop(io::stderr().write_all(KEYS.as_bytes())),
            Action::Stop => control.stop(),
            // There is nothing to leave: this is the VM.
            Action::Leave => {}
            Action::PowerButton => control.power_button(),
        }
    }
}

impl MutEventSubscriber for Keyboard {
    fn init(&mut self, ops: &mut EventOps<'_>) {
        if let Err(error) = ops.add(Events::new(&self.input, EventSet::IN)) {
            tracing::error!("the terminal can't be watched: {error}");
        }
    }

    fn process(&mut self, _: Events, ops: &mut EventOps<'_>) {
        let mut bytes = [0; 256];
        match self.input.read(&mut bytes) {
            Ok(len @ 1..) => {
                let kept = self.escape.filter(&mut bytes[..len], |action| Self::act(&self.control, action));
                // What a guest that doesn't read has not taken after some 200 KiB of typing is lost.
                let _ = self.guest.write_all(&bytes[..kept]);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => (),
            // The terminal is gone.
            _ => drop(ops.remove(Events::new(&self.input, EventSet::IN))),
        }
    }
}
