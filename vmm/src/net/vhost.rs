// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! vhost: the kernel's, which moves a tap's frames, and another process's.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use devices::virtio::net::{Backend, Reconnect};

use super::{peer, sys};

/// Of the kernel's. A user needs no privilege but to open it.
const VHOST_NET: &str = "/dev/vhost-net";

/// Has the kernel move the frames of each of these taps.
pub(super) fn offload(taps: Vec<Backend>) -> Result<Vec<Backend>, String> {
    let offload = |tap| match tap {
        Backend::Tap { file, vnet_header } => {
            Ok(Backend::VhostTap { file, vnet_header, vhost: open(Path::new(VHOST_NET))? })
        }
        other => Ok(other),
    };
    taps.into_iter().map(offload).collect()
}

fn open(path: &Path) -> Result<File, String> {
    OpenOptions::new().read(true).write(true).open(path).map_err(|error| {
        let path = path.display();
        match error.raw_os_error() {
            Some(libc::ENOENT | libc::ENODEV | libc::ENXIO) => {
                format!("{path} is not there: load the module: 'modprobe vhost_net', or leave vhost=on away")
            }
            Some(libc::EACCES | libc::EPERM) => format!(
                "{path} may not be opened by this user: give it access, for example by the group of the device \
                 ('usermod -aG kvm USER' where that is kvm), or leave vhost=on away"
            ),
            _ => format!("{path} can't be opened: {error}"),
        }
    })
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

    #[test]
    fn a_device_that_is_not_there_or_forbidden_is_named_with_its_cure() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("vhost-net");
        let said = |path: &Path| open(path).unwrap_err().replace(&path.display().to_string(), "PATH");
        let expected = "PATH is not there: load the module: 'modprobe vhost_net', or leave vhost=on away";
        assert_eq!(said(&path), expected);
        assert!(said(folder.path()).starts_with("PATH can't be opened: "));
    }
}
