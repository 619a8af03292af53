// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Log lines: to standard error or a file, never to standard output, which is the guest's.

use std::fs::OpenOptions;
use std::io;
use std::path::Path;
use std::sync::Mutex;

use tracing::{Level, Metadata};
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::fmt::time::SystemTime;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

/// Starts logging. Tells whether the file is a new one.
pub(crate) fn start(level: Level, file: Option<&Path>) -> io::Result<bool> {
    let new = file.is_some_and(|path| std::fs::symlink_metadata(path).is_err());
    let builder =
        tracing_subscriber::fmt().with_max_level(level).with_timer(SystemTime).with_target(false).with_ansi(false);
    match file {
        Some(path) => {
            let file = OpenOptions::new().append(true).create(true).open(path)?;
            builder.with_writer(Mutex::new(file)).finish().with(filter_fn(is_bounded)).init();
        }
        None => builder.with_writer(io::stderr).finish().with(filter_fn(is_bounded)).init(),
    }
    Ok(new)
}

/// Whether there is a bound on how many lines a guest can cause. The library for qcow2 has none, and warns of every cluster
/// of a damaged image that is written; what matters of it comes back as an error of the request.
fn is_bounded(metadata: &Metadata<'_>) -> bool {
    !metadata.target().starts_with("imago")
}

/// Nothing was started: a log file that was made for it goes again, unless there is something in it.
pub(crate) fn remove_if_empty(path: &Path) {
    if std::fs::metadata(path).is_ok_and(|metadata| metadata.len() == 0)
        && let Err(error) = std::fs::remove_file(path)
    {
        tracing::warn!("{} can't be removed: {error}", path.display());
    }
}
