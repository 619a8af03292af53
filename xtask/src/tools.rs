// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Cargo tools that the chores need: taken from the path, or installed into `target/tools/`.

use std::path::PathBuf;

use anyhow::{Result, bail};

use crate::process;
use crate::progress::note;
use crate::workspace::Workspace;

/// The path of the program, after `cargo install --locked` with the arguments where it is missing.
pub(crate) fn ensure(workspace: &Workspace, program: &str, install: &[&str]) -> Result<PathBuf> {
    let folder = workspace.target("tools");
    let own = folder.join("bin").join(program);
    if let Some(path) = process::find(program).or_else(|| own.is_file().then(|| own.clone())) {
        return Ok(path);
    }
    let mut cargo = process::cargo();
    cargo.args(["install", "--locked", "--root"]).arg(&folder).args(install);
    note(format!("{program} is missing: installing it into {}, which takes minutes", workspace.short(&folder)));
    if !process::succeeds(&mut cargo)? {
        bail!("can't install {program}: `{}` failed", process::shown(&cargo));
    }
    Ok(own)
}
