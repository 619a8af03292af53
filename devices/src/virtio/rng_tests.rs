// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

use std::num::NonZeroU64;

use vm_memory::{Bytes, GuestAddress};
use vmm_sys_util::eventfd::EventFd;

use super::*;
use crate::GuestRam;
use crate::token_bucket::Rate;
use crate::virtio::mock::{Buffer, Interrupts, MockDriver, NEXT, WRITE, ram, readable, writable};
use crate::virtio::notifier::Notifier;
use crate::virtio::queue::Queue;

struct Rig {
    rng: Rng,
    mem: GuestRam,
    driver: MockDriver,
    doorbell: EventFd,
    interrupts: EventFd,
    notifier: Arc<Notifier>,
}

impl Rig {
    fn new(limiter: Option<RateLimiter>) -> Self {
        let mem = ram(32 << 20);
        let interrupts = EventFd::new(libc::EFD_CLOEXEC).unwrap();
        let notifier = Arc::new(Notifier::new(Arc::new(Interrupts(interrupts.try_clone().unwrap()))));
        let rng = Rng::new("rng", limiter.map(Arc::new)).unwrap();
        let doorbell = EventFd::new(libc::EFD_CLOEXEC).unwrap();
        let driver = MockDriver::new(&mem, 0x1000, 16);
        let mut rig = Self { rng, mem, driver, doorbell, interrupts, notifier };
        rig.start(QueueState::default());
        rig
    }

    fn start(&mut self, state: QueueState) {
        let queue = Queue::new(self.driver.config, 16, 0, state, self.mem.clone()).unwrap();
        let doorbell = self.doorbell.try_clone().unwrap();
        self.rng.start_queue(0, QueueResources { queue, doorbell, notifier: self.notifier.clone() }, 0).unwrap();
    }

    /// Waits until a chain is given back; how much was written into it.
    fn used(&mut self) -> u32 {
        loop {
            if let Some((_, written)) = self.driver.take_used() {
                return written;
            }
            self.interrupts.read().unwrap();
            assert!(!self.notifier.needs_reset());
        }
    }

    fn ask(&mut self, buffers: &[Buffer]) -> u32 {
        self.driver.submit(buffers);
        self.doorbell.write(1).unwrap();
        self.used()
    }

    fn is_zero(&self, address: u64, len: usize) -> bool {
        let mut bytes = vec![0; len];
        self.mem.read_slice(&mut bytes, GuestAddress(address)).unwrap();
        bytes.iter().all(|byte| *byte == 0)
    }
}

#[test]
fn what_the_guest_gives_is_filled_and_the_used_length_says_how_much() {
    let mut rig = Rig::new(None);
    assert_eq!(rig.ask(&[writable(0x10_0000, 64)]), 64);
    assert!(!rig.is_zero(0x10_0000, 64) && rig.is_zero(0x10_0040, 64));
    // Readable buffers are not for this device, and left alone.
    assert_eq!(rig.ask(&[readable(0x20_0000, 32), writable(0x20_0020, 32), writable(0x20_0100, 32)]), 64);
    assert!(rig.is_zero(0x20_0000, 32) && !rig.is_zero(0x20_0020, 32) && !rig.is_zero(0x20_0100, 32));
}

#[test]
fn two_requests_get_different_numbers() {
    let mut rig = Rig::new(None);
    rig.ask(&[writable(0x10_0000, 32)]);
    rig.ask(&[writable(0x10_0020, 32)]);
    let [one, other]: [[u8; 32]; 2] = [0, 0x20].map(|at| rig.mem.read_obj(GuestAddress(0x10_0000 + at)).unwrap());
    assert_ne!(one, other);
}

#[test]
fn a_request_gets_no_more_than_the_most() {
    let mut rig = Rig::new(None);
    let most = u64::from(MAX_REQUEST);
    assert_eq!(rig.ask(&[writable(0x10_0000, 16 << 20)]), MAX_REQUEST);
    assert!(!rig.is_zero(0x10_0000 + most - 16, 16) && rig.is_zero(0x10_0000 + most, 1 << 20));
    // Descriptors of 16 MiB that overlap.
    let buffers: Vec<_> = (0..16).map(|i| writable(0x10_0000 + i, 16 << 20)).collect();
    assert_eq!(rig.ask(&buffers), MAX_REQUEST);
    assert!(rig.is_zero(0x10_0000 + most + 16, 1 << 20));
}

#[test]
fn a_request_without_room_or_beyond_ram_gets_nothing_and_the_next_is_served() {
    let mut rig = Rig::new(None);
    for buffers in [
        &[readable(0x10_0000, 64)][..],
        &[writable(0x10_0000, 0)],
        &[readable(0x10_0000, 0), writable(0x10_0000, 0)],
        &[writable(0x10_0000, 64), readable(0x10_0000, 64)],
        &[writable((32 << 20) - 32, 64)],
        &[writable(u64::MAX - 8, 64)],
        &[writable(0x10_0000, u32::MAX)],
    ] {
        assert_eq!(rig.ask(buffers), 0, "{buffers:?}");
        assert!(rig.is_zero(0x10_0000, 64));
    }
    // A chain that never ends.
    rig.driver.descriptor(0, 0x10_0000, 64, NEXT | WRITE, 0);
    rig.driver.offer(0);
    rig.doorbell.write(1).unwrap();
    assert_eq!(rig.used(), 0);
    assert_eq!(rig.ask(&[writable(0x10_0000, 64)]), 64);
}

#[test]
fn numbers_over_the_ring_itself_do_no_harm_to_the_host() {
    let mut rig = Rig::new(None);
    let (at, end) = (rig.driver.config.descriptor_table, rig.driver.end());
    rig.driver.submit(&[writable(at, (end - at) as u32)]);
    rig.doorbell.write(1).unwrap();
    // Either it goes on with whatever the ring holds now, or it says that the ring can't be trusted.
    rig.interrupts.read().unwrap();
    rig.rng.stop_queue(0);
    rig.rng.reset();
    rig.driver = MockDriver::new(&rig.mem, 0x8000, 16);
    rig.start(QueueState::default());
    rig.notifier.clear_needs_reset();
    assert_eq!(rig.ask(&[writable(0x10_0000, 8)]), 8);
}

#[test]
fn a_limited_guest_waits_until_what_it_owes_is_paid() {
    let rate = Rate { per_second: NonZeroU64::new(100_000).unwrap(), burst: 1 };
    let mut rig = Rig::new(Some(RateLimiter::new(Some(rate), None, Instant::now())));
    let begun = Instant::now();
    assert_eq!(rig.ask(&[writable(0x10_0000, 10_000)]), 10_000);
    assert_eq!(rig.ask(&[writable(0x10_0000, 8)]), 8);
    // What came first is owed: a tenth of a second. A wait is never too short, whatever the machine is busy with.
    assert!(begun.elapsed() >= Duration::from_millis(99));
}

#[test]
fn a_guest_that_waits_is_stopped_at_once_and_goes_on_elsewhere() {
    let rate = Rate { per_second: NonZeroU64::MIN, burst: 1 };
    let mut rig = Rig::new(Some(RateLimiter::new(Some(rate), None, Instant::now())));
    assert_eq!(rig.ask(&[writable(0x10_0000, 60_000)]), 60_000);
    rig.driver.submit(&[writable(0x10_0000, 8)]);
    rig.doorbell.write(1).unwrap();
    rig.rng.request_stop(0);
    let state = rig.rng.stop_queue(0).unwrap();
    rig.rng.reset();
    assert_eq!(rig.driver.take_used(), None);
    rig.rng = Rng::new("rng", None).unwrap();
    rig.start(state);
    assert_eq!(rig.used(), 8);
}

#[test]
fn there_is_no_thread_before_a_queue_starts() {
    let threads = || std::fs::read_dir("/proc/self/task").unwrap().map(|task| task.unwrap().path().join("comm"));
    let named =
        |name: &str| threads().filter_map(|comm| std::fs::read_to_string(comm).ok()).any(|comm| comm.trim() == name);
    let _rng = Rng::new("rng-idle", None).unwrap();
    assert!(!named("rng-idle"));
}
