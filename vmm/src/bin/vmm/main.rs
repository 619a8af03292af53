// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The command line: from `argv` to a configuration, from a VM's end to an exit status.

mod cli;
mod console;
mod doctor;
mod escape;
mod logging;
mod run;
mod signals;
mod terminal;

use std::process::ExitCode;

use clap::Parser;

/// The exit status for what a user can mend: usage, configuration, files, the host.
const STATUS_USAGE: u8 = 2;

fn main() -> ExitCode {
    keep_one_heap();
    let arguments = match cli::Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => return cli::usage(&error),
    };
    match arguments.command {
        cli::Command::Run(arguments) => run::run(*arguments),
        cli::Command::Console(arguments) => console::attach(&arguments),
        cli::Command::Doctor(arguments) => doctor::doctor(&arguments),
    }
}

/// Has glibc give all threads one heap. Nothing that a guest waits for allocates, and a heap for every thread costs address
/// space, pages and time when the VM starts.
#[cfg(target_env = "gnu")]
#[expect(unsafe_code, reason = "mallopt is C")]
fn keep_one_heap() {
    // SAFETY: sets a number inside of the allocator, which nobody else uses yet: there is one thread.
    unsafe { libc::mallopt(libc::M_ARENA_MAX, 1) };
}

#[cfg(not(target_env = "gnu"))]
fn keep_one_heap() {}

/// Prints an error in one line: what went wrong, and behind a colon each, what caused it.
fn print_error(error: &dyn std::error::Error) {
    let mut line = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let text = error.to_string();
        // Some errors repeat their cause in their own text.
        if !line.ends_with(&text) {
            line.push_str(": ");
            line.push_str(&text);
        }
        cause = error.source();
    }
    eprintln!("vmm: error: {line}");
}
