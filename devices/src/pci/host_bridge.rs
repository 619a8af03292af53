// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The host bridge, function 00:00.0: there to be found. Linux takes a configuration mechanism for working when it
//! finds a host bridge by it.

use super::config_space::{ConfigSpace, Identity};
use super::function::PciFunction;

/// Red Hat's number for a host bridge of a VM that is nothing else; no driver does anything to it.
const IDENTITY: Identity = Identity {
    vendor: 0x1b36,
    device: 0x0008,
    revision: 0,
    class: 0x06_0000,
    subsystem_vendor: 0x1b36,
    subsystem: 0x0008,
};

#[derive(Debug)]
pub(super) struct HostBridge;

impl PciFunction for HostBridge {
    fn config_space(&self) -> ConfigSpace {
        ConfigSpace::new(IDENTITY)
    }
}
