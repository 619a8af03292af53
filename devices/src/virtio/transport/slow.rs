// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! A device that takes as long as a test wants to start and to stop its queue.

use std::sync::Arc;

use vmm_sys_util::eventfd::EventFd;

use crate::virtio::device::{QueueResources, StartError, VirtioDevice};
use crate::virtio::queue::QueueState;

/// The device. Its test has a clone.
#[derive(Clone, Debug)]
pub(super) struct Slow(Arc<[EventFd; 2]>);

impl Slow {
    pub(super) fn new() -> Self {
        Self(Arc::new([0, 1].map(|_| EventFd::new(libc::EFD_CLOEXEC).unwrap())))
    }

    /// Waits until the device is about to start or to stop its queue.
    pub(super) fn wait(&self) {
        self.0[0].read().unwrap();
    }

    /// Lets it do so: now, or when it wants to.
    pub(super) fn go_on(&self) {
        self.0[1].write(1).unwrap();
    }

    fn take_your_time(&self) {
        self.0[0].write(1).unwrap();
        self.0[1].read().unwrap();
    }
}

impl VirtioDevice for Slow {
    fn device_type(&self) -> u32 {
        4
    }
    fn features(&self) -> u64 {
        0
    }
    fn queue_sizes(&self) -> &[u16] {
        &[16]
    }
    fn read_config(&self, _: u64, _: &mut [u8]) {}
    fn start_queue(&mut self, _: u16, _: QueueResources, _: u64) -> Result<(), StartError> {
        self.take_your_time();
        Ok(())
    }
    fn stop_queue(&mut self, _: u16) -> Option<QueueState> {
        self.take_your_time();
        Some(QueueState::default())
    }
    fn reset(&mut self) {}
}
