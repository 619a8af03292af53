// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! vCPUs: their set-up, the thread of each, and how it is brought out of the guest.

mod exits;
mod run_page;
mod setup;
mod thread;

pub(crate) use setup::create;
pub(crate) use thread::{Machinery, VcpuThread, start};
