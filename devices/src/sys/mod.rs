// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The one place where this crate goes around the compiler: system calls on guest memory, disks, taps, sockets and
//! vhost.
//!
//! What a guest controls of it are the ranges of its own RAM, checked before they come here, and where in its own image
//! they go. Pointers into guest memory are given to the kernel and nowhere else; none is ever made a reference. The guest
//! may name one page in many requests and change it while it is read or written: the kernel copies bytes whose value
//! nobody relies on, so what it gets is its own mixture, and nothing of ours.

#![expect(unsafe_code, reason = "vectored I/O between a file and guest memory takes raw pointers")]

pub(crate) mod aligned;
pub(crate) mod discard;
pub(crate) mod disk;
pub(crate) mod doorbell;
pub(crate) mod frame;
#[cfg(test)]
pub(crate) mod pipe;
pub(crate) mod poll;
pub(crate) mod random;
pub(crate) mod ring;
pub(crate) mod scheduling;
pub(crate) mod tap;
pub(crate) mod transfer;
pub(crate) mod vhost;
