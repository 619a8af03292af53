// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! `cargo xtask fmt`: everything about the sources that a machine can judge.

use std::process::Command;

use anyhow::Result;

use crate::progress::note;
use crate::workspace::Workspace;
use crate::{house, process};

/// Runs all checks, even where one of them fails; the exit status. `fix` mends what can be mended first.
pub(crate) fn main(workspace: &Workspace, fix: bool) -> Result<i32> {
    let mut failed = Vec::new();
    let mut check = |name: &'static str, passed: bool| {
        note(format!("{name}: {}", if passed { "ok" } else { "FAILED" }));
        if !passed {
            failed.push(name);
        }
    };
    check("rustfmt", rustfmt(workspace, fix)?);
    if fix {
        clippy_fix(workspace)?;
    }
    check("clippy", clippy(workspace)?);
    check("house rules", house_rules(workspace)?);
    check("rustdoc", rustdoc(workspace)?);
    if failed.is_empty() {
        println!("all is well: rustfmt, clippy, house rules, rustdoc");
        return Ok(0);
    }
    println!("failed: {}{}", failed.join(", "), if fix { "" } else { " (cargo xtask fmt --fix mends some of it)" });
    Ok(1)
}

fn cargo(workspace: &Workspace, arguments: &[&str]) -> Command {
    let mut cargo = process::cargo();
    cargo.args(arguments).current_dir(workspace.root());
    cargo
}

fn rustfmt(workspace: &Workspace, fix: bool) -> Result<bool> {
    let arguments: &[&str] = if fix { &["fmt", "--all"] } else { &["fmt", "--all", "--check"] };
    process::succeeds(&mut cargo(workspace, arguments))
}

/// All that is built, and the one test that isn't built unless it is named, and alone.
const CLIPPY: [&[&str]; 2] = [
    &["clippy", "--quiet", "--workspace", "--all-targets"],
    &["clippy", "--quiet", "--package", "vmm", "--test", "linux"],
];

fn clippy_fix(workspace: &Workspace) -> Result<()> {
    for part in CLIPPY {
        let arguments = [part, &["--fix", "--allow-dirty", "--allow-staged"]].concat();
        process::succeeds(&mut cargo(workspace, &arguments))?;
    }
    Ok(())
}

fn clippy(workspace: &Workspace) -> Result<bool> {
    let mut passed = true;
    for part in CLIPPY {
        let arguments = [part, &["--", "--deny", "warnings"]].concat();
        passed &= process::succeeds(&mut cargo(workspace, &arguments))?;
    }
    Ok(passed)
}

fn rustdoc(workspace: &Workspace) -> Result<bool> {
    let arguments = ["doc", "--quiet", "--workspace", "--no-deps"];
    process::succeeds(cargo(workspace, &arguments).env("RUSTDOCFLAGS", "--deny warnings"))
}

fn house_rules(workspace: &Workspace) -> Result<bool> {
    let findings = house::check(workspace)?;
    findings.iter().for_each(|finding| println!("{finding}"));
    Ok(findings.is_empty())
}
