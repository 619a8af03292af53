// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Unix sockets that a VM listens at.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use crate::build::BuildError;
use crate::storage::{plain, problem};

/// The longest path that fits into `sockaddr_un`, without its NUL.
pub(crate) const MAX_PATH: usize = 107;

/// A socket's file, which goes with this, unless another one has taken its place.
#[derive(Debug)]
pub(crate) struct SocketFile {
    path: PathBuf,
    /// The device and the inode.
    identity: Option<(u64, u64)>,
}

impl SocketFile {
    fn new(path: &Path) -> Self {
        Self { path: path.to_owned(), identity: identity(path) }
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let Self { path, identity: made } = self;
        if made.is_some()
            && identity(path) == *made
            && let Err(error) = fs::remove_file(&path)
        {
            tracing::warn!("{} can't be removed: {error}", path.display());
        }
    }
}

fn identity(path: &Path) -> Option<(u64, u64)> {
    fs::symlink_metadata(path).ok().map(|found| (found.dev(), found.ino()))
}

/// Listens at `path`, for this user alone. A socket that is there already is replaced if nobody listens at it. `what` says
/// what the socket is for.
pub(crate) fn listen(what: &'static str, path: &Path) -> Result<(UnixListener, SocketFile), BuildError> {
    make(what, path, |path| UnixStream::connect(path).map(drop), |path| UnixListener::bind(path))
}

/// The same for datagrams.
pub(crate) fn datagrams(what: &'static str, path: &Path) -> Result<(UnixDatagram, SocketFile), BuildError> {
    make(what, path, |path| UnixDatagram::unbound()?.connect(path), |path| UnixDatagram::bind(path))
}

fn make<T>(
    what: &'static str,
    path: &Path,
    connect: impl FnOnce(&Path) -> io::Result<()>,
    bind: impl FnOnce(&Path) -> io::Result<T>,
) -> Result<(T, SocketFile), BuildError> {
    let len = path.as_os_str().len();
    if len > MAX_PATH {
        let text = format!("its path has {len} bytes, but a socket's has at most {MAX_PATH}: use a relative one");
        return Err(problem(what, path, text));
    }
    if let Ok(there) = fs::symlink_metadata(path) {
        if !there.file_type().is_socket() {
            return Err(problem(what, path, "something else is there, which would be overwritten"));
        }
        match connect(path) {
            // Its owner is gone.
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path)
                .map_err(|error| problem(what, path, format!("a stale one can't be removed: {}", plain(&error))))?,
            _ => return Err(problem(what, path, "is taken: a program listens there")),
        }
    }
    let socket = bind(path).map_err(|error| problem(what, path, format!("can't be created: {}", plain(&error))))?;
    let file = SocketFile::new(path);
    // Whoever can connect speaks with the guest.
    fs::set_permissions(path, Permissions::from_mode(0o600))
        .map_err(|error| problem(what, path, format!("its mode can't be set: {}", plain(&error))))?;
    Ok((socket, file))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_socket_that_was_made_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let (_, file) = listen("socket", &path).unwrap();
        drop(file);
        assert!(!path.exists());
        let (listener, file) = listen("socket", &path).unwrap();
        // It stays in use, so that nothing else gets its inode.
        fs::rename(&path, dir.path().join("moved")).unwrap();
        let _another = UnixListener::bind(&path).unwrap();
        drop(file);
        assert!(path.exists());
        drop(listener);
    }
}
