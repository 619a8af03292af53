// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! How a test says that it can't be run here: `cargo xtask test` counts what is in the file that `VMM_SKIP_LOG` names.

use std::fs::OpenOptions;
use std::io::Write;
use std::thread;

/// Says so, and why.
pub(crate) fn skip(why: &str) {
    let line = format!("skipped: {}: {why}\n", thread::current().name().unwrap_or("a test"));
    eprint!("{line}");
    if let Some(path) = std::env::var_os("VMM_SKIP_LOG") {
        OpenOptions::new().append(true).create(true).open(path).unwrap().write_all(line.as_bytes()).unwrap();
    }
}

/// Whether `/dev/kvm` can't be opened, which is said.
pub(crate) fn without_kvm() -> bool {
    let open = OpenOptions::new().read(true).write(true).open("/dev/kvm");
    open.inspect_err(|error| skip(&format!("/dev/kvm can't be opened: {error}"))).is_err()
}
