// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The host side of the serial port.

mod input;
mod output;
mod place;

use std::fmt;
use std::fmt::Debug;
use std::io::{Read, Write};
use std::os::fd::AsRawFd;

pub(crate) use input::SerialInput;
pub(crate) use place::{Leftovers, Place};

/// Something that input comes from: read when its descriptor is readable.
pub trait ConsoleInput: Read + AsRawFd + Send {}

impl<T: Read + AsRawFd + Send> ConsoleInput for T {}

/// A console of the embedder's, in place of what the configuration says.
pub struct Console {
    /// Where the guest's input comes from. Zero bytes mean that there is no more; [`std::io::ErrorKind::WouldBlock`]
    /// that there is nothing now.
    pub input: Option<Box<dyn ConsoleInput>>,
    /// Where the guest's output goes: a descriptor that can be polled.
    pub output: Box<dyn ConsoleOutput>,
}

/// Something that output goes to: written when its descriptor is writable.
pub trait ConsoleOutput: Write + AsRawFd + Send {}

impl<T: Write + AsRawFd + Send> ConsoleOutput for T {}

impl Debug for Console {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Console").finish_non_exhaustive()
    }
}
