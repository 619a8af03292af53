// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The device: what it offers, its configuration space, and its queues' workers.

use std::fs::File;
use std::sync::Arc;

use super::image::{BlockControl, BlockError, Image};
use super::options::{BlockOptions, CacheMode, EngineChoice, ImageFormat, Topology};
use super::request::{MAX_RANGE_SECTORS, MAX_RANGES};
use super::spec;
use super::worker::{Worker, warn_of_no_ring};
use crate::sys::ring::Setup;
use crate::virtio::device::{QueueResources, StartError, VirtioDevice, copy_config};
use crate::virtio::queue::QueueState;

/// A block device, each queue of which is served by a thread of its own.
#[derive(Debug)]
pub struct Block {
    image: Arc<Image>,
    queue_sizes: Vec<u16>,
    /// The queues that run.
    queues: Vec<Option<Worker>>,
}

impl Block {
    /// A disk on `file`, which is open for writing unless the options say read-only. `name` stands in log lines and names
    /// the threads.
    ///
    /// # Errors
    ///
    /// When the file or the options are none of a disk, or `io_uring` is asked for by name and can't be used.
    pub fn new(name: impl Into<String>, file: File, mut options: BlockOptions) -> Result<Self, BlockError> {
        let name = name.into();
        if options.format == ImageFormat::Qcow2 {
            if options.engine == EngineChoice::IoUring {
                return Err(BlockError::Qcow2WithoutRing);
            }
            options.engine = EngineChoice::Sync;
        }
        if options.engine != EngineChoice::Sync
            // A small one tells as much as a large one.
            && let Err(error) = Setup::new(1)
        {
            if options.engine == EngineChoice::IoUring {
                return Err(BlockError::NoIoUring(error));
            }
            warn_of_no_ring(&name, &error);
            options.engine = EngineChoice::Sync;
        }
        let image = Arc::new(Image::new(name, file, options)?);
        let count = usize::from(image.options.queues);
        let queues = std::iter::repeat_with(|| None).take(count).collect();
        Ok(Self { queue_sizes: vec![image.options.queue_size; count], image, queues })
    }

    /// The host's way to this disk while a VM has it.
    pub fn control(&self) -> BlockControl {
        BlockControl(Arc::downgrade(&self.image))
    }

    fn queue(&mut self, index: u16) -> Option<&mut Option<Worker>> {
        self.queues.get_mut(usize::from(index))
    }

    /// The configuration space (virtio 1.3 §5.2.4). What isn't offered is zero.
    fn config(&self) -> [u8; spec::CONFIG_SIZE] {
        let image = &self.image;
        let Topology { block_size, physical_block_exp, min_io_size, opt_io_size } = image.topology;
        // A header and a status byte take a descriptor each.
        let seg_max = u32::from(image.options.queue_size.saturating_sub(2));
        let mut config = [0; spec::CONFIG_SIZE];
        let mut set = |at: usize, value: &[u8]| {
            for (to, from) in config.iter_mut().skip(at).zip(value) {
                *to = *from;
            }
        };
        set(spec::CONFIG_CAPACITY, &image.sectors().to_le_bytes());
        set(spec::CONFIG_SEG_MAX, &seg_max.to_le_bytes());
        set(spec::CONFIG_BLK_SIZE, &block_size.to_le_bytes());
        set(spec::CONFIG_PHYSICAL_BLOCK_EXP, &[physical_block_exp]);
        set(spec::CONFIG_MIN_IO_SIZE, &min_io_size.to_le_bytes());
        set(spec::CONFIG_OPT_IO_SIZE, &opt_io_size.to_le_bytes());
        if image.options.queues > 1 {
            set(spec::CONFIG_NUM_QUEUES, &image.options.queues.to_le_bytes());
        }
        if let Some(unit) = image.discards {
            let ranges = u32::try_from(MAX_RANGES).unwrap_or(u32::MAX);
            let alignment = unit >> 9;
            set(spec::CONFIG_MAX_DISCARD_SECTORS, &MAX_RANGE_SECTORS.to_le_bytes());
            set(spec::CONFIG_MAX_DISCARD_SEG, &ranges.to_le_bytes());
            set(spec::CONFIG_DISCARD_SECTOR_ALIGNMENT, &alignment.to_le_bytes());
            set(spec::CONFIG_MAX_WRITE_ZEROES_SECTORS, &MAX_RANGE_SECTORS.to_le_bytes());
            set(spec::CONFIG_MAX_WRITE_ZEROES_SEG, &ranges.to_le_bytes());
            set(spec::CONFIG_WRITE_ZEROES_MAY_UNMAP, &[1]);
        }
        config
    }
}

#[cfg(test)]
impl Block {
    pub(super) fn image(&self) -> &Image {
        &self.image
    }

    pub(super) fn shared(&self) -> Arc<Image> {
        self.image.clone()
    }
}

impl VirtioDevice for Block {
    fn device_type(&self) -> u32 {
        spec::DEVICE_TYPE
    }

    fn features(&self) -> u64 {
        let BlockOptions { read_only, queues, cache, .. } = self.image.options;
        let when = |condition: bool, feature: u64| if condition { feature } else { 0 };
        spec::F_SEG_MAX
            | spec::F_BLK_SIZE
            | spec::F_TOPOLOGY
            | when(read_only, spec::F_RO)
            | when(queues > 1, spec::F_MQ)
            | when(self.image.discards.is_some(), spec::F_DISCARD | spec::F_WRITE_ZEROES)
            // A device without it is one whose writes are durable when they complete (virtio 1.3 §5.2.6.2). The driver
            // can't change its mind between the two: CONFIG_WCE isn't offered.
            | when(cache == CacheMode::Writeback, spec::F_FLUSH)
    }

    fn queue_sizes(&self) -> &[u16] {
        &self.queue_sizes
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        let config = self.config();
        copy_config(&config, offset, data);
    }

    fn attach(&mut self, notifier: &Arc<crate::virtio::Notifier>) {
        self.image.attach(notifier);
    }

    fn start_queue(&mut self, index: u16, resources: QueueResources, features: u64) -> Result<(), StartError> {
        let image = self.image.clone();
        let slot = self.queue(index).ok_or(StartError::NoSuchQueue { index })?;
        if slot.is_some() {
            return Err(StartError::Running { index });
        }
        // A driver that knows no FLUSH must find its writes durable when they complete (virtio 1.3 §5.2.6.2).
        let durable = features & spec::F_FLUSH == 0;
        let worker = Worker::start(index, image, resources, durable);
        *slot = Some(worker.map_err(|source| StartError::Host { index, source })?);
        Ok(())
    }

    fn request_stop(&mut self, index: u16) {
        if let Some(Some(worker)) = self.queue(index) {
            worker.request_stop();
        }
    }

    fn stop_queue(&mut self, index: u16) -> Option<QueueState> {
        let state = self.queue(index)?.take()?.stop();
        self.image.set_doorbell(index, None);
        state
    }

    fn reset(&mut self) {
        // Nothing is kept of what a driver has set: not even the requests that it wanted, which are its queues' state.
        let Self { image: _, queue_sizes: _, queues: _ } = self;
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        for index in 0..self.image.options.queues {
            self.request_stop(index);
        }
        for index in 0..self.image.options.queues {
            self.stop_queue(index);
        }
        // A format keeps tables in memory. What the guest wrote is not lost with them when the VM ends.
        if self.image.backend.raw().is_none()
            && !self.image.options.read_only
            && let Err(error) = self.image.backend.sync()
        {
            tracing::error!(disk = self.image.name, "what was written last may be lost: {error}");
        }
    }
}

#[cfg(test)]
#[path = "device_tests.rs"]
mod tests;
