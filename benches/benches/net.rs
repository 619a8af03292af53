// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! A network card on a datagram socket that plays a tap: frames in bursts, from the doorbell until they are at the other end,
//! and from there until the driver has them; beside plain `writev` and `readv` on such a socket.

use std::io::{IoSlice, IoSliceMut, Read, Write};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::sync::Arc;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use devices::virtio::mock::{MockDriver, ram, readable, writable};
use devices::virtio::net::{Backend, MacAddress, Net, NetOptions};
use devices::virtio::queue::{Queue, QueueState};
use devices::virtio::{DeviceInterrupt, Notifier, QueueResources, VirtioDevice, features};
use vm_memory::{Bytes, GuestAddress};
use vmm_sys_util::eventfd::EventFd;

const QUEUE_SIZE: u16 = 256;
const HEADER: u64 = 0x1_0000;
const FRAMES: u64 = 0x10_0000;
/// MRG_RXBUF: a buffer holds one frame, and none is taken twice.
const MRG_RXBUF: u64 = 1 << 15;
/// A Unix socket holds no more datagrams by default.
const BURST: u16 = 8;

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
    _net: Net,
    rx: MockDriver,
    tx: MockDriver,
    doorbells: [EventFd; 2],
    interrupt: Arc<Interrupt>,
    peer: UnixDatagram,
    bytes: Vec<u8>,
}

impl Rig {
    fn new() -> Self {
        let (peer, socket) = UnixDatagram::pair().expect("there are descriptors");
        let mac = MacAddress::new([0x52, 0x54, 0, 0x12, 0x34, 0x56]).expect("a card can have it");
        let backend = Backend::Datagram { socket, vnet_header: true };
        let mut net = Net::new("eth0", vec![backend], NetOptions::new(mac)).expect("it is a card");
        let mem = ram(16 << 20);
        let eventfd = || EventFd::new(libc::EFD_CLOEXEC).expect("there are descriptors");
        let interrupt = Arc::new(Interrupt(eventfd()));
        let notifier = Arc::new(Notifier::new(interrupt.clone()));
        let accepted = features::RING_EVENT_IDX | features::VERSION_1 | MRG_RXBUF;
        let mut start = |index: u16| {
            let driver = MockDriver::new(&mem, 0x1000 + 0x4000 * u64::from(index), QUEUE_SIZE);
            let doorbell = eventfd();
            let queue = Queue::new(driver.config, QUEUE_SIZE, accepted, QueueState::default(), mem.clone());
            let resources = QueueResources {
                queue: queue.expect("the mock driver sets it up well"),
                doorbell: doorbell.try_clone().expect("there are descriptors"),
                notifier: notifier.clone(),
            };
            net.start_queue(index, resources, accepted).expect("there are threads");
            (driver, doorbell)
        };
        let ((rx, rx_doorbell), (tx, tx_doorbell)) = (start(0), start(1));
        mem.write_slice(&[0; 12], GuestAddress(HEADER)).expect("it is in RAM");
        let doorbells = [rx_doorbell, tx_doorbell];
        Self { _net: net, rx, tx, doorbells, interrupt, peer, bytes: vec![0; 70_000] }
    }

    /// Sends a burst of frames, and waits until they are at the other end and completed.
    fn transmit(&mut self, len: u32) {
        self.tx.set_used_event(self.tx.used_index().wrapping_add(BURST - 1));
        for frame in 0..u64::from(BURST) {
            self.tx.submit(&[readable(HEADER, 12), readable(FRAMES + 0x1_0000 * frame, len)]);
        }
        self.doorbells[1].write(1).expect("the counter is not full");
        for _ in 0..BURST {
            let received = self.peer.recv(&mut self.bytes).expect("the card is there");
            assert_eq!(received, 12 + len as usize);
        }
        self.interrupt.0.read().expect("the eventfd is open");
        for _ in 0..BURST {
            self.tx.take_used().expect("all are done");
        }
    }

    /// Receives a burst of frames.
    fn receive(&mut self, len: u32) {
        self.rx.set_used_event(self.rx.used_index().wrapping_add(BURST - 1));
        for frame in 0..u64::from(BURST) {
            self.rx.submit(&[writable(FRAMES + 0x1_0000 * frame, 12 + len.max(1518))]);
        }
        self.doorbells[0].write(1).expect("the counter is not full");
        let bytes = &self.bytes[..12 + len as usize];
        for _ in 0..BURST {
            self.peer.send(bytes).expect("there is room");
        }
        self.interrupt.0.read().expect("the eventfd is open");
        for _ in 0..BURST {
            let (_, written) = self.rx.take_used().expect("all are done");
            assert_eq!(written, 12 + len);
        }
    }
}

/// Bursts of frames by `writev` and `readv` on one thread: what no card can be quicker than.
fn plain(ours: &mut UnixStream, theirs: &mut UnixStream, bytes: &mut [u8]) {
    for _ in 0..BURST {
        let (header, frame) = bytes.split_at(12);
        let sent = ours.write_vectored(&[IoSlice::new(header), IoSlice::new(frame)]).expect("there is room");
        let (header, frame) = bytes.split_at_mut(12);
        let mut parts = [IoSliceMut::new(header), IoSliceMut::new(frame)];
        assert_eq!(theirs.read_vectored(&mut parts).expect("it is there"), sent);
    }
}

fn frames(criterion: &mut Criterion) {
    for len in [60u32, 1514] {
        let mut group = criterion.benchmark_group(format!("net: {BURST} frames of {len} bytes"));
        group.throughput(Throughput::Elements(BURST.into()));
        let mut rig = Rig::new();
        group.bench_function("transmit", |bencher| bencher.iter(|| rig.transmit(len)));
        let mut rig = Rig::new();
        group.bench_function("receive", |bencher| bencher.iter(|| rig.receive(len)));
        let (mut ours, mut theirs) = UnixStream::pair().expect("there are descriptors");
        let mut bytes = vec![0; 12 + len as usize];
        group.bench_function("plain writev and readv", |bencher| {
            bencher.iter(|| plain(&mut ours, &mut theirs, &mut bytes));
        });
        group.finish();
    }
}

criterion_group!(benches, frames);
criterion_main!(benches);
