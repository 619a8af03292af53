// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The socket device (virtio 1.3 §5.10): streams between programs of the guest and of the host, without a network.
//!
//! On the host a stream is a Unix socket, by the protocol that Firecracker and Cloud Hypervisor have made known: a program of
//! the host connects to one socket, says `CONNECT <port>\n` and reads `OK <port>\n`; one of the guest that connects to port P
//! of the host reaches the socket whose path has `_P` behind it.
//!
//! | file | is |
//! |---|---|
//! | `device.rs` | what the transport sees, and what an embedder says |
//! | `service.rs` | what is done for each packet, descriptor and time |
//! | `deadlines.rs` | for how long is waited |
//! | `table.rs` | the connections, and what is to be sent to the guest |
//! | `connection.rs`, `credit.rs` | one connection |
//! | `receive.rs` | the guest's buffers |
//! | `host.rs` | the sockets of the host |
//! | `vhost.rs` | the other way: the kernel works off the rings |
//!
//! The guest controls every packet, and how many buffers it gives for ours. With that it reaches the listeners whose paths begin
//! as the socket's, and no other file. A connection keeps at most what it was promised room for, there are at most
//! [`MAX_CONNECTIONS`], and what can't be answered just now is not taken from the guest either. One that breaks the rules loses
//! its connection.

mod connection;
mod credit;
mod deadlines;
mod device;
mod host;
mod receive;
mod service;
mod spec;
mod table;
mod vhost;

pub use device::{PortHandler, Vsock, VsockError, VsockOptions};
pub use host::port_path;
pub use table::MAX_CONNECTIONS;
pub use vhost::VhostVsock;

/// The least context ID that a guest can have: those below stand for hypervisors, the local machine and the host.
pub const MIN_CID: u32 = 3;
/// The largest one; the one behind it stands for any.
pub const MAX_CID: u32 = u32::MAX - 1;

#[cfg(test)]
mod hostile_tests;
#[cfg(test)]
mod rig;
#[cfg(test)]
mod tests;
