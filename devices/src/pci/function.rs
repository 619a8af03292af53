// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What a PCI function is to its bus.

use std::fmt::Debug;

use super::config_space::ConfigSpace;

/// A function on the bus. The bus owns its configuration space and knows where its BARs are; the function says what is
/// in them. vCPUs call it concurrently.
pub trait PciFunction: Debug + Send + Sync {
    /// The configuration space as it is at power-on. The bus asks once.
    fn config_space(&self) -> ConfigSpace;

    /// The guest is about to read `len` bytes at `register`: the last moment for the function to change them.
    fn reading_config(&self, space: &mut ConfigSpace, register: usize, len: usize) {
        let _ = (space, register, len);
    }

    /// The guest has written `len` bytes at `register`; those that it may write have changed.
    fn wrote_config(&self, space: &ConfigSpace, register: usize, len: usize) {
        let _ = (space, register, len);
    }

    /// From now on the BAR answers at `address`, or nowhere. Calls come one after the other, each when the bus does what
    /// it says already; of two functions that swap their places, both are nowhere before one is at its new place.
    fn bar_moved(&self, bar: u8, address: Option<u64>) {
        let _ = (bar, address);
    }

    /// Reads `data.len()` bytes at `offset` into a BAR; the access lies wholly in it. `data` holds all ones.
    fn read_bar(&self, bar: u8, offset: u64, data: &mut [u8]) {
        let _ = (bar, offset, data);
    }

    /// Writes `data` at `offset` into a BAR; the access lies wholly in it.
    fn write_bar(&self, bar: u8, offset: u64, data: &[u8]) {
        let _ = (bar, offset, data);
    }
}
