// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The measurements: each VMM in turn, again and again, A B A B.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::first_instruction;
use crate::monitor::{Machine, Monitor};
use crate::process::Running;
use crate::table::{Row, Unit};

/// The line of the guest's `/init` begins with this.
const HELLO: &[u8] = b"hello from the guest:";

/// A quiet kernel that probes for no device that isn't there. Its end is a reset by the keyboard controller, which ends
/// every VMM; power-off would not.
const CMDLINE: &str = "console=ttyS0 quiet reboot=k panic=-1 i8042.noaux i8042.nokbd 8250.nr_uarts=1 \
    cryptomgr.notests root=/dev/vda ro vmm.then=reboot";

/// The same, for a kernel that doesn't mind to be stopped for longer than one ever is otherwise, and then goes on.
pub(crate) const STANDS_STILL: &str = "console=ttyS0 quiet reboot=k panic=-1 i8042.noaux i8042.nokbd 8250.nr_uarts=1 \
    cryptomgr.notests nowatchdog rcupdate.rcu_cpu_stall_suppress=1 root=/dev/vda ro vmm.then=hang";

/// How long a guest may take beyond the time that it is given, even in an emulated host on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// The files that a Linux guest boots from.
#[derive(Clone, Debug)]
pub struct Linux {
    /// An ELF kernel.
    pub kernel: PathBuf,
    /// The initial RAM disk.
    pub initrd: Option<PathBuf>,
    /// The image with the root file system.
    pub rootfs: Option<PathBuf>,
}

/// Measures all VMMs `runs` times, after one time that doesn't count. `linux` adds the rows that a kernel is needed for.
pub fn measure(monitors: &[Monitor], linux: Option<&Linux>, runs: u32) -> Result<Vec<Row>> {
    if let Some(restarts) = monitors.iter().find(|monitor| !monitor.ends_at_reset()) {
        bail!(
            "{}: its start can't be measured: it runs no kernel without a PVH note, and starts anew where a guest resets",
            restarts.name
        );
    }
    let scratch = tempfile::tempdir().context("can't make a temporary folder")?;
    let kernel = scratch.path().join("first-instruction.elf");
    fs::write(&kernel, first_instruction::elf()).context("can't write a kernel")?;
    let bare = |kernel, cmdline: &str| {
        let cmdline = cmdline.to_owned();
        Machine { kernel, cmdline, initrd: None, disk: None, data: None, cpus: 1, card: None, vsock: None }
    };
    let first = bare(kernel, "console=ttyS0");
    let rows = |first: &'static str, second, third| {
        let row = |what, unit| Row::new(what, unit, monitors.len());
        [row(first, Unit::Milliseconds), row(second, Unit::Milliseconds), row(third, Unit::Bytes)]
    };

    let [mut until_first, mut cpu_first, mut sizes] =
        rows("exec → first instruction", "CPU time, ended at once", "program, stripped");
    rounds(monitors, runs, |index, monitor, counts| {
        let mut running = Running::start(&mut monitor.command(&first, scratch.path())?)?;
        let time = running.wait_for(&[first_instruction::BYTE])?;
        let cpu = running.wait()?;
        if counts {
            until_first.samples[index].push(milliseconds(time));
            cpu_first.samples[index].push(milliseconds(cpu));
        }
        Ok(())
    })?;
    for (monitor, samples) in monitors.iter().zip(&mut sizes.samples) {
        samples.push(stripped_size(&monitor.program, scratch.path())? as f64);
    }
    let Some(linux) = linux else { return Ok(vec![until_first, cpu_first, sizes]) };

    let Linux { kernel, initrd, rootfs } = linux.clone();
    let booted = Machine { initrd, disk: rootfs, ..bare(kernel, CMDLINE) };
    let [mut until_init, mut cpu_boot, mut resident] =
        rows("exec → `/init`", "CPU time, booted and reset", "resident outside guest RAM at `/init`");
    rounds(monitors, runs, |index, monitor, counts| {
        let mut running = Running::start(&mut monitor.command(&booted, scratch.path())?)?;
        let time = running.wait_for(HELLO)?;
        let memory = running.resident_outside_guest_ram()?;
        let cpu = running.wait()?;
        if counts {
            until_init.samples[index].push(milliseconds(time));
            resident.samples[index].push(memory as f64);
            cpu_boot.samples[index].push(milliseconds(cpu));
        }
        Ok(())
    })?;
    Ok(vec![until_first, until_init, cpu_first, cpu_boot, resident, sizes])
}

/// Calls `run` for each VMM in turn, `runs` times and once before; the last argument tells whether it counts.
fn rounds(monitors: &[Monitor], runs: u32, mut run: impl FnMut(usize, &Monitor, bool) -> Result<()>) -> Result<()> {
    for round in 0..=runs {
        for (index, monitor) in monitors.iter().enumerate() {
            run(index, monitor, round > 0).with_context(|| format!("{}, run {round}", monitor.name))?;
        }
    }
    Ok(())
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// Bytes of the program without its symbols. Where there is no `strip`, it is measured as it is.
fn stripped_size(program: &Path, scratch: &Path) -> Result<u64> {
    let stripped = scratch.join("stripped");
    let strip = Command::new("strip").arg("-o").arg(&stripped).arg(program).output();
    let measured = if strip.is_ok_and(|output| output.status.success()) { &stripped } else { program };
    Ok(fs::metadata(measured).with_context(|| format!("can't look at {}", measured.display()))?.len())
}
