// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! However often a guest lies and resets, and whatever it asks for, the log doesn't grow with it.

use std::sync::atomic::{AtomicU64, Ordering};

use devices::bus::BusDevice;
use devices::virtio::block::{Block, BlockOptions, EngineChoice};
use devices::virtio::mock::{MockDriver, ram, readable, writable};
use devices::virtio::transport::mmio::MmioTransport;
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};
use vm_memory::{Bytes, GuestAddress};
use vmm_sys_util::eventfd::EventFd;

static LINES: AtomicU64 = AtomicU64::new(0);

/// Counts what would be logged.
struct Counter;

impl Subscriber for Counter {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() <= tracing::Level::DEBUG
    }
    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }
    fn record(&self, _: &Id, _: &Record<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn event(&self, _: &Event<'_>) {
        LINES.fetch_add(1, Ordering::Relaxed);
    }
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}
}

#[test]
fn thousands_of_lies_and_resets_make_a_line_for_every_doubling() {
    const TURNS: u64 = 2000;
    tracing::subscriber::set_global_default(Counter).unwrap();
    for engine in [EngineChoice::Sync, EngineChoice::IoUring] {
        LINES.store(0, Ordering::Relaxed);
        let file = tempfile::tempfile().unwrap();
        file.set_len(4096).unwrap();
        let (mem, line) = (ram(1 << 20), EventFd::new(0).unwrap());
        let mut options = BlockOptions::default();
        options.engine = engine;
        let block = Block::new("vda", file.try_clone().unwrap(), options).unwrap();
        // What the guest is told that there is isn't there any more.
        file.set_len(0).unwrap();
        let raised = Box::new(line.try_clone().unwrap());
        let transport = MmioTransport::new(Box::new(block), mem.clone(), raised).unwrap();
        let write = |register: u64, value: u64| transport.write(register, &(value as u32).to_le_bytes());
        for _ in 0..TURNS {
            let mut driver = MockDriver::new(&mem, 0x1000, 8);
            mem.write_slice(&[0; 0x1000], GuestAddress(0x1000)).unwrap();
            let config = driver.config;
            for (register, value) in [
                (0x70, 0),
                (0x70, 1),
                (0x70, 3),
                (0x24, 1),
                (0x20, 1),
                (0x70, 11),
                (0x38, 8),
                (0x80, config.descriptor_table),
                (0x90, config.avail_ring),
                (0xa0, config.used_ring),
                (0x44, 1),
                (0x70, 15),
                // Not allowed any more.
                (0x38, 4),
            ] {
                write(register, value);
            }
            // A read that the host fails, a chain that is none, and an index that jumps.
            mem.write_slice(&[0; 16], GuestAddress(0x4000)).unwrap();
            driver.submit(&[readable(0x4000, 16), writable(0x8000, 512), writable(0x5000, 1)]);
            driver.submit(&[readable(u64::MAX, 16)]);
            write(0x50, 0);
            while driver.used_index() < 2 {
                line.read().unwrap();
            }
            driver.set_avail_index(0x8000);
            write(0x50, 0);
            let mut status = [0; 4];
            while status[0] & 0x40 == 0 {
                line.read().unwrap();
                transport.read(0x70, &mut status);
            }
        }
        // Three kinds of lines, each at the 1st, 2nd, 4th… of a few thousand times.
        let lines = LINES.load(Ordering::Relaxed);
        assert!((3..=3 * 13).contains(&lines), "{lines} lines of {engine:?}");
    }
}
