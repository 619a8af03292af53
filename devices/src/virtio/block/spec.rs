// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Numbers of the block device (virtio 1.3 §5.2).

/// The device type.
pub(super) const DEVICE_TYPE: u32 = 2;

/// Feature: `seg_max` holds the largest number of segments in a request.
pub(super) const F_SEG_MAX: u64 = 1 << 2;
/// Feature: the image is read-only.
pub(super) const F_RO: u64 = 1 << 5;
/// Feature: there is a FLUSH request.
pub(super) const F_FLUSH: u64 = 1 << 9;

/// Bytes of a request's header: type, reserved, sector.
pub(super) const HEADER_SIZE: usize = 16;

/// Request: read.
pub(super) const T_IN: u32 = 0;
/// Request: write.
pub(super) const T_OUT: u32 = 1;
/// Request: make what was written durable.
pub(super) const T_FLUSH: u32 = 4;

/// Status: done.
pub(super) const S_OK: u8 = 0;
/// Status: failed.
pub(super) const S_IOERR: u8 = 1;
/// Status: no such request.
pub(super) const S_UNSUPP: u8 = 2;

/// Offset of `capacity` in the configuration space, in sectors.
pub(super) const CONFIG_CAPACITY: usize = 0;
/// Offset of `seg_max`.
pub(super) const CONFIG_SEG_MAX: usize = 12;
/// Bytes of the configuration space, as far as the offered features fill it.
pub(super) const CONFIG_SIZE: usize = 16;
