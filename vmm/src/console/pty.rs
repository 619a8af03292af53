// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! A pseudo-terminal whose other end anybody of this user's may open.

#![expect(unsafe_code, reason = "terminals are set by C functions")]

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::PathBuf;

/// Our end, and the path of the other one.
#[derive(Debug)]
pub(super) struct Pty {
    ours: File,
    /// Kept open, so that one who leaves is no end of it.
    theirs: File,
    pub(super) path: PathBuf,
}

impl Pty {
    /// Makes one, raw: what the guest's own terminal does isn't done twice.
    pub(super) fn open() -> io::Result<Self> {
        let open = |path: &std::path::Path| {
            let flags = libc::O_NONBLOCK | libc::O_NOCTTY;
            OpenOptions::new().read(true).write(true).custom_flags(flags).open(path)
        };
        let ours = open("/dev/ptmx".as_ref())?;
        let (fd, unlocked, mut number) = (ours.as_raw_fd(), 0 as libc::c_int, 0 as libc::c_uint);
        // SAFETY: the request reads an integer of this size, which lives on this stack; the descriptor is open.
        check(unsafe { libc::ioctl(fd, libc::TIOCSPTLCK, &raw const unlocked) })?;
        // SAFETY: the request fills an integer of this size, which lives on this stack; the descriptor is open.
        check(unsafe { libc::ioctl(fd, libc::TIOCGPTN, &raw mut number) })?;
        let path = PathBuf::from(format!("/dev/pts/{number}"));
        let theirs = open(&path)?;
        make_raw(&theirs)?;
        // Whoever can open it speaks with the guest.
        fs::set_permissions(&path, Permissions::from_mode(0o600))?;
        Ok(Self { ours, theirs, path })
    }

    pub(super) fn try_clone(&self) -> io::Result<Self> {
        Ok(Self { ours: self.ours.try_clone()?, theirs: self.theirs.try_clone()?, path: self.path.clone() })
    }
}

fn make_raw(terminal: &File) -> io::Result<()> {
    let mut settings = MaybeUninit::uninit();
    // SAFETY: fills the settings, which live on this stack; the descriptor is open.
    check(unsafe { libc::tcgetattr(terminal.as_raw_fd(), settings.as_mut_ptr()) })?;
    // SAFETY: they were filled, or we would not be here.
    let mut settings: libc::termios = unsafe { settings.assume_init() };
    // SAFETY: changes the settings, which are borrowed for that.
    unsafe { libc::cfmakeraw(&raw mut settings) };
    // SAFETY: reads the settings; the descriptor is open.
    check(unsafe { libc::tcsetattr(terminal.as_raw_fd(), libc::TCSANOW, &raw const settings) })
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

impl Read for Pty {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        self.ours.read(bytes)
    }
}

impl Write for Pty {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.ours.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl AsRawFd for Pty {
    fn as_raw_fd(&self) -> RawFd {
        self.ours.as_raw_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_pass_as_they_are_and_one_who_leaves_is_no_end() {
        let mut pty = Pty::open().unwrap();
        for _ in 0..2 {
            let mut theirs = OpenOptions::new().read(true).write(true).open(&pty.path).unwrap();
            pty.write_all(b"\r\n\x03out").unwrap();
            let mut seen = [0; 6];
            theirs.read_exact(&mut seen).unwrap();
            assert_eq!(&seen, b"\r\n\x03out");
            theirs.write_all(b"in\n").unwrap();
            let mut seen = [0; 3];
            pty.read_exact(&mut seen).unwrap();
            assert_eq!(&seen, b"in\n");
            assert_eq!(pty.read(&mut seen).unwrap_err().kind(), io::ErrorKind::WouldBlock, "there is no echo");
            drop(theirs);
            assert_eq!(pty.read(&mut seen).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        }
        assert_eq!(fs::metadata(&pty.path).unwrap().permissions().mode() & 0o777, 0o600);
    }
}
