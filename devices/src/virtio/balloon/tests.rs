// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What a sound driver does and gets.

use std::time::{Duration, Instant};

use vm_memory::{Bytes, GuestAddress};

use super::rig::{DEFLATE, FREE, INFLATE, OUT, RAM, REPORTS, Rig, STATISTICS};
use super::spec::{F_DEFLATE_ON_OOM, F_FREE_PAGE_HINT, F_PAGE_POISON, F_PAGE_REPORTING, F_STATS_VQ};
use super::{Balloon, BalloonError, BalloonOptions};
use crate::sys::discard::tests::{resident_in, shared_ram};
use crate::virtio::device::VirtioDevice;
use crate::virtio::mock::{ram, readable, writable};

/// Both things that memory can be made of.
fn memories() -> [crate::GuestRam; 2] {
    [ram(RAM as usize), shared_ram(RAM as usize).0]
}

#[test]
fn the_device_offers_what_its_options_say() {
    let balloon = |deflate_on_oom, free_page_reporting| {
        let options = BalloonOptions { deflate_on_oom, free_page_reporting, ..BalloonOptions::new(RAM) };
        Balloon::new("b", options).unwrap()
    };
    assert_eq!((balloon(false, false).features(), balloon(false, false).queue_sizes().len()), (F_STATS_VQ, 3));
    let full = balloon(true, true);
    assert_eq!(full.features(), F_STATS_VQ | F_DEFLATE_ON_OOM | F_PAGE_REPORTING | F_PAGE_POISON);
    assert_eq!((full.queue_sizes().len(), full.device_type()), (5, 5));
    let hinting = Balloon::new("b", BalloonOptions { free_page_hinting: true, ..BalloonOptions::new(RAM) }).unwrap();
    assert_eq!(hinting.features(), F_STATS_VQ | F_FREE_PAGE_HINT | F_PAGE_POISON);
    assert_eq!(hinting.queue_sizes().len(), 4);
}

#[test]
fn the_target_is_told_and_what_the_guest_has_given_is_known() {
    let mut rig = Rig::with(ram(RAM as usize), |options| options.target = 0x10_0000);
    let control = rig.control();
    let config = |rig: &Rig| {
        let mut bytes = [9; 20];
        rig.balloon.read_config(0, &mut bytes);
        [0, 4, 8, 12, 16].map(|at| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()))
    };
    assert_eq!(config(&rig), [0x100, 0, 0, 0, 0]);
    let generation = rig.notifier.config_generation();
    assert_eq!(control.set_target(0x20_0fff).unwrap(), 0x20_0000);
    rig.interrupts.read().unwrap();
    assert_ne!(rig.notifier.config_generation(), generation);
    assert_eq!((config(&rig)[0], control.target()), (0x200, 0x20_0000));
    rig.balloon.write_config(4, &0x180u32.to_le_bytes());
    assert_eq!((config(&rig)[1], control.actual()), (0x180, 0x18_0000));
    rig.balloon.reset();
    assert_eq!((config(&rig), control.target()), ([0x200, 0, 0, 0, 0], 0x20_0000));
}

#[test]
fn a_target_beyond_ram_is_refused_with_the_limit() {
    let rig = Rig::new();
    let control = rig.control();
    assert_eq!(control.set_target(RAM).unwrap(), RAM);
    let error = control.set_target(RAM + 1).unwrap_err();
    assert_eq!(error.to_string(), "a balloon of 8388609 bytes is more than the machine's RAM: give at most 8388608");
    assert_eq!(control.target(), RAM);
    let options = BalloonOptions { target: RAM + 1, ..BalloonOptions::new(RAM) };
    assert!(matches!(Balloon::new("b", options), Err(BalloonError::BeyondRam { .. })));
    drop(rig);
    assert!(matches!(control.set_target(0), Err(BalloonError::Gone)));
    assert_eq!((control.target(), control.actual(), control.statistics()), (0, 0, None));
}

#[test]
fn pages_in_the_balloon_are_the_hosts_and_come_back_empty() {
    for mem in memories() {
        let mut rig = Rig::with(mem, |_| {});
        rig.fill(64);
        let resident = |rig: &Rig| resident_in(&rig.mem, u64::from(FREE) << 12, 64 << 12);
        assert_eq!(resident(&rig), 64);
        let pfns: Vec<u32> = (0..64).map(|page| FREE + page).collect();
        rig.send(INFLATE, &pfns);
        assert_eq!(resident(&rig), 0);
        rig.send(DEFLATE, &pfns);
        assert_eq!(resident(&rig), 0, "each comes when it is touched");
        assert_eq!(rig.gone(64).len(), 64);
        rig.fill(64);
        assert_eq!((rig.gone(64).len(), resident(&rig)), (0, 64));
        assert_eq!(rig.control().ignored_pages(), 0);
    }
}

#[test]
fn pages_go_in_whatever_order_and_however_often_they_are_named() {
    for mem in memories() {
        let mut rig = Rig::with(mem, |_| {});
        rig.fill(16);
        rig.send(INFLATE, &[9, 3, 4, 4, 2, 11].map(|page| FREE + page));
        assert_eq!(rig.gone(16), [2, 3, 4, 9, 11]);
    }
}

#[test]
fn what_the_guest_reports_as_free_is_given_back() {
    for mem in memories() {
        let mut rig = Rig::with(mem, |_| {});
        rig.fill(16);
        let at = |page: u32| u64::from(FREE + page) << 12;
        let report = [writable(at(0), 0x2000), writable(at(8), 0x1000), writable(at(12) + 1, 0x2fff)];
        rig.submit(REPORTS, &report);
        assert_eq!(rig.gone(16), [0, 1, 8, 13, 14], "only whole pages go");
    }
}

fn statistics(entries: &[(u16, u64)]) -> Vec<u8> {
    entries.iter().flat_map(|(tag, value)| [&tag.to_le_bytes()[..], &value.to_le_bytes()].concat()).collect()
}

fn free_memory(rig: &Rig) -> Option<u64> {
    rig.control().statistics()?.free_memory
}

/// Waits for what the guest has said.
fn wait_for(rig: &Rig, free: u64) {
    while free_memory(rig) != Some(free) {
        std::thread::yield_now();
    }
}

fn say(rig: &mut Rig, free: u64) {
    let bytes = statistics(&[(4, free), (5, RAM), (0x1234, 1)]);
    rig.mem.write_slice(&bytes, GuestAddress(OUT)).unwrap();
    rig.offer(STATISTICS, &[readable(OUT, bytes.len() as u32)]);
}

#[test]
fn the_guest_is_asked_again_and_again_for_its_statistics() {
    let mut rig = Rig::with(ram(RAM as usize), |options| {
        options.statistics_interval = Some(Duration::from_millis(20));
    });
    let begun = Instant::now();
    for round in 1..4 {
        say(&mut rig, round);
        wait_for(&rig, round);
        rig.wait(STATISTICS);
    }
    assert!(begun.elapsed() >= Duration::from_millis(60));
    assert_eq!(rig.control().statistics().unwrap().total_memory, Some(RAM));
}

#[test]
fn statistics_without_an_interval_are_said_once_and_their_chain_stays_in_flight() {
    let mut rig = Rig::new();
    say(&mut rig, 5);
    wait_for(&rig, 5);
    let state = rig.balloon.stop_queue(STATISTICS).unwrap();
    assert_eq!(rig.drivers[2].take_used(), None);
    rig.balloon.reset();
    assert_eq!(free_memory(&rig), None);
    // Somebody else goes on with it: what it says is read again.
    rig.start(STATISTICS, state);
    wait_for(&rig, 5);
    assert_eq!(rig.drivers[2].take_used(), None);
}

#[test]
fn of_two_chains_for_statistics_the_earlier_one_goes_back() {
    let mut rig = Rig::new();
    say(&mut rig, 1);
    wait_for(&rig, 1);
    say(&mut rig, 2);
    rig.wait(STATISTICS);
    assert_eq!(free_memory(&rig), Some(2));
    assert_eq!(rig.drivers[2].take_used(), None);
}

#[test]
fn a_driver_that_counts_the_queues_finds_its_reports() {
    let mut rig = Rig::new();
    // The fourth queue instead of the fifth, as there are no hints.
    rig.start(3, crate::virtio::queue::QueueState::default());
    rig.fill(4);
    rig.submit(3, &[writable(u64::from(FREE + 1) << 12, 0x1000)]);
    assert_eq!(rig.gone(4), [1]);
}
