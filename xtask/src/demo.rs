// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! `cargo xtask demo`: a real Debian kernel boots under `vmm`, says hello, and powers off.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use crate::guest::{self, Guest};
use crate::progress::note;
use crate::testbed::{self, Request};
use crate::workspace::Workspace;
use crate::{host, pass_on, process, static_build};

/// Runs the demo; its exit status is that of `vmm`.
pub(crate) fn main(workspace: &Workspace, interactive: bool, in_testbed: bool) -> Result<i32> {
    let vmm = static_build::executable(workspace, &["build", "--package", "vmm", "--bin", "vmm"], "vmm")?;
    let guest = guest::ensure(workspace)?;
    if !in_testbed && host::runs_unmodified_kernels(&vmm) {
        on_this_host(workspace, &vmm, &guest, interactive)
    } else {
        if !in_testbed {
            note("this machine's KVM doesn't run unmodified kernels (`vmm doctor` tells more): using the testbed");
        }
        emulated(workspace, interactive)
    }
}

fn on_this_host(workspace: &Workspace, vmm: &Path, guest: &Guest, interactive: bool) -> Result<i32> {
    // The guest may write to its disk, and the next one shall find it as it was.
    let rootfs = workspace.target("demo/rootfs.ext4");
    if let Some(folder) = rootfs.parent() {
        fs::create_dir_all(folder).with_context(|| format!("can't make {}", folder.display()))?;
    }
    fs::copy(&guest.rootfs, &rootfs).with_context(|| format!("can't write {}", rootfs.display()))?;
    let path = |path: &Path| workspace.short(path).to_string();
    let words = command_line(&path(vmm), &path(&guest.vmlinux), &path(&guest.initrd), &path(&rootfs), interactive);
    let mut command = command(&words);
    command.current_dir(workspace.root());
    println!("$ {}", process::shown(&command));
    let status = command.status().with_context(|| format!("can't run {}", vmm.display()))?;
    note(format!("vmm ended: {status}"));
    Ok(status.code().unwrap_or(1))
}

fn emulated(workspace: &Workspace, interactive: bool) -> Result<i32> {
    let words = command_line("vmm", "/guest/vmlinux", "/guest/initrd", "/guest/rootfs.ext4", interactive);
    let shown = process::shown(&command(&words));
    println!("$ cargo xtask testbed {}-- {shown}", if interactive { "--interactive " } else { "" });
    // With two processors, the emulated host stands still now and then; the tests have one for that.
    let request = Request { interactive, cpus: 1, ..Request::new(words) };
    let status = testbed::run(workspace, &request, &mut pass_on)?;
    note(format!("vmm ended with status {status}"));
    Ok(status)
}

fn command(words: &[String]) -> Command {
    let mut command = Command::new(&words[0]);
    command.args(&words[1..]);
    command
}

/// What `vmm run` would give the kernel by itself; the demo adds to it.
const CMDLINE: &str = "console=ttyS0 reboot=k panic=-1 i8042.noaux i8042.nokbd 8250.nr_uarts=1 cryptomgr.notests";

fn command_line(vmm: &str, kernel: &str, initrd: &str, rootfs: &str, interactive: bool) -> Vec<String> {
    let task = if interactive { "quiet vmm.show vmm.then=sh" } else { "vmm.cpuinfo vmm.show" };
    let cmdline = format!("{CMDLINE} {task}");
    ["run", "--kernel", kernel, "--initrd", initrd, "--rootfs", rootfs, "--cmdline", &cmdline].iter().fold(
        vec![vmm.to_owned()],
        |mut words, word| {
            words.push((*word).to_owned());
            words
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_one_that_a_person_can_type() {
        let words = command_line("vmm", "/guest/vmlinux", "/guest/initrd", "/guest/rootfs.ext4", false);
        assert_eq!(
            process::shown(&command(&words)),
            "vmm run --kernel /guest/vmlinux --initrd /guest/initrd --rootfs /guest/rootfs.ext4 \
             --cmdline 'console=ttyS0 reboot=k panic=-1 i8042.noaux i8042.nokbd 8250.nr_uarts=1 cryptomgr.notests vmm.cpuinfo vmm.show'"
        );
    }
}
