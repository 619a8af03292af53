// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! How a test says that it can't be run here: `cargo xtask test` counts what is in the file that `VMM_SKIP_LOG` names.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::thread;

use tempfile::TempDir;

/// Says so, and why.
pub(crate) fn skip(why: &str) {
    let line = format!("skipped: {}: {why}\n", thread::current().name().unwrap_or("a test"));
    eprint!("{line}");
    if let Some(path) = std::env::var_os("VMM_SKIP_LOG") {
        OpenOptions::new().append(true).create(true).open(path).unwrap().write_all(line.as_bytes()).unwrap();
    }
}

/// A folder beside this program, which is less often in memory than that for temporary files.
pub(crate) fn folder_on_disk() -> TempDir {
    let program = std::env::current_exe().unwrap();
    tempfile::tempdir_in(program.parent().unwrap()).or_else(|_| tempfile::tempdir()).unwrap()
}

/// Opens a file for direct I/O, or says that its file system has none.
pub(crate) fn open_direct(path: &Path) -> Option<File> {
    let opened = OpenOptions::new().read(true).write(true).custom_flags(libc::O_DIRECT).open(path);
    opened.inspect_err(|error| skip(&format!("{} can't be opened for direct I/O: {error}", path.display()))).ok()
}
