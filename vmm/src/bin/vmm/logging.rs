// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Log lines: to standard error or a file, never to standard output, which is the guest's.

use std::fs::OpenOptions;
use std::io;
use std::path::Path;
use std::sync::Mutex;

use tracing::Level;
use tracing_subscriber::fmt::time::SystemTime;

/// Starts logging.
pub(crate) fn start(level: Level, file: Option<&Path>) -> io::Result<()> {
    let builder =
        tracing_subscriber::fmt().with_max_level(level).with_timer(SystemTime).with_target(false).with_ansi(false);
    match file {
        Some(path) => {
            let file = OpenOptions::new().append(true).create(true).open(path)?;
            builder.with_writer(Mutex::new(file)).init();
        }
        None => builder.with_writer(io::stderr).init(),
    }
    Ok(())
}
