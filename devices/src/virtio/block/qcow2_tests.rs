// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

use imago::format::builder::FormatCreateBuilder;

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
