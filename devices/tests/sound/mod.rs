// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Images that somebody else finds sound: `qemu-img check` what is qcow2, `e2fsck` what has an ext4 in it.
//!
//! What an image is is read from itself, so that none is forgotten, whatever a test or its guest made of it.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Command, Output};

/// Where the superblock of an ext2, ext3 or ext4 has its magic number, and what that is.
const EXT4_MAGIC: (u64, [u8; 2]) = (1080, [0x53, 0xef]);

/// Panics, with what the tool said, unless the image is sound. One that is neither is bytes, and always is.
pub(crate) fn assert_sound(image: &Path) {
    if begins_with(image, 0, b"QFI\xfb") {
        let output = run("qemu-img", &["check", "-f", "qcow2"], image, &[]);
        assert_success(image, "qemu-img check", &output);
        let content = tempfile::NamedTempFile::new().unwrap();
        let to = content.path().to_str().unwrap();
        let output = run("qemu-img", &["convert", "-f", "qcow2", "-O", "raw"], image, &[to]);
        assert_success(image, "qemu-img convert", &output);
        assert_sound_ext4(content.path(), image);
    } else {
        assert_sound_ext4(image, image);
    }
}

fn assert_sound_ext4(content: &Path, image: &Path) {
    if begins_with(content, EXT4_MAGIC.0, &EXT4_MAGIC.1) {
        // 0: nothing is wrong, and nothing is left of a journal.
        assert_success(image, "e2fsck -fn", &run("e2fsck", &["-fn"], content, &[]));
    }
}

fn begins_with(image: &Path, at: u64, bytes: &[u8]) -> bool {
    let mut found = vec![0; bytes.len()];
    File::open(image).unwrap().read_exact_at(&mut found, at).is_ok() && found == bytes
}

fn run(program: &str, arguments: &[&str], image: &Path, more: &[&str]) -> Output {
    // QEMU looks for an external data file from where it is run.
    let folder = image.parent().unwrap();
    let output = Command::new(program).args(arguments).arg(image).args(more).current_dir(folder).output();
    output.unwrap_or_else(|error| panic!("{program}, of Debian's qemu-utils or e2fsprogs, can't be run: {error}"))
}

fn assert_success(image: &Path, what: &str, output: &Output) {
    let said = [&output.stdout[..], &output.stderr].concat();
    assert!(output.status.success(), "{what}: {}: {}", image.display(), String::from_utf8_lossy(&said));
}
