// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! virtio-blk (virtio 1.3 §5.2) on a raw file.
//!
//! The guest controls request type, sector, lengths and buffers. It can read and write the sectors of its own image, as
//! far as the image goes, and nothing else: the file never grows, and a read-only image is never written.

mod device;
mod request;
mod spec;
mod worker;

pub use device::{Block, BlockError, SECTOR_SIZE};
