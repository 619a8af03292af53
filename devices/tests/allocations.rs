// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! A disk that is warm allocates nothing, whichever engine serves it and however a request ends.

#![expect(unsafe_code, reason = "an allocator that counts is an allocator")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use devices::virtio::block::{Block, BlockOptions, EngineChoice};
use devices::virtio::mock::{MockDriver, ram, readable, writable};
use devices::virtio::queue::{Queue, QueueState};
use devices::virtio::{DeviceInterrupt, Notifier, QueueResources, VirtioDevice};
use vm_memory::{Bytes, GuestAddress};
use vmm_sys_util::eventfd::EventFd;

#[path = "skip/mod.rs"]
mod skip;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

struct Counting;

// SAFETY: every call is handed to the system's allocator as it is, which keeps the contract.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller keeps the contract of this very function.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as above; the pointer came from `alloc`, and so from the system's allocator.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

#[derive(Debug)]
struct Interrupt(EventFd);

impl DeviceInterrupt for Interrupt {
    fn queue(&self, _: u16) {
        self.0.write(1).unwrap();
    }
    fn config(&self) {}
}

const BATCH: u64 = 5;
const HEADERS: u64 = 0x4000;
const STATUS: u64 = 0x5000;
const DATA: u64 = 0x1_0000;

struct Rig {
    _block: Block,
    driver: MockDriver,
    doorbell: EventFd,
    interrupt: Arc<Interrupt>,
}

impl Rig {
    fn new(file: File, engine: EngineChoice, direct: bool) -> Self {
        file.set_len(1 << 20).unwrap();
        let mem = ram(1 << 20);
        let driver = MockDriver::new(&mem, 0x1000, 16);
        let (doorbell, interrupt) = (EventFd::new(0).unwrap(), Arc::new(Interrupt(EventFd::new(0).unwrap())));
        let mut options = BlockOptions::default();
        (options.engine, options.direct) = (engine, direct);
        let mut block = Block::new("vda", file, options).unwrap();
        let queue = Queue::new(driver.config, 256, 0, QueueState::default(), mem).unwrap();
        let notifier = Arc::new(Notifier::new(interrupt.clone()));
        let resources = QueueResources { queue, doorbell: doorbell.try_clone().unwrap(), notifier };
        block.start_queue(0, resources, block.features()).unwrap();
        Self { _block: block, driver, doorbell, interrupt }
    }

    /// A read, a write, a flush, discarding, and a request that there isn't; `at` is where their data is.
    fn batch(&mut self, at: u64) {
        for (slot, kind) in [0u64, 1, 4, 11, 99].into_iter().enumerate() {
            let slot = slot as u64;
            let (header, status) = (HEADERS + 16 * slot, STATUS + slot);
            // Sector 8, also where it is the range that is discarded.
            self.driver.mem.write_obj([kind, 8], GuestAddress(header)).unwrap();
            self.driver.mem.write_obj([8u64, 8], GuestAddress(at + 0x2000)).unwrap();
            let data = match kind {
                0 => writable(at, 4096),
                11 => readable(at + 0x2000, 16),
                _ => readable(at + 0x1000, 4096),
            };
            self.driver.submit(&[readable(header, 16), data, writable(status, 1)]);
        }
        self.doorbell.write(1).unwrap();
        let mut done = 0;
        while done < BATCH {
            match self.driver.take_used() {
                Some(_) => done += 1,
                None => drop(self.interrupt.0.read().unwrap()),
            }
        }
        let statuses: [u8; 5] = self.driver.mem.read_obj(GuestAddress(STATUS)).unwrap();
        assert_eq!(statuses, [0, 0, 0, 0, 2]);
    }
}

#[test]
fn a_warm_disk_allocates_nothing() {
    let folder = skip::folder_on_disk();
    let path = folder.path().join("image");
    File::create(&path).unwrap();
    for engine in [EngineChoice::Sync, EngineChoice::IoUring] {
        for direct in [false, true] {
            let file = if direct {
                skip::open_direct(&path)
            } else {
                Some(File::options().read(true).write(true).open(&path).unwrap())
            };
            let Some(file) = file else { continue };
            let mut rig = Rig::new(file, engine, direct);
            // With an odd address, direct I/O goes through a buffer of ours.
            for at in [DATA, DATA + 1] {
                // Every head has been used then: five chains of three go round the sixteen descriptors.
                for _ in 0..100 {
                    rig.batch(at);
                }
                let before = ALLOCATIONS.load(Ordering::Relaxed);
                for _ in 0..500 {
                    rig.batch(at);
                }
                let made = ALLOCATIONS.load(Ordering::Relaxed) - before;
                assert_eq!(made, 0, "{engine:?}, direct {direct}, at {at:#x}");
            }
        }
    }
}
