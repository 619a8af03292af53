// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Runs a command so that its output is both shown and read.

use std::io::{Read, Write};
use std::process::{Command, ExitStatus, Stdio};

use anyhow::{Context, Result};

use crate::process;

/// Shows the standard output as it comes; how the command ended, and what it printed.
pub(crate) fn output(command: &mut Command) -> Result<(ExitStatus, String)> {
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    let mut child = command.spawn().with_context(|| format!("can't run `{}`", process::shown(command)))?;
    let printed = child.stdout.take().map(|pipe| copy(pipe, std::io::stdout())).transpose()?;
    Ok((child.wait()?, printed.unwrap_or_default()))
}

/// The same with the standard error.
pub(crate) fn errors(command: &mut Command) -> Result<(ExitStatus, String)> {
    command.stdin(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().with_context(|| format!("can't run `{}`", process::shown(command)))?;
    let printed = child.stderr.take().map(|pipe| copy(pipe, std::io::stderr())).transpose()?;
    Ok((child.wait()?, printed.unwrap_or_default()))
}

fn copy(mut from: impl Read, mut to: impl Write) -> Result<String> {
    let mut all = Vec::new();
    let mut buffer = vec![0; 16 << 10];
    loop {
        match from.read(&mut buffer)? {
            0 => return Ok(String::from_utf8_lossy(&all).into_owned()),
            length => {
                to.write_all(&buffer[..length])?;
                to.flush()?;
                all.extend_from_slice(&buffer[..length]);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_printed_comes_back_with_the_status() {
        let (status, printed) = output(Command::new("sh").args(["-c", "echo shown and read; exit 3"])).unwrap();
        assert_eq!((status.code(), printed.as_str()), (Some(3), "shown and read\n"));
        let (status, printed) = errors(Command::new("sh").args(["-c", "echo shown and read >&2"])).unwrap();
        assert_eq!((status.code(), printed.as_str()), (Some(0), "shown and read\n"));
    }
}
