// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The unit tests and micro-guests, each in a process of its own.

use std::fs;
use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};

use super::counts::Counts;
use super::tee;
use crate::packages::{self, QEMU_IMG};
use crate::workspace::Workspace;
use crate::{process, tools};

/// Runs all tests of the workspace but those that need Linux guests.
pub(crate) fn run(workspace: &Workspace, filter: Option<&str>) -> Result<Counts> {
    packages::ensure(&[QEMU_IMG])?;
    let nextest = tools::ensure(workspace, "cargo-nextest", &["cargo-nextest"])?;
    // A test that has nothing to do on this machine writes a line into this file.
    let skips = skip_log(workspace)?;
    let mut command = Command::new(nextest);
    command.args(["nextest", "run", "--workspace"]).current_dir(workspace.root());
    if std::env::var_os("CI").is_some() {
        command.args(["--profile", "ci"]);
    }
    if std::io::stderr().is_terminal() {
        command.args(["--color", "always"]);
    }
    command.args(filter).env("VMM_SKIP_LOG", &skips);
    let (status, printed) = tee::errors(&mut command).with_context(|| process::shown(&command))?;
    let skipped = fs::read_to_string(&skips).unwrap_or_default();
    print!("{skipped}");
    let counts = Counts::of_nextest(&printed, filter.is_some()).fail_unless(status.success());
    Ok(counts.reclassify_skipped(skipped.lines().count() as u64))
}

/// An empty file for the names of tests that were skipped.
fn skip_log(workspace: &Workspace) -> Result<PathBuf> {
    let path = workspace.target("skipped-tests");
    fs::write(&path, "").with_context(|| format!("can't write {}", path.display()))?;
    Ok(path)
}
