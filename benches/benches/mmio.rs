// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! An access of a vCPU to MMIO, on a bus of 40 devices.

use std::hint::black_box;
use std::io::Write;
use std::sync::Arc;

use arch::layout::{VIRTIO_MMIO_SIZE, VIRTIO_MMIO_START};
use criterion::{Criterion, criterion_group, criterion_main};
use devices::bus::Bus;
use devices::virtio::block::{Block, BlockOptions};
use devices::virtio::mock::ram;
use devices::virtio::transport::mmio::MmioTransport;
use vmm_sys_util::eventfd::EventFd;

const DEVICES: u64 = 40;

/// Registers of virtio-mmio (virtio 1.3 §4.2.2).
const INTERRUPT_STATUS: u64 = 0x60;
const STATUS: u64 = 0x70;
const CAPACITY: u64 = 0x100;

fn bus() -> Bus {
    let mem = ram(1 << 20);
    let mut bus = Bus::new();
    for index in 0..DEVICES {
        let mut file = tempfile::tempfile_in("/dev/shm").expect("/dev/shm is there");
        file.write_all(&[0; 512]).expect("there is memory");
        let block = Block::new("vda", file, BlockOptions::default()).expect("the file is a disk");
        let line = EventFd::new(libc::EFD_CLOEXEC).expect("there are descriptors");
        let device = MmioTransport::new(Box::new(block), mem.clone(), Box::new(line)).expect("there are descriptors");
        bus.insert(base(index), VIRTIO_MMIO_SIZE, Arc::new(device)).expect("the ranges are apart");
    }
    bus
}

fn base(index: u64) -> u64 {
    VIRTIO_MMIO_START + index * VIRTIO_MMIO_SIZE
}

fn dispatch(criterion: &mut Criterion) {
    let bus = bus();
    let mut group = criterion.benchmark_group("mmio: 40 devices");
    let mut data = [0; 4];
    for (name, address) in [
        ("read the interrupt status of the first", base(0) + INTERRUPT_STATUS),
        ("read the interrupt status of the last", base(DEVICES - 1) + INTERRUPT_STATUS),
        ("read the status of the last", base(DEVICES - 1) + STATUS),
        ("read the configuration of the last", base(DEVICES - 1) + CAPACITY),
        ("read what nobody answers", base(DEVICES)),
    ] {
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                bus.read(black_box(address), &mut data);
                black_box(data)
            });
        });
    }
    group.finish();
}

criterion_group!(benches, dispatch);
criterion_main!(benches);
