// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Standard input and output as a port has them: output says when it would have to wait.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};

use crate::serial::{ConsoleInput, ConsoleOutput};

/// The same file, which says [`io::ErrorKind::WouldBlock`] rather than wait. A terminal or a pipe is opened once more: whoever
/// else has it isn't to find it changed. What can't be opened so is given as it is.
///
/// # Errors
///
/// When the host has no more descriptors.
pub fn output_that_never_waits(fd: BorrowedFd<'_>) -> io::Result<File> {
    let file = File::from(fd.try_clone_to_owned()?);
    let kind = file.metadata()?.file_type();
    if !kind.is_char_device() && !kind.is_fifo() {
        return Ok(file);
    }
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    let again = OpenOptions::new().write(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY).open(path);
    Ok(again.unwrap_or_else(|error| {
        tracing::debug!("standard output can't be opened again: {error}");
        file
    }))
}

/// Where input comes from, and where output goes.
type Streams = (Option<Box<dyn ConsoleInput>>, Box<dyn ConsoleOutput>);

pub(super) fn stdio() -> io::Result<Streams> {
    let input = File::from(io::stdin().as_fd().try_clone_to_owned()?);
    let output = output_that_never_waits(io::stdout().as_fd())?;
    Ok((Some(Box::new(input)), Box::new(output)))
}
