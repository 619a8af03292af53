// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! `cargo xtask test`: all tests, and the counts.

mod counts;
mod linux;
mod nextest;
mod tee;

use std::process::Command;
use std::time::Instant;

use anyhow::Result;

use crate::process;
use crate::progress::note;
use crate::workspace::Workspace;
use counts::Counts;

/// A part of the tests that can be run by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Stage {
    /// Unit tests and micro-guests, with nextest
    Units,
    /// Linux guests, on this host's KVM or in the testbed
    Linux,
    /// The examples in the documentation
    Doc,
}

/// What is asked for.
pub(crate) struct Wish {
    /// Only this part.
    pub(crate) only: Option<Stage>,
    /// How many Linux tests run at the same time.
    pub(crate) linux_threads: u32,
    /// Only tests with this in their names.
    pub(crate) filter: Option<String>,
}

/// Runs the stages one after the other, even where one of them fails; the exit status.
pub(crate) fn main(workspace: &Workspace, wish: &Wish) -> Result<i32> {
    let mut all = Counts::default();
    let mut lines = Vec::new();
    for stage in [Stage::Units, Stage::Linux, Stage::Doc] {
        if wish.only.is_some_and(|only| only != stage) {
            continue;
        }
        let started = Instant::now();
        let outcome = match stage {
            Stage::Units => nextest::run(workspace, wish.filter.as_deref()),
            Stage::Linux => linux::run(workspace, wish.linux_threads, wish.filter.as_deref()),
            Stage::Doc => doc(workspace, wish.filter.as_deref()),
        };
        let name = format!("{stage:?}").to_lowercase();
        let counts = outcome.unwrap_or_else(|error| {
            note(format!("error: {name}: {error:#}"));
            // Tests that didn't run must not look like tests that passed.
            Counts { failed: 1, ..Counts::default() }
        });
        lines.push(format!("{name:>6}: {counts} ({:.0} s)", started.elapsed().as_secs_f64()));
        all += counts;
    }
    println!();
    for line in lines {
        println!("{line}");
    }
    println!("{all}");
    Ok(i32::from(all.failed > 0))
}

fn doc(workspace: &Workspace, filter: Option<&str>) -> Result<Counts> {
    let mut cargo = process::cargo();
    cargo.args(["test", "--doc", "--workspace"]).args(filter).current_dir(workspace.root());
    run_libtest(&mut cargo)
}

/// Runs a command that prints libtest's summaries on its standard output.
fn run_libtest(command: &mut Command) -> Result<Counts> {
    let (status, printed) = tee::output(command)?;
    Ok(Counts::of_libtest(&printed).fail_unless(status.success()))
}
