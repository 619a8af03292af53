// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

use vm_memory::{Bytes, GuestAddress};

use super::super::rig::{DATA, ENGINES, HEADER, Rig, STATUS, options};
use super::super::spec;
use crate::virtio::device::VirtioDevice;
use crate::virtio::mock::{MockDriver, readable, writable};
use crate::virtio::queue::QueueState;

impl Rig {
    /// Reads sector 0 and waits for it.
    fn read(&mut self) -> (u32, u32) {
        self.offer_read();
        self.doorbell.write(1).unwrap();
        self.wait_used()
    }

    fn offer_read(&mut self) -> u16 {
        self.write_header(0, 0);
        self.driver.submit(&[readable(HEADER, 16), writable(DATA, 512), writable(STATUS, 1)])
    }
}

#[test]
fn a_doorbell_gets_an_answer_and_an_interrupt() {
    for engine in ENGINES {
        let mut rig = Rig::running(options(engine));
        for _ in 0..100 {
            assert_eq!(rig.read().1, 513);
        }
        assert_eq!(rig.mem.read_obj::<u8>(GuestAddress(DATA)).unwrap(), 1);
    }
}

#[test]
fn the_driver_is_told_of_half_of_what_was_there_and_not_of_each() {
    // All at once where it can't run meanwhile: `announcer.rs` holds both.
    let told = if crate::processors::is_one() { 1 } else { 2 };
    for engine in ENGINES {
        let mut rig = Rig::new(options(engine));
        rig.driver = MockDriver::new(&rig.mem, 0x1000, 256);
        rig.write_header(spec::T_GET_ID, 0);
        for _ in 0..64 {
            rig.driver.submit(&[readable(HEADER, 16), writable(DATA, 20), writable(STATUS, 1)]);
        }
        rig.start(QueueState::default());
        while rig.driver.used_index() < 64 {
            std::thread::yield_now();
        }
        rig.block.stop_queue(0).unwrap();
        assert_eq!(rig.interrupts.used.read().unwrap(), told, "{engine:?}");
    }
}

#[test]
fn chains_that_wait_before_the_start_are_served_without_a_doorbell() {
    for engine in ENGINES {
        let mut rig = Rig::new(options(engine));
        rig.offer_read();
        rig.start(QueueState::default());
        assert_eq!(rig.wait_used(), (0, 513));
    }
}

#[test]
fn a_stopped_queue_goes_on_where_it_was() {
    for engine in ENGINES {
        let mut rig = Rig::new(options(engine));
        let mut state = QueueState::default();
        for turn in 1..=5 {
            rig.start(state);
            assert_eq!(rig.read().1, 513);
            state = rig.block.stop_queue(0).unwrap();
            assert_eq!(state, QueueState { next_avail: turn, next_used: turn, in_flight: vec![] });
            assert!(rig.block.stop_queue(0).is_none());
        }
    }
}

#[test]
fn nothing_is_touched_after_the_stop() {
    for engine in ENGINES {
        let mut rig = Rig::running(options(engine));
        rig.block.stop_queue(0).unwrap();
        rig.offer_read();
        rig.doorbell.write(1).unwrap();
        assert_eq!(rig.driver.used_index(), 0);
    }
}

#[test]
fn a_ring_that_lies_stops_its_queue_and_asks_for_a_reset() {
    for engine in ENGINES {
        let mut rig = Rig::running(options(engine));
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
        assert_eq!(rig.block.image().lies.times(), 31);
        rig.mem.write_slice(&[0; 0x2000], GuestAddress(0x1000)).unwrap();
        // A reset later, the device serves again.
        rig.driver = MockDriver::new(&rig.mem, 0x2000, 16);
        rig.start(QueueState::default());
        assert_eq!(rig.read().1, 513);
    }
}

#[test]
fn rings_that_overlap_so_that_we_write_their_index_stop_the_queue() {
    for engine in ENGINES {
        let mut rig = Rig::new(options(engine));
        // `used.flags`, which we write, are the two bytes of `avail.idx`.
        rig.driver.config.avail_ring = 0x2002;
        rig.driver.config.used_ring = 0x2004;
        rig.start(QueueState::default());
        rig.interrupts.config.read().unwrap();
        assert!(rig.notifier.needs_reset());
        assert!(rig.block.stop_queue(0).is_some());
    }
}

#[test]
fn a_bad_chain_goes_back_empty_and_the_next_one_is_served() {
    for engine in ENGINES {
        let mut rig = Rig::running(options(engine));
        rig.driver.submit(&[readable(u64::MAX, 16), writable(STATUS, 1)]);
        assert_eq!(rig.read().1, 0);
        assert_eq!(rig.wait_used().1, 513);
    }
}
