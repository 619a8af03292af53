// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What a driver must not do.

use vm_memory::{Bytes, GuestAddress};

use super::rig::{DEFLATE, FREE, INFLATE, OUT, RAM, REPORTS, Rig, STATISTICS};
use super::service::MAX_PFNS;
use crate::GuestRam;
use crate::sys::discard::tests::resident;
use crate::virtio::device::VirtioDevice;
use crate::virtio::mock::{MockDriver, NEXT, ram, readable, writable};
use crate::virtio::queue::QueueState;

const PAGES: u32 = (RAM >> 12) as u32;

#[test]
fn page_numbers_that_are_no_pages_of_ram_are_ignored_and_counted() {
    let mut rig = Rig::new();
    rig.fill(8);
    rig.send(INFLATE, &[FREE + 1, PAGES, PAGES + 1, u32::MAX - 1, u32::MAX, 1 << 20, 1 << 31, FREE + 3]);
    assert_eq!((rig.gone(8), rig.control().ignored_pages()), (vec![1, 3], 6));
    // The last page is one.
    rig.send(INFLATE, &[PAGES - 1]);
    assert_eq!(rig.control().ignored_pages(), 6);
}

#[test]
fn a_page_that_is_only_partly_ram_and_a_hole_are_no_pages() {
    // A page of which half is in one region and half in another, and a hole.
    let regions =
        [(GuestAddress(0), 0x30_0800), (GuestAddress(0x30_0800), 0x800), (GuestAddress(0x40_0000), 0x40_0000)];
    let mut rig = Rig::with(GuestRam::from_ranges(&regions).unwrap(), |_| {});
    for pfn in 0x2ff..0x301u32 {
        rig.mem.write_slice(&[7; 4096], GuestAddress(u64::from(pfn) << 12)).unwrap();
    }
    rig.send(INFLATE, &[0x2ff, 0x300, 0x301, 0x3ff, 0x400]);
    assert_eq!(rig.control().ignored_pages(), 3);
    let content = |pfn: u64| rig.mem.read_obj::<u8>(GuestAddress(pfn << 12)).unwrap();
    assert_eq!([content(0x2ff), content(0x300)], [0, 7]);
}

#[test]
fn odd_lengths_and_numbers_spread_over_descriptors_are_read_as_far_as_they_are_whole() {
    let mut rig = Rig::new();
    rig.fill(8);
    let bytes: Vec<u8> = [FREE + 1, FREE + 2, FREE + 3].iter().flat_map(|pfn| pfn.to_le_bytes()).collect();
    rig.mem.write_slice(&bytes, GuestAddress(OUT)).unwrap();
    rig.submit(INFLATE, &[readable(OUT, 3), readable(OUT + 3, 3), readable(OUT + 6, 0), readable(OUT + 6, 5)]);
    assert_eq!((rig.gone(8), rig.control().ignored_pages()), (vec![1, 2], 0));
    for len in [0, 1, 3] {
        rig.submit(INFLATE, &[readable(OUT, len)]);
    }
    assert_eq!(rig.gone(8), [1, 2]);
}

#[test]
fn no_request_is_read_beyond_the_most_numbers() {
    let mut rig = Rig::new();
    rig.fill(8);
    let numbers = MAX_PFNS as u32 + 5;
    let bytes: Vec<u8> =
        std::iter::repeat_n(FREE + 1, MAX_PFNS).chain([FREE + 2; 5]).flat_map(u32::to_le_bytes).collect();
    rig.mem.write_slice(&bytes, GuestAddress(OUT)).unwrap();
    rig.submit(INFLATE, &[readable(OUT, numbers * 4)]);
    assert_eq!((rig.gone(8), rig.control().ignored_pages()), (vec![1], 5));
}

#[test]
fn lengths_beyond_ram_and_chains_that_lie_are_given_back_untouched() {
    let mut rig = Rig::new();
    rig.fill(8);
    let at = u64::from(FREE) << 12;
    for index in [INFLATE, DEFLATE, STATISTICS, REPORTS] {
        for buffers in [
            &[readable(at, u32::MAX)][..],
            &[writable(at, u32::MAX)],
            &[writable(at, 0x1000), readable(at, 0x1000)],
            &[readable(u64::MAX, 1)],
            &[writable(RAM - 1, 2)],
        ] {
            rig.submit(index, buffers);
        }
        // A chain that never ends.
        let driver = &mut rig.drivers[usize::from(index)];
        driver.descriptor(100, at, 64, NEXT, 100);
        driver.offer(100);
        rig.ring(index);
        rig.wait(index);
    }
    assert_eq!((rig.gone(8), rig.control().statistics()), (vec![], None));
}

#[test]
fn what_belongs_to_another_queue_does_nothing() {
    let mut rig = Rig::new();
    rig.fill(8);
    let at = u64::from(FREE) << 12;
    rig.send(DEFLATE, &[FREE]);
    rig.submit(DEFLATE, &[writable(at, 0x1000)]);
    rig.submit(INFLATE, &[writable(at, 0x1000)]);
    rig.send(REPORTS, &[FREE]);
    assert!(rig.gone(8).is_empty());
}

#[test]
fn reports_of_all_of_ram_again_and_again_and_of_the_rings_harm_the_guest_alone() {
    let mut rig = Rig::new();
    rig.fill(8);
    // 100 descriptors of nearly all that there is besides the rings.
    let all: Vec<_> = (0..100).map(|i| writable(0x2_0000 + i, (RAM - 0x2_0000) as u32 - 100)).collect();
    rig.submit(REPORTS, &all);
    assert_eq!(rig.gone(8).len(), 8);
    assert!(resident(&rig.mem) < 64);
    // Now the rings too.
    rig.offer(REPORTS, &[writable(0, RAM as u32)]);
    rig.offer(INFLATE, &[readable(OUT, 4)]);
    for index in [INFLATE, DEFLATE, STATISTICS, REPORTS] {
        rig.balloon.request_stop(index);
    }
    for index in [INFLATE, DEFLATE, STATISTICS, REPORTS] {
        rig.balloon.stop_queue(index);
    }
    rig.balloon.reset();
    rig.drivers[0] = MockDriver::new(&rig.mem, 0x1000, 128);
    rig.start(INFLATE, QueueState::default());
    rig.fill(8);
    rig.offer(INFLATE, &[]);
    let pfn = FREE + 5;
    rig.mem.write_obj(pfn.to_le(), GuestAddress(OUT)).unwrap();
    rig.offer(INFLATE, &[readable(OUT, 4)]);
    while rig.gone(8) != [5] {
        std::thread::yield_now();
    }
}

#[test]
fn statistics_of_any_bytes_and_any_length_are_taken_as_far_as_they_are_known() {
    let mut rig = Rig::with(ram(RAM as usize), |_| {});
    for len in [0, 1, 9, 10, 11, 640, 641, 4096, 4 << 20] {
        rig.offer(STATISTICS, &[readable(OUT, len)]);
    }
    for _ in 0..8 {
        rig.wait(STATISTICS);
    }
    assert_eq!(rig.drivers[2].take_used(), None, "one is held");
}

#[test]
fn any_access_to_the_configuration_space_is_in_its_bounds() {
    let mut rig = Rig::new();
    let control = rig.control();
    for offset in [0, 1, 3, 4, 7, 8, 15, 16, 1 << 40, u64::MAX - 1, u64::MAX] {
        for len in [0, 1, 2, 4, 8, 64] {
            rig.balloon.read_config(offset, &mut vec![0; len]);
            rig.balloon.write_config(offset, &vec![0xff; len]);
        }
    }
    assert_eq!((control.target(), control.actual()), (0, RAM), "no more than there is");
}
