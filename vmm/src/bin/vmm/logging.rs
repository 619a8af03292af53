// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Log lines: to standard error or a file, never to standard output, which is the guest's.

use std::fs::OpenOptions;
use std::io::{self, IsTerminal};
use std::path::Path;
use std::sync::Mutex;

use tracing::Level;
use tracing_subscriber::fmt::time::SystemTime;

/// Starts logging.
pub(crate) fn start(level: Level, file: Option<&Path>) -> io::Result<()> {
    let builder = tracing_subscriber::fmt().with_max_level(level).with_timer(SystemTime).with_target(false);
    match file {
        Some(path) => {
            let file = OpenOptions::new().append(true).create(true).open(path)?;
            builder.with_ansi(false).with_writer(Mutex::new(file)).init();
        }
        None => builder.with_ansi(io::stderr().is_terminal()).with_writer(io::stderr).init(),
    }
    Ok(())
}
