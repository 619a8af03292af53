// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The balloon (virtio 1.3 §5.5): memory that the guest gives back to the host and takes again.
//!
//! The guest controls which of its pages go, what it says of its memory, and whether it does what it is asked for. It can give
//! back pages of its own RAM and nothing else: what it names beyond that is ignored and counted. What it loses by naming pages
//! that it uses, its rings among them, is its own. It can take back any page by touching it; who has to rely on a limit sets
//! one on the process.

mod control;
mod device;
mod service;
mod spec;
mod statistics;

#[cfg(test)]
mod hint_tests;
#[cfg(test)]
mod hostile_tests;
#[cfg(test)]
mod rig;
#[cfg(test)]
mod tests;

pub use control::{BalloonControl, BalloonError};
pub use device::{Balloon, BalloonOptions};
pub use statistics::Statistics;
