// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! A disk that is warm allocates nothing, whichever engine serves it and however a request ends.

#![expect(unsafe_code, reason = "an allocator that counts is an allocator")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::fs::File;
use std::sync::atomic::{AtomicU64, Ordering};

use devices::virtio::block::{Block, BlockOptions, EngineChoice};
use devices::virtio::mock::{readable, writable};
use running::Running;
use vm_memory::{Bytes, GuestAddress};

#[path = "running/mod.rs"]
mod running;

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

const BATCH: u64 = 5;
/// The most threads of a queue that wait for the disk.
const POOL: usize = 16;
const HEADERS: u64 = 0x4000;
const STATUS: u64 = 0x5000;
const DATA: u64 = 0x1_0000;

struct Rig(Running);

impl Rig {
    fn new(file: File, engine: EngineChoice, direct: bool) -> Self {
        file.set_len(1 << 20).unwrap();
        let mut options = BlockOptions::default();
        (options.engine, options.direct) = (engine, direct);
        let running = Running::new(Block::new("vda", file, options).unwrap(), 1 << 20);
        assert_eq!(running.capacity(), 2048);
        Self(running)
    }

    /// A read, a write, a flush, discarding, and a request that there isn't; `at` is where their data is.
    fn batch(&mut self, at: u64) {
        for (slot, kind) in [0u64, 1, 4, 11, 99].into_iter().enumerate() {
            let slot = slot as u64;
            let (header, status) = (HEADERS + 16 * slot, STATUS + slot);
            // Sector 8, also where it is the range that is discarded.
            self.0.driver.mem.write_obj([kind, 8], GuestAddress(header)).unwrap();
            self.0.driver.mem.write_obj([8u64, 8], GuestAddress(at + 0x2000)).unwrap();
            let data = match kind {
                0 => writable(at, 4096),
                11 => readable(at + 0x2000, 16),
                _ => readable(at + 0x1000, 4096),
            };
            self.0.driver.submit(&[readable(header, 16), data, writable(status, 1)]);
        }
        self.0.ring(BATCH);
        let statuses: [u8; 5] = self.0.driver.mem.read_obj(GuestAddress(STATUS)).unwrap();
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
                let mut round = || {
                    let before = ALLOCATIONS.load(Ordering::Relaxed);
                    for _ in 0..500 {
                        rig.batch(at);
                    }
                    ALLOCATIONS.load(Ordering::Relaxed) - before
                };
                if engine == EngineChoice::IoUring {
                    assert_eq!(round(), 0, "{engine:?}, direct {direct}, at {at:#x}");
                    continue;
                }
                // Threads that wait for the disk begin when they are needed, and each has a buffer of its own from when it
                // needs one: no more rounds than these can be about that. All others allocate nothing.
                let (mut clean, mut others) = (0, Vec::new());
                while clean < 3 {
                    match round() {
                        0 => clean += 1,
                        made => {
                            clean = 0;
                            others.push(made);
                        }
                    }
                    assert!(others.len() <= 2 * POOL, "{engine:?}, direct {direct}, at {at:#x}: {others:?}");
                }
            }
        }
    }
}
