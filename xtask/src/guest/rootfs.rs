// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! A root file system in a file: busybox with all its applets, an init, and what loads a disk and a network.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use super::Guest;
use crate::process;

/// Changes when the same parts would give another file system.
pub(crate) const VERSION: &str = "3";

const FOLDERS: [&str; 15] = [
    "bin", "dev", "etc", "home", "mnt", "proc", "root", "run", "sbin", "sys", "tmp", "usr/bin", "usr/sbin", "var/log",
    "var/tmp",
];
const FILES: [(&str, &str); 6] = [
    ("etc/passwd", "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/nonexistent:/bin/false\n"),
    ("etc/group", "root:x:0:\nnogroup:x:65534:\n"),
    ("etc/hostname", "guest\n"),
    ("etc/hosts", "127.0.0.1 localhost\n::1 localhost\n"),
    ("etc/os-release", "ID=vmm-guest\nPRETTY_NAME=\"The test guest\"\n"),
    ("etc/profile", "export PS1='\\h:\\w\\$ '\n"),
];

/// What busybox's DHCP client runs when there is news, which it gets as variables.
const UDHCPC_SCRIPT: &str = r#"#!/bin/sh
case "$1" in
deconfig)
    ip link set "$interface" up
    ;;
bound | renew)
    ip address flush dev "$interface" scope global
    ip address add "$ip/${mask:-24}" dev "$interface"
    [ -z "$mtu" ] || ip link set "$interface" mtu "$mtu"
    for router in $router; do
        # Another network's, as some hosts have it: it is on the link all the same.
        ip route add default via "$router" dev "$interface" 2> /dev/null && break
        ip route add "$router" dev "$interface" && ip route add default via "$router" dev "$interface" && break
    done
    : > /run/resolv.conf
    for server in $dns; do
        echo "nameserver $server" >> /run/resolv.conf
    done
    ;;
esac
"#;

/// Writes the guest's root file system.
pub(crate) fn build(guest: &Guest, to: &Path) -> Result<()> {
    let staging = tempfile::tempdir()?;
    let root = staging.path();
    install_busybox(&guest.busybox, root)?;
    let own = root.join("sbin/init");
    fs::remove_file(&own).or_else(
        |error| {
            if error.kind() == std::io::ErrorKind::NotFound { Ok(()) } else { Err(error) }
        },
    )?;
    install_program(&guest.init, &own)?;
    install_program(&guest.blockload, &root.join("usr/bin/blockload"))?;
    install_program(&guest.netload, &root.join("usr/bin/netload"))?;
    install_program(&guest.agent, &root.join("usr/bin/agent"))?;
    // The root may be read-only; /run never is.
    symlink("/run/resolv.conf", root.join("etc/resolv.conf"))?;
    let script = root.join("etc/udhcpc/default.script");
    fs::create_dir_all(root.join("etc/udhcpc"))?;
    fs::write(&script, UDHCPC_SCRIPT)?;
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755))?;
    // Everything is written now: a guest that still initialised tables in the background would blur what tests see.
    make_ext4(root, to, "64M", &["-L", "rootfs", "-E", "lazy_itable_init=0,lazy_journal_init=0"])
}

/// Fills a folder with what every root of ours has.
pub(crate) fn install_busybox(busybox: &Path, root: &Path) -> Result<()> {
    for folder in FOLDERS {
        fs::create_dir_all(root.join(folder))?;
    }
    fs::set_permissions(root.join("tmp"), fs::Permissions::from_mode(0o1777))?;
    for (name, content) in FILES {
        fs::write(root.join(name), content)?;
    }
    install_program(busybox, &root.join("bin/busybox"))?;
    let applets = process::output(Command::new(busybox).arg("--list-full"))?;
    for applet in applets.lines() {
        let link = root.join(applet);
        if let Some(folder) = link.parent() {
            fs::create_dir_all(folder)?;
        }
        // Applets that are named after busybox itself are there already.
        if fs::symlink_metadata(&link).is_err() {
            symlink("/bin/busybox", &link)?;
        }
    }
    // The usual place of the shell, where busybox lists it elsewhere.
    if fs::symlink_metadata(root.join("bin/sh")).is_err() {
        symlink("/bin/busybox", root.join("bin/sh"))?;
    }
    Ok(())
}

/// Copies a program that needs nothing else.
pub(crate) fn install_program(from: &Path, to: &Path) -> Result<()> {
    fs::copy(from, to).with_context(|| format!("can't copy {}", from.display()))?;
    fs::set_permissions(to, fs::Permissions::from_mode(0o755))?;
    Ok(())
}

/// Makes an ext4 file system of the size (as `64M`) in a file, with the content of a folder. Needs no root.
pub(crate) fn make_ext4(content: &Path, to: &Path, size: &str, options: &[&str]) -> Result<()> {
    let mkfs = process::find("mkfs.ext4").context("mkfs.ext4 is gone")?;
    let mut command = Command::new(mkfs);
    command.args(["-q", "-F", "-m", "0", "-d"]).arg(content).args(options).arg(to).arg(size);
    process::output(&mut command).map(drop)
}
