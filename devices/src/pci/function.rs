// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What a PCI function is to its bus.

use std::fmt::Debug;

use super::config_space::ConfigSpace;

/// An access to a BAR that a function's configuration space gives rise to, such as virtio's window (virtio 1.3 §4.1.4.9).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BarAccess {
    /// The BAR's number.
    pub bar: u8,
    /// Where in the BAR.
    pub offset: u64,
    /// Bytes: up to four.
    pub width: usize,
    /// The register from which written bytes come, and to which read ones go.
    pub data: usize,
}

/// A function on the bus. The bus owns its configuration space and knows where its BARs are; the function says what is
/// in them. vCPUs call it concurrently.
pub trait PciFunction: Debug + Send + Sync {
    /// The configuration space as it is at power-on. The bus asks once.
    fn config_space(&self) -> ConfigSpace;

    /// Where in a BAR the guest's access to `len` bytes at `register` goes on, if it does. The bus makes that access when it
    /// is free for others again: what is in a BAR may take its time, as a reset does that waits for a worker.
    fn bar_access(&self, space: &ConfigSpace, register: usize, len: usize) -> Option<BarAccess> {
        let _ = (space, register, len);
        None
    }

    /// The guest has written `len` bytes at `register`; those that it may write have changed. All others that want to the
    /// bus wait meanwhile, so what may have to wait for a worker is only noted here, and `true` says that there is some.
    fn wrote_config(&self, space: &ConfigSpace, register: usize, len: usize) -> bool {
        let _ = (space, register, len);
        false
    }

    /// Follows [`Self::wrote_config`], when the bus is free again: does what was noted. Of several vCPUs that write at the
    /// same time, each calls it, in any order; what was noted last counts.
    fn act_on_config(&self) {}

    /// The machine is reset; the bus has put configuration space back, and no BAR answers any more. When this returns, the
    /// function touches no guest memory and sends no message.
    fn reset(&self) {}

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
