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
use crate::packages::{self, IP, MKFS, PASST, QEMU_IMG};
use crate::progress::note;
use crate::testbed::{self, Died, Request, Stream};
use crate::workspace::Workspace;
use crate::{host, pass_on, static_build};

/// More than any run has taken, less than anyone wants to wait.
const TIMEOUT: Duration = Duration::from_secs(45 * 60);
/// The testbed's memory in MiB. A guest's own is only taken as far as it is touched.
const MEMORY: u64 = 6144;
/// The testbed's processors. With two of them, the emulated host stood still once in twenty guests; with one, it lived
/// through all that was tried. Two vCPUs run on one processor just as well, and micro-guests run on real ones before.
const CPUS: u32 = 1;

/// How many times the tests of networks and of sockets send what they send: whoever wants more than a glimpse sets it.
const ROUNDS: [&str; 2] = ["VMM_NET_ROUNDS", "VMM_VSOCK_ROUNDS"];

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
        // The tests check the images that their guests had, and make networks.
        packages::ensure(&[QEMU_IMG, MKFS, PASST, IP])?;
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
    command.env("VMM_NETLOAD", &guest.netload).env("VMM_AGENT", &guest.agent);
    command.env("VMM_GUEST_DIR", guest.vmlinux.parent().unwrap_or(Path::new(".")));
    let counts = run_libtest(&mut command)?;
    Ok(count_skips(counts, &skips))
}

/// How often the emulated host is started: each time for the tests that have not come to an end yet.
const ATTEMPTS: u32 = 16;

fn emulated(workspace: &Workspace, name: &str, tests: &Path, threads: &str, filter: Option<&str>) -> Result<Counts> {
    let share = tempfile::tempdir()?;
    fs::copy(tests, share.path().join(name)).with_context(|| format!("can't copy {}", tests.display()))?;
    let testbed = Testbed { workspace, name, share: share.path(), threads };
    let mut ended = Ended::default();
    for attempt in 1..=ATTEMPTS {
        let mut arguments = Vec::new();
        match filter {
            Some(filter) => arguments.push(filter.to_owned()),
            // Whole names, so that no test is skipped for another one's sake.
            None if !ended.passed.is_empty() || !ended.failed.is_empty() => arguments.push("--exact".to_owned()),
            None => (),
        }
        let done = ended.passed.iter().chain(&ended.failed);
        arguments.extend(done.flat_map(|name| ["--skip".to_owned(), name.clone()]));
        let (status, printed) = testbed.run(arguments, &attempt.to_string(), &mut ended.skipped);
        ended.add(&printed);
        match status {
            Ok(status) => {
                // libtest's status for failed tests; any other one means that not all of them were run.
                ended.broken = status != 0 && (status != 101 || ended.failed.is_empty());
                break;
            }
            Err(error) if error.is::<Died>() && attempt < ATTEMPTS => {
                let done = ended.passed.len() + ended.failed.len();
                note(format!("{error}: started again for the tests that are left; {done} have ended so far"));
            }
            Err(error) => return Err(error),
        }
    }
    second_chance(&testbed, &mut ended)?;
    Ok(ended.counts())
}

/// What failed is run once more in a fresh testbed: an emulated host that harms itself harms its guests, too, with faults
/// that no real machine would have. A test that fails twice has failed; one that doesn't is named.
fn second_chance(testbed: &Testbed<'_>, ended: &mut Ended) -> Result<()> {
    if ended.failed.is_empty() {
        return Ok(());
    }
    note(format!("failed, and run once more in a fresh testbed: {}", ended.failed.join(", ")));
    let arguments = std::iter::once("--exact".to_owned()).chain(ended.failed.iter().cloned()).collect();
    let (status, printed) = testbed.run(arguments, "again", &mut ended.skipped);
    let mut again = Ended::default();
    again.add(&printed);
    for name in again.passed {
        note(format!("passed at the second try, so look at its first output above: {name}"));
        ended.failed.retain(|failed| *failed != name);
        ended.passed.push(name);
    }
    status.map(drop)
}

/// Where one of the programs is run.
struct Testbed<'a> {
    workspace: &'a Workspace,
    name: &'a str,
    share: &'a Path,
    threads: &'a str,
}

impl Testbed<'_> {
    /// Runs the program with these arguments in a testbed of its own: its status, and what it printed. Skips are added up.
    fn run(&self, arguments: Vec<String>, attempt: &str, skipped: &mut u64) -> (Result<i32>, String) {
        let out = self.workspace.target("linux-tests").join(self.name).join(attempt);
        let _ = fs::remove_dir_all(&out);
        let mut command = vec![format!("/share/{}", self.name), self.threads.to_owned()];
        command.extend(arguments);
        let mut environment =
            ["VMM_SKIP_LOG=/out/skipped", "VMM_TEST_EMULATED=1", "RUST_BACKTRACE=1"].map(str::to_owned).to_vec();
        let rounds = ROUNDS.iter().filter_map(|name| Some(format!("{name}={}", std::env::var(name).ok()?)));
        environment.extend(rounds);
        let request = Request {
            cpus: CPUS,
            memory: MEMORY,
            share: Some(self.share.to_owned()),
            out: Some(out.clone()),
            timeout: Some(TIMEOUT),
            environment,
            attempts: 1,
            ..Request::new(command)
        };
        let mut printed = Vec::new();
        let status = testbed::run(self.workspace, &request, &mut |stream, bytes| {
            if stream == Stream::Output {
                printed.extend_from_slice(bytes);
            }
            pass_on(stream, bytes)
        });
        *skipped += skips(&out.join("skipped"));
        (status, String::from_utf8_lossy(&printed).into_owned())
    }
}

fn count_skips(counts: Counts, log: &Path) -> Counts {
    counts.reclassify_skipped(skips(log))
}

/// Shows what was skipped, and counts it.
fn skips(log: &Path) -> u64 {
    let skipped = fs::read_to_string(log).unwrap_or_default();
    print!("{skipped}");
    skipped.lines().count() as u64
}

/// The tests that have come to an end.
#[derive(Debug, Default)]
struct Ended {
    passed: Vec<String>,
    failed: Vec<String>,
    skipped: u64,
    /// The program failed without any test that did.
    broken: bool,
}

impl Ended {
    /// Reads libtest's lines `test NAME ... ok`; a test that was cut off has no such line.
    fn add(&mut self, printed: &str) {
        for line in printed.lines() {
            match line.strip_prefix("test ").and_then(|rest| rest.split_once(" ... ")) {
                Some((name, "ok")) => self.passed.push(name.to_owned()),
                Some((name, "FAILED")) => self.failed.push(name.to_owned()),
                _ => (),
            }
        }
    }

    fn counts(&self) -> Counts {
        let counts = Counts { passed: self.passed.len() as u64, failed: self.failed.len() as u64, skipped: 0 };
        let broken = Counts { failed: u64::from(self.broken), ..Counts::default() };
        let mut counts = counts.reclassify_skipped(self.skipped);
        counts += broken;
        counts
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
        assert_eq!(
            (ended.passed.as_slice(), ended.failed.as_slice()),
            (&["a::b".to_owned()][..], &["a::c".to_owned()][..])
        );
        let counts = ended.counts();
        assert_eq!((counts.passed, counts.failed), (1, 1));
        let broken = Ended { broken: true, ..Ended::default() };
        assert_eq!(broken.counts().failed, 1);
    }
}
