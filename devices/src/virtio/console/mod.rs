// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The virtio console (virtio 1.3 §5.3): ports, each a stream of bytes both ways between the guest and whoever is at it on
//! the host.
//!
//! The guest controls what it puts out and when, which buffers it gives for input, and what it says in control messages. It can
//! reach nobody but those at its ports. It can't make the host keep more than 64 KiB of a port's output, nor a log grow beyond
//! [`MAX_LOG`]; it can't have input read that it has given no buffer for. What a port does or doesn't do keeps no other port
//! waiting.
//!
//! A reader on the host that takes nothing holds the guest up for a second. Then the oldest output is lost, until it takes
//! something again.

mod backlog;
mod device;
mod log;
mod port;
mod port_queue;
mod service;
mod spec;
mod watched;

#[cfg(test)]
mod hostile_tests;
#[cfg(test)]
mod rig;
#[cfg(test)]
mod tests;

pub use device::{
    Console, ConsoleBackend, ConsoleControl, ConsoleError, ConsolePort, MAX_NAME, MAX_PORTS, PortInput, PortOutput,
    is_port_name,
};
pub use log::MAX_LOG;
