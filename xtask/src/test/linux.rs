// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The tests that boot Linux: one static test program, run where there is a KVM that can.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};

use super::counts::Counts;
use super::run_libtest;
use crate::guest::{self, Guest};
use crate::progress::note;
use crate::testbed::{self, Request, Stream};
use crate::workspace::Workspace;
use crate::{host, pass_on, static_build};

/// More than any run has taken, less than anyone wants to wait.
const TIMEOUT: Duration = Duration::from_secs(30 * 60);
/// The testbed's memory in MiB. A guest's own is only taken as far as it is touched.
const MEMORY: u64 = 6144;

/// Builds the test program and runs it to its end.
pub(crate) fn run(workspace: &Workspace, threads: u32, filter: Option<&str>) -> Result<Counts> {
    let tests =
        static_build::executable(workspace, &["test", "--no-run", "--package", "vmm", "--test", "linux"], "linux")?;
    let vmm = static_build::executable(workspace, &["build", "--package", "vmm", "--bin", "vmm"], "vmm")?;
    let guest = guest::ensure(workspace)?;
    let threads = format!("--test-threads={threads}");
    if host::runs_unmodified_kernels(&vmm) {
        return on_this_host(workspace, &tests, &vmm, &guest, &threads, filter);
    }
    note("this machine's KVM doesn't run unmodified kernels: the Linux tests run in the testbed");
    emulated(workspace, &tests, &threads, filter)
}

fn on_this_host(
    workspace: &Workspace,
    tests: &Path,
    vmm: &Path,
    guest: &Guest,
    threads: &str,
    filter: Option<&str>,
) -> Result<Counts> {
    let skips = workspace.target("skipped-linux-tests");
    fs::write(&skips, "").with_context(|| format!("can't write {}", skips.display()))?;
    let mut command = Command::new(tests);
    command.arg(threads).args(filter).env("VMM_BIN", vmm).env("VMM_SKIP_LOG", &skips);
    command.env("VMM_GUEST_DIR", guest.vmlinux.parent().unwrap_or(Path::new(".")));
    let counts = run_libtest(&mut command)?;
    Ok(count_skips(counts, &skips))
}

fn emulated(workspace: &Workspace, tests: &Path, threads: &str, filter: Option<&str>) -> Result<Counts> {
    let share = tempfile::tempdir()?;
    fs::copy(tests, share.path().join("linux")).with_context(|| format!("can't copy {}", tests.display()))?;
    let out = workspace.target("linux-tests");
    let _ = fs::remove_dir_all(&out);
    let mut command = vec!["/share/linux".to_owned(), threads.to_owned()];
    command.extend(filter.map(str::to_owned));
    let request = Request {
        memory: MEMORY,
        share: Some(share.path().to_owned()),
        out: Some(out.clone()),
        timeout: Some(TIMEOUT),
        environment: vec!["VMM_SKIP_LOG=/out/skipped".to_owned(), "RUST_BACKTRACE=1".to_owned()],
        ..Request::new(command)
    };
    let mut printed = Vec::new();
    let status = testbed::run(workspace, &request, &mut |stream, bytes| {
        if stream == Stream::Output {
            printed.extend_from_slice(bytes);
        }
        pass_on(stream, bytes)
    })?;
    let counts = Counts::of_libtest(&String::from_utf8_lossy(&printed)).fail_unless(status == 0);
    Ok(count_skips(counts, &out.join("skipped")))
}

fn count_skips(counts: Counts, log: &Path) -> Counts {
    let skipped = fs::read_to_string(log).unwrap_or_default();
    print!("{skipped}");
    counts.reclassify_skipped(skipped.lines().count() as u64)
}
