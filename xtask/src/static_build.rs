// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Builds what runs in a guest or in the testbed: release, and without any need of libraries.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::process;
use crate::workspace::Workspace;

/// A target is named even though it is the host's: only then do flags spare build scripts and procedural macros.
const TARGET: &str = "x86_64-unknown-linux-gnu";

/// Runs `cargo build` or another command that builds, and gives the executable with the name.
pub(crate) fn executable(workspace: &Workspace, command: &[&str], name: &str) -> Result<PathBuf> {
    let mut cargo = process::cargo();
    cargo.args(command).args(["--release", "--target", TARGET, "--message-format", "json-render-diagnostics"]);
    cargo.current_dir(workspace.root()).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::inherit());
    set_flags(&mut cargo);
    let output = cargo.output().with_context(|| format!("can't run `{}`", process::shown(&cargo)))?;
    if !output.status.success() {
        bail!("the build failed: `{}`", process::shown(&cargo));
    }
    find_executable(&String::from_utf8_lossy(&output.stdout), name)
        .with_context(|| format!("`{}` built nothing executable by the name {name}", process::shown(&cargo)))
}

/// Adds our flags to those of the person's own environment. Cargo reads only the first of these variables that is set.
fn set_flags(cargo: &mut Command) {
    let mut flags = vec!["-Ctarget-feature=+crt-static"];
    if process::find("mold").is_some() {
        flags.push("-Clink-arg=-fuse-ld=mold");
    }
    let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    if let Some(encoded) = variable("CARGO_ENCODED_RUSTFLAGS") {
        cargo.env("CARGO_ENCODED_RUSTFLAGS", format!("{encoded}\x1f{}", flags.join("\x1f")));
    } else if let Some(plain) = variable("RUSTFLAGS") {
        cargo.env("RUSTFLAGS", format!("{plain} {}", flags.join(" ")));
    } else {
        const OF_TARGET: &str = "CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUSTFLAGS";
        let own = variable(OF_TARGET).unwrap_or_default();
        cargo.env(OF_TARGET, format!("{own} {}", flags.join(" ")).trim_start());
    }
}

/// The path of an executable in cargo's messages, one JSON object a line.
fn find_executable(messages: &str, name: &str) -> Option<PathBuf> {
    let artifacts = messages.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    artifacts
        .filter(|message| message["target"]["name"] == name)
        .filter_map(|message| message["executable"].as_str().map(PathBuf::from))
        .next_back()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_executable_is_found_among_the_messages() {
        let messages = concat!(
            "{\"reason\":\"compiler-artifact\",\"target\":{\"name\":\"vmm\"},\"executable\":null}\n",
            "not json\n",
            "{\"reason\":\"compiler-artifact\",\"target\":{\"name\":\"vmm\"},\"executable\":\"/t/vmm\"}\n",
            "{\"reason\":\"compiler-artifact\",\"target\":{\"name\":\"other\"},\"executable\":\"/t/other\"}\n",
            "{\"reason\":\"build-finished\",\"success\":true}\n",
        );
        assert_eq!(find_executable(messages, "vmm"), Some(PathBuf::from("/t/vmm")));
        assert_eq!(find_executable(messages, "absent"), None);
    }
}
