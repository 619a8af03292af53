// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! virtio-blk (virtio 1.3 §5.2) on a raw file, a block device or a qcow2 image.
//!
//! The guest controls request type, sector, lengths and buffers, and how much of all that there is at once. It can read
//! and change the sectors of its own image, as far as the image goes, and nothing else: a raw file never grows, and a
//! read-only image is never written. What it gets of the host's memory is bounded by the size of its queues, of the
//! host's time by the rate limits that its owner has set.

mod backend;
#[cfg(test)]
mod bus_master_tests;
#[cfg(test)]
mod control_tests;
mod device;
mod engine;
#[cfg(test)]
mod hostile_tests;
mod image;
#[cfg(test)]
mod machine;
#[cfg(test)]
mod neighbour;
mod options;
mod pool;
mod qcow2;
mod raw;
mod request;
#[cfg(test)]
mod rig;
mod runner;
mod spec;
#[cfg(test)]
mod state_tests;
mod worker;

pub use device::Block;
pub use image::{BlockControl, BlockError, SECTOR_SIZE};
pub use options::{
    BadSerial, BlockOptions, CacheMode, EngineChoice, ImageFormat, LockBehind, MAX_QUEUE_SIZE, MAX_QUEUES, OnError,
    Serial, Topology,
};
