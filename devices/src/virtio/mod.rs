// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Virtio (virtio 1.3): one status machine and one queue under every transport, and the devices on top.

mod active_queue;
mod announcer;
pub mod balloon;
pub mod block;
pub mod chain;
pub mod console;
pub mod device;
#[cfg(any(test, feature = "mock-driver"))]
pub mod mock;
pub mod net;
pub mod notifier;
mod pace;
pub mod queue;
pub mod rng;
mod split;
pub mod transport;
pub(crate) mod vhost;
pub mod vsock;
mod worker;

pub use device::{QueueResources, StartError, VirtioDevice};
pub use notifier::{DeviceInterrupt, Notifier};

/// Device status bits (virtio 1.3 §2.1).
pub mod status {
    /// The guest has found the device.
    pub const ACKNOWLEDGE: u8 = 1;
    /// The guest knows how to drive it.
    pub const DRIVER: u8 = 2;
    /// The driver is ready.
    pub const DRIVER_OK: u8 = 4;
    /// Features are negotiated.
    pub const FEATURES_OK: u8 = 8;
    /// The device can't go on without a reset.
    pub const DEVICE_NEEDS_RESET: u8 = 64;
    /// The guest has given up on the device.
    pub const FAILED: u8 = 128;
}

/// Feature bits that belong to the ring and the transport (virtio 1.3 §6), as masks.
pub mod features {
    /// Descriptors may refer to a table of descriptors.
    pub const RING_INDIRECT_DESC: u64 = 1 << 28;
    /// Both sides say at which index they want to be notified.
    pub const RING_EVENT_IDX: u64 = 1 << 29;
    /// The device is a modern one.
    pub const VERSION_1: u64 = 1 << 32;
}
