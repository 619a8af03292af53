// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What a VMM costs until its guest runs, and how fast the guest's disk and network are then: measured for several of them in
//! turn, on the same machine, with the same guest.
//!
//! Beside that, what a disk costs: its device in this process, and a plain loop that reads and writes the same file. And what a
//! network card costs, beside a plain loop that passes the same frames.
//!
//! Nothing in here passes or fails by a time. The programs `startup`, `block-guest` and `net-guest` print a table each; `cargo
//! xtask bench` runs them where there is a KVM that boots Linux.

pub mod block;
pub mod boot;
pub mod card;
pub mod comparison;
pub mod cpu;
pub mod disk;
pub mod fio;
pub mod first_instruction;
pub mod monitor;
pub mod namespace;
pub mod net;
pub mod process;
pub mod smaps;
pub mod statistics;
mod sys;
pub mod table;
pub mod vsock;
