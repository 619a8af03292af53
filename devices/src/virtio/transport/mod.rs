// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! How a driver finds a device and talks to it: two register files over one status machine.

pub mod core;
pub mod mmio;
