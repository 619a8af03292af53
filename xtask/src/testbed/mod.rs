// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! `cargo xtask testbed`: a KVM host emulated in software, for one command.
//!
//! QEMU emulates AMD's SVM with nested paging, so that an ordinary Debian kernel in it is a complete KVM host, on any
//! machine. It boots the guest's own initrd, from a disk with busybox, the KVM and vhost modules and the guest files; a
//! second disk carries the command and what belongs to it, and brings back what it wrote.

mod job_disk;
mod qemu;
mod root_disk;
mod session;
mod terminal;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::guest::{self, Guest};
use crate::packages::{self, DEBUGFS, IP, MKFS, PASST, QEMU, QEMU_IMG};
use crate::progress::note;
use crate::static_build;
use crate::workspace::Workspace;
use job_disk::JobDisk;
use session::Ending;

/// Status where the time was over, as timeout(1) has it.
const TIMED_OUT: i32 = 124;

/// What is asked of a testbed.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    /// Emulated processors.
    pub(crate) cpus: u32,
    /// Memory in MiB.
    pub(crate) memory: u64,
    /// A folder whose content is to be found in `/share`.
    pub(crate) share: Option<PathBuf>,
    /// A folder that gets what the command left in `/out`.
    pub(crate) out: Option<PathBuf>,
    /// How long all of it may take.
    pub(crate) timeout: Option<Duration>,
    /// Whether this terminal becomes the command's.
    pub(crate) interactive: bool,
    /// More of the command's environment, as `NAME=VALUE`.
    pub(crate) environment: Vec<String>,
    /// How often the command is started from its beginning, should the emulated host stop or stand still.
    pub(crate) attempts: u32,
    /// The command, not interpreted by any shell.
    pub(crate) command: Vec<String>,
}

/// The emulated host stopped or stood still, in each of the attempts.
#[derive(Debug)]
pub(crate) struct Died(String);

impl std::fmt::Display for Died {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Died {}

impl Request {
    /// A command in a testbed of the usual size.
    pub(crate) fn new(command: Vec<String>) -> Self {
        Self {
            cpus: 2,
            memory: 4096,
            share: None,
            out: None,
            timeout: None,
            interactive: false,
            environment: Vec::new(),
            attempts: 2,
            command,
        }
    }
}

/// Which of the command's outputs something came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stream {
    /// Standard output.
    Output,
    /// Standard error.
    Errors,
}

/// Runs the command to its end; its exit status. What it prints goes to `sink`, as it comes.
pub(crate) fn run(
    workspace: &Workspace,
    request: &Request,
    sink: &mut dyn FnMut(Stream, &[u8]) -> std::io::Result<()>,
) -> Result<i32> {
    check(request)?;
    packages::ensure(&[QEMU, QEMU_IMG, MKFS, DEBUGFS, PASST, IP])?;
    let vmm = static_build::executable(workspace, &["build", "--package", "vmm", "--bin", "vmm"], "vmm")?;
    let guest = guest::ensure(workspace)?;
    let root = root_disk::ensure(workspace, &guest)?;
    let events = session::Events::new()?;
    let mut attempt = 1;
    loop {
        let disk = JobDisk::make(workspace, request, &vmm)?;
        let ending = one_boot(request, &guest, &root, &disk, &events, sink)?;
        keep_log(workspace, &disk)?;
        let console = workspace.target("testbed/console.log");
        let log = workspace.short(&console);
        match ending {
            Ending::Status(status) => {
                bring_back(request, &disk)?;
                return Ok(status);
            }
            Ending::TimedOut => {
                let seconds = request.timeout.unwrap_or_default().as_secs();
                note(format!("the testbed was killed: its time of {seconds} s was over (kernel log: {log})"));
                bring_back(request, &disk)?;
                return Ok(TIMED_OUT);
            }
            Ending::Signal(signal) => {
                note("the testbed was killed, as asked");
                return Ok(128 + signal);
            }
            Ending::Failed(why) if attempt < request.attempts => {
                attempt += 1;
                note(format!("{why}; killed, and started once more (kernel log: {log})"));
            }
            Ending::Failed(why) => {
                bring_back(request, &disk)?;
                return Err(Died(format!("{why} (attempt {attempt}; kernel log: {log})")).into());
            }
        }
    }
}

fn one_boot(
    request: &Request,
    guest: &Guest,
    root: &std::path::Path,
    disk: &JobDisk,
    events: &session::Events,
    sink: &mut dyn FnMut(Stream, &[u8]) -> std::io::Result<()>,
) -> Result<Ending> {
    let machine = qemu::Machine { request, guest, root, job: disk };
    session::run(&machine, events, sink)
}

fn check(request: &Request) -> Result<()> {
    if request.cpus == 0 || request.cpus > 64 {
        bail!("--cpus {}: the testbed has 1 to 64", request.cpus);
    }
    if request.memory < 512 {
        bail!("--memory {}M: the testbed needs 512M at the least", request.memory);
    }
    if let Some(share) = &request.share
        && !share.is_dir()
    {
        bail!("--share {}: this is no folder", share.display());
    }
    if let Some(out) = &request.out {
        std::fs::create_dir_all(out).with_context(|| format!("--out {}: can't make this folder", out.display()))?;
    }
    Ok(())
}

fn keep_log(workspace: &Workspace, disk: &JobDisk) -> Result<()> {
    let log = workspace.target("testbed/console.log");
    std::fs::rename(disk.console_log(), &log).with_context(|| format!("can't write {}", log.display()))
}

fn bring_back(request: &Request, disk: &JobDisk) -> Result<()> {
    match &request.out {
        Some(out) => disk.bring_back(out),
        None => Ok(()),
    }
}
