// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! virtio-net (virtio 1.3 §5.1) on a tap, by ourselves or by the kernel's vhost, on the stream of passt, or on a
//! backend of vhost-user.
//!
//! The guest controls each frame, the virtio header in front of it, which buffers there are for frames to it, and the
//! commands of the control queue. It can send frames of its own, as its owner's `antispoof` allows, get those that the
//! backend has for it, and nothing else. What it gets of the host's memory is bounded by the size of its queues, of the
//! host's time by the rate limits that its owner has set. What isn't a frame, a buffer or a command is a counted drop.

mod antispoof;
mod card;
mod control;
#[cfg(test)]
mod control_tests;
mod counters;
mod device;
mod header;
#[cfg(test)]
mod hostile_tests;
#[cfg(test)]
mod hostile_user_tests;
mod lent;
mod mac;
#[cfg(test)]
mod machine;
mod offloads;
mod opened;
mod options;
mod pair;
mod port;
mod receive;
mod ring;
mod spec;
mod stream;
mod tap;
mod transmit;
mod user;
#[cfg(test)]
mod user_tests;
mod worker;

pub use card::NetControl;
pub use counters::{Drops, QueueCounters};
pub use device::Net;
pub use mac::{BadMacAddress, MacAddress};
pub use options::{
    Antispoof, Backend, MAX_QUEUE_PAIRS, MAX_QUEUE_SIZE, MIN_MTU, MIN_QUEUE_SIZE, NetError, NetOptions, Reconnect,
};
pub use port::{FIRST_PAUSE, LONGEST_PAUSE};
