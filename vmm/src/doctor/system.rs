// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What single features need.

use std::fs::{self, OpenOptions};
use std::io;
use std::path::Path;

use super::{Check, probe};
use crate::net::passt;

pub(super) fn checks() -> Vec<Check> {
    vec![
        device("tap networks", "/dev/net/tun", "tun"),
        passt(),
        device("vhost-net", "/dev/vhost-net", "vhost_net"),
        device("vhost-vsock", "/dev/vhost-vsock", "vhost_vsock"),
        io_uring(),
        userfaultfd(),
        seccomp(),
        landlock(),
        huge_pages(),
        cgroups(),
    ]
}

fn device(name: &'static str, path: &str, module: &str) -> Check {
    match OpenOptions::new().read(true).write(true).open(path) {
        Ok(_) => Check::ok(name, format!("{path} can be opened")),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            let advice = format!("give this user access to {path}, for example by its group");
            Check::warning(name, format!("{path} may not be opened by this user"), advice)
        }
        Err(error) => {
            let found = if error.kind() == io::ErrorKind::NotFound {
                format!("{path} is not there")
            } else {
                format!("{path} can't be opened: {error}")
            };
            Check::warning(name, found, format!("load the module: 'modprobe {module}'"))
        }
    }
}

fn passt() -> Check {
    const NAME: &str = "passt";
    match passt::find() {
        Some(path) => Check::ok(NAME, format!("{} is installed", path.display())),
        None => Check::warning(
            NAME,
            "is not installed",
            format!("for networks without root (--net user), install it: '{}'", passt::INSTALL),
        ),
    }
}

fn io_uring() -> Check {
    const NAME: &str = "io_uring";
    match probe::io_uring() {
        Ok(()) => Check::ok(NAME, "rings can be made"),
        Err(error) if error.raw_os_error() == Some(libc::EPERM) => {
            let advice = "allow it with 'sysctl kernel.io_uring_disabled=0', or in the container's seccomp profile";
            Check::warning(NAME, "is forbidden to this user", advice)
        }
        Err(error) => Check::warning(NAME, error.to_string(), "use Linux 5.10 or newer"),
    }
}

fn userfaultfd() -> Check {
    const NAME: &str = "userfaultfd";
    match probe::userfaultfd() {
        Ok(()) => Check::ok(NAME, "can be used"),
        Err(error) if error.raw_os_error() == Some(libc::EPERM) => {
            let advice = "allow it with 'sysctl vm.unprivileged_userfaultfd=1', or give access to /dev/userfaultfd";
            Check::warning(NAME, "is forbidden to this user", advice)
        }
        Err(error) => Check::warning(NAME, error.to_string(), "use a kernel with CONFIG_USERFAULTFD"),
    }
}

fn seccomp() -> Check {
    const NAME: &str = "seccomp";
    let actions = fs::read_to_string("/proc/sys/kernel/seccomp/actions_avail").unwrap_or_default();
    if actions.split_whitespace().any(|action| action == "kill_process") {
        Check::ok(NAME, "filters can kill the process")
    } else {
        Check::warning(NAME, "no filter that kills the process", "use a kernel with CONFIG_SECCOMP_FILTER")
    }
}

fn landlock() -> Check {
    const NAME: &str = "landlock";
    match probe::landlock() {
        Ok(version) => Check::ok(NAME, format!("ABI version {version}")),
        Err(error) => {
            let found = match error.raw_os_error() {
                Some(libc::EOPNOTSUPP) => "built in, but not switched on".to_owned(),
                Some(libc::ENOSYS) => "the kernel has none".to_owned(),
                _ => error.to_string(),
            };
            Check::warning(NAME, found, "boot a kernel with CONFIG_SECURITY_LANDLOCK and landlock in its lsm= list")
        }
    }
}

fn huge_pages() -> Check {
    const NAME: &str = "huge pages";
    let transparent = fs::read_to_string("/sys/kernel/mm/transparent_hugepage/enabled").unwrap_or_default();
    let transparent = selected(&transparent).unwrap_or("none");
    let meminfo = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let reserved = number(&meminfo, "HugePages_Total:").unwrap_or(0);
    let found = format!("transparent: {transparent}; reserved: {reserved}");
    if matches!(transparent, "always" | "madvise") || reserved > 0 {
        Check::ok(NAME, found)
    } else {
        let advice = "let programs ask for them: 'echo madvise > /sys/kernel/mm/transparent_hugepage/enabled'";
        Check::warning(NAME, found, advice)
    }
}

fn cgroups() -> Check {
    const NAME: &str = "cgroups";
    if let Ok(controllers) = fs::read_to_string("/sys/fs/cgroup/cgroup.controllers") {
        return Check::ok(NAME, format!("version 2 with {}", or_none(controllers.trim())));
    }
    let advice = "boot with 'systemd.unified_cgroup_hierarchy=1', or mount it: 'mount -t cgroup2 none /sys/fs/cgroup'";
    let found = if Path::new("/sys/fs/cgroup/memory").exists() { "version 1" } else { "none at /sys/fs/cgroup" };
    Check::warning(NAME, found, advice)
}

fn or_none(text: &str) -> &str {
    if text.is_empty() { "no controllers" } else { text }
}

/// The word in brackets: how sysfs shows a choice.
fn selected(choices: &str) -> Option<&str> {
    choices.split_whitespace().find_map(|word| word.strip_prefix('[')?.strip_suffix(']'))
}

fn number(meminfo: &str, key: &str) -> Option<u64> {
    meminfo.lines().find_map(|line| line.strip_prefix(key)?.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_sysfs_and_procfs_say_is_understood() {
        assert_eq!(selected("always [madvise] never\n"), Some("madvise"));
        assert_eq!(selected(""), None);
        assert_eq!(number("MemTotal: 5 kB\nHugePages_Total:       7\n", "HugePages_Total:"), Some(7));
        assert_eq!(number("", "HugePages_Total:"), None);
    }

    #[test]
    fn a_device_that_is_absent_names_its_module() {
        let check = device("x", "/dev/no-such-device", "tun");
        assert_eq!(
            (check.found.as_str(), check.advice.as_deref()),
            ("/dev/no-such-device is not there", Some("load the module: 'modprobe tun'"))
        );
    }
}
