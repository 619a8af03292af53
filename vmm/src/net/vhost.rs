// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! vhost: the kernel's, which moves a tap's frames, and another process's.

use std::io;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use devices::virtio::net::{Backend, Reconnect};

use super::{peer, sys};
use crate::vhost_device::{self, VHOST_NET};

/// Has the kernel move the frames of each of these taps.
pub(super) fn offload(taps: Vec<Backend>) -> Result<Vec<Backend>, String> {
    let offload = |tap| match tap {
        Backend::Tap { file, vnet_header } => {
            Ok(Backend::VhostTap { file, vnet_header, vhost: vhost_device::open(VHOST_NET)? })
        }
        other => Ok(other),
    };
    taps.into_iter().map(offload).collect()
}

/// Connects to a backend of vhost-user that runs.
pub(super) fn connect(path: &Path, pairs: u16) -> Result<Backend, String> {
    let is_socket = std::fs::metadata(path).map_or(true, |found| found.file_type().is_socket());
    let socket = sys::connect(path).map_err(|error| match error.kind() {
        _ if !is_socket => "is no socket: give the one at which a vhost-user-net backend listens".to_owned(),
        io::ErrorKind::NotFound => "there is no such socket: start a vhost-user-net backend there first".to_owned(),
        io::ErrorKind::ConnectionRefused => "nobody listens there: start a vhost-user-net backend first".to_owned(),
        io::ErrorKind::WouldBlock => "takes nobody just now: another program may have it".to_owned(),
        io::ErrorKind::PermissionDenied => "may not be used by this user".to_owned(),
        _ => format!("can't be connected to: {error}"),
    })?;
    let user = peer::user_of(&socket).map_err(|error| format!("doesn't say whose it is: {error}"))?;
    Ok(Backend::VhostUser { socket, reconnect: Some(Box::new(Again { path: path.to_owned(), user })), pairs })
}

/// Connects to a socket again.
#[derive(Debug)]
struct Again {
    path: PathBuf,
    /// Whose the first one was. It was given the guest's memory, and nobody else is who takes the path later.
    user: libc::uid_t,
}

impl Reconnect for Again {
    fn try_connect(&mut self) -> io::Result<UnixStream> {
        let socket = sys::connect(&self.path)?;
        let user = peer::user_of(&socket)?;
        if user == self.user {
            return Ok(socket);
        }
        let message = format!("it is of user {user}, and the first one was of user {}", self.user);
        Err(io::Error::new(io::ErrorKind::PermissionDenied, message))
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn memory_is_given_to_nobody_of_another_user_after_a_reconnect() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("net.sock");
        let _listener = UnixListener::bind(&path).unwrap();
        let Backend::VhostUser { socket, reconnect: Some(mut again), .. } = connect(&path, 1).unwrap() else {
            panic!()
        };
        assert!(again.try_connect().is_ok());
        let user = peer::user_of(&socket).unwrap();
        let error = Again { path, user: user + 1 }.try_connect().unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::PermissionDenied);
        assert_eq!(error.to_string(), format!("it is of user {user}, and the first one was of user {}", user + 1));
    }
}
