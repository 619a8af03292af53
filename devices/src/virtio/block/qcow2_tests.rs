// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

use imago::format::builder::FormatCreateBuilder;

use super::super::backend::Backend;
use super::super::rig::{DATA, HEADER, Rig, SECTORS, STATUS};
use super::super::{Block, BlockError, BlockOptions, EngineChoice, ImageFormat, spec};
use super::*;
use crate::virtio::mock::{readable, writable};
use crate::virtio::queue::QueueState;

type Builder = imago::qcow2::Qcow2CreateBuilder<File>;

fn open(path: &Path) -> fs::File {
    fs::OpenOptions::new().read(true).write(true).open(path).unwrap()
}

/// An empty disk of as many sectors as the rig's, on top of `backing`, if any.
fn create(path: &Path, backing: Option<&Path>) -> fs::File {
    fs::File::create(path).unwrap();
    let mut builder = Builder::new(File::try_from(open(path)).unwrap()).size(SECTORS * 512);
    if let Some(backing) = backing {
        builder = builder.backing(backing.to_str().unwrap().to_owned(), "raw".to_owned());
    }
    builder.create().unwrap();
    open(path)
}

fn options() -> BlockOptions {
    BlockOptions { format: ImageFormat::Qcow2, ..BlockOptions::default() }
}

#[test]
fn what_is_written_is_read_again_and_outlives_the_device() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("image");
    let mut rig = Rig::on(create(&path, None), options());
    let discards = spec::F_DISCARD | spec::F_WRITE_ZEROES;
    assert_eq!(rig.features & discards, discards);
    rig.start(QueueState::default());
    use vm_memory::{Bytes, GuestAddress};
    rig.mem.write_slice(&[0x77; 1024], GuestAddress(DATA)).unwrap();
    assert_eq!(rig.simple(spec::T_OUT, 6, readable(DATA, 1024)), (spec::S_OK, 1));
    assert_eq!(rig.simple(spec::T_OUT, SECTORS - 1, readable(DATA, 1024)), (spec::S_IOERR, 1));
    assert_eq!(rig.request(spec::T_FLUSH, 0, &[readable(HEADER, 16), writable(STATUS, 1)]), (spec::S_OK, 1));
    drop(rig);
    let mut rig = Rig::on(open(&path), options());
    rig.start(QueueState::default());
    assert_eq!(rig.simple(spec::T_IN, 5, writable(DATA, 2048)), (spec::S_OK, 2049));
    let data = rig.guest(DATA, 2048);
    assert!(data[..512] == [0; 512] && data[512..1536] == [0x77; 1024] && data[1536..] == [0; 512]);
}

#[test]
fn a_disk_that_is_made_larger_tells_its_guest() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("image");
    let mut rig = Rig::on(create(&path, None), options());
    rig.start(QueueState::default());
    let control = rig.block.control();
    assert_eq!(control.refresh().unwrap(), SECTORS, "its size is in its header");
    assert_eq!(control.resize(SECTORS * 512).unwrap(), SECTORS);
    assert_eq!(rig.notifier.config_generation(), 0, "that is no news");
    assert_eq!(rig.simple(spec::T_OUT, SECTORS, readable(DATA, 512)), (spec::S_IOERR, 1));
    assert_eq!(control.resize(SECTORS * 1024).unwrap(), SECTORS * 2);
    assert_eq!(rig.interrupts.config.read().unwrap(), 1);
    assert_eq!(rig.simple(spec::T_OUT, SECTORS * 2 - 1, readable(DATA, 512)), (spec::S_OK, 1));
    assert!(matches!(control.resize(512), Err(BlockError::Shrinks { size: 512, now }) if now == SECTORS * 1024));
    // More than the largest table of clusters holds.
    let error = control.resize(1 << 62).unwrap_err();
    assert!(matches!(error, BlockError::CantGrow(_)), "{error}");
    assert_eq!(control.refresh().unwrap(), SECTORS * 2);
    drop(rig);
    let rig = Rig::on(open(&path), BlockOptions { read_only: true, ..options() });
    assert_eq!(rig.block.image().sectors(), SECTORS * 2);
    assert!(matches!(rig.block.control().resize(SECTORS * 2048), Err(BlockError::ReadOnly)));
}

#[test]
fn what_a_try_to_grow_has_left_is_made_zero_by_the_next_one() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("image");
    let mut rig = Rig::on(create(&path, None), options());
    rig.start(QueueState::default());
    assert_eq!(rig.simple(spec::T_OUT, 0, readable(DATA, 2048)), (spec::S_OK, 1));
    let image = rig.block.shared();
    let Backend::Qcow2(qcow2) = &image.backend else { unreachable!() };
    *qcow2.unzeroed.lock().unwrap() = (512, 1024);
    assert_eq!(rig.block.control().resize(SECTORS * 512).unwrap(), SECTORS);
    assert_eq!(*qcow2.unzeroed.lock().unwrap(), (0, 0));
    assert_eq!(rig.simple(spec::T_IN, 0, writable(DATA + 0x1000, 2048)), (spec::S_OK, 2049));
    let data = rig.guest(DATA + 0x1000, 2048);
    assert!(data[0] != 0 && data[512..1536] == [0; 1024] && data[2047] != 0);
}

#[test]
fn only_files_that_are_permitted_lie_behind_an_image() {
    let folder = tempfile::tempdir().unwrap();
    let (path, backing) = (folder.path().join("image"), folder.path().join("backing"));
    fs::write(&backing, vec![0x33; SECTORS as usize * 512]).unwrap();
    create(&path, Some(&backing));
    for permitted in [vec![], vec![path.clone()]] {
        let error = Block::new("vda", open(&path), BlockOptions { permitted, ..options() }).unwrap_err();
        assert!(
            matches!(&error, BlockError::Qcow2(_)) && error.to_string().contains("which it may not open"),
            "{error}"
        );
    }
    let permitted = vec![backing.clone()];
    let mut rig = Rig::on(open(&path), BlockOptions { permitted, ..options() });
    rig.start(QueueState::default());
    assert_eq!(rig.simple(spec::T_IN, 5, writable(DATA, 512)), (spec::S_OK, 513));
    assert_eq!(rig.guest(DATA, 512), [0x33; 512]);
    assert_eq!(rig.simple(spec::T_OUT, 5, readable(STATUS, 512)), (spec::S_OK, 1));
    drop(rig);
    assert!(fs::read(&backing).unwrap().iter().all(|byte| *byte == 0x33));
}

#[test]
fn what_is_no_qcow2_image_is_refused_and_so_is_the_ring_by_name() {
    let file = super::super::rig::image();
    let error = Block::new("vda", file.try_clone().unwrap(), options()).unwrap_err();
    assert!(matches!(error, BlockError::Qcow2(_)), "{error}");
    let options = BlockOptions { engine: EngineChoice::IoUring, ..options() };
    assert!(matches!(Block::new("vda", file, options), Err(BlockError::Qcow2WithoutRing)));
}

#[test]
fn headers_that_would_lead_the_library_astray_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("image");
    create(&path, None);
    let good = fs::read(&path).unwrap();
    let at = |place: usize| usize::try_from(be64(&good, place)).unwrap();
    let table = at(48);
    let first = at(table);
    // Counts of two bytes, of which a block holds half as many as it has bytes, each for a cluster.
    let cluster = 1 << be32(&good, 20);
    let far = table + 8 * (good.len() / (cluster * cluster / 2) + 2);
    let cases: [(&str, usize, &[u8], &str); 5] = [
        ("the size", 24, &u64::MAX.to_be_bytes(), "larger than any"),
        ("the bits of a count", 96, &7u32.to_be_bytes(), "1 to 64 bits"),
        ("the header's own count", first, &[0, 0], "place of the header is free"),
        (
            "a block for what isn't there",
            far,
            &(good.len() as u64).next_multiple_of(cluster as u64).to_be_bytes(),
            "behind the end",
        ),
        ("the first block", table, &[0; 8], "a block of them is missing"),
    ];
    for (what, place, bytes, said) in cases {
        let mut bad = good.clone();
        bad[place..place + bytes.len()].copy_from_slice(bytes);
        bad.resize(bad.len().next_multiple_of(cluster), 0);
        fs::write(&path, bad).unwrap();
        let error = Block::new("vda", open(&path), options()).unwrap_err().to_string();
        assert!(error.contains(said), "{what}: {error}");
    }
}

#[test]
fn counts_of_every_width_are_read() {
    let block = tempfile::tempfile().unwrap();
    for order in 0..=6 {
        let (bits, mut bytes) = (1usize << order, [0xffu8; 8]);
        if bits < 8 {
            bytes[0] &= !((1u16 << bits) - 1) as u8
        } else {
            bytes[..bits / 8].fill(0)
        }
        block.write_all_at(&bytes, 0).unwrap();
        assert!(!counts_first(&block, 0, order).unwrap(), "{bits} bits");
        let last = (bits / 8).saturating_sub(1);
        bytes[last] |= 1;
        block.write_all_at(&bytes, 0).unwrap();
        assert!(counts_first(&block, 0, order).unwrap(), "{bits} bits");
    }
}
