// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! A balloon and its driver, for the tests of this directory.

use std::sync::Arc;

use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend};
use vmm_sys_util::eventfd::EventFd;

use super::spec::F_FREE_PAGE_HINT;
use super::{Balloon, BalloonControl, BalloonOptions};
use crate::GuestRam;
use crate::virtio::device::{QueueResources, VirtioDevice};
use crate::virtio::mock::{Buffer, Interrupts, MockDriver, ram, readable};
use crate::virtio::notifier::Notifier;
use crate::virtio::queue::{Queue, QueueState};

pub(super) const INFLATE: u16 = 0;
pub(super) const DEFLATE: u16 = 1;
pub(super) const STATISTICS: u16 = 2;
pub(super) const HINTS: u16 = 3;
pub(super) const REPORTS: u16 = 4;
pub(super) const RAM: u64 = 8 << 20;
/// Where page numbers and statistics are put.
pub(super) const OUT: u64 = 0x10_0000;
/// The first page that holds nothing but what a test puts there.
pub(super) const FREE: u32 = 0x200;

pub(super) struct Rig {
    pub(super) balloon: Balloon,
    pub(super) mem: GuestRam,
    pub(super) drivers: [MockDriver; 5],
    pub(super) notifier: Arc<Notifier>,
    pub(super) interrupts: EventFd,
    doorbells: [EventFd; 5],
}

impl Rig {
    pub(super) fn new() -> Self {
        Self::with(ram(RAM as usize), |_| {})
    }

    /// A balloon in some memory that has [`RAM`] bytes from 0 on, with all of its queues, that of hints only if there are any.
    pub(super) fn with(mem: GuestRam, change: impl FnOnce(&mut BalloonOptions)) -> Self {
        let mut options = BalloonOptions { free_page_reporting: true, ..BalloonOptions::new(RAM) };
        change(&mut options);
        let interrupts = EventFd::new(libc::EFD_CLOEXEC).unwrap();
        let notifier = Arc::new(Notifier::new(Arc::new(Interrupts(interrupts.try_clone().unwrap()))));
        let mut balloon = Balloon::new("balloon", options).unwrap();
        balloon.attach(&notifier);
        let mut rig = Self {
            balloon,
            drivers: [0x1000, 0x4000, 0x8000, 0xc000, 0x1_0000].map(|base| MockDriver::new(&mem, base, 128)),
            doorbells: [0; 5].map(|_| EventFd::new(libc::EFD_CLOEXEC).unwrap()),
            notifier,
            interrupts,
            mem,
        };
        for index in [INFLATE, DEFLATE, STATISTICS, REPORTS] {
            rig.start(index, QueueState::default());
        }
        if rig.balloon.features() & F_FREE_PAGE_HINT != 0 {
            rig.start(HINTS, QueueState::default());
        }
        rig
    }

    pub(super) fn start(&mut self, index: u16, state: QueueState) {
        let driver = &self.drivers[usize::from(index)];
        let queue = Queue::new(driver.config, 128, 0, state, self.mem.clone()).unwrap();
        let doorbell = self.doorbells[usize::from(index)].try_clone().unwrap();
        let resources = QueueResources { queue, doorbell, notifier: self.notifier.clone() };
        self.balloon.start_queue(index, resources, self.balloon.features()).unwrap();
    }

    pub(super) fn control(&self) -> BalloonControl {
        self.balloon.control()
    }

    pub(super) fn offer(&mut self, index: u16, buffers: &[Buffer]) {
        self.drivers[usize::from(index)].submit(buffers);
        self.ring(index);
    }

    pub(super) fn ring(&self, index: u16) {
        self.doorbells[usize::from(index)].write(1).unwrap();
    }

    /// Waits until a queue gives a chain back.
    pub(super) fn wait(&mut self, index: u16) {
        loop {
            if let Some((_, written)) = self.drivers[usize::from(index)].take_used() {
                return assert_eq!(written, 0, "a balloon writes nothing");
            }
            self.interrupts.read().unwrap();
            assert!(!self.notifier.needs_reset());
        }
    }

    pub(super) fn submit(&mut self, index: u16, buffers: &[Buffer]) {
        self.offer(index, buffers);
        self.wait(index);
    }

    /// Sends page numbers.
    pub(super) fn send(&mut self, index: u16, pfns: &[u32]) {
        let bytes: Vec<u8> = pfns.iter().flat_map(|pfn| pfn.to_le_bytes()).collect();
        self.mem.write_slice(&bytes, GuestAddress(OUT)).unwrap();
        self.submit(index, &[readable(OUT, bytes.len() as u32)]);
    }

    /// Puts something into so many pages from [`FREE`] on.
    pub(super) fn fill(&self, pages: u32) {
        let bytes = vec![7; pages as usize * 4096];
        self.mem.write_slice(&bytes, GuestAddress(u64::from(FREE) << 12)).unwrap();
    }

    /// Which of so many pages from [`FREE`] on hold nothing any more.
    pub(super) fn gone(&self, pages: u32) -> Vec<u32> {
        let is_zero = |page: &u32| {
            let slice = self.mem.get_slice(GuestAddress(u64::from(FREE + page) << 12), 4096).unwrap();
            let mut bytes = vec![1u8; 4096];
            slice.copy_to(&mut bytes[..]);
            bytes.iter().all(|byte| *byte == 0)
        };
        (0..pages).filter(is_zero).collect()
    }
}
