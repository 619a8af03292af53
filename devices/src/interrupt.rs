// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! How a device raises its interrupt line.

use std::fmt::Debug;

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
