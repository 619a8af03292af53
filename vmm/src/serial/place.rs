// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The place that the configuration names for the serial port: opened, and left as it was when the VM can't be built.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use vmm_sys_util::eventfd::EventFd;

use super::input::{InputFrom, Socket};
use super::output::{Client, PatientOutput, SocketOutput};
use super::{Console, ConsoleOutput};
use crate::build::{BuildError, no};
use crate::config::SerialConfig;
use crate::storage::{plain, problem};
use crate::unix_socket::{self, SocketFile};

/// What the serial port is connected to.
pub(crate) struct Place {
    pub(crate) input: InputFrom,
    pub(crate) output: Box<dyn Write + Send>,
    /// What is removed again when this is dropped.
    pub(crate) leftovers: Leftovers,
}

/// A file that was made, and doesn't stay.
#[derive(Debug, Default)]
pub(crate) struct Leftovers {
    _socket: Option<SocketFile>,
    /// Removed unless the VM was built.
    file: Option<PathBuf>,
    /// Emptied when the VM was built.
    before: Option<File>,
}

impl Leftovers {
    /// A socket, which goes with its VM.
    pub(crate) fn socket(socket: SocketFile) -> Self {
        Self { _socket: Some(socket), file: None, before: None }
    }

    /// A file, which goes if it was made and the VM isn't built. `before` is to be emptied when the VM is built.
    pub(crate) fn file(path: &Path, was_made: bool, before: Option<File>) -> Self {
        Self { _socket: None, file: was_made.then(|| path.to_owned()), before }
    }

    /// The VM is built: what it writes stays, and what was there before goes.
    pub(crate) fn keep_file(&mut self) {
        self.file = None;
        if let Some(before) = self.before.take()
            && let Err(error) = before.set_len(0)
        {
            // A terminal or a FIFO, say: it has no length.
            tracing::debug!("a file for output can't be emptied: {error}");
        }
    }
}

impl Drop for Leftovers {
    fn drop(&mut self) {
        if let Some(path) = &self.file
            && let Err(error) = fs::remove_file(path)
        {
            tracing::warn!("{} can't be removed: {error}", path.display());
        }
    }
}

impl Place {
    /// Opens what `config` names, or takes `console` in its place. `stop` is readable from the moment on when the VM
    /// ends.
    pub(crate) fn open(config: &SerialConfig, console: Option<Console>, stop: EventFd) -> Result<Self, BuildError> {
        let patient = |output: Box<dyn ConsoleOutput>| Box::new(PatientOutput::new(output, stop));
        let leftovers = Leftovers::default();
        if let Some(Console { input, output }) = console {
            let input = input.map_or(InputFrom::Nowhere, InputFrom::Source);
            return Ok(Self { input, output: patient(output), leftovers });
        }
        match config {
            SerialConfig::Null => Ok(Self { input: InputFrom::Nowhere, output: Box::new(io::sink()), leftovers }),
            SerialConfig::Stdio => {
                let (input, output) = stdio().map_err(no("copies of standard input and output"))?;
                Ok(Self { input: InputFrom::Source(Box::new(input)), output: patient(Box::new(output)), leftovers })
            }
            SerialConfig::File(path) => {
                let (file, created) = create("serial file", path, false)?;
                let before = file.try_clone().map_err(no("a copy of a descriptor"))?;
                let leftovers = Leftovers::file(path, created, Some(before));
                Ok(Self { input: InputFrom::Nowhere, output: patient(Box::new(file)), leftovers })
            }
            SerialConfig::Socket(path) => {
                let (listener, file) = unix_socket::listen("serial socket", path)?;
                let leftovers = Leftovers::socket(file);
                listener.set_nonblocking(true).map_err(no("a non-blocking socket"))?;
                let client = Client::default();
                let input = InputFrom::Socket(Socket { listener, client: client.clone() });
                Ok(Self { input, output: Box::new(SocketOutput(client)), leftovers })
            }
        }
    }
}

/// Unbuffered, so that what epoll says of the descriptor is true of the reader.
fn stdio() -> io::Result<(File, File)> {
    let (input, output) = (io::stdin(), io::stdout());
    Ok((input.as_fd().try_clone_to_owned()?.into(), output.as_fd().try_clone_to_owned()?.into()))
}

/// Creates or opens a file, which is written from its start or its end on; tells whether it is a new one.
pub(crate) fn create(what: &'static str, path: &Path, append: bool) -> Result<(File, bool), BuildError> {
    let new = fs::symlink_metadata(path).is_err();
    let file = OpenOptions::new()
        .write(true)
        .append(append)
        .create(true)
        .truncate(false)
        .mode(0o600)
        // A FIFO that nobody reads would block here, and a full one later: output waits by itself.
        .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
        .open(path)
        .map_err(|error| problem(what, path, format!("can't be written: {}", plain(&error))))?;
    Ok((file, new))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::net::UnixListener;

    use super::*;

    fn open(config: &SerialConfig) -> Result<Place, String> {
        Place::open(config, None, EventFd::new(0).unwrap()).map_err(|error| error.to_string())
    }

    #[test]
    fn a_file_that_was_made_goes_when_the_vm_is_not_built() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let config = SerialConfig::File(path.clone());
        drop(open(&config).unwrap());
        assert!(!path.exists());
        let mut place = open(&config).unwrap();
        place.leftovers.keep_file();
        place.output.write_all(b"hello").unwrap();
        drop(place);
        assert_eq!(fs::read(&path).unwrap(), b"hello");
        // One that was there before stays as it was, until a VM is built.
        drop(open(&config).unwrap());
        assert_eq!(fs::read(&path).unwrap(), b"hello");
        open(&config).unwrap().leftovers.keep_file();
        assert_eq!(fs::read(&path).unwrap(), b"");
    }

    #[test]
    fn a_socket_goes_with_its_vm_and_is_nobody_elses() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let config = SerialConfig::Socket(path.clone());
        let place = open(&config).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let taken = format!("serial socket {}: is taken: a program listens there", path.display());
        assert_eq!(open(&config).err(), Some(taken));
        drop(place);
        assert!(!path.exists());
    }

    #[test]
    fn a_stale_socket_is_replaced_and_anything_else_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        drop(UnixListener::bind(&path).unwrap());
        assert!(path.exists());
        drop(open(&SerialConfig::Socket(path.clone())).unwrap());
        fs::write(&path, "precious").unwrap();
        let error = open(&SerialConfig::Socket(path.clone())).err().unwrap();
        assert!(error.ends_with("something else is there, which would be overwritten"), "{error}");
        assert_eq!(fs::read(&path).unwrap(), b"precious");
    }

    #[test]
    fn bad_places_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let long = at(&"x".repeat(200));
        for (config, expected) in [
            (SerialConfig::File(dir.path().into()), "it is a directory"),
            (SerialConfig::File(at("no/file")), "there is no such directory"),
            (SerialConfig::Socket(at("no/socket")), "there is no such directory"),
            (SerialConfig::Socket(long), "use a relative one"),
        ] {
            let error = open(&config).err().unwrap();
            assert!(error.ends_with(expected), "{error}");
        }
    }
}
