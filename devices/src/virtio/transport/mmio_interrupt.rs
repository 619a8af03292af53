// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The interrupt of a virtio-mmio device: one line for everything, and registers that tell what it was.
//!
//! A driver reads InterruptStatus at each interrupt and writes what it has read to InterruptACK. The host can take that
//! write without leaving the kernel: by an event (`ioeventfd`), which is only looked at when the status is read again. So
//! used buffers are counted rather than marked: what the event acknowledges are those that the driver had been told of.
//! The worst that a guest gets by any other order is an interrupt too many.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use vmm_sys_util::eventfd::EventFd;

use super::super::notifier::DeviceInterrupt;
use crate::interrupt::InterruptLine;

/// InterruptStatus: a buffer was used.
pub(super) const USED: u32 = 1;
/// InterruptStatus: the configuration or the device status has changed.
pub(super) const CONFIG: u32 = 2;

#[derive(Debug)]
pub(super) struct Interrupt {
    line: Box<dyn InterruptLine>,
    /// How often buffers were used.
    used: AtomicU64,
    /// How many of those the driver was told of.
    told: AtomicU64,
    /// How many of those it has acknowledged.
    acknowledged: AtomicU64,
    /// The configuration has changed.
    config: AtomicBool,
    /// The driver has acknowledged that buffers were used.
    event: EventFd,
}

impl Interrupt {
    pub(super) fn new(line: Box<dyn InterruptLine>) -> io::Result<Self> {
        let event = EventFd::new(libc::EFD_CLOEXEC | libc::EFD_NONBLOCK)?;
        let [used, told, acknowledged] = [(); 3].map(|()| AtomicU64::new(0));
        Ok(Self { line, used, told, acknowledged, config: AtomicBool::new(false), event })
    }

    /// Rung by whoever sees that the driver writes [`USED`], and nothing else, to InterruptACK.
    pub(super) fn event(&self) -> io::Result<EventFd> {
        self.event.try_clone()
    }

    /// The driver reads InterruptStatus.
    pub(super) fn status(&self) -> u32 {
        // Looked at before the event: another vCPU may be told of more just now.
        let told = self.told.load(Ordering::Acquire);
        if self.event.read().is_ok() {
            self.acknowledged.store(told, Ordering::Release);
        }
        let used = self.used.load(Ordering::Acquire);
        self.told.store(used, Ordering::Release);
        let bit = |set: bool, bit: u32| if set { bit } else { 0 };
        bit(used != self.acknowledged.load(Ordering::Acquire), USED) | bit(self.config.load(Ordering::Acquire), CONFIG)
    }

    /// The driver writes InterruptACK, and the write has come here.
    pub(super) fn acknowledge(&self, causes: u32) {
        if causes & USED != 0 {
            self.acknowledged.store(self.used.load(Ordering::Acquire), Ordering::Release);
        }
        if causes & CONFIG != 0 {
            self.config.store(false, Ordering::Release);
        }
    }

    /// The device is reset.
    pub(super) fn reset(&self) {
        // An acknowledgement of what was before the reset would only make an interrupt more of it.
        let _ = self.event.read();
        self.acknowledge(USED | CONFIG);
    }
}

impl DeviceInterrupt for Interrupt {
    fn queue(&self, _: u16) {
        self.used.fetch_add(1, Ordering::AcqRel);
        self.line.trigger();
    }

    fn config(&self) {
        self.config.store(true, Ordering::Release);
        self.line.trigger();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn interrupt() -> Interrupt {
        Interrupt::new(Box::new(EventFd::new(libc::EFD_CLOEXEC | libc::EFD_NONBLOCK).unwrap())).unwrap()
    }

    #[test]
    fn a_cause_is_there_until_it_is_acknowledged_in_either_way() {
        for in_kernel in [false, true] {
            let interrupt = interrupt();
            for _ in 0..3 {
                assert_eq!(interrupt.status(), 0);
                interrupt.queue(0);
                interrupt.queue(1);
                assert_eq!([interrupt.status(), interrupt.status()], [USED, USED]);
                if in_kernel { interrupt.event().unwrap().write(1).unwrap() } else { interrupt.acknowledge(USED) }
            }
        }
    }

    #[test]
    fn an_acknowledgement_covers_nothing_that_the_driver_was_not_told_of() {
        let interrupt = interrupt();
        interrupt.queue(0);
        assert_eq!(interrupt.status(), USED);
        interrupt.queue(0);
        interrupt.event().unwrap().write(1).unwrap();
        assert_eq!(interrupt.status(), USED, "the second buffer was used after the driver had looked");
        interrupt.event().unwrap().write(7).unwrap();
        assert_eq!(interrupt.status(), 0);
    }

    #[test]
    fn causes_are_acknowledged_one_by_one() {
        let interrupt = interrupt();
        interrupt.queue(0);
        interrupt.config();
        assert_eq!(interrupt.status(), USED | CONFIG);
        interrupt.event().unwrap().write(1).unwrap();
        assert_eq!(interrupt.status(), CONFIG);
        interrupt.queue(0);
        interrupt.acknowledge(CONFIG);
        assert_eq!(interrupt.status(), USED);
        interrupt.acknowledge(u32::MAX);
        assert_eq!(interrupt.status(), 0);
    }

    #[test]
    fn a_reset_forgets_causes_and_acknowledgements() {
        let interrupt = interrupt();
        interrupt.config();
        interrupt.queue(0);
        interrupt.status();
        interrupt.event().unwrap().write(1).unwrap();
        interrupt.reset();
        assert_eq!(interrupt.status(), 0);
        interrupt.queue(0);
        assert_eq!([interrupt.status(), interrupt.status()], [USED, USED]);
    }
}
