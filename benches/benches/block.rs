// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! A block device on a file in memory: 4 KiB are read, from the doorbell to the interrupt.

use std::io::Write;
use std::sync::Arc;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use devices::virtio::block::{Block, BlockOptions};
use devices::virtio::mock::{MockDriver, ram, readable, writable};
use devices::virtio::queue::{Queue, QueueState};
use devices::virtio::{DeviceInterrupt, Notifier, QueueResources, VirtioDevice, features};
use vm_memory::{Bytes, GuestAddress};
use vmm_sys_util::eventfd::EventFd;

const QUEUE_SIZE: u16 = 256;
const HEADERS: u64 = 0x1_0000;
const STATUS: u64 = 0x2_0000;
const DATA: u64 = 0x10_0000;
const BLOCK: u32 = 4096;

/// The driver sleeps until it is interrupted, as a guest does.
#[derive(Debug)]
struct Interrupt(EventFd);

impl DeviceInterrupt for Interrupt {
    fn queue(&self, _: u16) {
        self.0.write(1).expect("the counter is not full");
    }

    fn config(&self) {}
}

struct Rig {
    _block: Block,
    driver: MockDriver,
    doorbell: EventFd,
    interrupt: Arc<Interrupt>,
}

impl Rig {
    fn new() -> Self {
        let mut file = tempfile::tempfile_in("/dev/shm").expect("/dev/shm is there");
        file.write_all(&vec![0x42; 1 << 20]).expect("there is memory");
        let mem = ram(4 << 20);
        // 256 headers of reads, one block after the other.
        for request in 0..256u64 {
            let sector = request * u64::from(BLOCK) / 512;
            let header = [0u64.to_le_bytes(), sector.to_le_bytes()].concat();
            mem.write_slice(&header, GuestAddress(HEADERS + 16 * request)).expect("it is in RAM");
        }
        let eventfd = || EventFd::new(libc::EFD_CLOEXEC).expect("there are descriptors");
        let (doorbell, interrupt) = (eventfd(), Arc::new(Interrupt(eventfd())));
        let driver = MockDriver::new(&mem, 0x1000, QUEUE_SIZE);
        let accepted = features::RING_EVENT_IDX | features::VERSION_1;
        let queue = Queue::new(driver.config, QUEUE_SIZE, accepted, QueueState::default(), mem);
        let resources = QueueResources {
            queue: queue.expect("the mock driver sets it up well"),
            doorbell: doorbell.try_clone().expect("there are descriptors"),
            notifier: Arc::new(Notifier::new(interrupt.clone())),
        };
        let mut block = Block::new("vda", file, BlockOptions::default()).expect("the file is a disk");
        block.start_queue(0, resources, accepted).expect("there are threads");
        Self { _block: block, driver, doorbell, interrupt }
    }

    /// Reads `depth` blocks with one doorbell and one interrupt.
    fn read(&mut self, depth: u16) {
        // EVENT_IDX: the interrupt is wanted for the last one.
        self.driver.set_used_event(self.driver.used_index().wrapping_add(depth - 1));
        for request in 0..u64::from(depth) {
            self.driver.submit(&[
                readable(HEADERS + 16 * request, 16),
                writable(DATA + u64::from(BLOCK) * request, BLOCK),
                writable(STATUS + request, 1),
            ]);
        }
        self.doorbell.write(1).expect("the counter is not full");
        self.interrupt.0.read().expect("the eventfd is open");
        for _ in 0..depth {
            let (_, written) = self.driver.take_used().expect("all are done");
            assert_eq!(written, BLOCK + 1);
        }
    }
}

fn read(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("block: read 4 KiB");
    for depth in [1u16, 64] {
        group.throughput(Throughput::Bytes(u64::from(depth) * u64::from(BLOCK)));
        let mut rig = Rig::new();
        group.bench_function(format!("{depth} at a time"), |bencher| bencher.iter(|| rig.read(depth)));
    }
    group.finish();
}

criterion_group!(benches, read);
criterion_main!(benches);
