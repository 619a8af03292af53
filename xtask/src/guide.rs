// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! `cargo xtask guide`: builds the book in `Guide/` and checks its links.

use std::process::Command;

use anyhow::{Result, bail};

use crate::house::{self, source};
use crate::progress::note;
use crate::workspace::Workspace;
use crate::{process, tools};

/// Builds the book into `target/guide/`, where `index.html` begins it.
pub(crate) fn main(workspace: &Workspace, open_links_only: bool) -> Result<i32> {
    let findings = house::links::check(&source::all(workspace)?);
    findings.iter().for_each(|finding| println!("{finding}"));
    if !findings.is_empty() {
        bail!("{} of the links in *.md lead nowhere", findings.len());
    }
    note("every link in *.md leads somewhere");
    if open_links_only {
        return Ok(0);
    }
    let mdbook = tools::ensure(workspace, "mdbook", &["mdbook", "--no-default-features"])?;
    let to = workspace.target("guide");
    let mut command = Command::new(mdbook);
    command.arg("build").arg(workspace.root().join("Guide")).arg("--dest-dir").arg(&to);
    process::output(&mut command)?;
    note(format!("the guide is built: {}", workspace.short(&to.join("index.html"))));
    Ok(0)
}
