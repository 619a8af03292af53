// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

use vm_memory::{Bytes, GuestAddress};

use super::super::options::EngineChoice;
use super::super::rig::{DATA, HEADER, Rig, STATUS, eventfd, image, options};
use super::super::{BlockOptions, spec};
use super::*;
use crate::virtio::device::VirtioDevice;
use crate::virtio::mock::{ram, readable, writable};
use crate::virtio::queue::QueueState;

/// A disk whose driver knows no FLUSH, so that every write waits for the disk.
fn rig() -> Rig {
    let mut rig = Rig::new(options(EngineChoice::Sync));
    rig.features &= !spec::F_FLUSH;
    rig
}

/// Offers a request for the sector of the same number; gives its head.
fn offer(rig: &mut Rig, number: u64, kind: u32) -> u32 {
    let header = HEADER + 16 * number;
    rig.mem.write_slice(&[u64::from(kind).to_le_bytes(), number.to_le_bytes()].concat(), GuestAddress(header)).unwrap();
    rig.mem.write_slice(&[0x50 + number as u8; 512], GuestAddress(DATA + 512 * number)).unwrap();
    let data = DATA + 512 * number;
    let data = if kind == spec::T_OUT { readable(data, 512) } else { writable(data, 512) };
    rig.driver.submit(&[readable(header, 16), data, writable(STATUS + number, 1)]).into()
}

#[test]
fn a_request_that_waits_for_the_disk_holds_up_no_other() {
    let mut rig = rig();
    let image = rig.block.shared();
    let gate = image.backend.raw().unwrap().gate.lock().unwrap();
    let writes = [offer(&mut rig, 0, spec::T_OUT), offer(&mut rig, 1, spec::T_OUT)];
    let id = offer(&mut rig, 2, spec::T_GET_ID);
    rig.start(QueueState::default());
    assert_eq!(rig.wait_used().0, id);
    drop(gate);
    let mut done = [rig.wait_used(), rig.wait_used()];
    done.sort_unstable();
    assert_eq!(done, writes.map(|head| (head, 1)));
    assert_eq!((rig.host()[0], rig.host()[512], rig.host()[1024]), (0x50, 0x51, 3));
}

#[test]
fn a_stop_waits_for_what_was_begun_and_leaves_nothing_half_done() {
    let mut rig = rig();
    let image = rig.block.shared();
    let gate = image.backend.raw().unwrap().gate.lock().unwrap();
    for number in 0..4 {
        offer(&mut rig, number, spec::T_OUT);
    }
    let id = offer(&mut rig, 4, spec::T_GET_ID);
    rig.start(QueueState::default());
    assert_eq!(rig.wait_used().0, id);
    let state = thread::scope(|scope| {
        let block = &mut rig.block;
        let stop = scope.spawn(|| block.stop_queue(0).unwrap());
        // Four threads are at the gate: the stop can't be over before it opens.
        while image.pool_threads.load(Ordering::Acquire) < 4 {
            thread::yield_now();
        }
        assert!(!stop.is_finished());
        drop(gate);
        stop.join().unwrap()
    });
    assert_eq!(usize::from(state.next_used) + state.in_flight.len(), 5);
    rig.start(state);
    for _ in 0..4 {
        assert_eq!(rig.wait_used().1, 1);
    }
    assert_eq!([0, 1, 2, 3].map(|sector| rig.host()[512 * sector]), [0x50, 0x51, 0x52, 0x53]);
}

#[test]
fn threads_are_bounded_and_what_none_has_begun_with_can_be_taken_back() {
    let jobs = THREADS as u16 + 4;
    let image = Arc::new(Image::new("vda".to_owned(), image(), BlockOptions::default()).unwrap());
    let gate = image.backend.raw().unwrap().gate.lock().unwrap();
    let mut pool = Pool::new(64, eventfd(), image.clone(), ram(0x1000));
    for slot in 0..jobs {
        assert!(pool.hand_over(slot, Step::Sync, false));
        assert!(!pool.hand_over(slot, Step::Sync, false), "a thread has it");
        assert!(pool.transfer(slot).is_none());
    }
    while pool.shared.lock().jobs.len() > 4 {
        thread::yield_now();
    }
    assert_eq!((pool.threads.len(), pool.under_way()), (THREADS, usize::from(jobs)));
    pool.cancel();
    for _ in 0..4 {
        let error = pool.next().unwrap().result.unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ECANCELED));
    }
    drop(gate);
    while pool.under_way() > 0 {
        pool.wait(None).unwrap();
        while let Some(done) = pool.next() {
            assert_eq!(done.result.unwrap(), 0);
        }
    }
    assert!((0..jobs).all(|slot| pool.transfer(slot).is_some()));
}

#[test]
fn all_pools_of_a_disk_share_its_threads() {
    let image = Arc::new(Image::new("vda".to_owned(), image(), BlockOptions::default()).unwrap());
    let gate = image.backend.raw().unwrap().gate.lock().unwrap();
    let mut pools: Vec<_> = (0..4).map(|_| Pool::new(64, eventfd(), image.clone(), ram(0x1000))).collect();
    let taken = pools.iter_mut().map(|pool| (0..20).filter(|slot| pool.hand_over(*slot, Step::Sync, false)).count());
    assert_eq!(taken.collect::<Vec<_>>(), [20, 20, 20, 0], "who has no thread does it himself");
    assert_eq!(image.pool_threads.load(Ordering::Acquire), THREADS_OF_DISK);
    pools.iter().for_each(Pool::cancel);
    drop(gate);
    drop(pools);
    assert_eq!(image.pool_threads.load(Ordering::Acquire), 0);
}
