// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! A disk on a block device, for which root attaches a file to a loop device.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileExt, FileTypeExt, OpenOptionsExt};
use std::path::Path;
use std::process::Command;

use devices::virtio::block::{Block, BlockOptions, EngineChoice};
use devices::virtio::mock::{Buffer, readable, writable};
use running::Running;
use vm_memory::{Bytes, GuestAddress};

#[path = "running/mod.rs"]
mod running;

#[path = "skip/mod.rs"]
#[expect(dead_code, reason = "a loop device has direct I/O if anything has")]
mod skip;

const SIZE: usize = 1 << 20;
const SECTORS: u64 = SIZE as u64 / 512;
const HEADER: u64 = 0x4000;
const STATUS: u64 = 0x5000;
const DATA: u64 = 0x10_0000;

const T_IN: u32 = 0;
const T_OUT: u32 = 1;
const T_FLUSH: u32 = 4;
const T_DISCARD: u32 = 11;
const T_WRITE_ZEROES: u32 = 13;

/// A loop device, which lets its file go in the end.
struct Loop(String);

impl Loop {
    /// Nothing, which is said, where there can be none.
    fn attach(file: &Path) -> Option<Self> {
        let output = match Command::new("losetup").args(["--find", "--show"]).arg(file).output() {
            Ok(output) => output,
            Err(error) => {
                skip::skip(&format!("losetup can't be run: {error}"));
                return None;
            }
        };
        if !output.status.success() {
            skip::skip(&format!("no loop device can be had: {}", String::from_utf8_lossy(&output.stderr).trim()));
            return None;
        }
        Some(Self(String::from_utf8(output.stdout).unwrap().trim().to_owned()))
    }

    fn open(&self, direct: bool) -> File {
        let flags = if direct { libc::O_DIRECT } else { 0 };
        OpenOptions::new().read(true).write(true).custom_flags(flags).open(&self.0).unwrap()
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = Command::new("losetup").args(["--detach", &self.0]).status();
    }
}

struct Rig(Running);

impl Rig {
    fn new(file: File, engine: EngineChoice, direct: bool) -> Self {
        let mut options = BlockOptions::default();
        (options.engine, options.direct) = (engine, direct);
        Self(Running::new(Block::new("vda", file, options).unwrap(), 4 << 20))
    }

    /// The status of a request.
    fn request(&mut self, kind: u32, sector: u64, data: Buffer) -> u8 {
        let driver = &mut self.0.driver;
        driver.mem.write_obj([u64::from(kind), sector], GuestAddress(HEADER)).unwrap();
        driver.mem.write_obj(0xeeu8, GuestAddress(STATUS)).unwrap();
        driver.submit(&[readable(HEADER, 16), data, writable(STATUS, 1)]);
        self.0.ring(1);
        self.0.driver.mem.read_obj(GuestAddress(STATUS)).unwrap()
    }

    /// The status of a request for so many sectors.
    fn range(&mut self, kind: u32, sector: u64, sectors: u32, flags: u32) -> u8 {
        let rest = u64::from(flags) << 32 | u64::from(sectors);
        self.0.driver.mem.write_obj([sector, rest], GuestAddress(DATA)).unwrap();
        self.request(kind, 0, readable(DATA, 16))
    }

    fn read_all(&mut self) -> Vec<u8> {
        assert_eq!(self.request(T_IN, 0, writable(DATA, SIZE as u32)), 0);
        let mut bytes = vec![0; SIZE];
        self.0.driver.mem.read_slice(&mut bytes, GuestAddress(DATA)).unwrap();
        bytes
    }
}

#[test]
fn a_block_device_is_read_written_discarded_and_made_zero_like_a_file() {
    if let Err(error) = OpenOptions::new().read(true).write(true).open("/dev/loop-control") {
        return skip::skip(&format!("/dev/loop-control can't be opened: {error}"));
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("image");
    for engine in [EngineChoice::Sync, EngineChoice::IoUring] {
        for direct in [false, true] {
            let mut expected: Vec<u8> = (0..SIZE).map(|at| (at / 512 * 7 + at % 251 + 1) as u8).collect();
            fs::write(&path, &expected).unwrap();
            let Some(device) = Loop::attach(&path) else { return };
            assert!(fs::metadata(&device.0).unwrap().file_type().is_block_device());
            let mut rig = Rig::new(device.open(direct), engine, direct);
            let what = format!("{engine:?}, direct {direct}");
            assert_eq!(rig.0.capacity(), SECTORS, "{what}");
            assert!(rig.read_all() == expected, "{what}");

            rig.0.driver.mem.write_slice(&[0x77; 0x2000], GuestAddress(DATA + 1)).unwrap();
            assert_eq!(rig.request(T_OUT, 64, readable(DATA + 1, 0x2000)), 0, "{what}");
            expected[64 * 512..80 * 512].fill(0x77);
            for (kind, sector, flags) in [(T_DISCARD, 8, 0), (T_WRITE_ZEROES, 128, 0), (T_WRITE_ZEROES, 256, 1)] {
                assert_eq!(rig.range(kind, sector, 16, flags), 0, "{what}: {kind} {flags}");
                expected[sector as usize * 512..][..16 * 512].fill(0);
            }
            assert_eq!(rig.range(T_DISCARD, SECTORS - 8, 16, 0), 1, "{what}: across the end");
            assert_eq!(rig.request(T_IN, SECTORS, writable(DATA, 512)), 1, "{what}: past the end");
            assert_eq!(rig.request(T_FLUSH, 0, readable(DATA, 0)), 0, "{what}");
            assert!(rig.read_all() == expected, "{what}");
            drop(rig);

            let mut bytes = vec![0; SIZE];
            device.open(false).read_exact_at(&mut bytes, 0).unwrap();
            assert!(bytes == expected, "{what}");
        }
    }
}
