// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

use std::io::Write;

use vm_memory::{Bytes, GuestAddress};

use super::*;
use crate::virtio::device::VirtioDevice;
use crate::virtio::mock::{MockDriver, ram, readable, writable};
use crate::virtio::notifier::DeviceInterrupt;
use crate::{GuestRam, virtio::block::Block};

/// Interrupts that a test can wait for.
#[derive(Debug)]
struct Interrupts {
    used: EventFd,
    config: EventFd,
}

impl DeviceInterrupt for Interrupts {
    fn queue(&self, _: u16) {
        self.used.write(1).unwrap();
    }
    fn config(&self) {
        self.config.write(1).unwrap();
    }
}

struct Rig {
    block: Block,
    driver: MockDriver,
    mem: GuestRam,
    doorbell: EventFd,
    interrupts: Arc<Interrupts>,
    notifier: Arc<Notifier>,
}

fn rig() -> Rig {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(&[0x42; 4096]).unwrap();
    let mem = ram(0x10_0000);
    let eventfd = || EventFd::new(libc::EFD_CLOEXEC).unwrap();
    let interrupts = Arc::new(Interrupts { used: eventfd(), config: eventfd() });
    let driver = MockDriver::new(&mem, 0x1000, 16);
    let notifier = Arc::new(Notifier::new(interrupts.clone()));
    Rig { block: Block::new("vda", file, false).unwrap(), driver, mem, doorbell: eventfd(), interrupts, notifier }
}

impl Rig {
    fn start(&mut self, state: QueueState) {
        let queue = Queue::new(self.driver.config, 256, 0, state, self.mem.clone()).unwrap();
        let doorbell = self.doorbell.try_clone().unwrap();
        let resources = QueueResources { queue, doorbell, notifier: self.notifier.clone() };
        self.block.start_queue(0, resources, 0).unwrap();
    }

    /// Reads sector 0 and waits for the interrupt.
    fn read(&mut self) -> Option<(u32, u32)> {
        self.mem.write_slice(&[0; 16], GuestAddress(0x4000)).unwrap();
        self.driver.submit(&[readable(0x4000, 16), writable(0x8000, 512), writable(0x5000, 1)]);
        self.doorbell.write(1).unwrap();
        self.interrupts.used.read().unwrap();
        self.driver.take_used()
    }
}

#[test]
fn a_doorbell_gets_an_answer_and_an_interrupt() {
    let mut rig = rig();
    rig.start(QueueState::default());
    for _ in 0..100 {
        assert_eq!(rig.read().unwrap().1, 513);
    }
    assert_eq!(rig.mem.read_obj::<u8>(GuestAddress(0x8000)).unwrap(), 0x42);
}

#[test]
fn chains_that_wait_before_the_start_are_served_without_a_doorbell() {
    let mut rig = rig();
    rig.driver.submit(&[readable(0x4000, 16), writable(0x8000, 512), writable(0x5000, 1)]);
    rig.start(QueueState::default());
    rig.interrupts.used.read().unwrap();
    assert_eq!(rig.driver.take_used(), Some((0, 513)));
}

#[test]
fn a_stopped_queue_goes_on_where_it_was() {
    let mut rig = rig();
    let mut state = QueueState::default();
    for turn in 1..=5 {
        rig.start(state);
        assert!(rig.read().is_some());
        state = rig.block.stop_queue(0).unwrap();
        assert_eq!(state, QueueState { next_avail: turn, next_used: turn });
        assert!(rig.block.stop_queue(0).is_none());
    }
}

#[test]
fn nothing_is_touched_after_the_stop() {
    let mut rig = rig();
    rig.start(QueueState::default());
    rig.block.stop_queue(0).unwrap();
    rig.driver.submit(&[readable(0x4000, 16), writable(0x8000, 512), writable(0x5000, 1)]);
    rig.doorbell.write(1).unwrap();
    assert_eq!(rig.driver.used_index(), 0);
}

#[test]
fn a_ring_that_lies_stops_its_queue_and_asks_for_a_reset() {
    let mut rig = rig();
    rig.start(QueueState::default());
    rig.driver.set_avail_index(0x8000);
    rig.doorbell.write(1).unwrap();
    rig.interrupts.config.read().unwrap();
    assert!(rig.notifier.needs_reset());
    assert!(rig.block.stop_queue(0).is_some());
    // However often it does so, the log gets a line only for every doubling.
    for _ in 0..30 {
        rig.driver = MockDriver::new(&rig.mem, 0x1000, 16);
        rig.driver.set_avail_index(0x8000);
        rig.start(QueueState::default());
        rig.interrupts.config.read().unwrap();
        rig.block.stop_queue(0).unwrap();
    }
    assert_eq!(rig.block.lies(), 31);
    rig.mem.write_slice(&[0; 0x2000], GuestAddress(0x1000)).unwrap();
    // A reset later, the device serves again.
    rig.driver = MockDriver::new(&rig.mem, 0x2000, 16);
    rig.start(QueueState::default());
    assert!(rig.read().is_some());
}

#[test]
fn rings_that_overlap_so_that_we_write_their_index_stop_the_queue() {
    let mut rig = rig();
    // `used.flags`, which we write, are the two bytes of `avail.idx`.
    rig.driver.config.avail_ring = 0x2002;
    rig.driver.config.used_ring = 0x2004;
    rig.start(QueueState::default());
    rig.interrupts.config.read().unwrap();
    assert!(rig.notifier.needs_reset());
    assert!(rig.block.stop_queue(0).is_some());
}

#[test]
fn a_bad_chain_goes_back_empty_and_the_next_one_is_served() {
    let mut rig = rig();
    rig.start(QueueState::default());
    rig.driver.submit(&[readable(u64::MAX, 16), writable(0x5000, 1)]);
    assert!(rig.read().is_some_and(|(_, written)| written == 0));
    while rig.driver.used_index() < 2 {
        rig.interrupts.used.read().unwrap();
    }
    assert_eq!(rig.driver.take_used().unwrap().1, 513);
}
