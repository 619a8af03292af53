// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The device: what it offers, and its queue's worker.

use std::fs::File;
use std::io::{self, Seek, SeekFrom};
use std::sync::Arc;

use thiserror::Error;

use super::spec;
use super::worker::Worker;
use crate::throttle::Throttle;
use crate::virtio::device::{QueueResources, StartError, VirtioDevice};
use crate::virtio::queue::QueueState;

/// Bytes of a sector: the unit of all addresses (virtio 1.3 §5.2.4), whatever the image's block size is.
pub const SECTOR_SIZE: u64 = 512;

/// Descriptors of a queue.
const QUEUE_SIZE: u16 = 256;

/// The most segments that a request can have: a header and a status byte take a descriptor each.
const SEG_MAX: u32 = 254;

/// Why a file can't be a disk.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum BlockError {
    /// The size can't be found out.
    #[error("its size can't be found out: {0}")]
    Size(#[source] io::Error),
    /// There is nothing in it.
    #[error("it is empty: a disk has at least one sector of 512 bytes")]
    Empty,
    /// The size isn't one of a disk.
    #[error("its size of {0} bytes is not a multiple of 512")]
    NotSectors(u64),
}

/// An image, and what is needed to serve requests on it.
#[derive(Debug)]
pub(super) struct Image {
    pub(super) file: File,
    pub(super) sectors: u64,
    pub(super) read_only: bool,
    /// Requests that failed. Kept here, so that a reset doesn't make its lines flow again.
    pub(super) failures: Throttle,
    /// Rings that lied.
    pub(super) lies: Throttle,
}

/// A block device with one queue, served by a thread of its own.
#[derive(Debug)]
pub struct Block {
    name: String,
    image: Arc<Image>,
    worker: Option<Worker>,
}

impl Block {
    /// A disk on `file`, which is open for writing unless `read_only`. `name` stands in log lines and names the thread.
    pub fn new(name: impl Into<String>, mut file: File, read_only: bool) -> Result<Self, BlockError> {
        // Unlike the metadata, the end of a block device is its size too.
        let size = file.seek(SeekFrom::End(0)).map_err(BlockError::Size)?;
        if size == 0 {
            return Err(BlockError::Empty);
        }
        if !size.is_multiple_of(SECTOR_SIZE) {
            return Err(BlockError::NotSectors(size));
        }
        let sectors = size / SECTOR_SIZE;
        Ok(Self {
            name: name.into(),
            image: Arc::new(Image { file, sectors, read_only, failures: Throttle::new(), lies: Throttle::new() }),
            worker: None,
        })
    }
}

#[cfg(test)]
impl Block {
    pub(super) fn lies(&self) -> u64 {
        self.image.lies.times()
    }
}

impl VirtioDevice for Block {
    fn device_type(&self) -> u32 {
        spec::DEVICE_TYPE
    }

    fn features(&self) -> u64 {
        let read_only = if self.image.read_only { spec::F_RO } else { 0 };
        spec::F_SEG_MAX | spec::F_FLUSH | read_only
    }

    fn queue_sizes(&self) -> &[u16] {
        &[QUEUE_SIZE]
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        let mut config = [0; spec::CONFIG_SIZE];
        let fields: [(usize, &[u8]); 2] = [
            (spec::CONFIG_CAPACITY, &self.image.sectors.to_le_bytes()),
            (spec::CONFIG_SEG_MAX, &SEG_MAX.to_le_bytes()),
        ];
        for (at, value) in fields {
            for (to, from) in config.iter_mut().skip(at).zip(value) {
                *to = *from;
            }
        }
        let rest = usize::try_from(offset).ok().and_then(|offset| config.get(offset..)).unwrap_or_default();
        for (to, from) in data.iter_mut().zip(rest) {
            *to = *from;
        }
    }

    fn start_queue(&mut self, index: u16, resources: QueueResources, features: u64) -> Result<(), StartError> {
        if index != 0 {
            return Err(StartError::NoSuchQueue { index });
        }
        if self.worker.is_some() {
            return Err(StartError::Running { index });
        }
        // A driver that knows no FLUSH must find its writes durable when they complete (virtio 1.3 §5.2.6.2).
        let write_through = features & spec::F_FLUSH == 0;
        let worker = Worker::start(&self.name, index, self.image.clone(), resources, write_through)
            .map_err(|source| StartError::Host { index, source })?;
        self.worker = Some(worker);
        Ok(())
    }

    fn request_stop(&mut self, index: u16) {
        if index == 0 {
            self.worker.iter().for_each(Worker::request_stop);
        }
    }

    fn stop_queue(&mut self, index: u16) -> Option<QueueState> {
        if index != 0 {
            return None;
        }
        self.worker.take().map(Worker::stop)
    }

    fn reset(&mut self) {
        // Nothing that a driver sets is kept here.
        let Self { name: _, image: _, worker: _ } = self;
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        self.stop_queue(0);
    }
}
