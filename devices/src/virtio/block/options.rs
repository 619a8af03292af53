// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What whoever opens a disk may choose.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use thiserror::Error;

use super::spec;
use crate::token_bucket::RateLimiter;

/// How a disk is served. The default is what a disk without any options gets.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct BlockOptions {
    /// The guest may not write. The file needn't be open for writing then.
    pub read_only: bool,
    /// Who does the reading and writing.
    pub engine: EngineChoice,
    /// What the file holds.
    pub format: ImageFormat,
    /// The files that a qcow2 image may be based on, or folders which they are directly in. No others are opened, whatever its
    /// header names.
    pub permitted: Vec<PathBuf>,
    /// Is called with each of those files when it is open, before a byte of it is read, to keep others from writing to it. An
    /// error keeps the disk from being made. What it does ends with the disk's descriptor.
    pub lock_behind: Option<LockBehind>,
    /// The file is open with `O_DIRECT`.
    pub direct: bool,
    /// Queues, each with a thread of its own: 1 to [`MAX_QUEUES`].
    pub queues: u16,
    /// Descriptors of a queue: a power of two from 4 to [`MAX_QUEUE_SIZE`].
    pub queue_size: u16,
    /// What the guest reads as the disk's serial number.
    pub serial: Serial,
    /// When a write is durable.
    pub cache: CacheMode,
    /// Offer DISCARD and WRITE_ZEROES, where the host can do them.
    pub discard: bool,
    /// Every request waits until all of these let it in: the disk's own limiter, and that of a group it is in.
    pub limiters: Vec<Arc<RateLimiter>>,
    /// What the guest is told of block sizes; `None`: what the host says of the file or device.
    pub topology: Option<Topology>,
    /// What happens when the host has no room for a write.
    pub on_error: OnError,
}

/// The most queues of a disk.
pub const MAX_QUEUES: u16 = 64;
/// The largest queue, in descriptors.
pub const MAX_QUEUE_SIZE: u16 = 1024;

impl Default for BlockOptions {
    fn default() -> Self {
        Self {
            read_only: false,
            engine: EngineChoice::Automatic,
            format: ImageFormat::Raw,
            permitted: Vec::new(),
            lock_behind: None,
            direct: false,
            queues: 1,
            queue_size: 256,
            serial: Serial::default(),
            cache: CacheMode::Writeback,
            discard: true,
            limiters: Vec::new(),
            topology: None,
            on_error: OnError::Report,
        }
    }
}

/// Locks a file that lies behind an image, and is only read; the path is for what is said of it.
pub type LockBehind = fn(&File, &Path) -> io::Result<()>;

/// Who does the reading and writing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EngineChoice {
    /// `io_uring` where the host has it, else plain system calls.
    #[default]
    Automatic,
    /// `io_uring`, or the disk doesn't start.
    IoUring,
    /// Plain system calls, by threads that wait for the disk.
    Sync,
}

/// What the file holds. It is never guessed: a guest can write any header into a raw image.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ImageFormat {
    /// The disk's bytes.
    #[default]
    Raw,
    /// A qcow2 image, which is served without `io_uring`; one of version 2 without discarding, too.
    Qcow2,
}

/// When a write is durable (virtio 1.3 §5.2.6.2).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CacheMode {
    /// When a FLUSH after it has completed.
    #[default]
    Writeback,
    /// When it has completed. FLUSH isn't offered, which is how the guest knows.
    Writethrough,
}

/// What happens to a write that the host has no room for (`ENOSPC`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnError {
    /// The guest gets an error.
    #[default]
    Report,
    /// The request is held until the host says that there is room again, and then tried once more.
    Stop,
}

/// Block sizes (virtio 1.3 §5.2.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Topology {
    /// Bytes of a block: a power of two from 512 on, of which the disk is a multiple.
    pub block_size: u32,
    /// How many times the block doubles to a physical one.
    pub physical_block_exp: u8,
    /// The least that should be read or written at once, in blocks; 0: not known.
    pub min_io_size: u16,
    /// The best that can be read or written at once, in blocks; 0: not known.
    pub opt_io_size: u32,
}

/// A serial number: at most 20 bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Serial([u8; spec::ID_SIZE]);

/// A serial number that is none.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("the serial number {0:?} has {len} bytes: there is room for {max}", len = .0.len(), max = spec::ID_SIZE)]
pub struct BadSerial(pub String);

impl Serial {
    /// A serial number of up to 20 bytes (virtio 1.3 §5.2.6).
    ///
    /// # Errors
    ///
    /// When it is longer.
    pub fn new(serial: &str) -> Result<Self, BadSerial> {
        let mut bytes = [0; spec::ID_SIZE];
        let room = bytes.get_mut(..serial.len()).ok_or_else(|| BadSerial(serial.to_owned()))?;
        room.copy_from_slice(serial.as_bytes());
        Ok(Self(bytes))
    }

    /// The bytes, and zeros behind them.
    pub(super) fn bytes(&self) -> &[u8; spec::ID_SIZE] {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_serial_number_has_room_for_twenty_bytes() {
        assert_eq!(Serial::new("").unwrap(), Serial::default());
        assert_eq!(Serial::new("12345678901234567890").unwrap().bytes(), b"12345678901234567890");
        assert_eq!(
            Serial::new("123456789012345678901").unwrap_err().to_string(),
            "the serial number \"123456789012345678901\" has 21 bytes: there is room for 20"
        );
    }
}
