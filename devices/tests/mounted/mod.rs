// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! A small file system that root mounts, and that is nearly full.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::Command;

use tempfile::TempDir;

use crate::skip::skip;
use crate::sound::assert_sound;

/// Bytes of a disk that a test is to put there. There is room for about half of it, until [`Mounted::make_room`].
pub(crate) const DISK: u64 = 8 << 20;

const FILE_SYSTEM: u64 = 16 << 20;
const BALLAST: usize = 11 << 20;

/// A small file system, which goes in the end, and its folder.
pub(crate) struct Mounted {
    folder: TempDir,
    /// The file that the ext4 is in.
    file: Option<PathBuf>,
}

impl Mounted {
    /// Nothing, which is said, where none can be mounted.
    pub(crate) fn new(kind: &str) -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let at = folder.path().join("mounted");
        fs::create_dir(&at).unwrap();
        let mut mount = Command::new("mount");
        let file = folder.path().join("ext4");
        if kind == "ext4" {
            File::create(&file).unwrap().set_len(FILE_SYSTEM).unwrap();
            let made = Command::new("mkfs.ext4").args(["-q", "-m", "0", "-O", "^has_journal"]).arg(&file).status();
            assert!(made.expect("mkfs.ext4 is there: Debian's package e2fsprogs has it").success());
            mount.args(["-o", "loop"]).arg(&file);
        } else {
            mount.args(["-t", kind, "-o", &format!("size={FILE_SYSTEM}"), kind]);
        }
        let mounted = mount.arg(&at).output().unwrap();
        if !mounted.status.success() {
            skip(&format!("no {kind} can be mounted: {}", String::from_utf8_lossy(&mounted.stderr).trim()));
            return None;
        }
        fs::write(at.join("ballast"), vec![0xbb; BALLAST]).unwrap();
        Some(Self { folder, file: (kind == "ext4").then_some(file) })
    }

    /// A file in it.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join("mounted").join(name)
    }

    /// Makes room for all of the disk.
    pub(crate) fn make_room(&self) {
        fs::remove_file(self.path("ballast")).unwrap();
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let unmounted = Command::new("umount").arg(self.folder.path().join("mounted")).status().unwrap();
        if !std::thread::panicking() {
            assert!(unmounted.success());
            self.file.iter().for_each(|file| assert_sound(file));
        }
    }
}
