// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

use std::os::unix::fs::FileExt;

use super::super::OnError;
use super::*;

fn file(len: u64) -> File {
    let file = tempfile::tempfile().unwrap();
    file.set_len(len).unwrap();
    file
}

fn config<const N: usize>(block: &Block, at: usize) -> [u8; N] {
    let mut data = [0; N];
    block.read_config(at as u64, &mut data);
    data
}

#[test]
fn what_is_no_disk_is_named() {
    let default = BlockOptions::default;
    let topology = |block_size| Some(Topology { block_size, physical_block_exp: 0, min_io_size: 0, opt_io_size: 0 });
    let cases: &[(u64, BlockOptions, &str)] = &[
        (0, default(), "it is empty: a disk has at least one sector of 512 bytes"),
        (1000, default(), "its size of 1000 bytes is not a multiple of 512"),
        (
            512,
            BlockOptions { topology: topology(4096), ..default() },
            "its size of 512 bytes is not a multiple of its block size, 4096",
        ),
        (
            512,
            BlockOptions { topology: topology(1000), ..default() },
            "a block size of 1000 is not a power of two from 512 on",
        ),
        (
            512,
            BlockOptions { topology: topology(256), ..default() },
            "a block size of 256 is not a power of two from 512 on",
        ),
        (512, BlockOptions { queues: 0, ..default() }, "0 queues: a disk has 1 to 64"),
        (512, BlockOptions { queues: 65, ..default() }, "65 queues: a disk has 1 to 64"),
        (
            512,
            BlockOptions { queue_size: 100, ..default() },
            "a queue size of 100 is not a power of two from 4 to 1024",
        ),
        (512, BlockOptions { queue_size: 2, ..default() }, "a queue size of 2 is not a power of two from 4 to 1024"),
    ];
    for (len, options, expected) in cases {
        let error = Block::new("vda", file(*len), options.clone()).unwrap_err().to_string();
        assert_eq!(error, *expected);
    }
}

#[test]
fn features_follow_the_options() {
    let features = |options: BlockOptions| Block::new("vda", file(4096), options).unwrap().features();
    let basis = spec::F_SEG_MAX | spec::F_BLK_SIZE | spec::F_TOPOLOGY;
    let discard = spec::F_DISCARD | spec::F_WRITE_ZEROES;
    let default = BlockOptions::default;
    for (options, expected) in [
        (default(), basis | spec::F_FLUSH | discard),
        (BlockOptions { read_only: true, ..default() }, basis | spec::F_FLUSH | spec::F_RO),
        (BlockOptions { cache: CacheMode::Writethrough, ..default() }, basis | discard),
        (BlockOptions { discard: false, ..default() }, basis | spec::F_FLUSH),
        (BlockOptions { queues: 4, ..default() }, basis | spec::F_FLUSH | discard | spec::F_MQ),
        (BlockOptions { on_error: OnError::Stop, ..default() }, basis | spec::F_FLUSH | discard),
    ] {
        assert_eq!(features(options.clone()), expected, "{options:?}");
    }
}

#[test]
fn the_configuration_space_says_what_was_chosen() {
    let topology = Some(Topology { block_size: 4096, physical_block_exp: 2, min_io_size: 3, opt_io_size: 0x1_0000 });
    let options = BlockOptions { queues: 3, queue_size: 64, topology, ..BlockOptions::default() };
    let block = Block::new("vda", file(8192), options).unwrap();
    assert_eq!(block.queue_sizes(), [64; 3]);
    assert_eq!(u64::from_le_bytes(config(&block, spec::CONFIG_CAPACITY)), 16);
    assert_eq!(u32::from_le_bytes(config(&block, spec::CONFIG_SEG_MAX)), 62);
    assert_eq!(u32::from_le_bytes(config(&block, spec::CONFIG_BLK_SIZE)), 4096);
    assert_eq!(config(&block, spec::CONFIG_PHYSICAL_BLOCK_EXP), [2]);
    assert_eq!(u16::from_le_bytes(config(&block, spec::CONFIG_MIN_IO_SIZE)), 3);
    assert_eq!(u32::from_le_bytes(config(&block, spec::CONFIG_OPT_IO_SIZE)), 0x1_0000);
    assert_eq!(u16::from_le_bytes(config(&block, spec::CONFIG_NUM_QUEUES)), 3);
    assert_eq!(u32::from_le_bytes(config(&block, spec::CONFIG_MAX_DISCARD_SECTORS)), MAX_RANGE_SECTORS);
    assert_eq!(u32::from_le_bytes(config(&block, spec::CONFIG_MAX_DISCARD_SEG)), 32);
    assert_eq!(u32::from_le_bytes(config(&block, spec::CONFIG_DISCARD_SECTOR_ALIGNMENT)), 8);
    assert_eq!(u32::from_le_bytes(config(&block, spec::CONFIG_MAX_WRITE_ZEROES_SECTORS)), MAX_RANGE_SECTORS);
    assert_eq!(u32::from_le_bytes(config(&block, spec::CONFIG_MAX_WRITE_ZEROES_SEG)), 32);
    assert_eq!(config(&block, spec::CONFIG_WRITE_ZEROES_MAY_UNMAP), [1]);
    assert_eq!(config(&block, spec::CONFIG_SIZE), [0; 16]);
}

#[test]
fn probing_what_the_file_can_leaves_it_as_it_was() {
    let image = file(4096);
    image.write_all_at(&[7; 4096], 0).unwrap();
    let block = Block::new("vda", image.try_clone().unwrap(), BlockOptions::default()).unwrap();
    let mut back = vec![0; 4097];
    assert_eq!(image.read_at(&mut back, 0).unwrap(), 4096);
    assert_eq!((&back[..4096], block.features() & spec::F_DISCARD), (&[7; 4096][..], spec::F_DISCARD));
}
