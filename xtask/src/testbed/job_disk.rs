// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The disk that carries a command and its files into the testbed, and brings back what it wrote.
//!
//! | on the disk | is |
//! |---|---|
//! | `argv`, `env` | the command and its environment; each entry ends in NUL |
//! | `terminal` | rows and columns, where the command gets a terminal |
//! | `bin/vmm` | the program under test |
//! | `share/`, `out/` | `/share` and `/out` |

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::{Request, terminal};
use crate::guest;
use crate::process;
use crate::workspace::Workspace;

/// Sparse; it bounds what a command can write.
const SIZE: &str = "16G";

/// A disk in a folder of its own, which goes when this is dropped.
#[derive(Debug)]
pub(crate) struct JobDisk {
    folder: tempfile::TempDir,
}

impl JobDisk {
    /// Makes the disk for a request.
    pub(crate) fn make(workspace: &Workspace, request: &Request, vmm: &Path) -> Result<Self> {
        let runs = workspace.target("testbed/runs");
        fs::create_dir_all(&runs).with_context(|| format!("can't make {}", runs.display()))?;
        sweep(&runs);
        let folder = tempfile::Builder::new().prefix(&format!("{}-", std::process::id())).tempdir_in(&runs)?;
        let disk = Self { folder };
        let staging = disk.folder.path().join("staging");
        fill(&staging, request, vmm)?;
        let options = ["-O", "^has_journal", "-i", "65536", "-E", "lazy_itable_init=0"];
        guest::make_ext4(&staging, &disk.image(), SIZE, &options)?;
        fs::remove_dir_all(&staging)?;
        Ok(disk)
    }

    /// The disk image.
    pub(crate) fn image(&self) -> PathBuf {
        self.folder.path().join("job.ext4")
    }

    /// Where the testbed's kernel log goes.
    pub(crate) fn console_log(&self) -> PathBuf {
        self.folder.path().join("console.log")
    }

    /// Where QEMU's own complaints go.
    pub(crate) fn qemu_log(&self) -> PathBuf {
        self.folder.path().join("qemu.log")
    }

    /// Copies what is in `/out` to a folder.
    pub(crate) fn bring_back(&self, to: &Path) -> Result<()> {
        let copied = self.folder.path().join("copied");
        fs::create_dir_all(&copied)?;
        let debugfs = process::find("debugfs").context("debugfs is gone")?;
        process::output(
            Command::new(debugfs).args(["-R", "rdump /out copied", "job.ext4"]).current_dir(self.folder.path()),
        )?;
        let content = copied.join("out/.");
        process::output(
            Command::new("cp")
                .args(["--recursive", "--preserve=mode,timestamps,links", "--no-target-directory"])
                .arg(content)
                .arg(to),
        )
        .with_context(|| format!("can't bring the files of /out to {}", to.display()))?;
        Ok(())
    }
}

fn fill(staging: &Path, request: &Request, vmm: &Path) -> Result<()> {
    for folder in ["share", "out", "bin"] {
        fs::create_dir_all(staging.join(folder))?;
    }
    fs::write(staging.join("argv"), nul_terminated(&request.command))?;
    let mut environment = vec!["VMM_BIN=/usr/local/bin/vmm".to_owned(), "VMM_GUEST_DIR=/guest".to_owned()];
    environment.extend_from_slice(&request.environment);
    fs::write(staging.join("env"), nul_terminated(&environment))?;
    if request.interactive {
        let (rows, columns) = terminal::size();
        fs::write(staging.join("terminal"), format!("{rows} {columns}\n"))?;
    }
    fs::copy(vmm, staging.join("bin/vmm")).with_context(|| format!("can't copy {}", vmm.display()))?;
    if let Some(share) = &request.share {
        process::output(
            Command::new("cp")
                .args(["--archive", "--no-target-directory"])
                .arg(share.join("."))
                .arg(staging.join("share")),
        )
        .with_context(|| format!("can't copy --share {}", share.display()))?;
    }
    Ok(())
}

fn nul_terminated(entries: &[String]) -> String {
    entries.iter().map(|entry| format!("{entry}\0")).collect()
}

/// Removes what runs left behind that were killed the hard way: folders begin with the number of their process.
fn sweep(runs: &Path) {
    for entry in fs::read_dir(runs).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let process = name.split('-').next().unwrap_or_default();
        if !Path::new("/proc").join(process).exists() {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_folders_of_processes_that_are_gone_are_swept() {
        let runs = tempfile::tempdir().unwrap();
        let own = runs.path().join(format!("{}-abc", std::process::id()));
        let gone = runs.path().join("4194999-abc");
        fs::create_dir_all(&own).unwrap();
        fs::create_dir_all(gone.join("inside")).unwrap();
        sweep(runs.path());
        assert!(own.exists() && !gone.exists());
    }

    #[test]
    fn entries_end_in_nul_so_that_empty_ones_count() {
        assert_eq!(nul_terminated(&["a b".to_owned(), String::new()]), "a b\0\0");
    }
}
