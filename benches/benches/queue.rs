// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! A virtqueue as its worker sees it: a chain is taken, read, and given back.

use std::hint::black_box;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use devices::virtio::chain::Chain;
use devices::virtio::features::RING_EVENT_IDX;
use devices::virtio::mock::{Buffer, MockDriver, ram, readable, writable};
use devices::virtio::queue::{Queue, QueueState};

const SIZE: u16 = 256;

/// What a block request is made of: header, data, status.
fn request() -> [Buffer; 3] {
    [readable(0x10_0000, 16), writable(0x11_0000, 4096), writable(0x12_0000, 1)]
}

/// The chains of `buffers` that fill a queue, and the device's end of it.
fn full_queue(mem: &devices::GuestRam, buffers: &[Buffer]) -> (Queue, u64) {
    let mut driver = MockDriver::new(mem, 0x1000, SIZE);
    let chains = SIZE / buffers.len() as u16;
    driver.set_avail_index(0);
    for _ in 0..chains {
        driver.submit(buffers);
    }
    let queue = Queue::new(driver.config, SIZE, RING_EVENT_IDX, QueueState::default(), mem.clone());
    (queue.expect("the mock driver sets it up well"), chains.into())
}

fn pop_and_complete(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("queue: pop and complete");
    let mem = ram(2 << 20);
    for (name, buffers) in [("1 descriptor", &request()[1..2]), ("3 descriptors", &request()[..])] {
        let (_, chains) = full_queue(&mem, buffers);
        group.throughput(Throughput::Elements(chains));
        group.bench_function(name, |bencher| {
            let mut chain = Chain::with_capacity(SIZE);
            bencher.iter_batched_ref(
                || full_queue(&mem, buffers).0,
                |queue| {
                    while let Some((head, usable)) = queue.pop(&mut chain).expect("the ring is sound") {
                        usable.expect("the chain is sound");
                        queue.complete(head, black_box(&chain).writable_len()).expect("the head is in flight");
                        black_box(queue.needs_notification().expect("the ring is sound"));
                    }
                },
                BatchSize::PerIteration,
            );
        });
    }
    group.finish();
}

criterion_group!(benches, pop_and_complete);
criterion_main!(benches);
