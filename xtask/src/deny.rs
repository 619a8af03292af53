// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! `cargo xtask deny`: what comes in with the dependencies, by cargo-deny and `deny.toml`.

use std::process::Command;

use anyhow::Result;

use crate::workspace::Workspace;
use crate::{process, tools};

/// Checks all, or only what is named; the exit status. The advisories are fetched from the network.
pub(crate) fn main(workspace: &Workspace, only: &[String]) -> Result<i32> {
    let deny = tools::ensure(workspace, "cargo-deny", &["cargo-deny"])?;
    let passed = process::succeeds(Command::new(deny).arg("check").args(only).current_dir(workspace.root()))?;
    Ok(i32::from(!passed))
}
