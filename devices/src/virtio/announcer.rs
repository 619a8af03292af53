// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! When a worker tells its driver of what it has completed, while there is more that needs no wait.

use super::notifier::Notifier;
use super::queue::{Queue, QueueError};
use crate::processors;

/// How many chains are completed before the driver is told: half of those that were there, so that it works on them while the
/// other half is done, within these bounds. Fewer would cost more to tell than the driver gains.
const CHAINS: (u16, u16) = (8, 32);
/// How many bytes count as one chain more.
const BYTES: u64 = 16 << 10;

/// What a queue has completed and its driver was not told of.
#[derive(Debug)]
pub(super) struct Announcer {
    /// In chains.
    completed: u32,
    /// How much of that there may be.
    most: u32,
    has_one_processor: bool,
}

impl Announcer {
    pub(super) fn new() -> Self {
        Self { completed: 0, most: 0, has_one_processor: processors::is_one() }
    }

    #[cfg(test)]
    pub(super) fn with_one_processor(has_one_processor: bool) -> Self {
        Self { has_one_processor, ..Self::new() }
    }

    /// So many chains are there.
    pub(super) fn expect(&mut self, chains: u16) {
        let (least, most) = CHAINS;
        // A driver that can only run when we sleep gains nothing by being told earlier.
        self.most = if self.has_one_processor { u32::MAX } else { (chains / 2).clamp(least, most).into() };
    }

    /// A chain was completed, by which so many bytes were moved; tells the driver if it is time.
    pub(super) fn note(
        &mut self,
        bytes: u64,
        queue: &mut Queue,
        notifier: &Notifier,
        index: u16,
    ) -> Result<(), QueueError> {
        let cost = u32::try_from(bytes / BYTES).unwrap_or(u32::MAX).saturating_add(1);
        self.completed = self.completed.saturating_add(cost);
        if self.completed >= self.most { self.tell(queue, notifier, index) } else { Ok(()) }
    }

    /// Tells the driver of what was completed, if it wants to know.
    pub(super) fn tell(&mut self, queue: &mut Queue, notifier: &Notifier, index: u16) -> Result<(), QueueError> {
        if std::mem::take(&mut self.completed) > 0 && queue.needs_notification()? {
            notifier.used(index);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::super::mock::{MockDriver, ram};
    use super::super::notifier::DeviceInterrupt;
    use super::super::queue::QueueState;
    use super::*;

    #[derive(Debug, Default)]
    struct Told(AtomicU32);

    impl DeviceInterrupt for Told {
        fn queue(&self, _: u16) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
        fn config(&self) {}
    }

    /// How often the driver is told of so many chains of so many bytes, which were there.
    fn told(has_one_processor: bool, chains: u16, bytes: u64) -> u32 {
        let driver = MockDriver::new(&ram(0x1_0000), 0x1000, 256);
        let mut queue = Queue::new(driver.config, 256, 0, QueueState::default(), driver.mem.clone()).unwrap();
        let told = Arc::new(Told::default());
        let notifier = Notifier::new(told.clone());
        let mut announcer = Announcer::with_one_processor(has_one_processor);
        announcer.expect(chains);
        for _ in 0..chains {
            announcer.note(bytes, &mut queue, &notifier, 0).unwrap();
        }
        announcer.tell(&mut queue, &notifier, 0).unwrap();
        announcer.tell(&mut queue, &notifier, 0).unwrap();
        told.0.load(Ordering::Relaxed)
    }

    #[test]
    fn the_driver_is_told_of_half_of_what_was_there_or_of_all_where_it_can_not_run_meanwhile() {
        for (chains, bytes, times) in
            [(0, 0, 0), (1, 0, 1), (8, 0, 1), (32, 4096, 2), (64, 0, 2), (128, 0, 4), (9, 128 << 10, 9)]
        {
            assert_eq!(told(false, chains, bytes), times, "{chains} of {bytes} bytes");
            assert_eq!(told(true, chains, bytes), times.min(1), "{chains} of {bytes} bytes, one processor");
        }
    }
}
