// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The person's terminal: raw while a command in the testbed has it, and back as it was on every way out.

use std::os::fd::AsFd;

use rustix::termios::{self, OptionalActions, Termios};

/// Rows and columns; those of old where there is no terminal to ask.
pub(crate) fn size() -> (u16, u16) {
    match termios::tcgetwinsize(rustix::stdio::stdout()) {
        Ok(size) if size.ws_row > 0 && size.ws_col > 0 => (size.ws_row, size.ws_col),
        _ => (24, 80),
    }
}

/// Keeps standard input raw until it is dropped. Does nothing where that isn't a terminal.
pub(crate) struct Raw {
    before: Option<Termios>,
}

impl Raw {
    /// Makes standard input raw.
    pub(crate) fn enter() -> Self {
        let stdin = rustix::stdio::stdin();
        let before = termios::tcgetattr(stdin.as_fd()).ok();
        if let Some(before) = &before {
            let mut raw = before.clone();
            raw.make_raw();
            let _ = termios::tcsetattr(stdin, OptionalActions::Now, &raw);
        }
        Self { before }
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        if let Some(before) = &self.before {
            let _ = termios::tcsetattr(rustix::stdio::stdin(), OptionalActions::Now, before);
        }
    }
}
