// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Keeps two VMs, or a VM and a tool that asks, from writing to one image at the same time.
//!
//! The lock is that of an open file description (`F_OFD_SETLK`, Linux fcntl(2)): it ends with the last descriptor of it, in
//! whatever way the process ends, and nothing is left behind. Any number may read, or one may write. It holds against who
//! asks for one as well: `vmm` does, and QEMU and qemu-img before they write; `cp` and `dd` don't.

#![expect(unsafe_code, reason = "fcntl takes a pointer")]

use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;

/// Who else has the image.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// Somebody has it open; the process, where that can be found out.
    Taken(Option<u32>),
    /// There are no locks there, or the host can't give one.
    Host(i32),
}

/// Locks the whole of `file`: for ourselves when it is written, together with other readers when it isn't.
pub(super) fn lock(file: &File, write: bool) -> Result<(), Refusal> {
    let kind = if write { libc::F_WRLCK } else { libc::F_RDLCK };
    // From the first byte to the last that there will ever be.
    let flock = libc::flock {
        l_type: kind as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    };
    // SAFETY: the descriptor is open, and the structure is read while the call lasts.
    if unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_SETLK, &raw const flock) } == 0 {
        return Ok(());
    }
    let error = io::Error::last_os_error();
    match error.raw_os_error() {
        Some(libc::EAGAIN | libc::EACCES) => Err(Refusal::Taken(holder(file))),
        errno => Err(Refusal::Host(errno.unwrap_or(libc::EIO))),
    }
}

/// A process whose open file description has a lock on the file, other than `file` itself. The lock itself names no process, as
/// it is none's; but `/proc/PID/fdinfo` shows what lock each descriptor has (Linux proc(5)), without touching the file.
fn holder(file: &File) -> Option<u32> {
    let metadata = file.metadata().ok()?;
    // MAJOR:MINOR:INODE, as the kernel writes it.
    let (major, minor) = (libc::major(metadata.dev()), libc::minor(metadata.dev()));
    let identity = format!("{major:02x}:{minor:02x}:{}", metadata.ino());
    let processes = fs::read_dir("/proc").ok()?.flatten();
    processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok()).find(|pid| {
        let descriptors = fs::read_dir(format!("/proc/{pid}/fdinfo")).into_iter().flatten().flatten();
        let mut locks = descriptors.filter_map(|entry| fs::read_to_string(entry.path()).ok());
        locks.any(|info| info.lines().any(|line| line.starts_with("lock:") && line.contains(&identity)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(path: &std::path::Path, write: bool) -> File {
        File::options().read(true).write(write).open(path).unwrap()
    }

    #[test]
    fn one_writes_or_many_read() {
        let image = tempfile::NamedTempFile::new().unwrap();
        let (reader, other) = (open(image.path(), false), open(image.path(), false));
        let writer = open(image.path(), true);
        lock(&reader, false).unwrap();
        lock(&other, false).unwrap();
        let us = Some(std::process::id());
        assert_eq!(lock(&writer, true), Err(Refusal::Taken(us)));
        drop((reader, other));
        lock(&writer, true).unwrap();
        assert_eq!(lock(&open(image.path(), true), true), Err(Refusal::Taken(us)));
        assert_eq!(lock(&open(image.path(), false), false), Err(Refusal::Taken(us)));
        drop(writer);
        lock(&open(image.path(), false), false).unwrap();
    }
}
