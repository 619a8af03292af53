// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Keeps two VMs, or a VM and a tool that asks, from writing to one image at the same time.
//!
//! The lock is that of an open file description (`F_OFD_SETLK`, Linux fcntl(2)): it ends with the last descriptor of it, in
//! whatever way the process ends, and nothing is left behind. Any number may read, or one may write. It holds against who
//! asks for one as well: `vmm`, QEMU and qemu-img do; `cp` and `dd` don't.

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

/// A process that has the file open. The kernel doesn't tell whose lock it is, as it is no process's.
fn holder(file: &File) -> Option<u32> {
    let ours = file.metadata().ok()?;
    let same = |metadata: fs::Metadata| (metadata.dev(), metadata.ino()) == (ours.dev(), ours.ino());
    let processes = fs::read_dir("/proc").ok()?.flatten();
    processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok()).find(|pid| {
        let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
        let mut open = descriptors.filter_map(|entry| {
            let metadata = fs::metadata(entry.path()).ok()?;
            Some((entry.file_name(), metadata))
        });
        // Our own descriptor of it is not the one that holds the lock.
        let own = (*pid == std::process::id()).then(|| file.as_raw_fd().to_string());
        open.any(|(name, metadata)| same(metadata) && own.as_deref().is_none_or(|own| name != own))
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
