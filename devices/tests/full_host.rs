// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! A disk on a file system that is really full: one in memory and an ext4, which root mounts.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;

use devices::virtio::block::{Block, BlockOptions, CacheMode, EngineChoice, ImageFormat, OnError};
use devices::virtio::mock::{Buffer, readable, writable};
use mounted::Mounted;
use running::Running;
use sound::assert_sound;
use vm_memory::{Bytes, GuestAddress};

#[path = "mounted/mod.rs"]
mod mounted;

#[path = "running/mod.rs"]
mod running;

#[path = "skip/mod.rs"]
#[expect(dead_code, reason = "these have file systems of their own")]
mod skip;

#[path = "sound/mod.rs"]
mod sound;

const PIECE: usize = 64 << 10;
const PIECES: usize = mounted::DISK as usize / PIECE;

const HEADER: u64 = 0x4000;
const STATUS: u64 = 0x5000;
const DATA: u64 = 0x1_0000;
const READ: u32 = 0;
const WRITE: u32 = 1;
const FLUSH: u32 = 4;

type Kind = (ImageFormat, EngineChoice, CacheMode);

struct Disk(Running);

impl Disk {
    fn new(image: &Path, kind: Kind, on_error: OnError) -> Self {
        let (format, engine, cache) = kind;
        if format == ImageFormat::Raw {
            File::create(image).unwrap().set_len(mounted::DISK).unwrap();
        } else {
            let made = Command::new("qemu-img").args(["create", "-q", "-f", "qcow2"]).arg(image).arg("8M").status();
            assert!(made.expect("qemu-img is there: Debian's package qemu-utils has it").success());
        }
        let mut options = BlockOptions::default();
        (options.format, options.engine, options.cache, options.on_error) = (format, engine, cache, on_error);
        let file = File::options().read(true).write(true).open(image).unwrap();
        Self(Running::new(Block::new("vda", file, options).unwrap(), 1 << 20))
    }

    /// Offers a request whose header and status are those of a slot, with data as in `buffers`.
    fn offer(&mut self, slot: u64, kind: u32, sector: u64, buffers: &[Buffer]) {
        let mem = &self.0.driver.mem;
        mem.write_obj([u64::from(kind), sector], GuestAddress(HEADER + 16 * slot)).unwrap();
        mem.write_obj(0xeeu8, GuestAddress(STATUS + slot)).unwrap();
        let (header, status) = (readable(HEADER + 16 * slot, 16), writable(STATUS + slot, 1));
        self.0.driver.submit(&[&[header], buffers, &[status]].concat());
    }

    fn status(&self, slot: u64) -> u8 {
        self.0.driver.mem.read_obj(GuestAddress(STATUS + slot)).unwrap()
    }

    /// A request's status.
    fn request(&mut self, kind: u32, sector: u64, buffers: &[Buffer]) -> u8 {
        self.offer(0, kind, sector, buffers);
        self.0.ring(1);
        self.status(0)
    }

    /// Offers to write a piece, each of which has bytes of its own.
    fn offer_piece(&mut self, slot: u64, piece: usize) {
        let at = DATA + 0x1_0000 * slot;
        self.0.driver.mem.write_slice(&content(piece), GuestAddress(at)).unwrap();
        self.offer(slot, WRITE, sector(piece), &[readable(at, PIECE as u32)]);
    }

    fn write(&mut self, piece: usize) -> u8 {
        self.offer_piece(0, piece);
        self.0.ring(1);
        self.status(0)
    }

    /// Waits until the one write that is under way has come back, or is held.
    fn is_held(&self) -> bool {
        while self.0.control().held() == 0 && !self.0.has_come_back() {
            std::thread::yield_now();
        }
        !self.0.has_come_back()
    }

    fn read(&mut self, piece: usize) -> Vec<u8> {
        assert_eq!(self.request(READ, sector(piece), &[writable(DATA, PIECE as u32)]), 0);
        let mut bytes = vec![0; PIECE];
        self.0.driver.mem.read_slice(&mut bytes, GuestAddress(DATA)).unwrap();
        bytes
    }
}

fn sector(piece: usize) -> u64 {
    (piece * PIECE) as u64 / 512
}

fn content(piece: usize) -> Vec<u8> {
    vec![piece as u8 + 1; PIECE]
}

/// The image is sound, and all of its pieces are what was written.
fn assert_whole(image: &Path, format: ImageFormat) {
    assert_sound(image);
    let raw = tempfile::NamedTempFile::new().unwrap();
    let name = if format == ImageFormat::Raw { "raw" } else { "qcow2" };
    let convert = ["convert", "-f", name, "-O", "raw"];
    let converted = Command::new("qemu-img").args(convert).arg(image).arg(raw.path()).status();
    assert!(converted.unwrap().success());
    let mut bytes = vec![0; PIECE];
    for piece in 0..PIECES {
        raw.as_file().read_exact_at(&mut bytes, (piece * PIECE) as u64).unwrap();
        assert!(bytes == content(piece), "piece {piece}");
    }
}

const KINDS: [Kind; 6] = [
    (ImageFormat::Raw, EngineChoice::Sync, CacheMode::Writeback),
    (ImageFormat::Raw, EngineChoice::Sync, CacheMode::Writethrough),
    (ImageFormat::Raw, EngineChoice::IoUring, CacheMode::Writeback),
    (ImageFormat::Raw, EngineChoice::IoUring, CacheMode::Writethrough),
    (ImageFormat::Qcow2, EngineChoice::Sync, CacheMode::Writeback),
    (ImageFormat::Qcow2, EngineChoice::Sync, CacheMode::Writethrough),
];

fn reports(file_system: &str) {
    for (format, engine, cache) in KINDS {
        let Some(mounted) = Mounted::new(file_system) else { return };
        let image = mounted.path("image");
        let mut disk = Disk::new(&image, (format, engine, cache), OnError::Report);
        let statuses: Vec<u8> = (0..PIECES).map(|piece| disk.write(piece)).collect();
        let written = statuses.iter().filter(|status| **status == 0).count();
        let what = format!("{format:?}, {engine:?}, {cache:?}: {written} of {PIECES}");
        assert!((PIECES / 4..PIECES).contains(&written) && statuses[0] == 0, "{what}");
        assert!(statuses.iter().all(|status| matches!(status, 0 | 1)), "{what}: {statuses:?}");
        for piece in (0..PIECES).filter(|piece| statuses[*piece] == 0) {
            assert!(disk.read(piece) == content(piece), "{what}: {piece}");
        }
        assert_eq!(disk.request(FLUSH, 0, &[]), 0, "{what}: what was written has its room");
        mounted.make_room();
        for piece in (0..PIECES).filter(|piece| statuses[*piece] != 0) {
            assert_eq!(disk.write(piece), 0, "{what}: {piece}");
        }
        assert_eq!(disk.request(FLUSH, 0, &[]), 0, "{what}");
        drop(disk);
        assert_whole(&image, format);
    }
}

fn stops(file_system: &str) {
    for (format, engine, cache) in KINDS {
        let Some(mounted) = Mounted::new(file_system) else { return };
        let image = mounted.path("image");
        let mut disk = Disk::new(&image, (format, engine, cache), OnError::Stop);
        let control = disk.0.control();
        let what = format!("{format:?}, {engine:?}, {cache:?}");
        let mut piece = 0;
        // Slot 1, whose data stays where it is while it is held.
        let held = loop {
            disk.offer_piece(1, piece);
            disk.0.knock();
            if disk.is_held() {
                break piece;
            }
            disk.0.take(1);
            assert_eq!(disk.status(1), 0, "{what}: {piece}");
            piece += 1;
        };
        assert!((PIECES / 4..PIECES).contains(&held), "{what}: {held}");
        // Others are served, and a look at whether there is room finds none.
        assert!(disk.read(0) == content(0), "{what}");
        control.resume();
        assert!(disk.read(1) == content(1), "{what}");
        assert!(disk.is_held(), "{what}");
        mounted.make_room();
        control.resume();
        disk.0.take(1);
        assert_eq!((control.held(), disk.status(1)), (0, 0), "{what}");
        for piece in held + 1..PIECES {
            assert_eq!(disk.write(piece), 0, "{what}: {piece}");
        }
        assert_eq!(disk.request(FLUSH, 0, &[]), 0, "{what}");
        drop(disk);
        assert_whole(&image, format);
    }
}

#[test]
fn a_full_file_system_in_memory_is_an_error_for_the_guest_and_the_queue_goes_on() {
    reports("tmpfs");
}

#[test]
fn a_full_ext4_is_an_error_for_the_guest_and_the_queue_goes_on() {
    reports("ext4");
}

#[test]
fn a_full_file_system_in_memory_holds_a_write_until_there_is_room() {
    stops("tmpfs");
}

#[test]
fn a_full_ext4_holds_a_write_until_there_is_room() {
    stops("ext4");
}
