// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! A disk with one running queue, and the driver that plays its guest.

use std::sync::Arc;

use devices::virtio::block::{Block, BlockControl};
use devices::virtio::mock::{MockDriver, ram};
use devices::virtio::queue::{Queue, QueueState};
use devices::virtio::{DeviceInterrupt, Notifier, QueueResources, VirtioDevice};
use vmm_sys_util::eventfd::EventFd;

#[derive(Debug)]
struct Interrupt(EventFd);

impl DeviceInterrupt for Interrupt {
    fn queue(&self, _: u16) {
        self.0.write(1).unwrap();
    }
    fn config(&self) {}
}

pub(crate) struct Running {
    block: Block,
    pub(crate) driver: MockDriver,
    doorbell: EventFd,
    interrupt: Arc<Interrupt>,
    taken: u16,
}

impl Running {
    /// Starts the disk's first queue, of 16 descriptors, in so many bytes of RAM.
    pub(crate) fn new(mut block: Block, memory: usize) -> Self {
        let mem = ram(memory);
        let driver = MockDriver::new(&mem, 0x1000, 16);
        let (doorbell, interrupt) = (EventFd::new(0).unwrap(), Arc::new(Interrupt(EventFd::new(0).unwrap())));
        let queue = Queue::new(driver.config, 256, 0, QueueState::default(), mem).unwrap();
        let notifier = Arc::new(Notifier::new(interrupt.clone()));
        let resources = QueueResources { queue, doorbell: doorbell.try_clone().unwrap(), notifier };
        block.start_queue(0, resources, block.features()).unwrap();
        Self { block, driver, doorbell, interrupt, taken: 0 }
    }

    /// Rings, and waits until so many chains have come back.
    pub(crate) fn ring(&mut self, chains: u64) {
        self.knock();
        self.take(chains);
    }

    /// Rings, and waits for nothing.
    pub(crate) fn knock(&self) {
        self.doorbell.write(1).unwrap();
    }

    /// Waits until so many chains have come back.
    pub(crate) fn take(&mut self, chains: u64) {
        let mut done = 0;
        while done < chains {
            match self.driver.take_used() {
                Some(_) => done += 1,
                None => drop(self.interrupt.0.read().unwrap()),
            }
        }
        self.taken = self.taken.wrapping_add(chains as u16);
    }

    /// Whether a chain has come back that nobody has taken.
    #[allow(dead_code, reason = "not every test has a use for it")]
    pub(crate) fn has_come_back(&self) -> bool {
        self.driver.used_index() != self.taken
    }

    /// The host's way to the disk.
    #[allow(dead_code, reason = "not every test has a use for it")]
    pub(crate) fn control(&self) -> BlockControl {
        self.block.control()
    }

    /// Sectors of 512 bytes.
    #[allow(dead_code, reason = "not every test has a use for it")]
    pub(crate) fn capacity(&self) -> u64 {
        let mut capacity = [0; 8];
        self.block.read_config(0, &mut capacity);
        u64::from_le_bytes(capacity)
    }
}
