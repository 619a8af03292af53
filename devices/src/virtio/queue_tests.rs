// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

use vm_memory::{Bytes, GuestAddress};

use super::super::mock::{MockDriver, ram, readable, writable};
use super::*;

const RAM: usize = 0x10_0000;

fn start(driver: &MockDriver, accepted: u64) -> Queue {
    Queue::new(driver.config, 256, accepted, QueueState::default(), driver.mem.clone()).unwrap()
}

#[test]
fn chains_go_round_the_ring_many_times() {
    let mut driver = MockDriver::new(&ram(RAM), 0x1000, 8);
    let mut queue = start(&driver, 0);
    let mut chain = Chain::with_capacity(8);
    for turn in 0..70_000u32 {
        let head = driver.submit(&[readable(0x4000, 16), writable(0x5000, 512)]);
        let (popped, result) = queue.pop(&mut chain).unwrap().unwrap();
        result.unwrap();
        assert_eq!((popped, chain.readable().len(), chain.writable().len()), (head, 1, 1));
        assert!(queue.pop(&mut chain).unwrap().is_none());
        queue.complete(popped, turn).unwrap();
        assert_eq!(driver.take_used(), Some((u32::from(head), turn)));
    }
    assert_eq!(queue.state().next_avail, (70_000u32 % 65_536) as u16);
}

#[test]
fn a_queue_goes_on_where_it_was_stopped() {
    let mut driver = MockDriver::new(&ram(RAM), 0x1000, 8);
    let mut chain = Chain::with_capacity(8);
    let mut state = QueueState::default();
    for _ in 0..20 {
        let mut queue = Queue::new(driver.config, 8, 0, state, driver.mem.clone()).unwrap();
        driver.submit(&[readable(0x4000, 1)]);
        let (head, _) = queue.pop(&mut chain).unwrap().unwrap();
        queue.complete(head, 0).unwrap();
        assert!(driver.take_used().is_some());
        state = queue.state();
    }
    assert_eq!(state, QueueState { next_avail: 20, next_used: 20, in_flight: vec![] });
}

#[test]
fn what_was_in_flight_goes_with_the_state_and_is_taken_again_first() {
    let mut driver = MockDriver::new(&ram(RAM), 0x1000, 8);
    let mut chain = Chain::with_capacity(8);
    let mut queue = start(&driver, 0);
    let heads: Vec<u16> = (1..=5).map(|len| driver.submit(&[readable(0x4000, len)])).collect();
    for _ in &heads {
        queue.pop(&mut chain).unwrap().unwrap().1.unwrap();
    }
    queue.complete(heads[2], 0).unwrap();
    let state = queue.state();
    assert_eq!(state, QueueState { next_avail: 5, next_used: 1, in_flight: vec![0, 1, 3, 4] });

    // It is in flight before it is taken again, so a queue that is stopped once more at once loses nothing.
    let mut queue = Queue::new(driver.config, 8, 0, state.clone(), driver.mem.clone()).unwrap();
    assert_eq!(queue.state(), state);
    driver.offer(3);
    assert_eq!(queue.pop(&mut chain).unwrap_err(), QueueError::HeadInFlight { head: 3 });
    for head in [0, 1, 3, 4] {
        assert_eq!(queue.take_again(&mut chain), Ok(Some((head, Ok(())))));
        assert_eq!(chain.readable_len(), u32::from(head) + 1);
        queue.complete(head, 0).unwrap();
    }
    assert_eq!(queue.take_again(&mut chain), Ok(None));
    assert_eq!(queue.pop(&mut chain).unwrap(), Some((3, Ok(()))));
    let used: Vec<_> = std::iter::from_fn(|| driver.take_used()).map(|(head, _)| head).collect();
    assert_eq!(used, [2, 0, 1, 3, 4]);
}

#[test]
fn a_hostile_state_is_refused() {
    let state =
        |next_avail, next_used, in_flight: &[u16]| QueueState { next_avail, next_used, in_flight: in_flight.into() };
    let inconsistent = |next_avail, next_used, count| QueueError::InconsistentState { next_avail, next_used, count };
    let many: Vec<u16> = (0..9).collect();
    let cases = [
        ("a head beyond the queue", state(1, 0, &[8]), QueueError::HeadOutOfRange { head: 8, size: 8 }),
        ("a head far beyond", state(3, 1, &[0, 0xffff]), QueueError::HeadOutOfRange { head: 0xffff, size: 8 }),
        ("a head twice", state(3, 0, &[1, 2, 1]), QueueError::InFlightTwice { head: 1 }),
        ("more than there are", state(9, 0, &many), QueueError::TooManyInFlight { count: 9, size: 8 }),
        ("very many", state(0, 0, &[0; 0x1_0000]), QueueError::TooManyInFlight { count: 0x1_0000, size: 8 }),
        ("one that no index knows of", state(5, 5, &[0]), inconsistent(5, 5, 1)),
        ("one that is missing", state(5, 3, &[0]), inconsistent(5, 3, 1)),
        ("more used than available", state(3, 4, &[0]), inconsistent(3, 4, 1)),
        ("indices apart by more than the queue", state(0x8000, 0, &[]), inconsistent(0x8000, 0, 0)),
    ];
    let driver = MockDriver::new(&ram(RAM), 0x1000, 8);
    for (name, state, expected) in cases {
        let refused = Queue::new(driver.config, 256, 0, state, driver.mem.clone()).unwrap_err();
        assert_eq!(refused, expected, "{name}");
    }
    for good in [state(2, 0xffff, &[7, 0, 3]), state(8, 0, &many[..8])] {
        let queue = Queue::new(driver.config, 256, 0, good.clone(), driver.mem.clone()).unwrap();
        assert_eq!(queue.state().in_flight.len(), good.in_flight.len());
    }
}

#[test]
fn a_hostile_configuration_is_refused() {
    let good = MockDriver::new(&ram(RAM), 0x1000, 8).config;
    let end = RAM as u64;
    let bad_size = |size| QueueError::BadSize { size, max: 256 };
    let cases = [
        (QueueConfig { size: 0, ..good }, bad_size(0)),
        (QueueConfig { size: 3, ..good }, bad_size(3)),
        (QueueConfig { size: 512, ..good }, bad_size(512)),
        (QueueConfig { size: 0xffff, ..good }, bad_size(0xffff)),
        (
            QueueConfig { descriptor_table: 0x1008, ..good },
            QueueError::Misaligned { part: "descriptor table", address: 0x1008, alignment: 16 },
        ),
        (
            QueueConfig { avail_ring: 0x2001, ..good },
            QueueError::Misaligned { part: "avail ring", address: 0x2001, alignment: 2 },
        ),
        (
            QueueConfig { used_ring: 0x2002, ..good },
            QueueError::Misaligned { part: "used ring", address: 0x2002, alignment: 4 },
        ),
        (
            QueueConfig { descriptor_table: end - 112, ..good },
            QueueError::NotInRam { part: "descriptor table", address: end - 112, len: 128 },
        ),
        (
            QueueConfig { avail_ring: end - 20, ..good },
            QueueError::NotInRam { part: "avail ring", address: end - 20, len: 22 },
        ),
        (
            QueueConfig { used_ring: end - 68, ..good },
            QueueError::NotInRam { part: "used ring", address: end - 68, len: 70 },
        ),
        (
            QueueConfig { used_ring: 0xffff_ffff_ffff_fffc, ..good },
            QueueError::NotInRam { part: "used ring", address: 0xffff_ffff_ffff_fffc, len: 70 },
        ),
    ];
    for (config, expected) in cases {
        let refused = Queue::new(config, 256, 0, QueueState::default(), ram(RAM)).unwrap_err();
        assert_eq!(refused, expected);
    }
}

#[test]
fn rings_across_the_hole_are_refused() {
    let mem = GuestRam::from_ranges(&[(GuestAddress(0), 0x2000), (GuestAddress(0x4000), 0x2000)]).unwrap();
    let mut config = MockDriver::new(&mem, 0x1000, 8).config;
    config.descriptor_table = 0x1fc0;
    let refused = Queue::new(config, 256, 0, QueueState::default(), mem).unwrap_err();
    assert_eq!(refused, QueueError::NotInRam { part: "descriptor table", address: 0x1fc0, len: 128 });
}

#[test]
fn an_avail_index_that_jumps_is_refused() {
    for index in [9, 100, 0x8000, 0xffff] {
        let mut driver = MockDriver::new(&ram(RAM), 0x1000, 8);
        let mut queue = start(&driver, 0);
        driver.set_avail_index(index);
        let refused = queue.pop(&mut Chain::default()).unwrap_err();
        assert_eq!(refused, QueueError::AvailIndexJumped { index, next: 0, size: 8 });
    }
}

#[test]
fn a_head_beyond_the_queue_is_refused() {
    for head in [8, 0xffff] {
        let mut driver = MockDriver::new(&ram(RAM), 0x1000, 8);
        let mut queue = start(&driver, 0);
        driver.offer(head);
        assert_eq!(queue.pop(&mut Chain::default()).unwrap_err(), QueueError::HeadOutOfRange { head, size: 8 });
    }
}

#[test]
fn a_head_still_in_flight_is_refused() {
    let mut driver = MockDriver::new(&ram(RAM), 0x1000, 128);
    let mut queue = start(&driver, 0);
    driver.descriptor(100, 0x4000, 1, 0, 0);
    driver.offer(100);
    driver.offer(100);
    let mut chain = Chain::default();
    assert_eq!(queue.pop(&mut chain).unwrap(), Some((100, Ok(()))));
    assert_eq!(queue.pop(&mut chain).unwrap_err(), QueueError::HeadInFlight { head: 100 });
}

#[test]
fn a_head_is_completed_once() {
    let mut driver = MockDriver::new(&ram(RAM), 0x1000, 8);
    let mut queue = start(&driver, 0);
    assert_eq!(queue.complete(0, 0), Err(QueueError::NotInFlight { head: 0 }));
    let head = driver.submit(&[readable(0x4000, 1)]);
    queue.pop(&mut Chain::default()).unwrap().unwrap().1.unwrap();
    queue.complete(head, 0).unwrap();
    assert_eq!(queue.complete(head, 0), Err(QueueError::NotInFlight { head }));
    assert_eq!(queue.complete(0xffff, 0), Err(QueueError::NotInFlight { head: 0xffff }));
    assert_eq!(driver.used_index(), 1);
}

#[test]
fn a_bad_chain_is_in_flight_and_can_be_given_back() {
    let mut driver = MockDriver::new(&ram(RAM), 0x1000, 8);
    let mut queue = start(&driver, 0);
    let mut chain = Chain::default();
    let head = driver.submit(&[readable(u64::MAX, 1)]);
    let (popped, result) = queue.pop(&mut chain).unwrap().unwrap();
    assert_eq!((popped, result), (head, Err(ChainError::NotInRam { address: u64::MAX, len: 1 })));
    queue.complete(popped, 0).unwrap();
    driver.submit(&[readable(0x4000, 1)]);
    assert_eq!(queue.pop(&mut chain).unwrap().unwrap().1, Ok(()));
}

#[test]
fn event_idx_interrupts_when_the_driver_asked_and_not_before() {
    let mut driver = MockDriver::new(&ram(RAM), 0x1000, 8);
    let mut queue = start(&driver, features::RING_EVENT_IDX);
    driver.set_used_event(2);
    let mut interrupts = vec![];
    for _ in 0..5 {
        let head = driver.submit(&[readable(0x4000, 1)]);
        queue.pop(&mut Chain::default()).unwrap().unwrap().1.unwrap();
        queue.complete(head, 0).unwrap();
        interrupts.push(queue.needs_notification().unwrap());
    }
    assert_eq!(interrupts, [false, false, true, false, false]);
}

#[test]
fn the_no_interrupt_flag_is_honoured_without_event_idx() {
    let driver = MockDriver::new(&ram(RAM), 0x1000, 8);
    let mut queue = start(&driver, 0);
    assert!(queue.needs_notification().unwrap());
    driver.mem.write_obj(1u16, GuestAddress(driver.config.avail_ring)).unwrap();
    assert!(!queue.needs_notification().unwrap());
}

#[test]
fn a_chain_that_comes_in_before_sleep_is_seen() {
    for accepted in [0, features::RING_EVENT_IDX] {
        let mut driver = MockDriver::new(&ram(RAM), 0x1000, 8);
        let mut queue = start(&driver, accepted);
        queue.disable_doorbell().unwrap();
        assert!(!queue.enable_doorbell().unwrap());
        driver.submit(&[readable(0x4000, 1)]);
        assert!(queue.enable_doorbell().unwrap());
    }
}

#[test]
fn chains_that_belong_together_are_seen_together() {
    let mut driver = MockDriver::new(&ram(RAM), 0x1000, 8);
    let mut queue = start(&driver, 0);
    let mut chain = Chain::with_capacity(8);
    for len in 1..=3 {
        driver.submit(&[writable(0x4000, len)]);
        queue.pop(&mut chain).unwrap().unwrap().1.unwrap();
    }
    queue.stage(2, 30).unwrap();
    queue.stage(0, 10).unwrap();
    assert_eq!(driver.used_index(), 0);
    assert_eq!(queue.stage(2, 30), Err(QueueError::NotInFlight { head: 2 }));
    queue.publish().unwrap();
    assert_eq!([driver.take_used(), driver.take_used(), driver.take_used()], [Some((2, 30)), Some((0, 10)), None]);
    assert_eq!(queue.state(), QueueState { next_avail: 3, next_used: 2, in_flight: vec![1] });
}

#[test]
fn whoever_goes_on_with_a_queue_finds_what_was_not_completed() {
    let mut driver = MockDriver::new(&ram(RAM), 0x1000, 8);
    let mut queue = start(&driver, 0);
    let mut chain = Chain::with_capacity(8);
    let mut take = |driver: &mut MockDriver, queue: &mut Queue| {
        let head = driver.submit(&[readable(0x4000, 1)]);
        assert_eq!(queue.take(&mut chain).unwrap().unwrap(), (head, Ok(())));
        head
    };
    let first = take(&mut driver, &mut queue);
    let [second, third] = [(); 2].map(|()| take(&mut driver, &mut queue));
    queue.complete(first, 0).unwrap();
    // As if neither had been taken.
    assert_eq!(queue.hand_over(), Ok((1, false)));
    assert_eq!(queue.state(), QueueState { next_avail: 1, next_used: 1, in_flight: vec![] });
    assert_eq!([(); 2].map(|()| queue.take(&mut Chain::default()).unwrap().unwrap().0), [second, third]);
    // The second one can't be, as the third one was completed before it.
    queue.complete(third, 5).unwrap();
    assert_eq!(queue.hand_over(), Ok((3, true)));
    assert_eq!(
        [(); 4].map(|()| driver.take_used()),
        [Some((first.into(), 0)), Some((third.into(), 5)), Some((second.into(), 0)), None]
    );
    // Somebody has done two more.
    for _ in 0..3 {
        driver.submit(&[readable(0x4000, 1)]);
    }
    queue.go_on_at(5);
    assert_eq!(queue.state(), QueueState { next_avail: 5, next_used: 5, in_flight: vec![] });
    assert_eq!(queue.available(), Ok(1));
    queue.go_on_at(60);
    assert_eq!(queue.available(), Err(QueueError::AvailIndexJumped { index: 6, next: 60, size: 8 }));
}

#[test]
fn the_parts_of_a_ring_are_where_the_guest_has_put_them() {
    use vm_memory::GuestMemoryBackend;

    let mem = GuestRam::from_ranges(&[(GuestAddress(0), 0x1000), (GuestAddress(0x8000), 0x4000)]).unwrap();
    let driver = MockDriver::new(&mem, 0x9000, 8);
    let addresses = start(&driver, 0).host_addresses();
    let at = |address| mem.get_host_address(GuestAddress(address)).unwrap() as u64;
    let QueueConfig { descriptor_table, avail_ring, used_ring, .. } = driver.config;
    assert_eq!([addresses.table, addresses.avail, addresses.used], [descriptor_table, avail_ring, used_ring].map(at));
}
