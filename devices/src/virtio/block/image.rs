// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What all queues of a disk share: the image, how large it is just now, and what has gone wrong.

use std::cmp::Ordering::{Equal, Greater, Less};
use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};

use thiserror::Error;
use vmm_sys_util::eventfd::EventFd;

use super::backend::Backend;
use super::options::{BlockOptions, MAX_QUEUE_SIZE, MAX_QUEUES, Topology};
use crate::throttle::Throttle;
use crate::virtio::notifier::Notifier;

/// Bytes of a sector: the unit of all addresses (virtio 1.3 §5.2.4), whatever the image's block size is.
pub const SECTOR_SIZE: u64 = 512;

/// The smallest queue: a header, data and a status byte take a descriptor each.
const MIN_QUEUE_SIZE: u16 = 4;

/// Why a file can't be a disk.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum BlockError {
    /// The VM that had the disk has ended.
    #[error("the disk is gone with its VM")]
    Ended,
    /// The size can't be found out.
    #[error("its size can't be found out: {0}")]
    Size(#[source] io::Error),
    /// There is nothing in it.
    #[error("it is empty: a disk has at least one sector of 512 bytes")]
    Empty,
    /// The size isn't one of a disk.
    #[error("its size of {0} bytes is not a multiple of 512")]
    NotSectors(u64),
    /// The size isn't one of a disk with these blocks.
    #[error("its size of {size} bytes is not a multiple of its block size, {block_size}")]
    NotBlocks {
        /// Bytes.
        size: u64,
        /// Bytes of a block.
        block_size: u32,
    },
    /// It can only be made larger.
    #[error("it has {now} bytes, and {size} is less: it can be made larger only")]
    Shrinks {
        /// Bytes that are asked for.
        size: u64,
        /// Bytes that it has.
        now: u64,
    },
    /// Nothing of a read-only image is changed, and neither is its size.
    #[error("it is read-only, so it can't be made larger")]
    ReadOnly,
    /// The size of a block device is no business of ours.
    #[error("it is a block device: make it larger as its kind is, and have a look at it then ('refresh')")]
    FixedSize,
    /// The host can't make it larger.
    #[error("it can't be made larger: {0}")]
    CantGrow(#[source] io::Error),
    /// A block size that is none.
    #[error("a block size of {0} is not a power of two from 512 on")]
    BadBlockSize(u32),
    /// A number of queues that can't be.
    #[error("{0} queues: a disk has 1 to {MAX_QUEUES}")]
    BadQueues(u16),
    /// A queue size that can't be.
    #[error("a queue size of {0} is not a power of two from {MIN_QUEUE_SIZE} to {MAX_QUEUE_SIZE}")]
    BadQueueSize(u16),
    /// The host has no `io_uring`, or doesn't let us use it.
    #[error("io_uring can't be used on this host: {0}; engine=sync needs none")]
    NoIoUring(#[source] io::Error),
    /// The file is no qcow2 image, or one that may not be opened.
    #[error("it can't be used as a qcow2 image: {0}")]
    Qcow2(#[source] io::Error),
    /// A qcow2 image is served by one engine only.
    #[error("a qcow2 image is not served by io_uring: use engine=sync, or name none")]
    Qcow2WithoutRing,
}

/// An image, and what is needed to serve requests on it.
#[derive(Debug)]
pub(super) struct Image {
    /// Stands in log lines and names the threads.
    pub(super) name: String,
    pub(super) backend: Backend,
    pub(super) options: BlockOptions,
    pub(super) topology: Topology,
    /// The unit of DISCARD and WRITE_ZEROES in bytes; `None`: they are not offered.
    pub(super) discards: Option<u32>,
    /// Threads that wait for the disk in place of its queues' own.
    pub(super) pool_threads: AtomicUsize,
    sectors: AtomicU64,
    /// One change of the size at a time.
    resizing: Mutex<()>,
    notifier: OnceLock<Arc<Notifier>>,
    /// The doorbells of the queues that run, for whoever wants their attention.
    doorbells: Mutex<BTreeMap<u16, EventFd>>,
    /// Counts how often held requests were let go.
    resumed: AtomicU64,
    held: AtomicUsize,
    /// The host failed to make something durable. Linux says so once for all queues, and forgets it then.
    lost: AtomicBool,
    /// Requests that failed. Kept here, so that a reset doesn't make its lines flow again.
    pub(super) failures: Throttle,
    /// Rings that lied.
    pub(super) lies: Throttle,
}

impl Image {
    pub(super) fn new(name: String, file: File, options: BlockOptions) -> Result<Self, BlockError> {
        let BlockOptions { queues, queue_size, .. } = options;
        if !(1..=MAX_QUEUES).contains(&queues) {
            return Err(BlockError::BadQueues(queues));
        }
        if !queue_size.is_power_of_two() || !(MIN_QUEUE_SIZE..=MAX_QUEUE_SIZE).contains(&queue_size) {
            return Err(BlockError::BadQueueSize(queue_size));
        }
        let backend = Backend::new(file, &options)?;
        let topology = options.topology.unwrap_or_else(|| backend.topology());
        if !topology.block_size.is_power_of_two() || u64::from(topology.block_size) < SECTOR_SIZE {
            return Err(BlockError::BadBlockSize(topology.block_size));
        }
        let sectors = sectors(backend.size().map_err(BlockError::Size)?, topology)?;
        let discards = if options.discard && !options.read_only { backend.discard_unit() } else { None };
        if options.discard && !options.read_only && discards.is_none() && backend.raw().is_none() {
            tracing::warn!(
                disk = name,
                "the guest can give no space back: its qcow2 image is of version 2 ('qemu-img amend -o compat=1.1' lifts it \
                 to version 3; discard=off says that it is all right)"
            );
        }
        Ok(Self {
            name,
            backend,
            options,
            topology,
            discards,
            pool_threads: AtomicUsize::new(0),
            sectors: AtomicU64::new(sectors),
            resizing: Mutex::new(()),
            notifier: OnceLock::new(),
            doorbells: Mutex::default(),
            resumed: AtomicU64::new(0),
            lost: AtomicBool::new(false),
            held: AtomicUsize::new(0),
            failures: Throttle::new(),
            lies: Throttle::new(),
        })
    }

    /// The present capacity.
    pub(super) fn sectors(&self) -> u64 {
        self.sectors.load(Ordering::Acquire)
    }

    /// Where `len` bytes at `sector` start in the image; `None` unless they are whole sectors of it.
    pub(super) fn offset(&self, sector: u64, len: u64) -> Option<u64> {
        let end = sector.checked_add(len / SECTOR_SIZE)?;
        if !len.is_multiple_of(SECTOR_SIZE) || end > self.sectors() {
            return None;
        }
        sector.checked_mul(SECTOR_SIZE)
    }

    pub(super) fn attach(&self, notifier: &Arc<Notifier>) {
        // A device has one transport in its life.
        let _ = self.notifier.set(notifier.clone());
    }

    /// Queue `index` runs and listens to `doorbell`, or no longer does.
    pub(super) fn set_doorbell(&self, index: u16, doorbell: Option<EventFd>) {
        let mut doorbells = self.doorbells.lock().unwrap_or_else(PoisonError::into_inner);
        match doorbell {
            Some(doorbell) => doorbells.insert(index, doorbell),
            None => doorbells.remove(&index),
        };
    }

    /// Changes when held requests are to be tried again.
    pub(super) fn resumed(&self) -> u64 {
        self.resumed.load(Ordering::Acquire)
    }

    /// `more` requests are held, or `fewer`.
    pub(super) fn count_held(&self, more: usize, fewer: usize) {
        self.held.fetch_add(more, Ordering::AcqRel);
        self.held.fetch_sub(fewer, Ordering::AcqRel);
    }
}

impl Image {
    /// Whether something that was written may be lost: then nothing is said to be durable any more.
    pub(super) fn has_lost(&self) -> bool {
        self.lost.load(Ordering::Acquire)
    }

    /// Takes the size that the image has now for the capacity, and tells the guest if that is news.
    fn tell_size(&self) -> Result<u64, BlockError> {
        let sectors = sectors(self.backend.size().map_err(BlockError::Size)?, self.topology)?;
        let notifier = self.notifier.get();
        // A driver that reads the halves of the old and the new one finds that the generation has changed meanwhile.
        if let Some(notifier) = notifier.filter(|_| self.sectors() != sectors) {
            notifier.config_changes();
        }
        if self.sectors.swap(sectors, Ordering::AcqRel) != sectors
            && let Some(notifier) = notifier
        {
            notifier.config_changed();
        }
        Ok(sectors)
    }

    /// The host could not make something durable.
    pub(super) fn set_lost(&self, error: &io::Error) {
        if !self.lost.swap(true, Ordering::AcqRel) {
            tracing::error!(
                disk = self.name,
                "what was written may be lost, and flushes fail until the VM is started again: {error}"
            );
        }
    }
}

/// The sectors of a disk of so many bytes, if it can be one.
fn sectors(size: u64, topology: Topology) -> Result<u64, BlockError> {
    if size == 0 {
        return Err(BlockError::Empty);
    }
    if !size.is_multiple_of(SECTOR_SIZE) {
        return Err(BlockError::NotSectors(size));
    }
    let block_size = topology.block_size;
    if !size.is_multiple_of(block_size.into()) {
        return Err(BlockError::NotBlocks { size, block_size });
    }
    Ok(size / SECTOR_SIZE)
}

/// The host's way to a disk that a VM has. It keeps neither the disk nor its image: with the VM, they are gone.
#[derive(Clone, Debug)]
pub struct BlockControl(pub(super) Weak<Image>);

impl BlockControl {
    /// Makes the image larger, `size` bytes, and tells the guest (virtio 1.3 §5.2.6.2): a raw file or a qcow2 image grows, and
    /// what is new reads as zeros. Gives the capacity in sectors of 512 bytes. Where the image has that size already, the
    /// guest is told of it if that is news to it.
    ///
    /// # Errors
    ///
    /// When the size is less than what there is, or none of a disk; when the image is read-only, or a block device, which has
    /// ways of its own to grow; when the host can't. The guest keeps what it was told before.
    pub fn resize(&self, size: u64) -> Result<u64, BlockError> {
        let image = self.0.upgrade().ok_or(BlockError::Ended)?;
        let _alone = image.resizing.lock().unwrap_or_else(PoisonError::into_inner);
        sectors(size, image.topology)?;
        let now = image.backend.size().map_err(BlockError::Size)?;
        match size.cmp(&now) {
            Less => return Err(BlockError::Shrinks { size, now }),
            // What an earlier try has left undone is done first.
            Equal if image.options.read_only => {}
            Greater if image.options.read_only => return Err(BlockError::ReadOnly),
            Equal | Greater => image.backend.grow(size)?,
        }
        image.tell_size()
    }

    /// Looks how large the image is now, when somebody else has changed that, and tells the guest if it is news; gives the
    /// capacity in sectors of 512 bytes. Requests are checked against it from now on. Nobody else changes the size of a qcow2
    /// image while it is open here: [`Self::resize`] does.
    ///
    /// # Errors
    ///
    /// When the size can't be found out or is none of a disk; the capacity stays what it was.
    pub fn refresh(&self) -> Result<u64, BlockError> {
        let image = self.0.upgrade().ok_or(BlockError::Ended)?;
        let _alone = image.resizing.lock().unwrap_or_else(PoisonError::into_inner);
        image.tell_size()
    }

    /// Requests that are held because the host has no room for them ([`super::OnError::Stop`]).
    pub fn held(&self) -> usize {
        self.0.upgrade().map_or(0, |image| image.held.load(Ordering::Acquire))
    }

    /// Tries the held requests once more.
    pub fn resume(&self) {
        let Some(image) = self.0.upgrade() else { return };
        image.resumed.fetch_add(1, Ordering::AcqRel);
        for doorbell in image.doorbells.lock().unwrap_or_else(PoisonError::into_inner).values() {
            // Only a full counter makes this fail, and then the queue wakes up as well.
            let _ = doorbell.write(1);
        }
    }
}
