// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The testbed's root disk: busybox, e2fsprogs, qemu-img, passt, ip, modules, the guest files. It is made once and never written
//! to; what a command changes is thrown away with the testbed.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::guest::{self, Guest};
use crate::process;
use crate::progress::Step;
use crate::stamp::{self, Recipe};
use crate::workspace::Workspace;

/// Changes when the same parts would give another disk.
const VERSION: &str = "3";
/// Sparse: what isn't used takes no room.
const SIZE: &str = "4G";

/// What makes the machine a KVM host, and what tests on one want.
const MODULES: [&str; 13] = [
    "kvm-amd",
    "tun",
    "tap",
    "macvtap",
    "veth",
    "dummy",
    "vhost",
    "vhost_net",
    "vhost_vsock",
    "vsock_diag",
    "vsock_loopback",
    "loop",
    "fuse",
];

/// The host's own programs, for looking at disks that a guest has written, and for networks. passt starts the second of its
/// kind where the processor has AVX2.
const PROGRAMS: [&str; 8] = ["e2fsck", "debugfs", "mke2fs", "dumpe2fs", "qemu-img", "passt", "passt.avx2", "ip"];

/// The disk, made anew where one of its parts has changed.
pub(crate) fn ensure(workspace: &Workspace, guest: &Guest) -> Result<PathBuf> {
    let folder = workspace.target("testbed");
    let _lock = stamp::lock(&folder)?;
    let disk = folder.join("root.ext4");
    let mut recipe = Recipe::default().text(VERSION).text(SIZE).text(&MODULES.join(" ")).text(&guest.kernel.package);
    for part in [&guest.initrd, &guest.rootfs, &guest.init, &guest.busybox, &guest.netload, &guest.agent] {
        recipe = recipe.file(part)?;
    }
    for program in PROGRAMS {
        recipe = recipe.file(&find(program)?)?;
    }
    stamp::keep(&disk, recipe, |draft| {
        let step = Step::start("building the testbed's root disk");
        let staging = tempfile::tempdir()?;
        fill(staging.path(), guest)?;
        // Nothing on it has to outlive a crash.
        let options = ["-O", "^has_journal", "-i", "65536", "-L", "testbed", "-E", "lazy_itable_init=0"];
        guest::make_ext4(staging.path(), draft, SIZE, &options)?;
        step.finish("");
        Ok(())
    })?;
    Ok(disk)
}

fn fill(root: &Path, guest: &Guest) -> Result<()> {
    guest::install_busybox(&guest.busybox, root)?;
    fs::write(root.join("etc/hostname"), "testbed\n")?;
    for folder in ["guest", "share", "out", "job", "usr/local/bin", "lib/modules"] {
        fs::create_dir_all(root.join(folder))?;
    }
    fs::copy(&guest.init, root.join("sbin/testbed-init"))?;
    let names = [
        ("vmlinuz", &guest.vmlinuz),
        ("vmlinux", &guest.vmlinux),
        ("initrd", &guest.initrd),
        ("rootfs.ext4", &guest.rootfs),
    ];
    for (name, path) in names {
        fs::copy(path, root.join("guest").join(name)).with_context(|| format!("can't copy {}", path.display()))?;
    }
    guest::install_program(&guest.netload, &root.join("usr/bin/netload"))?;
    guest::install_program(&guest.agent, &root.join("usr/bin/agent"))?;
    install_modules(root, guest)?;
    PROGRAMS.iter().try_for_each(|program| install_program(root, program))?;
    replace_link(&root.join("sbin/mkfs.ext4"), "/sbin/mke2fs")
}

fn install_modules(root: &Path, guest: &Guest) -> Result<()> {
    let mut list = String::new();
    for module in guest::modules_for(&guest.kernel, &MODULES)? {
        let name = module.path.rsplit('/').next().unwrap_or(&module.path);
        fs::write(root.join("lib/modules").join(name), &module.content)?;
        list.push_str(&format!("/lib/modules/{name}\n"));
    }
    fs::write(root.join("etc/testbed-modules"), list)?;
    Ok(())
}

/// Copies one of this machine's programs with the libraries that it is linked to.
fn install_program(root: &Path, program: &str) -> Result<()> {
    let path = find(program)?;
    let to = root.join("sbin").join(program);
    // An applet may have the name.
    let _ = fs::remove_file(&to);
    fs::copy(&path, &to).with_context(|| format!("can't copy {}", path.display()))?;
    let libraries = process::output(Command::new("ldd").arg(&path))?;
    for library in parse_ldd(&libraries) {
        let to = root.join(library.trim_start_matches('/'));
        if let Some(folder) = to.parent() {
            fs::create_dir_all(folder)?;
        }
        fs::copy(library, &to).with_context(|| format!("can't copy {library}"))?;
    }
    Ok(())
}

/// The absolute paths in what ldd prints.
fn parse_ldd(text: &str) -> Vec<&str> {
    text.lines().filter_map(|line| line.split_whitespace().find(|word| word.starts_with('/'))).collect()
}

fn find(program: &str) -> Result<PathBuf> {
    process::find(program).with_context(|| {
        format!("{program} is missing; it comes with: apt-get install e2fsprogs qemu-utils passt iproute2")
    })
}

fn replace_link(link: &Path, target: &str) -> Result<()> {
    let _ = fs::remove_file(link);
    symlink(target, link).with_context(|| format!("can't make the link {}", link.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_read_from_ldd() {
        let text = "\tlinux-vdso.so.1 (0x00007f2ade534000)\n\tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f2ade20a000)\n\t/lib64/ld-linux-x86-64.so.2 (0x00007f2ade536000)\n";
        assert_eq!(parse_ldd(text), ["/lib/x86_64-linux-gnu/libc.so.6", "/lib64/ld-linux-x86-64.so.2"]);
        assert!(parse_ldd("\tnot a dynamic executable\n").is_empty());
    }
}
