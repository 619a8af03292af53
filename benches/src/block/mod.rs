// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! A disk as a Linux guest sees it: each VMM boots the same guest, which loads the same disk in the same ways.
//!
//! They take turns, A B C A B C, a second or so each: all others are stopped meanwhile, as a debugger would. What else the
//! machine has to do changes more slowly than that, and then slows down all of them alike.

pub mod load;
pub mod table;

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tempfile::NamedTempFile;

use crate::boot::{Linux, PATIENCE, STANDS_STILL};
use crate::comparison::Comparison;
use crate::cpu::ProcessorTime;
use crate::monitor::{Machine, Monitor};
use crate::process::{self, Running};
use load::{CASES, Case, Done, Said};

/// Size of the disk: small enough to be in the host's page cache for good, so that no real disk is measured.
const DISK: usize = 64 << 20;

/// What is measured, and where.
#[derive(Clone, Debug)]
pub struct Plan {
    /// What the guest boots from.
    pub linux: Linux,
    /// A folder on a real file system: not every way of I/O is as fast on one in memory.
    pub folder: PathBuf,
    /// For each case.
    pub time: Duration,
    /// How often each VMM has its turn, in each case.
    pub runs: u32,
}

/// A VMM with a guest that is ready to load its disk.
struct Loaded<'a> {
    name: &'a str,
    running: Running,
    disk: NamedTempFile,
}

/// Measures all VMMs. Each turn's results are told as they come, since a host may not live long enough for the last one.
pub fn measure(monitors: &[Monitor], plan: &Plan) -> Result<Comparison> {
    let scratch = tempfile::tempdir().context("can't make a temporary folder")?;
    let start = |monitor| Loaded::start(monitor, plan, scratch.path());
    let mut loaded = monitors.iter().map(start).collect::<Result<Vec<_>>>()?;
    let mut results = table::empty(monitors);
    for run in 1..=plan.runs {
        for (index, case) in CASES.iter().enumerate() {
            for (monitor, loaded) in loaded.iter_mut().enumerate() {
                let context = || format!("{}, {}, run {run}", monitors[monitor].name, case.what);
                let done = loaded.turn(case, plan.time).with_context(context)?;
                eprintln!("{}: {}", context(), table::in_one_line(case, &done));
                table::push(&mut results, monitor, index, &done);
            }
        }
    }
    Ok(results)
}

impl<'a> Loaded<'a> {
    /// Boots the guest, and lets it stand still once it is ready.
    fn start(monitor: &'a Monitor, plan: &Plan, scratch: &Path) -> Result<Self> {
        let disk = tempfile::Builder::new().prefix("block-guest-").tempfile_in(&plan.folder);
        let mut disk = disk.with_context(|| format!("can't make a disk in {}", plan.folder.display()))?;
        fill(disk.as_file_mut()).context("can't write the disk")?;
        let Linux { kernel, initrd, rootfs } = plan.linux.clone();
        let cmdline = format!("{STANDS_STILL} vmm.run=\"{}\"", load::command("/dev/vdb", plan.time, plan.runs));
        let data = Some(disk.path().to_owned());
        let machine = Machine { kernel, cmdline, initrd, disk: rootfs, data, cpus: 1, card: None, vsock: None };
        let mut command = monitor.command(&machine, scratch)?;
        process::end_with_us(&mut command);
        let running = Running::start(&mut command)?;
        let mut loaded = Self { name: &monitor.name, running, disk };
        let ready = loaded.listen().with_context(|| monitor.name.clone())?;
        loaded.running.pause()?;
        match ready.0 {
            Said::Ready => Ok(loaded),
            other => bail!("{}: the guest was to be ready, and said {other:?}", monitor.name),
        }
    }

    /// Runs one case, while all others stand still.
    fn turn(&mut self, case: &Case, time: Duration) -> Result<Done> {
        self.running.allow(time * 2 + PATIENCE);
        self.running.go_on()?;
        let (Said::Begin { word: began }, started, before) = self.listen()? else { bail!("it ended before it began") };
        let (Said::End { word, requests, bytes, time, guest_cpu }, now, after) = self.listen()? else {
            bail!("it began and didn't end")
        };
        self.running.pause()?;
        if began != case.word || word != case.word {
            bail!("{} was to be run, and {began} was", case.word);
        }
        let seen = now - started;
        if seen.abs_diff(time) > seen / 4 {
            // Its rate is right where only we were late to hear of it; the processor time is not.
            eprintln!("{}: the guest counted {time:.2?} where the host saw {seen:.2?}: mistrust this turn", self.name);
        }
        // Nothing of what was written is left to be written back in the turn of another.
        self.disk.as_file().sync_all().context("can't sync the disk")?;
        let cpu = after.since(before).context("a thread of its lost time that it had taken")?;
        Ok(Done { requests, bytes, time, guest_cpu, cpu })
    }

    /// The next thing that the guest says, when it did, and what the VMM had taken by then.
    fn listen(&mut self) -> Result<(Said, Instant, ProcessorTime)> {
        let said = Said::parse(&self.running.next_line(&load::BEGINNINGS)?)?;
        Ok((said, Instant::now(), ProcessorTime::of(self.running.id()?)?))
    }
}

/// What is written is in the page cache, and no part of it is a hole, which a file system serves in a way of its own.
fn fill(disk: &mut File) -> io::Result<()> {
    let part = vec![0x5a; 1 << 20];
    (0..DISK / part.len()).try_for_each(|_| disk.write_all(&part))?;
    disk.sync_all()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    /// A program that a `vmm` can be played by: it says what a guest would.
    fn player(folder: &Path, lines: &str) -> Monitor {
        let program = folder.join("player");
        std::fs::write(&program, format!("#!/bin/sh\ncat <<'EOF'\nLinux\n{lines}EOF\n")).unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        Monitor::ours(program)
    }

    fn lines(case: &str) -> String {
        format!("blockload: begin {case}\nblockload: end {case} requests=5 bytes=20480 ns=1000 cpu_ns=10\n")
    }

    fn plan(folder: &Path) -> Plan {
        let linux = Linux { kernel: "k".into(), initrd: None, rootfs: None };
        Plan { linux, folder: folder.to_owned(), time: Duration::from_millis(1), runs: 2 }
    }

    #[test]
    fn every_case_of_every_run_is_in_the_results() {
        let folder = tempfile::tempdir().unwrap();
        let all: String = CASES.iter().map(|case| lines(case.word)).collect();
        let monitor = player(folder.path(), &format!("blockload: ready\n{all}{all}"));
        let results = measure(&[monitor.clone(), monitor], &plan(folder.path())).unwrap();
        let table = results.markdown(1, table::CPU);
        assert_eq!(table.matches("5,000,000 IOPS").count(), 2 * 3, "{table}");
    }

    #[test]
    fn what_goes_wrong_in_the_guest_is_told() {
        let ready = |said: &str| format!("blockload: ready\n{said}");
        for (said, expected) in [
            ("blockload: error: no such device\n".to_owned(), "no such device"),
            ("vmm.run: exit status 127\n".to_owned(), "exit status 127"),
            ("blockload: begin x\n".to_owned(), "was to be ready"),
            (ready(""), "ended before"),
            (ready(&lines("write:4096:1")), "was to be run"),
            (ready("blockload: begin x\nblockload: begin x\n"), "didn't end"),
            (ready("blockload: begin x\nblockload: error: x: Input/output error\n"), "Input/output error"),
        ] {
            let folder = tempfile::tempdir().unwrap();
            let monitor = player(folder.path(), &said);
            let error = measure(&[monitor], &plan(folder.path())).map(drop).unwrap_err();
            assert!(format!("{error:#}").contains(expected), "{error:#}");
        }
    }
}
