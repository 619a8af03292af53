// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The device: what it offers, its configuration space, and its queues.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::io;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;

use thiserror::Error;

use super::service::Muxer;
use super::{MAX_CID, MIN_CID, spec};
use crate::virtio::device::{QueueResources, StartError, VirtioDevice, copy_config};
use crate::virtio::queue::QueueState;
use crate::virtio::worker::{Wake, Worker};

/// Descriptors of each queue: a Linux driver fills the receive queue with buffers of a page.
pub(super) const QUEUE_SIZES: [u16; 3] = [256, 256, 16];

/// Serves a port of the host's inside of this process.
pub trait PortHandler: Debug + Send {
    /// The guest has connected. Called on the device's thread, so it must not block.
    fn connected(&mut self, stream: UnixStream);
}

/// What a socket device is made of.
#[derive(Debug)]
pub struct VsockOptions {
    /// The guest's context ID, from [`MIN_CID`] to [`MAX_CID`].
    pub cid: u32,
    /// A socket that programs of the host connect to, and its path: with `_P` behind it, that is where the listener for port P
    /// of the host is. Without one, the guest reaches nothing but `ports`.
    pub host: Option<(UnixListener, PathBuf)>,
    /// Ports of the host that are served here, whoever listens elsewhere.
    pub ports: BTreeMap<u32, Box<dyn PortHandler>>,
}

/// Why there is no such device.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum VsockError {
    /// The context ID stands for somebody else.
    #[error("{0} can't be a guest's context ID: give one from {MIN_CID} to {MAX_CID}")]
    BadCid(u32),
    /// Another virtual machine has the context ID.
    #[error("the context ID {0} is taken by another virtual machine of this host: give another one")]
    CidTaken(u32),
    /// Something that every device needs can't be had.
    #[error("{what} can't be set up: {source}")]
    SetUp {
        /// What it is.
        what: &'static str,
        /// What the host said.
        source: io::Error,
    },
}

/// A socket device, all of which is served by one thread.
#[derive(Debug)]
pub struct Vsock {
    cid: u32,
    worker: Worker<Muxer>,
}

impl Vsock {
    /// A socket device. `name` stands in log lines and names the thread.
    ///
    /// # Errors
    ///
    /// When the context ID can't be a guest's, or the host is short of something.
    pub fn new(name: impl Into<String>, options: VsockOptions) -> Result<Self, VsockError> {
        let VsockOptions { cid, host, ports } = options;
        check_cid(cid)?;
        let set_up = |what| move |source| VsockError::SetUp { what, source };
        if let Some((listener, _)) = &host {
            listener.set_nonblocking(true).map_err(set_up("a socket that doesn't block"))?;
        }
        let name = name.into();
        let mut muxer = Muxer::new(name.clone(), cid.into(), host);
        muxer.ports = ports;
        let wake = Wake::new().map_err(set_up("an eventfd"))?;
        Ok(Self { cid, worker: Worker::new(name, muxer, QUEUE_SIZES.len(), wake) })
    }
}

/// Whether a guest can have this context ID.
pub(super) fn check_cid(cid: u32) -> Result<(), VsockError> {
    if (MIN_CID..=MAX_CID).contains(&cid) { Ok(()) } else { Err(VsockError::BadCid(cid)) }
}

/// Reads the configuration space, in which is the guest's context ID (§5.10.4).
pub(super) fn read_cid(cid: u32, offset: u64, data: &mut [u8]) {
    copy_config(&u64::from(cid).to_le_bytes(), offset, data);
}

impl VirtioDevice for Vsock {
    fn device_type(&self) -> u32 {
        spec::DEVICE_TYPE
    }

    fn features(&self) -> u64 {
        spec::F_STREAM
    }

    fn queue_sizes(&self) -> &[u16] {
        &QUEUE_SIZES
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        read_cid(self.cid, offset, data);
    }

    fn start_queue(&mut self, index: u16, resources: QueueResources, features: u64) -> Result<(), StartError> {
        self.worker.start_queue(index, resources, features)
    }

    fn request_stop(&mut self, index: u16) {
        self.worker.request_stop(index);
    }

    fn stop_queue(&mut self, index: u16) -> Option<QueueState> {
        self.worker.stop_queue(index)
    }

    fn reset(&mut self) {
        let Self { cid: _, worker } = self;
        worker.reset();
    }
}
