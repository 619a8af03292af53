// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! `/sbin/testbed-init`: turns an emulated machine into a KVM host, runs one job in it, says how the job ended.
//!
//! The other side is `cargo xtask testbed`. Between them are a disk with the job (`/dev/vdb`) and the ports of one
//! virtio-serial device: what the job writes goes through ports of its own, so that it mixes with nothing that the kernel
//! has to say. On the control port this side says, line by line, `ready`, `beat` every second, `exit N`. The other
//! side says `size ROWS COLUMNS` when its terminal has changed, and `nudge` for the sake of the interrupt that it makes.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Mutex;
use std::time::Duration;

use crate::job::{self, Job};
use crate::power::{self, End};
use crate::sys::{self, DirectoryWatch};
use crate::{modules, system};

/// The job's disk, and where it gets mounted.
const JOB_DISK: &str = "/dev/vdb";
const JOB: &str = "/job";
/// Where the list of this part's modules is.
const MODULES: &str = "/etc/testbed-modules";
/// Whoever is in this group may make VMs.
const KVM_GROUP: u32 = 36;
/// How often the other side gets told that this machine is alive.
const BEAT: Duration = Duration::from_secs(1);

/// The ports, by the numbers that the other side gave them.
pub(crate) const CONTROL: u32 = 1;
pub(crate) const OUTPUT: u32 = 2;
pub(crate) const ERRORS: u32 = 3;
pub(crate) const INPUT: u32 = 4;

/// The control port for writing, shared with the heart that beats.
static CONTROL_LINE: Mutex<Option<File>> = Mutex::new(None);

/// Never returns when all goes well.
pub(crate) fn main() -> Result<(), String> {
    system::mount_essentials()?;
    system::set_hostname();
    mount_the_rest()?;
    modules::load(MODULES)?;
    make_links();
    let job = mount_job()?;
    let control = open_port(CONTROL)?;
    let listener = control.try_clone().map_err(|error| format!("can't share the control port: {error}"))?;
    *CONTROL_LINE.lock().map_err(|error| error.to_string())? = Some(control);
    tell("ready");
    std::thread::spawn(|| {
        loop {
            std::thread::sleep(BEAT);
            tell("beat");
        }
    });
    let status = job::run(&job, listener).unwrap_or_else(|error| {
        // The usual statuses of a shell for a command that isn't there, or can't be started.
        crate::complain(&error);
        tell(&format!("error {error}"));
        127
    });
    power::end_after(End::PowerOff, || tell(&format!("exit {status}")))
}

fn mount_the_rest() -> Result<(), String> {
    let kinds = [
        ("devpts", "/dev/pts"),
        ("tmpfs", "/dev/shm"),
        ("tmpfs", "/tmp"),
        ("tmpfs", "/run"),
        ("cgroup2", "/sys/fs/cgroup"),
        ("debugfs", "/sys/kernel/debug"),
        ("tracefs", "/sys/kernel/tracing"),
        ("securityfs", "/sys/kernel/security"),
        ("hugetlbfs", "/dev/hugepages"),
    ];
    kinds.iter().try_for_each(|(kind, place)| system::mount(kind, place))
}

/// What udev would have done.
fn make_links() {
    for (link, target) in [
        ("fd", "/proc/self/fd"),
        ("stdin", "/proc/self/fd/0"),
        ("stdout", "/proc/self/fd/1"),
        ("stderr", "/proc/self/fd/2"),
    ] {
        if let Err(error) = std::os::unix::fs::symlink(target, Path::new("/dev").join(link)) {
            crate::complain(format_args!("can't make /dev/{link}: {error}"));
        }
    }
    // As Debian's rules have it: a group may use the one, everybody the other.
    for (device, group, mode) in [("/dev/kvm", KVM_GROUP, 0o660), ("/dev/net/tun", 0, 0o666)] {
        let permitted = std::os::unix::fs::chown(device, None, Some(group))
            .and_then(|()| std::fs::set_permissions(device, PermissionsExt::from_mode(mode)));
        if let Err(error) = permitted {
            crate::complain(format_args!("can't give others access to {device}: {error}"));
        }
    }
}

fn mount_job() -> Result<Job, String> {
    sys::mount(JOB_DISK, JOB, "ext4", 0, "").map_err(|error| format!("can't mount {JOB_DISK} on {JOB}: {error}"))?;
    for (directory, place) in [("share", "/share"), ("out", "/out"), ("bin", "/usr/local/bin")] {
        let source = format!("{JOB}/{directory}");
        sys::mount(&source, place, "", libc::MS_BIND, "")
            .map_err(|error| format!("can't bind {source} to {place}: {error}"))?;
    }
    Job::read(Path::new(JOB))
}

/// Opens a port of the virtio-serial device, which its driver may still be making.
pub(crate) fn open_port(number: u32) -> Result<File, String> {
    let failed = |error| format!("can't open port {number} of the virtio-serial device: {error}");
    let watch = DirectoryWatch::new("/dev").map_err(failed)?;
    loop {
        let names = std::fs::read_dir("/dev").map_err(failed)?.flatten().map(|entry| entry.file_name());
        // `vport`, the number of the virtio device, `p`, the number of the port.
        let port = names.into_iter().find(|name| {
            let device = name.to_str().and_then(|name| name.strip_prefix("vport"));
            device.and_then(|device| device.split_once('p')).is_some_and(|(_, port)| port.parse() == Ok(number))
        });
        if let Some(name) = port {
            return OpenOptions::new().read(true).write(true).open(Path::new("/dev").join(name)).map_err(failed);
        }
        sys::wait_readable(&[watch.fd()], -1).map_err(failed)?;
        watch.drain();
    }
}

/// Says a line to the other side.
fn tell(line: &str) {
    let Ok(mut control) = CONTROL_LINE.lock() else {
        return;
    };
    let Some(port) = control.as_mut() else { return };
    if let Err(error) = port.write_all(format!("{line}\n").as_bytes()) {
        crate::complain(format_args!("can't say `{line}` on the control port: {error}"));
    }
}
