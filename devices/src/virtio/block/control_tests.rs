// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What the host does to a disk while a guest uses it: limits, resizing, a full host, pauses, direct I/O, many queues.

use std::num::NonZeroU64;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use vm_memory::{Bytes, GuestAddress};

use super::rig::{
    DATA, ENGINES, HEADER, Rig, SECTORS, STATUS, UNTOUCHED, direct, direct_sectors, direct_with, eventfd, options,
};
use super::{Block, BlockError, BlockOptions, CacheMode, EngineChoice, OnError, spec};
use crate::sys::pipe::{self, Pipe};
use crate::token_bucket::{Rate, RateLimiter};
use crate::virtio::device::{QueueResources, StartError, VirtioDevice};
use crate::virtio::mock::{MockDriver, readable, writable};
use crate::virtio::queue::{Queue, QueueState};

/// Lets one operation in, and the next one in eleven days.
fn hopeless() -> Arc<RateLimiter> {
    let rate = Rate { per_second: NonZeroU64::MIN, burst: 0 };
    let limiter = RateLimiter::new(Some(rate), None, Instant::now());
    limiter.take(1_000_000, Instant::now());
    Arc::new(limiter)
}

/// Three reads of different sectors are available, and have the doorbell rung for them.
fn offer_three(rig: &mut Rig) {
    for sector in 0..3 {
        let (header, status) = (HEADER + 16 * sector, STATUS + sector);
        rig.mem.write_obj([u64::from(spec::T_IN), sector], GuestAddress(header)).unwrap();
        rig.driver.submit(&[readable(header, 16), writable(DATA + 512 * sector, 512), writable(status, 1)]);
    }
    rig.doorbell.write(1).unwrap();
}

#[test]
fn a_queue_that_waits_for_its_limit_has_taken_nothing_and_loses_nothing() {
    for engine in ENGINES {
        let mut rig = Rig::running(BlockOptions { limiters: vec![hopeless()], ..options(engine) });
        offer_three(&mut rig);
        // The worker takes a ring of the doorbell when it sleeps. So between the two it has looked at the queue.
        rig.wait_until_the_doorbell_is_taken();
        rig.doorbell.write(1).unwrap();
        rig.wait_until_the_doorbell_is_taken();
        let untouched = vec![UNTOUCHED; 3 * 512];
        assert_eq!((rig.driver.used_index(), rig.guest(DATA, 3 * 512)), (0, untouched.clone()));
        let state = rig.block.stop_queue(0).unwrap();
        assert_eq!((&state, rig.driver.used_index()), (&QueueState::default(), 0));
        assert_eq!((rig.guest(DATA, 3 * 512), rig.guest(STATUS, 3)), (untouched, vec![UNTOUCHED; 3]));

        rig.block = Block::new("vda", rig.file.try_clone().unwrap(), options(engine)).unwrap();
        rig.start(state);
        for head in [0, 3, 6] {
            assert_eq!(rig.wait_used(), (head, 513));
        }
        assert_eq!((rig.guest(DATA, 3 * 512), rig.guest(STATUS, 3)), (rig.host()[..3 * 512].to_vec(), vec![0; 3]));
    }
}

#[test]
fn a_queue_that_waits_for_its_limit_stops_whenever_it_is_told_to() {
    for engine in ENGINES {
        let mut rig = Rig::running(BlockOptions { limiters: vec![hopeless()], ..options(engine) });
        offer_three(&mut rig);
        assert_eq!(rig.block.stop_queue(0).unwrap(), QueueState::default());
        assert_eq!((rig.driver.used_index(), rig.status()), (0, UNTOUCHED));
    }
}

#[test]
fn a_pause_gets_no_request_around_a_limit() {
    for engine in ENGINES {
        let mut rig = Rig::new(BlockOptions { limiters: vec![hopeless()], ..options(engine) });
        offer_three(&mut rig);
        let paused = QueueState { next_avail: 2, next_used: 0, in_flight: vec![0, 3] };
        rig.start(paused.clone());
        rig.wait_until_the_doorbell_is_taken();
        rig.doorbell.write(1).unwrap();
        rig.wait_until_the_doorbell_is_taken();
        let state = rig.block.stop_queue(0).unwrap();
        assert_eq!((state, rig.driver.used_index(), rig.guest(STATUS, 3)), (paused, 0, vec![UNTOUCHED; 3]));
    }
}

#[test]
fn all_of_what_exceeds_a_limit_is_served_in_the_end() {
    for engine in ENGINES {
        let rate = Rate { per_second: NonZeroU64::new(2000).unwrap(), burst: 1 };
        let limiter = Arc::new(RateLimiter::new(None, Some(rate), Instant::now()));
        let limiters = vec![limiter.clone(), limiter];
        let mut rig = Rig::running(BlockOptions { limiters, ..options(engine) });
        for sector in 0..20 {
            assert_eq!(rig.simple(spec::T_IN, sector, writable(DATA, 512)), (spec::S_OK, 513));
            assert_eq!(rig.guest(DATA, 1), [sector as u8 + 1]);
        }
    }
}

#[test]
fn a_disk_that_grows_or_shrinks_tells_its_guest_and_checks_by_the_new_size() {
    for engine in ENGINES {
        let mut rig = Rig::running(options(engine));
        let control = rig.block.control();
        assert_eq!(control.refresh().unwrap(), SECTORS);
        assert_eq!(rig.notifier.config_generation(), 0, "that is no news");
        for sectors in [SECTORS * 2, SECTORS / 2] {
            let generation = rig.notifier.config_generation();
            rig.file.set_len(sectors * 512).unwrap();
            assert_eq!(control.clone().refresh().unwrap(), sectors);
            assert_eq!(rig.interrupts.config.read().unwrap(), 1);
            assert_ne!(rig.notifier.config_generation(), generation);
            let mut capacity = [0; 8];
            rig.block.read_config(0, &mut capacity);
            assert_eq!(u64::from_le_bytes(capacity), sectors);
            assert_eq!(rig.simple(spec::T_OUT, sectors - 1, readable(DATA, 512)), (spec::S_OK, 1));
            assert_eq!(rig.simple(spec::T_OUT, sectors, readable(DATA, 512)), (spec::S_IOERR, 1));
            assert_eq!(rig.file.metadata().unwrap().len(), sectors * 512);
        }
        rig.file.set_len(100).unwrap();
        assert!(matches!(control.refresh(), Err(BlockError::NotSectors(100))));
        rig.file.set_len(0).unwrap();
        assert!(matches!(control.refresh(), Err(BlockError::Empty)));
        assert_eq!(rig.block.image().sectors(), SECTORS / 2);
        // Who keeps the control keeps neither the disk nor the lock on its image.
        drop(rig);
        assert!(matches!(control.refresh(), Err(BlockError::Ended)));
        assert_eq!(control.held(), 0);
        control.resume();
    }
}

#[test]
fn a_raw_disk_is_made_larger_by_its_control_and_never_smaller() {
    for engine in ENGINES {
        let mut rig = Rig::running(options(engine));
        let before = rig.host();
        let control = rig.block.control();
        assert_eq!(control.resize(SECTORS * 512).unwrap(), SECTORS);
        assert_eq!(rig.notifier.config_generation(), 0, "that is no news");
        assert_eq!(control.resize(SECTORS * 1024).unwrap(), SECTORS * 2);
        assert_eq!(rig.interrupts.config.read().unwrap(), 1);
        assert_eq!(rig.simple(spec::T_IN, SECTORS * 2 - 1, writable(DATA, 512)), (spec::S_OK, 513));
        assert_eq!(rig.guest(DATA, 512), [0; 512]);
        assert_eq!(rig.simple(spec::T_IN, SECTORS * 2, writable(DATA, 512)), (spec::S_IOERR, 1));
        let refused = |size| control.resize(size).unwrap_err();
        assert!(matches!(refused(512), BlockError::Shrinks { size: 512, now } if now == SECTORS * 1024));
        assert!(matches!(refused(0), BlockError::Empty) && matches!(refused(1000), BlockError::NotSectors(1000)));
        assert!(matches!(refused(u64::MAX - 511), BlockError::CantGrow(_)), "no file is that large");
        assert_eq!(rig.host(), [before, vec![0; SECTORS as usize * 512]].concat());

        let rig = Rig::new(BlockOptions { read_only: true, ..options(engine) });
        assert!(matches!(rig.block.control().resize(SECTORS * 1024), Err(BlockError::ReadOnly)));
        assert_eq!(rig.block.control().resize(SECTORS * 512).unwrap(), SECTORS);
    }
}

#[test]
fn a_full_host_is_an_error_for_the_guest_that_asked_for_reports() {
    for engine in ENGINES {
        let mut rig = Rig::running(options(engine));
        let before = rig.host();
        rig.block.image().backend.raw().unwrap().full.store(true, Ordering::Release);
        assert_eq!(rig.simple(spec::T_OUT, 0, readable(DATA, 512)), (spec::S_IOERR, 1));
        assert_eq!(rig.simple(spec::T_IN, 0, writable(DATA, 512)), (spec::S_OK, 513));
        assert_eq!((rig.host(), rig.block.control().held()), (before, 0));
    }
}

/// A disk whose host is full, with one write held; its head.
fn held(options: BlockOptions) -> (Rig, u32) {
    let mut rig = Rig::running(BlockOptions { on_error: OnError::Stop, ..options });
    rig.block.image().backend.raw().unwrap().full.store(true, Ordering::Release);
    rig.mem.write_slice(&[0x77; 512], GuestAddress(DATA + 0x1000)).unwrap();
    let write = [u64::from(spec::T_OUT), 9];
    rig.mem.write_obj(write, GuestAddress(HEADER + 0x100)).unwrap();
    rig.mem.write_obj(UNTOUCHED, GuestAddress(STATUS + 1)).unwrap();
    let buffers = [readable(HEADER + 0x100, 16), readable(DATA + 0x1000, 512), writable(STATUS + 1, 1)];
    let head = rig.driver.submit(&buffers);
    // A read behind it is served, so the write has been tried.
    assert_eq!(rig.simple(spec::T_IN, 0, writable(DATA, 512)), (spec::S_OK, 513));
    assert_eq!(rig.block.control().held(), 1);
    (rig, head.into())
}

fn assert_written(rig: &mut Rig, head: u32) {
    assert_eq!(rig.wait_used(), (head, 1));
    assert_eq!(rig.mem.read_obj::<u8>(GuestAddress(STATUS + 1)).unwrap(), spec::S_OK);
    assert_eq!(rig.host()[9 * 512..10 * 512], [0x77; 512]);
    assert_eq!(rig.block.control().held(), 0);
}

#[test]
fn a_held_write_is_done_when_there_is_room_again() {
    for engine in ENGINES {
        let (mut rig, head) = held(options(engine));
        // There is no room yet, but others are served.
        rig.block.control().resume();
        assert_eq!(rig.simple(spec::T_IN, 0, writable(DATA, 512)), (spec::S_OK, 513));
        rig.block.image().backend.raw().unwrap().full.store(false, Ordering::Release);
        rig.block.control().resume();
        assert_written(&mut rig, head);
    }
}

#[test]
fn a_held_write_that_is_to_be_durable_loses_nothing() {
    for engine in ENGINES {
        let mut rig = Rig::new(BlockOptions { on_error: OnError::Stop, ..options(engine) });
        // Without FLUSH every write is durable when it completes.
        rig.features &= !spec::F_FLUSH;
        let raw = |rig: &Rig, full| rig.block.image().backend.raw().unwrap().full.store(full, Ordering::Release);
        raw(&rig, true);
        rig.start(QueueState::default());
        rig.mem.write_slice(&[0x77; 512], GuestAddress(DATA + 0x1000)).unwrap();
        rig.mem.write_obj([u64::from(spec::T_OUT), 9], GuestAddress(HEADER + 0x100)).unwrap();
        let status = writable(STATUS + 1, 1);
        let head = rig.driver.submit(&[readable(HEADER + 0x100, 16), readable(DATA + 0x1000, 512), status]);
        assert_eq!(rig.simple(spec::T_IN, 0, writable(DATA, 512)), (spec::S_OK, 513));
        assert_eq!(rig.block.control().held(), 1);
        let state = rig.block.stop_queue(0).unwrap();
        raw(&rig, false);
        rig.start(state);
        assert_written(&mut rig, head.into());
        assert_eq!(rig.simple(spec::T_OUT, 3, readable(DATA, 512)), (spec::S_OK, 1), "and others go on");
    }
}

#[test]
fn a_write_that_found_no_room_is_no_loss_though_it_was_to_be_durable() {
    for engine in ENGINES {
        let durable = BlockOptions { cache: CacheMode::Writethrough, ..options(engine) };
        let (mut rig, head) = held(durable.clone());
        rig.block.image().backend.raw().unwrap().full.store(false, Ordering::Release);
        rig.block.control().resume();
        assert_written(&mut rig, head);
        assert_eq!(rig.simple(spec::T_OUT, 0, readable(DATA, 512)), (spec::S_OK, 1));

        let mut rig = Rig::running(durable);
        rig.block.image().backend.raw().unwrap().full.store(true, Ordering::Release);
        assert_eq!(rig.simple(spec::T_OUT, 0, readable(DATA, 512)), (spec::S_IOERR, 1));
        rig.block.image().backend.raw().unwrap().full.store(false, Ordering::Release);
        assert_eq!(rig.simple(spec::T_OUT, 0, readable(DATA, 512)), (spec::S_OK, 1));
    }
}

#[test]
fn a_held_write_outlives_a_pause_and_not_a_reset() {
    for engine in ENGINES {
        let (mut rig, head) = held(options(engine));
        let state = rig.block.stop_queue(0).unwrap();
        let in_flight = vec![head as u16];
        assert_eq!(state, QueueState { next_avail: 2, next_used: 1, in_flight });
        assert_eq!(rig.block.control().held(), 0);
        rig.block.image().backend.raw().unwrap().full.store(false, Ordering::Release);
        rig.start(state);
        assert_written(&mut rig, head);

        let (mut rig, _) = held(options(engine));
        let before = rig.host();
        rig.block.stop_queue(0).unwrap();
        rig.block.reset();
        rig.block.image().backend.raw().unwrap().full.store(false, Ordering::Release);
        rig.mem.write_slice(&[0; 0x1000], GuestAddress(0x1000)).unwrap();
        rig.driver = MockDriver::new(&rig.mem, 0x1000, 16);
        rig.start(QueueState::default());
        assert_eq!(rig.simple(spec::T_IN, 0, writable(DATA, 512)), (spec::S_OK, 513));
        assert_eq!((rig.host(), rig.driver.used_index()), (before, 1));
    }
}

#[test]
fn a_chain_that_was_changed_in_a_pause_is_checked_again() {
    for engine in ENGINES {
        for descriptor in [(u64::MAX - 8, 16), (HEADER + 0x100, 15)] {
            let (mut rig, head) = held(options(engine));
            let before = rig.host();
            let state = rig.block.stop_queue(0).unwrap();
            rig.driver.descriptor(0, descriptor.0, descriptor.1, 1, 1);
            rig.block.image().backend.raw().unwrap().full.store(false, Ordering::Release);
            rig.start(state);
            assert_eq!(rig.wait_used().0, head);
            assert_eq!(rig.host(), before);
        }
    }
}

#[test]
fn large_requests_are_whole_after_any_number_of_pauses() {
    const LEN: u32 = 3 << 20;
    for engine in ENGINES {
        let file = tempfile::tempfile().unwrap();
        for sector in 0..u64::from(LEN) / 512 {
            file.write_all_at(&[sector as u8; 512], sector * 512).unwrap();
        }
        let mut rig = Rig::on(file, options(engine));
        let at = 0x10_0000;
        rig.start(QueueState::default());
        rig.write_header(spec::T_IN, 0);
        rig.driver.submit(&[readable(HEADER, 16), writable(at, LEN), writable(STATUS, 1)]);
        rig.doorbell.write(1).unwrap();
        for _ in 0..50 {
            let state = rig.block.stop_queue(0).unwrap();
            rig.start(state);
        }
        assert_eq!((rig.wait_used(), rig.status()), ((0, LEN + 1), spec::S_OK));
        assert!(rig.guest(at, LEN as usize) == rig.host());
    }
}

#[test]
fn each_queue_runs_by_itself() {
    for engine in ENGINES {
        let mut rig = Rig::new(BlockOptions { queues: 3, ..options(engine) });
        let mut drivers: Vec<_> = (0..3u64).map(|i| MockDriver::new(&rig.mem, 0x2_0000 + (i << 12), 16)).collect();
        let doorbells: Vec<_> = drivers.iter().map(|_| eventfd()).collect();
        let resources = |driver: &MockDriver, index: usize, state, rig: &Rig| QueueResources {
            queue: Queue::new(driver.config, 256, 0, state, rig.mem.clone()).unwrap(),
            doorbell: doorbells[index].try_clone().unwrap(),
            notifier: rig.notifier.clone(),
        };
        for (index, driver) in drivers.iter().enumerate() {
            let resources = resources(driver, index, QueueState::default(), &rig);
            rig.block.start_queue(index as u16, resources, 0).unwrap();
        }
        let again = resources(&drivers[0], 0, QueueState::default(), &rig);
        assert!(matches!(rig.block.start_queue(1, again, 0), Err(StartError::Running { index: 1 })));
        let beyond = resources(&drivers[0], 0, QueueState::default(), &rig);
        assert!(matches!(rig.block.start_queue(3, beyond, 0), Err(StartError::NoSuchQueue { index: 3 })));
        let state = rig.block.stop_queue(1).unwrap();
        rig.write_header(spec::T_IN, 5);
        for index in [0, 2, 1] {
            if index == 1 {
                let resources = resources(&drivers[1], 1, state.clone(), &rig);
                rig.block.start_queue(1, resources, 0).unwrap();
            }
            let driver = &mut drivers[index];
            driver.submit(&[readable(HEADER, 16), writable(DATA, 512), writable(STATUS, 1)]);
            doorbells[index].write(1).unwrap();
            rig.interrupts.used.read().unwrap();
            assert_eq!(driver.take_used(), Some((0, 513)), "{index}");
        }
    }
}

/// Sector `n` is written by queue `n % QUEUES`, so that all of them write to each page.
fn write_by_all_queues(rig: &mut Rig, features: u64) {
    const QUEUES: u64 = 4;
    const AT_ONCE: u64 = 5;
    let features = rig.features & features;
    let mut drivers: Vec<_> = (0..QUEUES).map(|i| MockDriver::new(&rig.mem, 0x2_0000 + (i << 12), 16)).collect();
    let doorbells: Vec<_> = drivers.iter().map(|_| eventfd()).collect();
    for (index, driver) in (0..).zip(&drivers) {
        let queue = Queue::new(driver.config, 256, 0, QueueState::default(), rig.mem.clone()).unwrap();
        let doorbell = doorbells[usize::from(index)].try_clone().unwrap();
        let resources = QueueResources { queue, doorbell, notifier: rig.notifier.clone() };
        rig.block.start_queue(index, resources, features).unwrap();
    }
    let content: Vec<u8> = (0..SECTORS * 512).map(|at| (at / 512 * 7 + at % 251) as u8).collect();
    rig.mem.write_slice(&content, GuestAddress(0x10_0000)).unwrap();
    let sectors: Vec<_> = (0..SECTORS).collect();
    for batch in sectors.chunks((QUEUES * AT_ONCE) as usize) {
        for &sector in batch {
            let header = 0x3_0000 + 32 * sector;
            rig.mem.write_obj([u64::from(spec::T_OUT), sector], GuestAddress(header)).unwrap();
            rig.mem.write_obj(UNTOUCHED, GuestAddress(header + 16)).unwrap();
            let data = readable(0x10_0000 + sector * 512, 512);
            drivers[(sector % QUEUES) as usize].submit(&[readable(header, 16), data, writable(header + 16, 1)]);
        }
        doorbells.iter().for_each(|doorbell| doorbell.write(1).unwrap());
        let mut left = batch.len();
        loop {
            left -= drivers.iter_mut().flat_map(|driver| std::iter::from_fn(|| driver.take_used())).count();
            if left == 0 {
                break;
            }
            rig.interrupts.used.read().unwrap();
        }
        for &sector in batch {
            assert_eq!(rig.guest(0x3_0000 + 32 * sector + 16, 1), [spec::S_OK], "{sector}");
        }
    }
    assert!(rig.host() == content);
}

#[test]
fn what_all_queues_write_at_once_is_all_there() {
    for engine in ENGINES {
        // Without FLUSH a write is durable, and so it's the kernel's, whichever queue it comes from.
        for features in [u64::MAX, !spec::F_FLUSH] {
            let options = BlockOptions { queues: 4, ..options(engine) };
            write_by_all_queues(&mut Rig::new(options.clone()), features);
            let Some((folder, file)) = direct_sectors() else { continue };
            let mut rig = Rig::on(file, BlockOptions { direct: true, ..options });
            rig.file = std::fs::File::open(folder.path().join("image")).unwrap();
            write_by_all_queues(&mut rig, features);
        }
    }
}

/// A disk whose file is a pipe, and which has two requests of 4 KiB: one is done, the kernel has the other one.
pub(super) fn in_kernel(kind: u32) -> (Rig, Pipe) {
    let pipe = Pipe::new();
    let mut rig = Rig::new(BlockOptions { direct: true, ..options(EngineChoice::IoUring) });
    let end = if kind == spec::T_IN { &pipe.reader } else { &pipe.writer };
    pipe::replace(rig.block.image().backend.raw().unwrap().file(), end);
    if kind == spec::T_IN {
        pipe.fill(&[0x11; pipe::CAPACITY]);
    }
    rig.write_header(kind, 0);
    for at in [DATA, DATA + 0x1000] {
        let len = pipe::CAPACITY as u32;
        let data = if kind == spec::T_IN { writable(at, len) } else { readable(at, len) };
        rig.driver.submit(&[readable(HEADER, 16), data, writable(STATUS, 1)]);
    }
    // Both are there when the worker starts, so it gives the kernel both before the first one can be done.
    rig.start(QueueState::default());
    assert_eq!(rig.wait_used(), (0, if kind == spec::T_IN { pipe::CAPACITY as u32 + 1 } else { 1 }));
    assert_eq!(rig.status(), spec::S_OK);
    (rig, pipe)
}

#[test]
fn a_stop_takes_a_read_back_from_the_kernel_and_the_next_start_does_it() {
    let (mut rig, pipe) = in_kernel(spec::T_IN);
    let state = rig.block.stop_queue(0).unwrap();
    assert_eq!(state, QueueState { next_avail: 2, next_used: 1, in_flight: vec![3] });
    let before = rig.guest(0, 0x40_0000);
    pipe.fill(&[0x22; pipe::CAPACITY]);
    assert_eq!(pipe.drain(), [0x22; pipe::CAPACITY], "nobody reads it");
    assert!(rig.guest(0, 0x40_0000) == before);
    assert_eq!(rig.guest(DATA + 0x1000, pipe::CAPACITY), [UNTOUCHED; pipe::CAPACITY]);

    rig.start(state);
    pipe.fill(&[0x33; pipe::CAPACITY]);
    assert_eq!(rig.wait_used(), (3, pipe::CAPACITY as u32 + 1));
    assert_eq!(rig.guest(DATA + 0x1000, pipe::CAPACITY), [0x33; pipe::CAPACITY]);
}

#[test]
fn a_stop_takes_a_write_back_from_the_kernel_and_the_next_start_does_it() {
    let (mut rig, pipe) = in_kernel(spec::T_OUT);
    let state = rig.block.stop_queue(0).unwrap();
    assert_eq!(state, QueueState { next_avail: 2, next_used: 1, in_flight: vec![3] });
    assert_eq!(pipe.drain(), [UNTOUCHED; pipe::CAPACITY]);
    assert_eq!(pipe.drain(), [], "nothing comes after it");

    rig.mem.write_slice(&[0x44; pipe::CAPACITY], GuestAddress(DATA + 0x1000)).unwrap();
    rig.start(state);
    assert_eq!(rig.wait_used(), (3, 1));
    assert_eq!(pipe.drain(), [0x44; pipe::CAPACITY]);
}

#[test]
fn a_stop_waits_for_what_the_disk_is_at() {
    const READS: u64 = 4;
    const LEN: u64 = 0xc_0000;
    const AT: u64 = 0x10_0000;
    let Some((_folder, file)) = direct_with(vec![0x55; (READS * LEN) as usize]) else { return };
    let options = BlockOptions { direct: true, ..options(EngineChoice::IoUring) };
    let mut other = Rig::on(file.try_clone().unwrap(), options.clone());
    other.start(QueueState::default());
    for _ in 0..20 {
        let mut rig = Rig::on(file.try_clone().unwrap(), options.clone());
        rig.write_header(spec::T_IN, 0);
        rig.driver.submit(&[readable(HEADER, 16), writable(DATA, 4096), writable(STATUS, 1)]);
        for index in 0..READS {
            let data = writable(AT + index * LEN, LEN as u32);
            rig.driver.submit(&[readable(HEADER, 16), data, writable(STATUS, 1)]);
        }
        rig.start(QueueState::default());
        // The disk may well be done with a large one first.
        let mut written = vec![rig.wait_used().1];
        let state = rig.block.stop_queue(0).unwrap();
        let used = rig.driver.used_index();
        assert_eq!((state.next_avail, state.next_used), (1 + READS as u16, used));
        rig.mem.write_slice(&[0; (READS * LEN) as usize], GuestAddress(AT)).unwrap();
        // What the disk still had would come before this.
        let whole = other.simple(spec::T_IN, 0, writable(AT, (READS * LEN) as u32));
        assert_eq!(whole, (spec::S_OK, (READS * LEN) as u32 + 1));
        assert!(rig.guest(AT, (READS * LEN) as usize).iter().all(|byte| *byte == 0));
        assert_eq!(rig.driver.used_index(), used);
        rig.start(state);
        written.extend((0..READS).map(|_| rig.wait_used().1));
        written.sort_unstable();
        assert_eq!((written[0], &written[1..]), (4097, &[LEN as u32 + 1; READS as usize][..]));
    }
}

#[test]
fn a_disk_that_is_dropped_takes_back_what_the_kernel_has() {
    let (rig, pipe) = in_kernel(spec::T_IN);
    let Rig { block, mem, .. } = rig;
    drop(block);
    mem.write_slice(&[0; 0x10000], GuestAddress(HEADER)).unwrap();
    pipe.fill(&[0x22; pipe::CAPACITY]);
    assert_eq!(pipe.drain(), [0x22; pipe::CAPACITY], "nobody reads it");
    let mut after = vec![1; 0x10000];
    mem.read_slice(&mut after, GuestAddress(HEADER)).unwrap();
    assert!(after.iter().all(|byte| *byte == 0));
}

#[test]
fn direct_io_takes_any_buffer_and_length() {
    for engine in ENGINES {
        let Some((folder, file)) = direct() else { return };
        let path = folder.path().join("image");
        let mut rig = Rig::on(file, BlockOptions { direct: true, ..options(engine) });
        rig.start(QueueState::default());
        let mut expected = std::fs::read(&path).unwrap();
        for offset in [0, 1, 3, 0x1ff] {
            assert_eq!(rig.simple(spec::T_IN, 8, writable(DATA + offset, 4096)), (spec::S_OK, 4097));
            assert_eq!(rig.guest(DATA + offset, 4096), expected[8 * 512..16 * 512]);
            let parts = [writable(DATA + offset, 100), writable(DATA + 0x3000 + offset, 4096 - 100)];
            let buffers = [readable(HEADER, 16), parts[0], parts[1], writable(STATUS, 1)];
            assert_eq!(rig.request(spec::T_IN, 16, &buffers), (spec::S_OK, 4097));
            assert_eq!(rig.guest(DATA + 0x3000 + offset, 3996), expected[16 * 512 + 100..24 * 512]);

            rig.mem.write_slice(&[offset as u8; 4096], GuestAddress(DATA + offset)).unwrap();
            assert_eq!(rig.simple(spec::T_OUT, 32, readable(DATA + offset, 4096)), (spec::S_OK, 1));
            expected[32 * 512..40 * 512].fill(offset as u8);
            assert!(std::fs::read(&path).unwrap() == expected);
        }
        let whole = rig.simple(spec::T_IN, 0, writable(0x10_0001, SECTORS as u32 * 512));
        assert_eq!(whole, (spec::S_OK, SECTORS as u32 * 512 + 1));
        assert!(rig.guest(0x10_0001, expected.len()) == expected);
    }
}

#[test]
fn a_flush_that_failed_once_never_succeeds_again_whoever_asks() {
    for engine in ENGINES {
        let mut rig = Rig::running(options(engine));
        let flush = [readable(HEADER, 16), writable(STATUS, 1)];
        assert_eq!(rig.request(spec::T_FLUSH, 0, &flush), (spec::S_OK, 1));
        let image = rig.block.image();
        image.backend.raw().unwrap().forgetful.store(true, std::sync::atomic::Ordering::Release);
        assert_eq!(rig.request(spec::T_FLUSH, 0, &flush), (spec::S_IOERR, 1));
        // The kernel says so once, and would find nothing to complain about now.
        let image = rig.block.image();
        image.backend.raw().unwrap().forgetful.store(false, std::sync::atomic::Ordering::Release);
        assert_eq!(rig.request(spec::T_FLUSH, 0, &flush), (spec::S_IOERR, 1));
        assert_eq!(rig.simple(spec::T_OUT, 0, readable(DATA, 512)), (spec::S_OK, 1), "it promises nothing");
        assert_eq!(rig.simple(spec::T_IN, 0, writable(DATA, 512)), (spec::S_OK, 513));
    }
}
