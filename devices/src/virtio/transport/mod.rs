// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! How a driver finds a device and talks to it: two register files over one status machine.

use std::fmt::Debug;
use std::io;

use vmm_sys_util::eventfd::EventFd;

use super::queue::QueueState;

pub mod core;
pub mod mmio;
mod mmio_interrupt;
pub mod pci;
#[cfg(test)]
mod slow;
mod words;

/// The host's way to turn a guest's write into a doorbell without leaving the kernel (`ioeventfd`).
pub trait DoorbellBinder: Debug + Send + Sync {
    /// From now on a write of any width and value to the guest-physical `address` rings `doorbell`.
    ///
    /// # Errors
    ///
    /// When the host has no room for it; then the write reaches the device as a register access.
    fn bind(&self, address: u64, doorbell: &EventFd) -> io::Result<()>;

    /// Takes back what [`Self::bind`] did.
    ///
    /// # Errors
    ///
    /// When there is nothing to take back.
    fn unbind(&self, address: u64, doorbell: &EventFd) -> io::Result<()>;
}

/// What a VM does with a device, wherever its registers are.
pub trait Transport: Debug + Send + Sync {
    /// Stops all queues, and gives the state of each that the driver has set up, by its index. When it returns, the device
    /// touches no guest memory any more, nor will it before [`Self::resume`], whatever the driver does.
    fn stop(&self) -> Vec<(u16, Option<QueueState>)>;

    /// Goes on where [`Self::stop`] has stopped.
    fn resume(&self);
}
