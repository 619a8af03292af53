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
use crate::testbed::{self, Died, Request, Stream};
use crate::workspace::Workspace;
use crate::{host, pass_on, static_build};

/// More than any run has taken, less than anyone wants to wait.
const TIMEOUT: Duration = Duration::from_secs(30 * 60);
/// The testbed's memory in MiB. A guest's own is only taken as far as it is touched.
const MEMORY: u64 = 6144;

/// The programs: Linux guests, and the micro-guests, which ran on this host's KVM already, whatever is behind it.
const PROGRAMS: [&str; 2] = ["micro_guest", "linux"];

/// Builds the test programs and runs them to their ends.
pub(crate) fn run(workspace: &Workspace, threads: u32, filter: Option<&str>) -> Result<Counts> {
    let build =
        |name| static_build::executable(workspace, &["test", "--no-run", "--package", "vmm", "--test", name], name);
    let vmm = static_build::executable(workspace, &["build", "--package", "vmm", "--bin", "vmm"], "vmm")?;
    let guest = guest::ensure(workspace)?;
    let threads = format!("--test-threads={threads}");
    if host::runs_unmodified_kernels(&vmm) {
        return on_this_host(workspace, &build("linux")?, &vmm, &guest, &threads, filter);
    }
    note("this machine's KVM doesn't run unmodified kernels: the Linux tests run in the testbed");
    let mut counts = Counts::default();
    for name in PROGRAMS {
        counts += emulated(workspace, name, &build(name)?, &threads, filter)?;
    }
    Ok(counts)
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

/// How often the emulated host is started: each time for the tests that have not come to an end yet.
const ATTEMPTS: u32 = 6;

fn emulated(workspace: &Workspace, name: &str, tests: &Path, threads: &str, filter: Option<&str>) -> Result<Counts> {
    let share = tempfile::tempdir()?;
    fs::copy(tests, share.path().join(name)).with_context(|| format!("can't copy {}", tests.display()))?;
    let mut ended = Ended::default();
    for attempt in 1.. {
        let out = workspace.target("linux-tests").join(name).join(attempt.to_string());
        let _ = fs::remove_dir_all(&out);
        let mut command = vec![format!("/share/{name}"), threads.to_owned()];
        match filter {
            Some(filter) => command.push(filter.to_owned()),
            // Whole names, so that no test is skipped for another one's sake.
            None if !ended.names.is_empty() => command.push("--exact".to_owned()),
            None => (),
        }
        command.extend(ended.names.iter().flat_map(|name| ["--skip".to_owned(), name.clone()]));
        let request = Request {
            memory: MEMORY,
            share: Some(share.path().to_owned()),
            out: Some(out.clone()),
            timeout: Some(TIMEOUT),
            environment: vec!["VMM_SKIP_LOG=/out/skipped".to_owned(), "RUST_BACKTRACE=1".to_owned()],
            attempts: 1,
            ..Request::new(command)
        };
        let mut printed = Vec::new();
        let status = testbed::run(workspace, &request, &mut |stream, bytes| {
            if stream == Stream::Output {
                printed.extend_from_slice(bytes);
            }
            pass_on(stream, bytes)
        });
        let printed = String::from_utf8_lossy(&printed);
        match status {
            Ok(status) => {
                ended.counts +=
                    count_skips(Counts::of_libtest(&printed).fail_unless(status == 0), &out.join("skipped"));
                return Ok(ended.counts);
            }
            Err(error) if error.is::<Died>() && attempt < ATTEMPTS => {
                ended.add(&printed);
                ended.counts = count_skips(ended.counts, &out.join("skipped"));
                let done = ended.names.len();
                note(format!("{error}: started again for the tests that are left; {done} have ended so far"));
            }
            Err(error) => return Err(error),
        }
    }
    Ok(ended.counts)
}

fn count_skips(counts: Counts, log: &Path) -> Counts {
    let skipped = fs::read_to_string(log).unwrap_or_default();
    print!("{skipped}");
    counts.reclassify_skipped(skipped.lines().count() as u64)
}

/// What came to an end before the emulated host did.
#[derive(Debug, Default)]
struct Ended {
    names: Vec<String>,
    counts: Counts,
}

impl Ended {
    /// Reads libtest's lines `test NAME ... ok`; a test that was cut off has no such line.
    fn add(&mut self, printed: &str) {
        for line in printed.lines() {
            let Some((name, how)) = line.strip_prefix("test ").and_then(|rest| rest.split_once(" ... ")) else {
                continue;
            };
            match how {
                "ok" => self.counts.passed += 1,
                "FAILED" => self.counts.failed += 1,
                _ => continue,
            }
            self.names.push(name.to_owned());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tests_that_have_ended_are_told_from_the_one_that_was_cut_off() {
        let mut ended = Ended::default();
        ended
            .add("running 4 tests\ntest a::b ... ok\ntest a::c ... FAILED\ntest many has been running\ntest a::d ... ");
        assert_eq!(ended.names, ["a::b", "a::c"]);
        assert_eq!((ended.counts.passed, ended.counts.failed), (1, 1));
    }
}
