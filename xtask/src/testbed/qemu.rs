// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The emulated machine: QEMU's command line.

use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result};

use super::Request;
use super::job_disk::JobDisk;
use crate::guest::Guest;
use crate::packages::QEMU;

/// The ports of the virtio-serial device, by their numbers. `guest-init` knows the same ones.
pub(crate) const CONTROL: u32 = 1;
pub(crate) const OUTPUT: u32 = 2;
pub(crate) const ERRORS: u32 = 3;
pub(crate) const INPUT: u32 = 4;
pub(crate) const PORTS: [u32; 4] = [CONTROL, OUTPUT, ERRORS, INPUT];

/// The testbed's kernel takes no care of speculation, as nobody attacks it, and ends the machine when it panics.
const CMDLINE: &str = "console=ttyS0 panic=-1 reboot=t mitigations=off root=/dev/vda rw init=/sbin/testbed-init";

/// What the machine is made of.
pub(crate) struct Machine<'a> {
    pub(crate) request: &'a Request,
    pub(crate) guest: &'a Guest,
    pub(crate) root: &'a Path,
    pub(crate) job: &'a JobDisk,
}

impl Machine<'_> {
    /// Switches the machine on. Each port connects to the abstract socket that `socket` names for it.
    ///
    /// QEMU dies with the thread that calls this.
    pub(crate) fn start(&self, socket: impl Fn(u32) -> String) -> Result<Child> {
        let mut qemu = Command::new(QEMU.program());
        qemu.args(["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"]);
        qemu.args(["-machine", "q35", "-accel", "tcg,thread=multi", "-cpu", "max"]);
        qemu.args(["-smp", &self.request.cpus.to_string(), "-m", &self.request.memory.to_string()]);
        qemu.arg("-kernel").arg(&self.guest.vmlinuz).arg("-initrd").arg(&self.guest.initrd).args(["-append", CMDLINE]);
        let log = self.job.console_log();
        qemu.args(["-chardev", &format!("file,id=console,path={}", escaped(&log)), "-serial", "chardev:console"]);
        let disks = [("root", self.root.to_owned(), "snapshot=on"), ("job", self.job.image(), "snapshot=off")];
        for (id, path, snapshot) in disks {
            let path = escaped(&path);
            qemu.args([
                "-drive",
                &format!("id={id},if=none,format=raw,cache=unsafe,discard=unmap,{snapshot},file={path}"),
            ]);
            qemu.args(["-device", &format!("virtio-blk-pci,drive={id}")]);
        }
        qemu.args(["-device", "virtio-rng-pci", "-device", "virtio-serial-pci"]);
        for port in PORTS {
            qemu.args(["-chardev", &format!("socket,id=port{port},path={},abstract=on", socket(port))]);
            qemu.args(["-device", &format!("virtserialport,nr={port},chardev=port{port}")]);
        }
        let monitor = escaped(&log.with_file_name("monitor"));
        qemu.args(["-monitor", &format!("unix:{monitor},server=on,wait=off")]);
        let complaints = File::create(self.job.qemu_log())?;
        qemu.stdin(Stdio::null()).stdout(complaints.try_clone()?).stderr(complaints);
        // The terminal's Ctrl-C is for this program, which then ends QEMU in its own way.
        qemu.process_group(0);
        #[expect(unsafe_code, reason = "what runs between fork and exec is under the rules of signal handlers")]
        // SAFETY: the closure makes one system call and allocates nothing, as must be between fork and exec.
        unsafe {
            qemu.pre_exec(die_with_parent)
        };
        qemu.spawn().with_context(|| format!("can't start {}", QEMU.program()))
    }
}

/// Even where this program is killed the hard way, no QEMU may stay behind.
fn die_with_parent() -> std::io::Result<()> {
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))?;
    Ok(())
}

/// A path as a value among QEMU's options, where commas divide.
fn escaped(path: &Path) -> String {
    path.to_string_lossy().replace(',', ",,")
}
