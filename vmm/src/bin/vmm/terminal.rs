// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The terminal: raw while the VM runs, as it was before on every way out.

use std::fs::File;
use std::io::{self, IsTerminal, Read};
use std::os::fd::{AsFd, AsRawFd, RawFd};

use rustix::termios::{self, OptionalActions, OutputModes, Termios};
use vmm::{Console, Control};

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

/// What a person types, without the keys that are for the VMM.
struct Keyboard {
    input: File,
    escape: Escape,
    control: Slot,
}

/// Holds the VM's control from the moment on when there is a VM.
pub(crate) type Slot = std::sync::Arc<std::sync::OnceLock<Control>>;

impl Read for Keyboard {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let len = self.input.read(bytes)?;
        if len == 0 {
            return Ok(0);
        }
        let control = &self.control;
        let kept = self.escape.filter(&mut bytes[..len], |action| match (action, control.get()) {
            (Action::Help, _) => eprint!("{KEYS}"),
            (Action::Stop, Some(control)) => control.stop(),
            (Action::PowerButton, Some(control)) => control.power_button(),
            (_, None) => (),
        });
        // Nothing is left for the guest, but this is no end of the input.
        if kept == 0 { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(kept) }
    }
}

impl AsRawFd for Keyboard {
    fn as_raw_fd(&self) -> RawFd {
        self.input.as_raw_fd()
    }
}

/// A console on the terminal.
pub(crate) fn console(control: Slot) -> io::Result<Console> {
    let (stdin, stdout) = (io::stdin(), io::stdout());
    let input = File::from(stdin.as_fd().try_clone_to_owned()?);
    let output = File::from(stdout.as_fd().try_clone_to_owned()?);
    let keyboard = Keyboard { input, escape: Escape::default(), control };
    Ok(Console { input: Some(Box::new(keyboard)), output: Box::new(output) })
}
