// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! How a device raises an interrupt: a line, or a message.

use std::fmt::Debug;
use std::io;

use vmm_sys_util::eventfd::EventFd;

use crate::throttle::Throttle;

/// An edge-triggered interrupt line, raised once a call.
///
/// In a VM it is an `irqfd`: KVM injects the interrupt when the eventfd is written, and no thread of ours is involved.
pub trait InterruptLine: Debug + Send + Sync {
    /// Raises the line. A host that can't do so has nobody to tell: the guest loses one interrupt, and a line is
    /// logged.
    fn trigger(&self);
}

/// A message-signalled interrupt: what is written where to raise it (PCI Local Bus 3.0 §6.8.2).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MsiMessage {
    /// Where: on x86 it names the LAPICs (Intel SDM vol. 3 §12.11.1).
    pub address: u64,
    /// What: on x86 the vector and how it is delivered (§12.11.2).
    pub data: u32,
}

/// The host's side of a device's message-signalled interrupts, numbered from 0.
pub trait MsiVectors: Debug + Send + Sync {
    /// From now on, each of these vectors is raised by the message beside it, which is whatever the guest wrote. To tell of
    /// many at once costs the host hardly more than to tell of one.
    ///
    /// # Errors
    ///
    /// When the host doesn't take all of them. It may have taken some, and can be asked again for each by itself.
    fn route(&self, messages: &[(u16, MsiMessage)]) -> io::Result<()>;

    /// Raises vector `index` once. One that does not exist, or was never routed, raises nothing.
    fn trigger(&self, index: u16);

    /// From now on, each write to `event` raises vector `index` too, with nobody's help. What it holds already does so at once.
    ///
    /// # Errors
    ///
    /// When the host has no such way, or no room for it.
    fn connect(&self, index: u16, event: &EventFd) -> io::Result<()> {
        let _ = (index, event);
        Err(io::ErrorKind::Unsupported.into())
    }

    /// Takes back what [`Self::connect`] did: from now on, the event keeps what is written to it.
    fn disconnect(&self, index: u16, event: &EventFd) {
        let _ = (index, event);
    }
}

impl InterruptLine for EventFd {
    fn trigger(&self) {
        static FAILED: Throttle = Throttle::new();
        if let Err(error) = self.write(1)
            && let Some(times) = FAILED.hit()
        {
            tracing::error!(%error, times, "an interrupt could not be raised");
        }
    }
}
