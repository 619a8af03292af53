// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Numbers of the block device (virtio 1.3 §5.2).

/// The device type.
pub(super) const DEVICE_TYPE: u32 = 2;

/// Feature: `seg_max` holds the largest number of segments in a request.
pub(super) const F_SEG_MAX: u64 = 1 << 2;
/// Feature: the image is read-only.
pub(super) const F_RO: u64 = 1 << 5;
/// Feature: `blk_size` holds the block size.
pub(super) const F_BLK_SIZE: u64 = 1 << 6;
/// Feature: there is a FLUSH request.
pub(super) const F_FLUSH: u64 = 1 << 9;
/// Feature: the topology fields hold what I/O is best.
pub(super) const F_TOPOLOGY: u64 = 1 << 10;
/// Feature: `num_queues` holds the number of queues.
pub(super) const F_MQ: u64 = 1 << 12;
/// Feature: there is a DISCARD request.
pub(super) const F_DISCARD: u64 = 1 << 13;
/// Feature: there is a WRITE_ZEROES request.
pub(super) const F_WRITE_ZEROES: u64 = 1 << 14;

/// Bytes of a request's header: type, reserved, sector.
pub(super) const HEADER_SIZE: usize = 16;
/// Bytes of a segment of a DISCARD or WRITE_ZEROES request: sector, number of sectors, flags.
pub(super) const RANGE_SIZE: usize = 16;
/// Bytes of what GET_ID answers.
pub(super) const ID_SIZE: usize = 20;

/// Request: read.
pub(super) const T_IN: u32 = 0;
/// Request: write.
pub(super) const T_OUT: u32 = 1;
/// Request: make what was written durable.
pub(super) const T_FLUSH: u32 = 4;
/// Request: the serial number.
pub(super) const T_GET_ID: u32 = 8;
/// Request: nobody wants these ranges any more.
pub(super) const T_DISCARD: u32 = 11;
/// Request: make these ranges zeros.
pub(super) const T_WRITE_ZEROES: u32 = 13;

/// Flag of a WRITE_ZEROES segment: the device may free its blocks.
pub(super) const RANGE_UNMAP: u32 = 1;

/// Status: done.
pub(super) const S_OK: u8 = 0;
/// Status: failed.
pub(super) const S_IOERR: u8 = 1;
/// Status: no such request.
pub(super) const S_UNSUPP: u8 = 2;

/// Offset of `capacity` in the configuration space (§5.2.4), in sectors.
pub(super) const CONFIG_CAPACITY: usize = 0;
/// Offset of `seg_max`.
pub(super) const CONFIG_SEG_MAX: usize = 12;
/// Offset of `blk_size`, in bytes.
pub(super) const CONFIG_BLK_SIZE: usize = 20;
/// Offset of `physical_block_exp`: how many times `blk_size` doubles to a physical block.
pub(super) const CONFIG_PHYSICAL_BLOCK_EXP: usize = 24;
/// Offset of `min_io_size`, in units of `blk_size`.
pub(super) const CONFIG_MIN_IO_SIZE: usize = 26;
/// Offset of `opt_io_size`, in units of `blk_size`.
pub(super) const CONFIG_OPT_IO_SIZE: usize = 28;
/// Offset of `num_queues`.
pub(super) const CONFIG_NUM_QUEUES: usize = 34;
/// Offset of `max_discard_sectors`.
pub(super) const CONFIG_MAX_DISCARD_SECTORS: usize = 36;
/// Offset of `max_discard_seg`.
pub(super) const CONFIG_MAX_DISCARD_SEG: usize = 40;
/// Offset of `discard_sector_alignment`.
pub(super) const CONFIG_DISCARD_SECTOR_ALIGNMENT: usize = 44;
/// Offset of `max_write_zeroes_sectors`.
pub(super) const CONFIG_MAX_WRITE_ZEROES_SECTORS: usize = 48;
/// Offset of `max_write_zeroes_seg`.
pub(super) const CONFIG_MAX_WRITE_ZEROES_SEG: usize = 52;
/// Offset of `write_zeroes_may_unmap`.
pub(super) const CONFIG_WRITE_ZEROES_MAY_UNMAP: usize = 56;
/// Bytes of the configuration space, as far as the offered features fill it.
pub(super) const CONFIG_SIZE: usize = 60;
