// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! All that a guest can talk to: buses, legacy ports, PCI, virtio transports and devices.
//!
//! Every value that comes in through a register or a ring was written by a hostile guest. The rules of this crate:
//! no panic on what a guest wrote, every loop and allocation bounded, descriptors resolve to RAM only, a bad request
//! fails alone, and a ring that can't be trusted any more stops its own device and nothing else.
//!
//! The crate knows no KVM: an interrupt is an [`interrupt::InterruptLine`], a doorbell an `EventFd`, guest memory is
//! `vm-memory`. So all of it is tested, fuzzed and benchmarked at full speed on a machine without `/dev/kvm`.

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

pub mod bus;
pub mod i8042;
pub mod interrupt;
pub mod pci;
pub mod power;
mod processors;
pub mod pvpanic;
mod ram;
pub mod rtc;
pub mod serial;
#[cfg(test)]
#[path = "../tests/skip/mod.rs"]
mod skip;
mod sys;
pub mod throttle;
pub mod token_bucket;
pub mod virtio;
pub mod watchdog;

pub use ram::GuestRam;
