// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! `cargo xtask guest`: the files that a guest boots from, in `target/guest/`.

mod elf;
mod initrd;
mod kernel;
mod lz4_legacy;
mod modules;
mod payload;
mod rootfs;

pub(crate) use kernel::Kernel;
pub(crate) use modules::modules_for;
pub(crate) use rootfs::{install_busybox, install_program, make_ext4};

use std::fs;
use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, Result};

use crate::packages::{self, BUSYBOX, DEBUGFS, MKFS, QEMU};
use crate::progress::{Step, note};
use crate::stamp::{self, Recipe};
use crate::workspace::Workspace;
use crate::{host, process, static_build};

/// The files of a guest.
#[derive(Debug)]
pub(crate) struct Guest {
    /// Debian's bzImage as it came.
    pub(crate) vmlinuz: PathBuf,
    /// The ELF kernel from inside it.
    pub(crate) vmlinux: PathBuf,
    /// Drivers and `/init`.
    pub(crate) initrd: PathBuf,
    /// busybox, `/sbin/init`, `/usr/bin/agent`, `/usr/bin/blockload` and `/usr/bin/netload` on ext4.
    pub(crate) rootfs: PathBuf,
    /// Our process 1.
    pub(crate) init: PathBuf,
    /// What loads a disk in the guest.
    pub(crate) blockload: PathBuf,
    /// What loads a network, in the guest and beside it.
    pub(crate) netload: PathBuf,
    /// What uses its other devices, in the guest and beside it.
    pub(crate) agent: PathBuf,
    /// Its busybox.
    pub(crate) busybox: PathBuf,
    /// The unpacked kernel package.
    pub(crate) kernel: Kernel,
}

/// The chore itself: makes the files and says so.
pub(crate) fn main(workspace: &Workspace, update: bool) -> Result<()> {
    let started = Instant::now();
    let (guest, made) = make(workspace, update)?;
    for path in [&guest.vmlinuz, &guest.vmlinux, &guest.initrd, &guest.rootfs] {
        let size = fs::metadata(path).map(|metadata| metadata.len()).unwrap_or(0);
        println!("{:>9.1} MiB  {}", size as f64 / f64::from(1 << 20), workspace.short(path));
    }
    let seconds = started.elapsed().as_secs_f64();
    let release = &guest.kernel.release;
    note(match made {
        true => format!("the guest files are ready: Linux {release} ({seconds:.1} s)"),
        false => format!("the guest files are up to date: Linux {release} ({seconds:.1} s)"),
    });
    Ok(())
}

/// Makes whatever is missing or out of date, for a chore that needs it.
pub(crate) fn ensure(workspace: &Workspace) -> Result<Guest> {
    make(workspace, false).map(|(guest, _)| guest)
}

fn make(workspace: &Workspace, update: bool) -> Result<(Guest, bool)> {
    // All that the chores around a guest will want, so that whoever has to install it by hand does so once.
    let emulator = (!host::has_virtualization()).then_some(QEMU);
    packages::ensure(&[MKFS, BUSYBOX, DEBUGFS].into_iter().chain(emulator).collect::<Vec<_>>())?;
    let program =
        |name| static_build::executable(workspace, &["build", "--package", "guest-init", "--bin", name], name);
    let (init, agent) = (program("guest-init")?, program("agent")?);
    let (blockload, netload) = (program("blockload")?, program("netload")?);
    let folder = workspace.target("guest");
    let _lock = stamp::lock(&folder)?;
    let kernel = kernel::ensure(&folder, update)?;
    let busybox = process::find("busybox").context("busybox is gone")?;
    let guest = Guest {
        vmlinuz: folder.join("vmlinuz"),
        vmlinux: folder.join("vmlinux"),
        initrd: folder.join("initrd"),
        rootfs: folder.join("rootfs.ext4"),
        init,
        blockload,
        netload,
        agent,
        busybox,
        kernel,
    };
    let made = [make_vmlinuz(&guest)?, make_vmlinux(&guest)?, make_initrd(&guest)?, make_rootfs(&guest)?];
    Ok((guest, made.contains(&true)))
}

fn make_vmlinuz(guest: &Guest) -> Result<bool> {
    stamp::keep(&guest.vmlinuz, Recipe::default().text(&guest.kernel.package), |draft| {
        fs::copy(guest.kernel.vmlinuz(), draft)?;
        Ok(())
    })
}

fn make_vmlinux(guest: &Guest) -> Result<bool> {
    stamp::keep(&guest.vmlinux, Recipe::default().text(&guest.kernel.package).text(payload::VERSION), |draft| {
        let step = Step::start("unpacking the vmlinux inside vmlinuz");
        let vmlinux = payload::vmlinux_of(&fs::read(&guest.vmlinuz)?)?;
        fs::write(draft, vmlinux)?;
        step.finish("");
        Ok(())
    })
}

fn make_initrd(guest: &Guest) -> Result<bool> {
    let recipe = Recipe::default().text(&guest.kernel.package).text(&initrd::recipe()).file(&guest.init)?;
    stamp::keep(&guest.initrd, recipe, |draft| {
        let step = Step::start("building the initrd");
        let count = initrd::build(&guest.kernel, &guest.init, draft)?;
        step.finish(&format!("{count} modules"));
        Ok(())
    })
}

fn make_rootfs(guest: &Guest) -> Result<bool> {
    let recipe = Recipe::default().text(rootfs::VERSION).file(&guest.busybox)?.file(&guest.init)?;
    let recipe = recipe.file(&guest.blockload)?.file(&guest.netload)?.file(&guest.agent)?;
    stamp::keep(&guest.rootfs, recipe, |draft| {
        let step = Step::start("building rootfs.ext4");
        rootfs::build(guest, draft)?;
        step.finish("");
        Ok(())
    })
}
