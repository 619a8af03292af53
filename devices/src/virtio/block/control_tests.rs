// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What the host does to a disk while a guest uses it: limits, resizing, a full host, pauses, direct I/O, many queues.

use std::fs::{File, OpenOptions};
use std::num::NonZeroU64;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use vm_memory::{Bytes, GuestAddress};

use super::rig::{DATA, ENGINES, HEADER, Rig, SECTORS, STATUS, UNTOUCHED, eventfd, image, options};
use super::{BlockError, BlockOptions, OnError, spec};
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

#[test]
fn a_queue_that_waits_for_its_limit_stops_at_once_and_has_taken_nothing() {
    for engine in ENGINES {
        let mut rig = Rig::running(BlockOptions { limiters: vec![hopeless()], ..options(engine) });
        rig.write_header(spec::T_IN, 0);
        rig.driver.submit(&[readable(HEADER, 16), writable(DATA, 512), writable(STATUS, 1)]);
        rig.doorbell.write(1).unwrap();
        assert_eq!(rig.block.stop_queue(0).unwrap(), QueueState::default());
        assert_eq!((rig.driver.used_index(), rig.status()), (0, UNTOUCHED));
    }
}

#[test]
fn a_limit_delays_and_loses_nothing() {
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
        assert_eq!(control.resize().unwrap(), SECTORS);
        assert_eq!(rig.notifier.config_generation(), 0, "that is no news");
        for sectors in [SECTORS * 2, SECTORS / 2] {
            let generation = rig.notifier.config_generation();
            rig.file.set_len(sectors * 512).unwrap();
            assert_eq!(control.clone().resize().unwrap(), sectors);
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
        assert!(matches!(control.resize(), Err(BlockError::NotSectors(100))));
        rig.file.set_len(0).unwrap();
        assert!(matches!(control.resize(), Err(BlockError::Empty)));
        assert_eq!(rig.block.image().sectors(), SECTORS / 2);
        // Who keeps the control keeps neither the disk nor the lock on its image.
        drop(rig);
        assert!(matches!(control.resize(), Err(BlockError::Ended)));
        assert_eq!(control.held(), 0);
        control.resume();
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
fn a_held_write_outlives_a_pause_and_not_a_reset() {
    for engine in ENGINES {
        let (mut rig, head) = held(options(engine));
        let state = rig.block.stop_queue(0).unwrap();
        assert_eq!((state, rig.block.control().held()), (QueueState { next_avail: 2, next_used: 1 }, 0));
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
                let resources = resources(&drivers[1], 1, state, &rig);
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

/// The image, open for direct I/O; nothing where the file system has none.
fn direct() -> Option<(tempfile::NamedTempFile, File)> {
    let named = tempfile::NamedTempFile::new().unwrap();
    let source = image();
    let mut bytes = vec![0; SECTORS as usize * 512];
    source.read_exact_at(&mut bytes, 0).unwrap();
    named.as_file().write_all_at(&bytes, 0).unwrap();
    named.as_file().sync_all().unwrap();
    let file = OpenOptions::new().read(true).write(true).custom_flags(libc::O_DIRECT).open(named.path()).ok()?;
    Some((named, file))
}

#[test]
fn direct_io_takes_any_buffer_and_length() {
    for engine in ENGINES {
        let Some((named, file)) = direct() else { return };
        let mut rig = Rig::on(file, BlockOptions { direct: true, ..options(engine) });
        rig.start(QueueState::default());
        let mut expected = std::fs::read(named.path()).unwrap();
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
            assert!(std::fs::read(named.path()).unwrap() == expected);
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
