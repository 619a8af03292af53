// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! `/init` of the initial RAM disk: drivers, root device, switch of root. The same steps as initramfs-tools or dracut take,
//! without a shell.

use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::cmdline::Cmdline;
use crate::sys::{self, DirectoryWatch};
use crate::{modules, system};

/// Where the list of modules is, in the initial RAM disk.
const MODULES: &str = "/modules";
const NEW_ROOT: &str = "/root";
/// How long a root device may take to appear, unless `rootwait` says that there is no limit.
const PATIENCE: Duration = Duration::from_secs(10);
/// Tried in this order where no `init=` is given, as the kernel itself does (Linux `init/main.c`, `kernel_init`).
const INITS: [&str; 4] = ["/sbin/init", "/etc/init", "/bin/init", "/bin/sh"];

/// Never returns when all goes well.
pub(crate) fn main() -> Result<(), String> {
    system::mount_essentials()?;
    modules::load(MODULES)?;
    let cmdline = Cmdline::read().map_err(|error| format!("can't read /proc/cmdline: {error}"))?;
    match cmdline.value("root").filter(|root| !root.is_empty()) {
        None => system::run(&cmdline),
        Some(root) => {
            mount_root(root, &cmdline)?;
            switch_root(&cmdline)
        }
    }
}

fn mount_root(root: &str, cmdline: &Cmdline) -> Result<(), String> {
    let name = root.strip_prefix("/dev/").ok_or_else(|| {
        format!("root={root} is not a path under /dev, and this initrd finds no other kind: use root=/dev/vda")
    })?;
    wait_for_device(name, cmdline.flag("rootwait"))?;
    let read_only = cmdline.last_of(&["ro", "rw"]) != Some("rw");
    let flags = if read_only { libc::MS_RDONLY } else { 0 };
    let options = cmdline.value("rootflags").unwrap_or_default();
    let kind = cmdline.value("rootfstype").unwrap_or("ext4");
    std::fs::create_dir_all(NEW_ROOT).map_err(|error| format!("can't make {NEW_ROOT}: {error}"))?;
    sys::mount(root, NEW_ROOT, kind, flags, options).map_err(|error| {
        format!("can't mount root={root} as {kind} ({}): {error}", if read_only { "ro" } else { "rw" })
    })
}

fn wait_for_device(name: &str, for_ever: bool) -> Result<(), String> {
    let failed = |error| format!("can't watch /dev: {error}");
    let watch = DirectoryWatch::new("/dev").map_err(failed)?;
    let deadline = Instant::now() + PATIENCE;
    let path = Path::new("/dev").join(name);
    while !path.exists() {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() && !for_ever {
            return Err(format!(
                "root=/dev/{name} didn't appear within {} s; block devices that are there: {}",
                PATIENCE.as_secs(),
                block_devices()
            ));
        }
        let milliseconds = if for_ever { -1 } else { i32::try_from(left.as_millis()).unwrap_or(i32::MAX).max(1) };
        sys::wait_readable(&[watch.fd()], milliseconds).map_err(failed)?;
        watch.drain();
    }
    Ok(())
}

fn block_devices() -> String {
    let entries = std::fs::read_dir("/sys/class/block").into_iter().flatten().flatten();
    let mut names: Vec<_> = entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}

/// Makes the mounted root the root and hands over to the init in it.
fn switch_root(cmdline: &Cmdline) -> Result<(), String> {
    let init = find_init(cmdline.value("init"))?;
    for place in ["/proc", "/sys", "/dev"] {
        let target = format!("{NEW_ROOT}{place}");
        sys::mount(place, &target, "", libc::MS_MOVE, "")
            .map_err(|error| format!("can't move {place} to {target}: {error}"))?;
    }
    free_ram_disk();
    std::env::set_current_dir(NEW_ROOT).map_err(|error| format!("can't enter {NEW_ROOT}: {error}"))?;
    sys::mount(".", "/", "", libc::MS_MOVE, "")
        .map_err(|error| format!("can't make the new root the root: {error}"))?;
    std::os::unix::fs::chroot(".").map_err(|error| format!("can't change into the new root: {error}"))?;
    std::env::set_current_dir("/").map_err(|error| format!("can't enter the new root: {error}"))?;
    let error = Command::new(&init).exec();
    Err(format!("can't start {init} of the root file system: {error}"))
}

fn find_init(asked: Option<&str>) -> Result<String, String> {
    let exists = |init: &str| {
        // Not `exists()`: a link may be absolute, and would be followed in the wrong root.
        std::fs::symlink_metadata(format!("{NEW_ROOT}{init}")).is_ok()
    };
    if let Some(init) = asked {
        return if exists(init) {
            Ok(init.to_owned())
        } else {
            Err(format!("init={init} doesn't exist in the root file system"))
        };
    }
    let found = INITS.iter().find(|init| exists(init));
    found
        .map(|init| (*init).to_owned())
        .ok_or_else(|| format!("the root file system has none of {}: name one with init=", INITS.join(", ")))
}

/// The RAM disk stays mounted below the new root; its files would hold memory for ever.
fn free_ram_disk() {
    let entries = std::fs::read_dir("/").into_iter().flatten().flatten();
    for entry in entries {
        let path = entry.path();
        let is_mount = [NEW_ROOT, "/proc", "/sys", "/dev"].iter().any(|place| path == Path::new(place));
        if is_mount {
            continue;
        }
        let outcome = match entry.file_type() {
            Ok(kind) if kind.is_dir() => std::fs::remove_dir_all(&path),
            _ => std::fs::remove_file(&path),
        };
        if let Err(error) = outcome {
            crate::complain(format_args!("can't remove {} from the RAM disk: {error}", path.display()));
        }
    }
}
