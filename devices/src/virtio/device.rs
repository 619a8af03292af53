// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What a virtio device is to its transport.

use std::fmt::Debug;
use std::io;
use std::sync::Arc;

use thiserror::Error;
use vmm_sys_util::eventfd::EventFd;

use super::notifier::Notifier;
use super::queue::{Queue, QueueState};

/// A virtio device: what it offers, its configuration space, and its queues.
///
/// The transport owns the status machine; it starts the queues when the driver is ready and stops them, one by one, at
/// a reset, a pause or the end. A device owns what runs a queue (most often a thread).
pub trait VirtioDevice: Debug + Send {
    /// The device type (virtio 1.3 §5).
    fn device_type(&self) -> u32;

    /// The features that the device itself offers; the transport adds those of ring and transport.
    fn features(&self) -> u64;

    /// Of the features of the ring, which the transport adds, those that whoever works off this device's rings doesn't know. What
    /// makes it a modern device can't be among them.
    fn missing_features(&self) -> u64 {
        0
    }

    /// The largest size of each queue, in descriptors: powers of two.
    fn queue_sizes(&self) -> &[u16];

    /// Reads the configuration space. `data` is zero when it is called, and stays so beyond the space's end.
    fn read_config(&self, offset: u64, data: &mut [u8]);

    /// Writes the configuration space. Most devices have nothing in it that a driver may write.
    fn write_config(&mut self, offset: u64, data: &[u8]) {
        let _ = (offset, data);
    }

    /// The transport hands over the way to its driver, once, before any queue starts: for a device whose configuration
    /// space changes while no queue of it runs.
    fn attach(&mut self, notifier: &Arc<Notifier>) {
        let _ = notifier;
    }

    /// Starts queue `index`, which is stopped. `features` are those that the driver accepted.
    fn start_queue(&mut self, index: u16, resources: QueueResources, features: u64) -> Result<(), StartError>;

    /// Asks queue `index` to stop, and doesn't wait for it: so that many of them do so at the same time. [`Self::stop_queue`]
    /// follows.
    fn request_stop(&mut self, index: u16) {
        let _ = index;
    }

    /// Stops queue `index` and gives its whole state back, of which the device keeps nothing; `None` when it was not
    /// running, or what ran it has failed so that its state is lost. When it returns, nothing touches the queue or the
    /// buffers in it any more.
    fn stop_queue(&mut self, index: u16) -> Option<QueueState>;

    /// Forgets what the driver has set. All queues are stopped when it is called.
    fn reset(&mut self);
}

/// Reads from a configuration space for [`VirtioDevice::read_config`]: what lies beyond the space's end stays as it is.
pub(crate) fn copy_config(space: &[u8], offset: u64, data: &mut [u8]) {
    let rest = usize::try_from(offset).ok().and_then(|offset| space.get(offset..)).unwrap_or_default();
    for (to, from) in data.iter_mut().zip(rest) {
        *to = *from;
    }
}

/// What a device needs to run one queue.
#[derive(Debug)]
pub struct QueueResources {
    /// The queue, validated.
    pub queue: Queue,
    /// The doorbell.
    pub doorbell: EventFd,
    /// How to reach the driver.
    pub notifier: Arc<Notifier>,
}

/// Why a queue can't be started.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum StartError {
    /// The host can't give a thread or a descriptor.
    #[error("queue {index} can't be started: {source}")]
    Host {
        /// The queue.
        index: u16,
        /// What the host said.
        source: io::Error,
    },
    /// The device has no such queue.
    #[error("there is no queue {index}")]
    NoSuchQueue {
        /// The queue.
        index: u16,
    },
    /// The queue runs already.
    #[error("queue {index} runs already")]
    Running {
        /// The queue.
        index: u16,
    },
}
