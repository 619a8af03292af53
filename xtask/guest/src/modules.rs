// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Loads the kernel modules that a list names, in the order of the list.

use std::fs::File;
use std::io::{Error, ErrorKind};

use crate::sys;

/// Loads every module of the list file: one absolute path a line. A driver for hardware that isn't there is no error,
/// nor is a module that is in the kernel already; anything else is said and passed over, because the boot may well do
/// without it.
pub(crate) fn load(list: &str) -> Result<(), String> {
    let paths =
        std::fs::read_to_string(list).map_err(|error| format!("can't read the list of modules {list}: {error}"))?;
    for path in paths.lines().filter(|line| !line.is_empty()) {
        let outcome = File::open(path).and_then(|file| sys::load_module(&file));
        if let Err(error) = outcome
            && !is_harmless(&error)
        {
            crate::complain(format_args!("can't load {path}: {error}"));
        }
    }
    Ok(())
}

fn is_harmless(error: &Error) -> bool {
    error.kind() == ErrorKind::AlreadyExists || error.raw_os_error() == Some(libc::ENODEV)
}
