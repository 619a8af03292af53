// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What a VMM costs until its guest runs, and how fast the guest's disk is then: measured for several of them in turn, on
//! the same machine, with the same guest.
//!
//! Beside that, what a disk costs: its device in this process, and a plain loop that reads and writes the same file.
//!
//! Nothing in here passes or fails by a time. The programs `startup` and `block-guest` print a table each; `cargo xtask
//! bench` runs them where there is a KVM that boots Linux.

pub mod block;
pub mod boot;
pub mod disk;
pub mod fio;
pub mod first_instruction;
pub mod monitor;
pub mod process;
pub mod smaps;
pub mod statistics;
mod sys;
pub mod table;
