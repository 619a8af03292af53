// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! qcow2 images as qemu-img makes them, read and written through the device, and looked at with qemu-img again.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Mutex;

use devices::virtio::block::{Block, BlockError, BlockOptions, ImageFormat, LockBehind};
use devices::virtio::mock::{Buffer, readable, writable};
use running::Running;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use sound::assert_sound;
use tempfile::TempDir;
use vm_memory::{Bytes, GuestAddress};

#[path = "running/mod.rs"]
mod running;

#[path = "sound/mod.rs"]
mod sound;

const SIZE: usize = 4 << 20;
/// Bytes of a request: no multiple of a cluster's, and across the borders of some.
const PIECE: usize = 96 << 10;

const HEADER: u64 = 0x4000;
const STATUS: u64 = 0x5000;
const DATA: u64 = 0x1_0000;
const READ: u32 = 0;
const WRITE: u32 = 1;
const FLUSH: u32 = 4;
const DISCARD: u32 = 11;
const ZERO: u32 = 13;
const UNMAP: u32 = 1;

struct Disk(Running);

impl Disk {
    fn new(block: Block) -> Self {
        Self(Running::new(block, 1 << 20))
    }

    fn request(&mut self, kind: u32, offset: usize, data: &[Buffer]) -> u8 {
        let header = [u64::from(kind), offset as u64 / 512];
        self.0.driver.mem.write_obj(header, GuestAddress(HEADER)).unwrap();
        let mut buffers = vec![readable(HEADER, 16)];
        buffers.extend(data);
        buffers.push(writable(STATUS, 1));
        self.0.driver.submit(&buffers);
        self.0.ring(1);
        self.0.driver.mem.read_obj(GuestAddress(STATUS)).unwrap()
    }

    fn content(&mut self) -> Vec<u8> {
        let mut content = vec![0; self.0.capacity() as usize * 512];
        for (index, piece) in content.chunks_mut(PIECE).enumerate() {
            let len = piece.len() as u32;
            assert_eq!(self.request(READ, index * PIECE, &[writable(DATA, len)]), 0);
            self.0.driver.mem.read_slice(piece, GuestAddress(DATA)).unwrap();
        }
        content
    }

    fn write(&mut self, offset: usize, bytes: &[u8]) {
        for (index, piece) in bytes.chunks(PIECE).enumerate() {
            self.0.driver.mem.write_slice(piece, GuestAddress(DATA)).unwrap();
            assert_eq!(self.request(WRITE, offset + index * PIECE, &[readable(DATA, piece.len() as u32)]), 0);
        }
    }

    /// The status of a request for a range.
    fn range(&mut self, kind: u32, offset: usize, len: usize, flags: u32) -> u8 {
        let rest = (u64::from(flags) << 32) | (len as u64 / 512);
        self.0.driver.mem.write_obj([offset as u64 / 512, rest], GuestAddress(DATA)).unwrap();
        self.request(kind, 0, &[readable(DATA, 16)])
    }

    fn flush(&mut self) {
        assert_eq!(self.request(FLUSH, 0, &[]), 0);
    }
}

fn qemu_img(folder: &Path, arguments: &[&str]) -> Output {
    let output = Command::new("qemu-img").args(arguments).current_dir(folder).output();
    output.expect("qemu-img is there: Debian's package qemu-utils has it")
}

fn succeeds(folder: &Path, arguments: &[&str]) {
    let output = qemu_img(folder, arguments);
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// A folder, whose images are all sound when the test is over.
struct Images(TempDir);

impl Images {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for Images {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            let files = fs::read_dir(self.path()).unwrap().map(|entry| entry.unwrap().path());
            files.filter(|path| path.is_file()).for_each(|path| assert_sound(&path));
        }
    }
}

/// The image is sound, and its content is this.
fn assert_holds(folder: &Path, image: &str, content: &[u8]) {
    assert_sound(&folder.join(image));
    fs::write(folder.join("expected"), content).unwrap();
    succeeds(folder, &["compare", "-f", "qcow2", "-F", "raw", image, "expected"]);
}

fn block(folder: &Path, image: &str, read_only: bool, permitted: &[PathBuf]) -> Result<Block, BlockError> {
    let file = OpenOptions::new().read(true).write(!read_only).open(folder.join(image)).unwrap();
    let mut options = BlockOptions::default();
    (options.format, options.read_only, options.permitted) = (ImageFormat::Qcow2, read_only, permitted.to_vec());
    Block::new("vda", file, options)
}

/// Bytes that don't repeat, with a stretch of zeros.
fn pattern(seed: u64) -> Vec<u8> {
    let mut state = seed | 1;
    let words = std::iter::repeat_with(|| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33).to_le_bytes()
    });
    let mut bytes: Vec<u8> = words.flatten().take(SIZE).collect();
    bytes[1 << 20..2 << 20].fill(0);
    bytes
}

#[test]
fn every_kind_of_image_is_read_and_written_as_qemu_does() {
    let folder = Images::new();
    let folder = folder.path();
    let base = pattern(1);
    fs::write(folder.join("raw"), &base).unwrap();
    let convert = ["convert", "-f", "raw", "-O", "qcow2"];
    for (image, options) in [
        ("plain", &[][..]),
        ("compressed", &["-c"]),
        ("small-clusters", &["-o", "cluster_size=4096"]),
        ("large-clusters", &["-o", "cluster_size=1M"]),
        ("version-2", &["-o", "compat=0.10"]),
        ("lazy", &["-o", "lazy_refcounts=on"]),
        ("extended", &["-o", "refcount_bits=1"]),
    ] {
        succeeds(folder, &[&convert[..], options, &["raw", image]].concat());
        // A snapshot shares the clusters: a write must leave its own ones alone. One bit can't count two users.
        let snapshot = image != "extended";
        if snapshot {
            succeeds(folder, &["snapshot", "-c", "before", image]);
        }
        let mut disk = Disk::new(block(folder, image, false, &[]).unwrap());
        assert!(disk.content() == base, "{image}");
        let (mut expected, new) = (base.clone(), pattern(2));
        for range in [0..512, 65024..66048, (1 << 20)..(1 << 20) + 4096, (3 << 20)..(3 << 20) + 300 * 512] {
            disk.write(range.start, &new[range.clone()]);
            expected[range.clone()].copy_from_slice(&new[range]);
        }
        disk.flush();
        assert!(disk.content() == expected, "{image}");
        drop(disk);
        assert_holds(folder, image, &expected);
        if snapshot {
            succeeds(folder, &["snapshot", "-a", "before", image]);
            assert_holds(folder, image, &base);
        }
    }
}

#[test]
fn a_chain_of_backing_files_is_read_and_only_its_top_is_written() {
    let folder = Images::new();
    let folder = folder.path();
    let base = pattern(3);
    fs::write(folder.join("raw"), &base).unwrap();
    succeeds(folder, &["create", "-f", "qcow2", "-b", "raw", "-F", "raw", "middle"]);
    succeeds(folder, &["create", "-f", "qcow2", "-b", "middle", "-F", "qcow2", "top"]);
    let mut middle = Disk::new(block(folder, "middle", false, &[folder.to_owned()]).unwrap());
    middle.write(4096, &[0x11; 4096]);
    middle.flush();
    drop(middle);
    let before = fs::read(folder.join("middle")).unwrap();
    let mut expected = base.clone();
    expected[4096..8192].fill(0x11);

    let mut top = Disk::new(block(folder, "top", false, &[folder.to_owned()]).unwrap());
    assert!(top.content() == expected);
    top.write(6144, &[0x22; 1024]);
    expected[6144..7168].fill(0x22);
    top.flush();
    assert!(top.content() == expected);
    drop(top);
    assert_holds(folder, "top", &expected);
    assert!(fs::read(folder.join("middle")).unwrap() == before && fs::read(folder.join("raw")).unwrap() == base);

    // Each file of the chain has to be permitted, and a folder above or beside it is none of it.
    let above = folder.parent().unwrap().to_owned();
    let beside = folder.join("beside");
    fs::create_dir(&beside).unwrap();
    for permitted in [vec![], vec![folder.join("middle")], vec![folder.join("raw")], vec![above], vec![beside]] {
        let error = block(folder, "top", true, &permitted).unwrap_err().to_string();
        assert!(error.contains("which it may not open"), "{error}");
    }
    assert!(block(folder, "top", true, &[folder.join("middle"), folder.join("raw")]).is_ok());
}

/// Ranges that begin and end in clusters, at their borders, and at the disk's end.
const RANGES: [(usize, usize); 6] =
    [(0, 512), (65_024, 1024), (131_072, 65_536), (200_192, 500_224), ((1 << 20) - 512, 1024), (3 << 20, 1 << 20)];

#[test]
fn ranges_that_are_made_zero_or_discarded_are_sound_and_give_space_back() {
    let folder = Images::new();
    let folder = folder.path();
    let base = pattern(10);
    fs::write(folder.join("raw"), &base).unwrap();
    let space = |image: &str| fs::metadata(folder.join(image)).unwrap().blocks() * 512;
    for (kind, flags) in [(DISCARD, 0), (ZERO, 0), (ZERO, UNMAP)] {
        for (image, options) in [
            ("plain", &[][..]),
            ("snapshot", &[]),
            ("compressed", &["-c"]),
            ("small-clusters", &["-o", "cluster_size=512"]),
            ("large-clusters", &["-o", "cluster_size=2M"]),
            ("lazy", &["-o", "lazy_refcounts=on"]),
        ] {
            let what = format!("{image}, {kind}, {flags}");
            succeeds(folder, &[&["convert", "-f", "raw", "-O", "qcow2"], options, &["raw", image]].concat());
            if image == "snapshot" {
                succeeds(folder, &["snapshot", "-c", "before", image]);
            }
            let mut disk = Disk::new(block(folder, image, false, &[]).unwrap());
            let (mut expected, before) = (base.clone(), space(image));
            for (offset, len) in RANGES {
                assert_eq!(disk.range(kind, offset, len, flags), 0, "{what}");
                if kind == ZERO {
                    expected[offset..offset + len].fill(0);
                }
            }
            assert_eq!(disk.range(kind, SIZE - 512, 1024, flags), 1, "{what}: across the end");
            if kind == DISCARD {
                // What was discarded is the old content or zeros.
                let found = disk.content();
                for (offset, len) in RANGES {
                    let range = offset..offset + len;
                    let pairs = found[range.clone()].chunks(512).zip(base[range].chunks(512));
                    assert!(pairs.clone().all(|(new, old)| new == old || new == [0; 512]), "{what}: {offset}");
                }
                for (offset, len) in RANGES {
                    expected[offset..offset + len].copy_from_slice(&found[offset..offset + len]);
                }
                assert_eq!(expected[131_072..196_608] == [0; 65_536], image != "large-clusters", "{what}");
            }
            assert!(disk.content() == expected, "{what}");
            // 1 MiB at the end, and half of one before.
            if matches!(image, "plain" | "lazy" | "small-clusters") && (kind == DISCARD || flags == UNMAP) {
                assert!(space(image) + (3 << 19) - (256 << 10) < before, "{what}: {before} to {}", space(image));
            }
            // What was freed can be used again, for other data or the same.
            for (offset, len) in [(131_072, 4096), ((3 << 20) + 5120, 200 << 10), (SIZE - 512, 512)] {
                let new = vec![0x99; len];
                disk.write(offset, &new);
                expected[offset..offset + len].copy_from_slice(&new);
            }
            disk.flush();
            drop(disk);
            assert_holds(folder, image, &expected);
            if image == "snapshot" {
                succeeds(folder, &["snapshot", "-a", "before", image]);
                assert_holds(folder, image, &base);
            }
        }
    }
}

#[test]
fn an_empty_disk_that_is_discarded_and_made_zero_stays_as_small_as_it_was() {
    let folder = Images::new();
    let folder = folder.path();
    succeeds(folder, &["create", "-f", "qcow2", "-o", "cluster_size=512", "image", "4M"]);
    let before = fs::metadata(folder.join("image")).unwrap().len();
    let mut disk = Disk::new(block(folder, "image", false, &[]).unwrap());
    for (kind, flags) in [(DISCARD, 0), (ZERO, 0), (ZERO, UNMAP)] {
        assert_eq!(disk.range(kind, 0, SIZE, flags), 0);
    }
    disk.flush();
    drop(disk);
    assert_eq!(fs::metadata(folder.join("image")).unwrap().len(), before);
    assert_holds(folder, "image", &vec![0; SIZE]);
}

#[test]
fn what_is_made_zero_hides_what_lies_behind_it_and_what_is_discarded_does_not_show_it() {
    let folder = Images::new();
    let folder = folder.path();
    let mut expected = pattern(11);
    fs::write(folder.join("raw"), &expected).unwrap();
    succeeds(folder, &["create", "-f", "qcow2", "-b", "raw", "-F", "raw", "top"]);
    let mut disk = Disk::new(block(folder, "top", false, &[folder.to_owned()]).unwrap());
    for (offset, len, flags) in [(512, 1024, 0), (66_048, 200_704, UNMAP), (3 << 20, 1 << 20, 0)] {
        assert_eq!(disk.range(ZERO, offset, len, flags), 0);
        expected[offset..offset + len].fill(0);
    }
    disk.write(1_310_720, &vec![0x44; 65_536]);
    assert_eq!(disk.range(DISCARD, 1_310_720, 65_536, 0), 0);
    expected[1_310_720..][..65_536].fill(0);
    // Nothing was written here, so nothing is given back.
    assert_eq!(disk.range(DISCARD, 2 << 20, 65_536, 0), 0);
    disk.flush();
    assert!(disk.content() == expected);
    drop(disk);
    assert_holds(folder, "top", &expected);
}

#[test]
fn a_disk_that_is_smaller_than_a_cluster_has_ranges_too() {
    let folder = Images::new();
    let folder = folder.path();
    succeeds(folder, &["create", "-f", "qcow2", "image", "8K"]);
    let mut disk = Disk::new(block(folder, "image", false, &[]).unwrap());
    let mut expected = vec![0x66; 8192];
    disk.write(0, &expected);
    for (offset, len, flags) in [(512, 512, 0), (7680, 512, UNMAP), (0, 512, UNMAP)] {
        assert_eq!(disk.range(ZERO, offset, len, flags), 0);
        expected[offset..offset + len].fill(0);
    }
    assert!(disk.content() == expected);
    assert_eq!(disk.range(ZERO, 0, 8192, UNMAP), 0);
    drop(disk);
    assert_holds(folder, "image", &[0; 8192]);
}

#[test]
fn an_image_that_knows_no_zeros_offers_none() {
    let folder = Images::new();
    let folder = folder.path();
    succeeds(folder, &["create", "-f", "qcow2", "-o", "compat=0.10", "image", "4M"]);
    let mut disk = Disk::new(block(folder, "image", false, &[]).unwrap());
    for kind in [DISCARD, ZERO] {
        assert_eq!(disk.range(kind, 0, 65_536, 0), 2);
    }
}

#[test]
fn what_lies_behind_an_image_is_locked_before_it_is_read_or_the_disk_is_refused() {
    static LOCKED: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());
    let folder = Images::new();
    let folder = folder.path();
    fs::write(folder.join("raw"), pattern(9)).unwrap();
    succeeds(folder, &["create", "-f", "qcow2", "-b", "raw", "-F", "raw", "middle"]);
    succeeds(folder, &["create", "-f", "qcow2", "-b", "middle", "-F", "qcow2", "top"]);
    succeeds(folder, &["convert", "-f", "raw", "-O", "qcow2", "-o", "data_file=data", "raw", "split"]);
    let open = |image, lock| {
        let file = File::open(folder.join(image)).unwrap();
        let mut options = BlockOptions::default();
        (options.format, options.read_only, options.permitted) = (ImageFormat::Qcow2, true, vec![folder.to_owned()]);
        options.lock_behind = Some(lock);
        Block::new("vda", file, options)
    };
    let note: LockBehind = |file, path| {
        assert!(file.metadata()?.is_file());
        LOCKED.lock().unwrap().push(path.to_owned());
        Ok(())
    };
    for (image, behind) in [("top", &["middle", "raw"][..]), ("split", &["data"])] {
        LOCKED.lock().unwrap().clear();
        drop(open(image, note).unwrap());
        let expected: Vec<_> = behind.iter().map(|name| folder.join(name)).collect();
        assert_eq!(*LOCKED.lock().unwrap(), expected, "{image}");
        let error = open(image, |_, _| Err(io::Error::other("is written by process 7"))).unwrap_err().to_string();
        let expected = format!(
            "it can't be used as a qcow2 image: the image is based on {}, which is written by process 7",
            expected[0].display()
        );
        assert_eq!(error, expected);
    }
}

#[test]
fn an_image_that_is_made_larger_is_sound_and_zero_where_it_is_new() {
    let folder = Images::new();
    let folder = folder.path();
    let backing = pattern(8);
    fs::write(folder.join("raw"), &backing).unwrap();
    // Shorter than what lies behind it, which must not be seen through what is new; and not in whole clusters.
    let (odd, larger) = ("1000448", (SIZE + (9 << 20) + 512) as u64);
    for (image, arguments) in [
        ("plain", &["plain", odd][..]),
        ("small-clusters", &["-o", "cluster_size=512", "small-clusters", odd]),
        ("large-clusters", &["-o", "cluster_size=2M", "large-clusters", odd]),
        ("lazy", &["-o", "lazy_refcounts=on", "lazy", odd]),
        ("version-2", &["-o", "compat=0.10", "version-2", odd]),
        ("backed", &["-b", "raw", "-F", "raw", "backed", odd]),
    ] {
        succeeds(folder, &[&["create", "-f", "qcow2"], arguments].concat());
        let mut disk = Disk::new(block(folder, image, false, &[folder.to_owned()]).unwrap());
        let mut expected = if image == "backed" { backing[..1_000_448].to_vec() } else { vec![0; 1_000_448] };
        let write = |disk: &mut Disk, expected: &mut Vec<u8>, offset: usize| {
            disk.write(offset, &[0x5a; 1024]);
            expected[offset..offset + 1024].fill(0x5a);
        };
        write(&mut disk, &mut expected, 999_424);
        assert_eq!(disk.0.control().resize(larger).unwrap(), larger / 512, "{image}");
        expected.resize(larger as usize, 0);
        write(&mut disk, &mut expected, 1_000_448);
        write(&mut disk, &mut expected, larger as usize - 1024);
        disk.flush();
        assert_eq!(disk.0.capacity(), larger / 512);
        assert!(disk.content() == expected, "{image}");
        drop(disk);
        assert_holds(folder, image, &expected);
    }
}

#[test]
fn an_image_whose_snapshots_know_no_size_keeps_its_own() {
    let folder = Images::new();
    let folder = folder.path();
    for (image, options, grows) in [("old", "compat=0.10", false), ("new", "compat=1.1", true)] {
        succeeds(folder, &["create", "-f", "qcow2", "-o", options, image, "4M"]);
        succeeds(folder, &["snapshot", "-c", "before", image]);
        let disk = Disk::new(block(folder, image, false, &[]).unwrap());
        match disk.0.control().resize(8 << 20) {
            Ok(sectors) => assert_eq!((sectors, grows), (16_384, true)),
            Err(error) => {
                let expected = "it can't be made larger: it has snapshots, which know their sizes from version 3 on";
                assert_eq!((error.to_string().as_str(), grows), (expected, false));
            }
        }
        drop(disk);
        succeeds(folder, &["snapshot", "-a", "before", image]);
        assert_holds(folder, image, &vec![0; SIZE]);
    }
}

#[test]
fn a_chain_without_end_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    succeeds(folder, &["create", "-f", "qcow2", "self", "4M"]);
    succeeds(folder, &["rebase", "-u", "-f", "qcow2", "-b", "self", "-F", "qcow2", "self"]);
    let error = block(folder, "self", true, &[folder.to_owned()]).unwrap_err().to_string();
    assert!(error.contains("a chain of more than 16 images"), "{error}");
}

#[test]
fn data_in_another_file_is_read_and_never_written() {
    let folder = Images::new();
    let folder = folder.path();
    let content = pattern(6);
    fs::write(folder.join("raw"), &content).unwrap();
    succeeds(folder, &["convert", "-f", "raw", "-O", "qcow2", "-o", "data_file=data,data_file_raw=on", "raw", "image"]);
    let before = fs::read(folder.join("data")).unwrap();
    let error = block(folder, "image", true, &[]).unwrap_err().to_string();
    assert!(error.contains("which it may not open"), "{error}");
    let error = block(folder, "image", false, &[folder.to_owned()]).unwrap_err().to_string();
    assert!(error.contains("its data is in another file, which is only read"), "{error}");
    let mut disk = Disk::new(block(folder, "image", true, &[folder.to_owned()]).unwrap());
    assert!(disk.content() == content);
    drop(disk);
    assert!(fs::read(folder.join("data")).unwrap() == before);
}

#[test]
fn what_is_no_qcow2_image_is_told_so() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    for content in [&[][..], b"QFI", &[0; 1 << 20]] {
        fs::write(folder.join("image"), content).unwrap();
        let error = block(folder, "image", false, &[]).unwrap_err().to_string();
        assert_eq!(
            error,
            "it can't be used as a qcow2 image: it doesn't begin as one: is it a raw image?",
            "{} bytes",
            content.len()
        );
    }
}

#[test]
fn an_encrypted_image_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    succeeds(folder, &["create", "-f", "qcow2", "image", "4M"]);
    let file = OpenOptions::new().write(true).open(folder.join("image")).unwrap();
    file.write_all_at(&2u32.to_be_bytes(), 32).unwrap();
    for read_only in [false, true] {
        let error = block(folder, "image", read_only, &[]).unwrap_err().to_string();
        assert!(error.contains("it is encrypted"), "{error}");
    }
}

#[test]
fn what_was_written_is_in_the_image_when_the_disk_goes_without_a_flush() {
    let folder = Images::new();
    let folder = folder.path();
    succeeds(folder, &["create", "-f", "qcow2", "image", "4M"]);
    let content = pattern(7);
    let mut disk = Disk::new(block(folder, "image", false, &[]).unwrap());
    disk.write(0, &content);
    drop(disk);
    assert_holds(folder, "image", &content);
}

#[test]
fn tables_that_could_not_be_written_are_no_loss_and_the_next_flush_writes_them() {
    // A process that may write no file gets a signal besides the error, which is for whoever started it to ignore.
    const CHILD: &str = "DEVICES_TEST_IGNORES_XFSZ";
    if std::env::var_os(CHILD).is_none() {
        let name = "tables_that_could_not_be_written_are_no_loss_and_the_next_flush_writes_them";
        let mut child = Command::new("sh");
        child.args(["-c", "trap '' XFSZ; exec \"$0\" \"$@\""]).arg(std::env::current_exe().unwrap());
        let output = child.args([name, "--exact"]).env(CHILD, "1").output().unwrap();
        let said = [output.stdout, output.stderr].concat();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&said));
        return;
    }
    let folder = Images::new();
    let folder = folder.path();
    succeeds(folder, &["create", "-f", "qcow2", "image", "4M"]);
    let mut disk = Disk::new(block(folder, "image", false, &[]).unwrap());
    let mut expected = vec![0; SIZE];
    for offset in [0, 1 << 20, 3 << 20] {
        disk.write(offset, &[0x77; 4096]);
        expected[offset..offset + 4096].fill(0x77);
        let before = getrlimit(Resource::Fsize);
        setrlimit(Resource::Fsize, Rlimit { current: Some(0), ..before }).unwrap();
        assert_eq!(disk.request(FLUSH, 0, &[]), 1);
        setrlimit(Resource::Fsize, before).unwrap();
        disk.flush();
    }
    assert!(disk.content() == expected);
    drop(disk);
    assert_holds(folder, "image", &expected);
}

#[test]
fn a_backing_file_of_no_stated_format_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    fs::write(folder.join("raw"), pattern(4)).unwrap();
    succeeds(folder, &["create", "-f", "qcow2", "-b", "raw", "-F", "raw", "top"]);
    // The name of the format is in a header extension; one of an unknown type says nothing.
    let mut image = fs::read(folder.join("top")).unwrap();
    let extension = 0xe279_2acau32.to_be_bytes();
    let at = image.windows(4).position(|bytes| bytes == extension).unwrap();
    image[at..at + 4].copy_from_slice(&0x1234_5678u32.to_be_bytes());
    fs::write(folder.join("top"), image).unwrap();
    let error = block(folder, "top", true, &[folder.to_owned()]).unwrap_err().to_string();
    assert!(error.contains("doesn't say of which format its backing file raw is"), "{error}");
}

#[test]
fn damaged_images_are_errors_and_never_more() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    fs::write(folder.join("raw"), pattern(5)).unwrap();
    succeeds(folder, &["convert", "-f", "raw", "-O", "qcow2", "raw", "good"]);
    let good = fs::read(folder.join("good")).unwrap();
    let damaged = |name: &str, damage: &dyn Fn(&File)| {
        fs::write(folder.join(name), &good).unwrap();
        damage(&OpenOptions::new().write(true).open(folder.join(name)).unwrap());
    };
    // Header fields: magic, version, cluster bits, size, L1 size and place, refcount table.
    for (at, len) in [(0, 4), (4, 4), (20, 4), (24, 8), (36, 4), (40, 8), (48, 8), (56, 4), (72, 8), (100, 4)] {
        for byte in [0x00, 0x01, 0x7f, 0xff] {
            damaged("bad", &|file| file.write_all_at(&vec![byte; len], at).unwrap());
            try_all(folder, &good);
        }
    }
    for len in [0, 1, 71, 104, 512, 65536, 3 * 65536, good.len() as u64 / 2] {
        damaged("bad", &|file| file.set_len(len).unwrap());
        try_all(folder, &good);
    }
    // Tables full of nonsense.
    for cluster in 1..4u64 {
        for byte in [0x40, 0x80, 0xc0, 0xff] {
            damaged("bad", &|file| file.write_all_at(&vec![byte; 65536], cluster * 65536).unwrap());
            try_all(folder, &good);
        }
    }
}

/// Opens the damaged image, and asks for all of it: whatever comes back, comes back.
fn try_all(folder: &Path, good: &[u8]) {
    let Ok(block) = block(folder, "bad", false, &[]) else { return };
    let mut disk = Disk::new(block);
    for index in 0..SIZE.div_ceil(PIECE) {
        disk.request(READ, index * PIECE, &[writable(DATA, PIECE as u32)]);
        disk.request(WRITE, index * PIECE, &[readable(DATA, 4096)]);
        disk.range(ZERO, index * PIECE, 65_536, (index % 2) as u32);
        disk.range(DISCARD, index * PIECE + 512, 65_536, 0);
    }
    disk.request(FLUSH, 0, &[]);
    drop(disk);
    // Where its refcounts lie, it may end far behind its old end, with nothing before that.
    let taken = fs::metadata(folder.join("bad")).unwrap().blocks() * 512;
    assert!(taken < 8 * good.len() as u64, "{taken} bytes of {}", good.len());
}
