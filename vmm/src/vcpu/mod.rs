// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! vCPUs: their set-up, the thread of each, and how it is brought out of the guest.

// What comes out of `KVM_RUN` was chosen by the guest.
#![cfg_attr(
    not(test),
    deny(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::indexing_slicing,
        clippy::unreachable,
        clippy::arithmetic_side_effects
    )
)]

mod exits;
mod run_page;
mod setup;
mod state;
mod thread;

pub(crate) use setup::{create, enter};
pub(crate) use state::{IrqchipState, VcpuState, msr_indices};
pub(crate) use thread::{Machinery, VcpuThread, settle, start};
