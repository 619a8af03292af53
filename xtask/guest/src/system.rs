// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! `/sbin/init` of the test system: says hello, does what the command line asks for, ends.
//!
//! | parameter | meaning |
//! |---|---|
//! | `vmm.cpuinfo` | prints `/proc/cpuinfo` |
//! | `vmm.show` | prints processors, memory and disks |
//! | `vmm.run="CMD"` | runs CMD with `/bin/sh -c`, prints `vmm.run: exit status N` |
//! | `vmm.powerbutton=1` | waits for the power button before it goes on |
//! | `vmm.then=` | `poweroff` (default), `reboot`, `halt`, `hang` or `sh` (a shell on the console; power-off after it) |
//!
//! The power button is listened to at all times.

use std::process::Command;

use crate::cmdline::Cmdline;
use crate::power::{self, End};
use crate::{button, hello, show, sys};

/// What every one of the three parts needs: the file systems that are the kernel's windows.
pub(crate) fn mount_essentials() -> Result<(), String> {
    for (kind, place) in [("proc", "/proc"), ("sysfs", "/sys"), ("devtmpfs", "/dev")] {
        mount(kind, place)?;
    }
    Ok(())
}

/// Mounts a file system of the kernel's own, unless something is mounted there already.
pub(crate) fn mount(kind: &str, place: &str) -> Result<(), String> {
    let mounts = std::fs::read_to_string("/proc/mounts").unwrap_or_default();
    if mounts.lines().any(|line| line.split(' ').nth(1) == Some(place)) {
        return Ok(());
    }
    // A read-only root has these directories, or it is no root for us.
    let _ = std::fs::create_dir_all(place);
    match sys::mount(kind, place, kind, libc::MS_NOSUID, "") {
        Err(error) if error.raw_os_error() != Some(libc::EBUSY) => {
            Err(format!("can't mount {kind} on {place}: {error}"))
        }
        _ => Ok(()),
    }
}

/// Takes the name from `/etc/hostname`, as every distribution does.
pub(crate) fn set_hostname() {
    let name = std::fs::read_to_string("/etc/hostname").unwrap_or_default();
    if let Err(error) = std::fs::write("/proc/sys/kernel/hostname", name.trim()) {
        crate::complain(format_args!("can't set the host name: {error}"));
    }
}

/// Never returns when all goes well.
pub(crate) fn main() -> Result<(), String> {
    mount_essentials()?;
    set_hostname();
    let cmdline = Cmdline::read().map_err(|error| format!("can't read /proc/cmdline: {error}"))?;
    run(&cmdline)
}

/// The test system itself, on whatever root there is.
pub(crate) fn run(cmdline: &Cmdline) -> Result<(), String> {
    for (kind, place) in [("tmpfs", "/tmp"), ("tmpfs", "/run"), ("devpts", "/dev/pts"), ("tmpfs", "/dev/shm")] {
        if let Err(error) = mount(kind, place) {
            crate::complain(error);
        }
    }
    hello::say();
    if let Some(asked) = cmdline.value("vmm.then")
        && !["poweroff", "reboot", "halt", "hang", "sh"].contains(&asked)
    {
        crate::complain(format_args!("vmm.then={asked} is none of poweroff, reboot, halt, hang, sh: powering off"));
    }
    button::listen();
    if cmdline.flag("vmm.cpuinfo") {
        show::cpuinfo();
    }
    if cmdline.flag("vmm.show") {
        show::machine();
    }
    if let Some(command) = cmdline.value("vmm.run") {
        println!("vmm.run: exit status {}", run_shell(command)?);
    }
    if cmdline.flag("vmm.powerbutton") {
        println!("waiting for the power button");
        sys::reap_forever();
    }
    match cmdline.value("vmm.then") {
        Some("reboot") => power::end(End::Reboot),
        Some("halt") => power::end(End::Halt),
        Some("hang") => sys::reap_forever(),
        Some("sh") => {
            interactive_shell()?;
            power::end(End::PowerOff)
        }
        _ => power::end(End::PowerOff),
    }
}

fn run_shell(command: &str) -> Result<i32, String> {
    let mut shell = Command::new("/bin/sh");
    set_environment(&mut shell).args(["-c", command]);
    let child = shell.spawn().map_err(|error| format!("can't start /bin/sh: {error}"))?;
    sys::wait_for(child.id()).map_err(|error| format!("can't wait for /bin/sh: {error}"))
}

/// A shell that has the console as its own terminal, so that Ctrl-C and job control work.
fn interactive_shell() -> Result<(), String> {
    let terminal = console_terminal();
    let mut shell = Command::new("/bin/sh");
    set_environment(&mut shell).args(["-l"]).current_dir("/");
    sys::use_terminal(&mut shell, &terminal).map_err(|error| format!("can't open {terminal}: {error}"))?;
    let child = shell.spawn().map_err(|error| format!("can't start a shell on {terminal}: {error}"))?;
    sys::wait_for(child.id()).map_err(|error| format!("can't wait for the shell: {error}"))?;
    Ok(())
}

/// `/dev/console` itself can't be anyone's terminal: the device behind it can.
fn console_terminal() -> String {
    let active = std::fs::read_to_string("/sys/class/tty/console/active").unwrap_or_default();
    format!("/dev/{}", active.split_whitespace().next_back().unwrap_or("console"))
}

/// Gives a command the environment that a login would.
pub(crate) fn set_environment(command: &mut Command) -> &mut Command {
    command
        .env_clear()
        .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
        .env("HOME", "/root")
        .env("TERM", std::env::var("TERM").unwrap_or_else(|_| "linux".to_owned()))
}
