// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! A pipe in place of a disk's file, for tests: the kernel keeps what it is asked for until the test lets it go on.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, FromRawFd};

/// Bytes that fit into the pipe: one page.
pub(crate) const CAPACITY: usize = 4096;

/// Both ends of a pipe. Calls of the test's own don't wait.
#[derive(Debug)]
pub(crate) struct Pipe {
    pub(crate) reader: File,
    pub(crate) writer: File,
}

impl Pipe {
    pub(crate) fn new() -> Self {
        let mut ends = [0; 2];
        // SAFETY: two descriptors are written to an array of two.
        assert_eq!(unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC) }, 0);
        // SAFETY: the descriptors are new and nobody else's.
        let [reader, writer] = ends.map(|fd| unsafe { File::from_raw_fd(fd) });
        // SAFETY: numbers, and a descriptor that is borrowed from an open file.
        let size = unsafe { libc::fcntl(writer.as_raw_fd(), libc::F_SETPIPE_SZ, CAPACITY) };
        assert_eq!(usize::try_from(size), Ok(CAPACITY));
        Self { reader, writer }
    }

    /// Puts bytes into it, for which there is room.
    pub(crate) fn fill(&self, bytes: &[u8]) {
        (&self.writer).write_all(bytes).unwrap();
    }

    /// Takes out all that is in it.
    pub(crate) fn drain(&self) -> Vec<u8> {
        let mut left: libc::c_int = 0;
        // SAFETY: the request fills an integer of this size, which lives on this stack.
        assert_eq!(unsafe { libc::ioctl(self.reader.as_raw_fd(), libc::FIONREAD, &raw mut left) }, 0);
        let mut bytes = vec![0; usize::try_from(left).unwrap()];
        (&self.reader).read_exact(&mut bytes).unwrap();
        bytes
    }
}

/// Lets `file` be what `other` is, whoever has it.
pub(crate) fn replace(file: &File, other: &File) {
    // SAFETY: both descriptors are borrowed from open files. What the first one was is closed, and nobody has mapped it.
    let replaced = unsafe { libc::dup3(other.as_raw_fd(), file.as_raw_fd(), libc::O_CLOEXEC) };
    assert!(replaced >= 0, "{}", io::Error::last_os_error());
}
