// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What a process has taken of the processor so far: `/proc/PID/task/TID/stat` (proc_pid_stat(5)).

use std::fs;
use std::io::ErrorKind;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};

/// The kernel tells these times in USER_HZ, which is 100 on every machine that KVM runs on (Linux
/// `include/asm-generic/param.h`).
const TICK: Duration = Duration::from_millis(10);

/// In user and in kernel mode.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ProcessorTime {
    /// Of the threads that run the guest; the guest's own is in it.
    pub vcpus: Duration,
    /// Of all others: the VMM's own work, but for what it does in an exit.
    pub others: Duration,
}

impl ProcessorTime {
    /// Of all threads that the process has now, and of those of the kernel's that serve its vhost devices.
    pub fn of(process: u32) -> Result<Self> {
        let folder = format!("/proc/{process}/task");
        let (mut time, mut vhost) = (Self::default(), Vec::new());
        for thread in fs::read_dir(&folder).with_context(|| format!("can't read {folder}"))? {
            let thread = thread?;
            time.add_file(&thread.path())?;
            vhost.push(format!("vhost-{}", thread.file_name().display()));
        }
        // Named after the thread that made the device. Since Linux 6.4 they are threads of the process itself, and counted by now.
        for process in fs::read_dir("/proc").context("can't read /proc")? {
            let path = process?.path();
            let name = fs::read_to_string(path.join("comm")).unwrap_or_default();
            if vhost.iter().any(|vhost| vhost == name.trim_end()) {
                time.add_file(&path)?;
            }
        }
        Ok(time)
    }

    /// `folder` is that of a process or a thread.
    fn add_file(&mut self, folder: &Path) -> Result<()> {
        let path = folder.join("stat");
        match fs::read_to_string(&path) {
            Ok(stat) => self.add(&stat).with_context(|| format!("{} is not as it is known", path.display())),
            // It has ended meanwhile: ESRCH where the file was open by then.
            Err(error) if error.kind() == ErrorKind::NotFound || error.raw_os_error() == Some(libc::ESRCH) => Ok(()),
            Err(error) => Err(error).with_context(|| format!("can't read {}", path.display())),
        }
    }

    /// What it has taken since then; `None` where that is less than nothing, since a thread has ended.
    pub fn since(self, before: Self) -> Option<Self> {
        let vcpus = self.vcpus.checked_sub(before.vcpus)?;
        Some(Self { vcpus, others: self.others.checked_sub(before.others)? })
    }

    /// Of all threads.
    pub fn total(self) -> Duration {
        self.vcpus + self.others
    }

    /// `None` where the text is no such file.
    fn add(&mut self, stat: &str) -> Option<()> {
        // A name may hold anything, a bracket as well.
        let (before, fields) = stat.rsplit_once(')')?;
        let (_, name) = before.split_once('(')?;
        // The first one behind the name is the third of all; `utime` and `stime` are the 14th and the 15th.
        let mut fields = fields.split_ascii_whitespace().skip(14 - 3);
        let mut ticks = || fields.next()?.parse::<u32>().ok();
        let time = TICK * ticks()?.checked_add(ticks()?)?;
        // Ours are `vcpu0` and so on, as are Cloud Hypervisor's; Firecracker's are `fc_vcpu 0`.
        let sum = if name.contains("vcpu") { &mut self.vcpus } else { &mut self.others };
        *sum += time;
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_that_run_the_guest_are_told_apart() {
        let stat = |name: &str, user: u32, kernel: u32| {
            format!("7 ({name}) S 1 7 7 0 -1 4194560 90 1 2 3 {user} {kernel} 44 55 20 0 1 0 99 12345 678\n")
        };
        let mut time = ProcessorTime::default();
        for (name, user, kernel) in [("vmm", 1, 2), ("vcpu0", 10, 20), ("fc_vcpu 0", 100, 200), ("a) R (b", 4, 0)] {
            time.add(&stat(name, user, kernel)).unwrap();
        }
        let expected = ProcessorTime { vcpus: Duration::from_millis(3300), others: Duration::from_millis(70) };
        assert_eq!(time, expected);
        assert_eq!(time.total(), Duration::from_millis(3370));
        assert_eq!(time.since(ProcessorTime::default()), Some(time));
        assert_eq!(ProcessorTime::default().since(time), None);
    }

    #[test]
    fn what_is_no_stat_is_nothing() {
        for text in ["", "7 (vmm", "7 (vmm) S 1 2 3", "7 (vmm) S 1 7 7 0 -1 4194560 90 1 2 3 x 2 44"] {
            assert_eq!(ProcessorTime::default().add(text), None, "{text}");
        }
    }

    #[test]
    fn a_process_can_be_looked_at() {
        assert!(ProcessorTime::of(std::process::id()).is_ok());
        assert!(ProcessorTime::of(u32::MAX).is_err());
    }
}
