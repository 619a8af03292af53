// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! PCI: one segment with one bus, its functions, and the windows in which their memory lies.
//!
//! The guest controls every access to configuration space, by either way there is to it, and with that where the BARs
//! of its functions lie. It can never make a function answer outside of the bridge's windows or at another function's
//! addresses, and never one that it isn't given: an address that is no good leaves the function silent until a better
//! one is written.
//!
//! **Locks.** Configuration is behind one lock, as it is one bus on a PC, and the map of addresses behind another. With
//! the first one held, a function takes note of what was written, routes are changed and doorbells bound: what the host
//! does at once, and must not come back here for. No lock of the bus is held while a function does what may wait, such
//! as a reset that stops its workers: a device that takes its time holds up no access to another one. The path on which
//! a device raises an interrupt takes none of them.

mod access;
mod address_map;
mod bus;
mod config_space;
mod function;
mod host_bridge;
#[cfg(any(test, feature = "mock-driver"))]
pub mod mock;
pub mod msix;

pub use bus::{PciBus, PciError, Window};
pub use config_space::{ConfigError, ConfigSpace, Identity};
pub use function::{BarAccess, PciFunction};
