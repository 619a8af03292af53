// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Opening what a configuration names: with an answer to each way in which that fails.

mod lock;

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;

use crate::build::BuildError;
use crate::config::Disk;
use lock::Refusal;

/// Opens a file that is only read: a kernel or an initrd.
pub(crate) fn open_readable(what: &'static str, path: &Path) -> Result<File, BuildError> {
    let file = open(what, path, false, 0).map_err(|error| file_error(what, path, &error, None))?;
    let kind = file.metadata().map_err(|error| file_error(what, path, &error, None))?.file_type();
    if !kind.is_file() {
        return Err(problem(what, path, if kind.is_dir() { "is a directory" } else { "is not a file" }));
    }
    Ok(file)
}

/// Opens a disk image: a file or a block device, and locks it.
pub(crate) fn open_disk(what: &'static str, disk: &Disk) -> Result<File, BuildError> {
    let path = &disk.path;
    let cure = (!disk.readonly).then_some("may only be read: add readonly=on (or ',ro' to --rootfs)");
    let is_device = std::fs::metadata(path).is_ok_and(|found| found.file_type().is_block_device());
    // For a block device, O_EXCL without O_CREAT is the kernel's own lock: against mounts, and whatever node it is opened by.
    let exclusive = if is_device && !disk.readonly { libc::O_EXCL } else { 0 };
    let flags = exclusive | if disk.direct { libc::O_DIRECT } else { 0 };
    let file = open(what, path, !disk.readonly, flags).map_err(|error| match error.raw_os_error() {
        Some(libc::EBUSY) if is_device => problem(what, path, "is in use: it is mounted, or part of something else"),
        Some(libc::EINVAL) if disk.direct => {
            problem(what, path, "lies on a file system without direct I/O: use direct=off")
        }
        _ => file_error(what, path, &error, cure),
    })?;
    let kind = file.metadata().map_err(|error| file_error(what, path, &error, None))?.file_type();
    if !kind.is_file() && !kind.is_block_device() {
        let what_it_is = if kind.is_dir() { "is a directory" } else { "is neither a file nor a block device" };
        return Err(problem(what, path, what_it_is));
    }
    lock(what, &file, path, !disk.readonly).map_err(|text| problem(what, path, text))?;
    Ok(file)
}

/// Locks a file that lies behind a disk's image, and is only read.
pub(crate) fn lock_behind(file: &File, path: &Path) -> io::Result<()> {
    lock("what lies behind a disk,", file, path, false)
        .map_err(|text| io::Error::new(io::ErrorKind::ResourceBusy, text))
}

/// Keeps others from writing to an image, or from having it at all; what is wrong where that can't be.
fn lock(what: &str, file: &File, path: &Path, write: bool) -> Result<(), String> {
    match lock::lock(file, write) {
        Ok(()) => Ok(()),
        Err(Refusal::Taken(Some(pid))) if pid == std::process::id() => {
            let text = if write { "is in use by" } else { "is written by" };
            Err(format!("{text} another disk of this process: give readonly=on to both, or a copy"))
        }
        Err(Refusal::Taken(holder)) => {
            let by = holder.map_or_else(|| "another process".to_owned(), |pid| format!("process {pid}"));
            let text = if write { "is in use by" } else { "is written by" };
            Err(format!("{text} {by}: close it there, give a copy, or readonly=on to both"))
        }
        // Some network file systems have no locks. Then nobody can keep the image to himself there.
        Err(Refusal::Host(errno)) => {
            let error = io::Error::from_raw_os_error(errno);
            tracing::warn!(
                "{what} {}: can't be locked, so nothing keeps others from writing to it: {error}",
                path.display()
            );
            Ok(())
        }
    }
}

fn open(what: &str, path: &Path, write: bool, flags: i32) -> io::Result<File> {
    // Opening a FIFO would wait for its other end.
    let flags = flags | libc::O_NONBLOCK | libc::O_NOCTTY;
    let file = OpenOptions::new().read(true).write(write).custom_flags(flags).open(path)?;
    tracing::debug!("opened {what} {}", path.display());
    Ok(file)
}

fn file_error(what: &'static str, path: &Path, error: &io::Error, read_only_cure: Option<&str>) -> BuildError {
    let is_directory = path.is_dir();
    let readable = || open(what, path, false, 0).is_ok();
    let text = match error.kind() {
        _ if is_directory => "is a directory".to_owned(),
        io::ErrorKind::NotFound if path.is_symlink() => "is a link to a file that is not there".to_owned(),
        io::ErrorKind::NotFound => match path.to_str().and_then(|path| path.rsplit_once(',')) {
            Some((_, last)) => format!("there is no such file ('{last}' is no disk key, so it belongs to the name)"),
            None => "there is no such file".to_owned(),
        },
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => match read_only_cure {
            Some(cure) if readable() => cure.to_owned(),
            _ => "may not be opened by this user".to_owned(),
        },
        _ => format!("can't be opened: {error}"),
    };
    problem(what, path, text)
}

pub(crate) fn problem(what: &'static str, path: &Path, problem: impl Into<String>) -> BuildError {
    BuildError::File { what, path: path.to_owned(), problem: problem.into() }
}

/// What is wrong with a path, without the error's number.
pub(crate) fn plain(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => "there is no such directory".to_owned(),
        io::ErrorKind::PermissionDenied => "this user may not".to_owned(),
        io::ErrorKind::IsADirectory => "it is a directory".to_owned(),
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn what_is_no_disk_is_named_with_its_cure() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        std::os::unix::fs::symlink("nowhere", path("link")).unwrap();
        let _listener = UnixListener::bind(path("socket")).unwrap();
        for (name, expected) in [
            (".", "is a directory"),
            ("absent", "there is no such file"),
            ("link", "is a link to a file that is not there"),
            ("socket", "can't be opened: No such device or address (os error 6)"),
        ] {
            let error = open_disk("disk", &Disk::new(path(name))).unwrap_err().to_string();
            assert_eq!(error, format!("disk {}: {expected}", path(name).display()));
        }
        let error = open_disk("disk", &Disk { readonly: true, ..Disk::new("/dev/null") }).unwrap_err().to_string();
        assert_eq!(error, "disk /dev/null: is neither a file nor a block device");
    }

    #[test]
    fn an_image_that_may_only_be_read_says_what_to_add() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("image");
        std::fs::write(&path, [0; 512]).unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o444)).unwrap();
        std::fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o755)).unwrap();
        // Root may write whatever the mode says, so this thread stops being root to the file system.
        // SAFETY: changes a number of this thread, which ends with the test.
        #[expect(unsafe_code, reason = "a system call")]
        unsafe {
            libc::setfsuid(65534)
        };
        let error = open_disk("disk", &Disk::new(&path)).unwrap_err().to_string();
        assert!(error.ends_with("add readonly=on (or ',ro' to --rootfs)"), "{error}");
        assert!(open_disk("disk", &Disk { readonly: true, ..Disk::new(&path) }).is_ok());
    }

    #[test]
    fn a_kernel_is_a_file() {
        let dir = tempfile::tempdir().unwrap();
        let error = open_readable("kernel", dir.path()).unwrap_err().to_string();
        assert_eq!(error, format!("kernel {}: is a directory", dir.path().display()));
        let error = open_readable("kernel", Path::new("/dev/null")).unwrap_err().to_string();
        assert_eq!(error, "kernel /dev/null: is not a file");
    }
}
