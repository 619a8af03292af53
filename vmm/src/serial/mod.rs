// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The host side of the serial port.

mod input;
mod output;
mod place;

pub(crate) use input::SerialInput;
pub(crate) use place::{Leftovers, Place, create};
use std::fmt;
use std::fmt::Debug;

/// Something that input comes from, and something that output goes to.
pub use devices::virtio::console::{PortInput as ConsoleInput, PortOutput as ConsoleOutput};

/// A console of the embedder's, in place of standard input and output or what the configuration says of the serial port.
pub struct Console {
    /// Where the guest's input comes from. Zero bytes mean that there is no more; [`std::io::ErrorKind::WouldBlock`]
    /// that there is nothing now.
    pub input: Option<Box<dyn ConsoleInput>>,
    /// Where the guest's output goes: a descriptor that can be polled. A port of the virtio console wants one that doesn't
    /// block.
    pub output: Box<dyn ConsoleOutput>,
}

impl Debug for Console {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Console").finish_non_exhaustive()
    }
}
