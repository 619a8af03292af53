// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! A network card that is warm allocates nothing for a frame, whichever way it goes and however it ends.

#![expect(unsafe_code, reason = "an allocator that counts is an allocator")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::io::{Read, Write};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use devices::virtio::mock::{MockDriver, ram, readable, writable};
use devices::virtio::net::{Antispoof, Backend, MacAddress, Net, NetOptions};
use devices::virtio::queue::{Queue, QueueState};
use devices::virtio::{DeviceInterrupt, Notifier, QueueResources, VirtioDevice};
use vm_memory::{Bytes, GuestAddress};
use vmm_sys_util::eventfd::EventFd;

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

const MAC: [u8; 6] = [0x52, 0x54, 0, 0x12, 0x34, 0x56];
const FRAME: u64 = 0x8000;
const SHORT: u64 = 0x9000;
const BUFFER: u64 = 0x1_0000;
const LEN: usize = 1000;
/// A frame may be spread over several buffers; none is a large one.
const MRG_RXBUF: u64 = 1 << 15;

#[derive(Debug)]
struct Interrupt(EventFd);

impl DeviceInterrupt for Interrupt {
    fn queue(&self, _: u16) {
        self.0.write(1).unwrap();
    }
    fn config(&self) {}
}

enum Peer {
    Tap(UnixDatagram),
    Stream(UnixStream),
}

impl Peer {
    /// Takes a frame and gives one back.
    fn turn(&mut self, bytes: &mut [u8]) {
        match self {
            Self::Tap(socket) => {
                assert_eq!(socket.recv(bytes).unwrap(), 12 + LEN);
                socket.send(&bytes[..12 + LEN]).unwrap();
            }
            Self::Stream(socket) => {
                socket.read_exact(&mut bytes[..4 + LEN]).unwrap();
                socket.write_all(&bytes[..4 + LEN]).unwrap();
            }
        }
    }
}

#[test]
fn a_warm_card_allocates_nothing() {
    for (is_stream, guarded) in [(false, false), (false, true), (true, false), (true, true)] {
        let (mut peer, backend) = if is_stream {
            let (ours, theirs) = UnixStream::pair().unwrap();
            (Peer::Stream(ours), Backend::Stream { socket: theirs, reconnect: None })
        } else {
            let (ours, theirs) = UnixDatagram::pair().unwrap();
            (Peer::Tap(ours), Backend::Datagram { socket: theirs, vnet_header: true })
        };
        let mut options = NetOptions::new(MacAddress::new(MAC).unwrap());
        options.antispoof = guarded.then(Antispoof::default);
        let mut net = Net::new("eth0", vec![backend], options).unwrap();
        let mem = ram(1 << 20);
        // A kind of frame that is for experiments (IEEE 802).
        let beginning = [&[0; 12 + 6], MAC.as_slice(), &[0x88, 0xb5]].concat();
        mem.write_slice(&beginning, GuestAddress(FRAME)).unwrap();
        let interrupt = Arc::new(Interrupt(EventFd::new(0).unwrap()));
        let notifier = Arc::new(Notifier::new(interrupt.clone()));
        let mut queues: Vec<(MockDriver, EventFd)> = Vec::new();
        for index in 0..2u16 {
            let driver = MockDriver::new(&mem, 0x1000 * u64::from(index + 1), 16);
            let doorbell = EventFd::new(0).unwrap();
            let queue = Queue::new(driver.config, 256, 0, QueueState::default(), mem.clone()).unwrap();
            let resources =
                QueueResources { queue, doorbell: doorbell.try_clone().unwrap(), notifier: notifier.clone() };
            net.start_queue(index, resources, MRG_RXBUF).unwrap();
            queues.push((driver, doorbell));
        }
        let [(rx, rx_bell), (tx, tx_bell)] = queues.as_mut_slice() else { unreachable!() };
        let mut bytes = vec![0; 4096];
        let mut turn = || {
            // A frame that goes out and comes back, over two buffers, and one that is none.
            for at in [0, 0x1000] {
                rx.submit(&[writable(BUFFER + at, 800)]);
            }
            rx_bell.write(1).unwrap();
            tx.submit(&[readable(SHORT, 20)]);
            tx.submit(&[readable(FRAME, 500), readable(FRAME + 500, 12 + LEN as u32 - 500)]);
            tx_bell.write(1).unwrap();
            peer.turn(&mut bytes);
            let mut done = 0;
            while done < 4 {
                let used = [rx.take_used(), tx.take_used()];
                done += used.iter().flatten().count();
                if used == [None, None] {
                    interrupt.0.read().unwrap();
                }
            }
        };
        (0..100).for_each(|_| turn());
        let before = ALLOCATIONS.load(Ordering::Relaxed);
        (0..500).for_each(|_| turn());
        let made = ALLOCATIONS.load(Ordering::Relaxed) - before;
        assert_eq!(made, 0, "stream {is_stream}, guarded {guarded}");
    }
}
