// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Debian packages that the chores need: installed by root, else named with the line to type.

use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::process;
use crate::progress::Step;

/// A program, and the package that brings it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tool {
    program: &'static str,
    package: &'static str,
}

/// Emulates the testbed.
pub(crate) const QEMU: Tool = Tool { program: "qemu-system-x86_64", package: "qemu-system-x86" };
/// Makes disk images, and checks them.
pub(crate) const QEMU_IMG: Tool = Tool { program: "qemu-img", package: "qemu-utils" };
/// Makes file systems in files.
pub(crate) const MKFS: Tool = Tool { program: "mkfs.ext4", package: "e2fsprogs" };
/// Reads file systems in files.
pub(crate) const DEBUGFS: Tool = Tool { program: "debugfs", package: "e2fsprogs" };
/// Takes the symbols out of programs.
pub(crate) const STRIP: Tool = Tool { program: "strip", package: "binutils" };
/// Networks that need no root.
pub(crate) const PASST: Tool = Tool { program: "passt", package: "passt" };
/// Makes interfaces.
pub(crate) const IP: Tool = Tool { program: "ip", package: "iproute2" };
/// The user land of guests and testbed. The package named plain `busybox` needs libraries that they don't have.
pub(crate) const BUSYBOX: Tool = Tool { program: "busybox", package: "busybox-static" };

/// Sees to it that the tools are there.
pub(crate) fn ensure(tools: &[Tool]) -> Result<()> {
    let mut packages: Vec<_> = tools.iter().filter(|tool| !tool.is_there()).map(|tool| tool.package).collect();
    packages.dedup();
    if packages.is_empty() {
        return Ok(());
    }
    let line = format!("apt-get install --no-install-recommends --yes {}", packages.join(" "));
    if process::find("apt-get").is_none() {
        bail!("these are missing, and this is no Debian machine that could install them: {}", packages.join(", "));
    }
    if !rustix::process::geteuid().is_root() {
        bail!("Debian packages are missing; install them with: sudo {line}");
    }
    let step = Step::start(format!("installing the Debian packages {}", packages.join(", ")));
    install(&packages).with_context(|| format!("can't install what is missing; try it by hand: {line}"))?;
    step.finish("");
    match tools.iter().find(|tool| !tool.is_there()) {
        None => Ok(()),
        Some(tool) => bail!("the package {} is installed, but {} is still not to be found", tool.package, tool.program),
    }
}

impl Tool {
    /// The program's name.
    pub(crate) fn program(&self) -> &'static str {
        self.program
    }

    fn is_there(&self) -> bool {
        let Some(path) = process::find(self.program) else {
            return false;
        };
        self.package != BUSYBOX.package || is_static(&path)
    }
}

/// Whether a program needs no loader: the two kinds of busybox differ in nothing else.
fn is_static(path: &std::path::Path) -> bool {
    // A program that is linked dynamically names its loader near its start.
    std::fs::read(path).is_ok_and(|bytes| {
        let start = bytes.get(..4096).unwrap_or(&bytes);
        bytes.starts_with(b"\x7fELF") && !start.windows(10).any(|window| window == b"/ld-linux-")
    })
}

fn install(packages: &[&str]) -> Result<()> {
    let attempt = || process::output(apt_get().args(["install", "--no-install-recommends", "--yes"]).args(packages));
    // On a fresh machine the lists are empty, on an old one they name versions that are gone.
    if attempt().is_err() {
        update()?;
        attempt()?;
    }
    Ok(())
}

/// Fetches the lists of packages anew. Root's work.
pub(crate) fn update() -> Result<()> {
    process::output(apt_get().arg("update")).map(drop)
}

/// An apt-get that asks no questions.
pub(crate) fn apt_get() -> Command {
    let mut command = Command::new("apt-get");
    // Root's downloads go to folders of this project, which apt's own user may not be able to enter.
    command.env("DEBIAN_FRONTEND", "noninteractive").args(["-q", "-o", "APT::Sandbox::User=root"]);
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_program_is_seen_as_missing() {
        assert!(!Tool { program: "no-such-program-here", package: "none" }.is_there());
        assert!(Tool { program: "sh", package: "dash" }.is_there());
    }

    #[test]
    fn a_program_with_a_loader_is_not_static() {
        assert!(!is_static(std::path::Path::new("/bin/sh")));
        assert!(!is_static(std::path::Path::new("/etc/passwd")));
    }
}
