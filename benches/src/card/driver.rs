// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Two cards, and a driver that gives what one of them has received to the other to send: in the buffer where it is, as a guest
//! does that forwards.

use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};

use anyhow::{Context, Result};
use devices::GuestRam;
use devices::virtio::mock::{MockDriver, WRITE, ram};
use devices::virtio::net::{Backend, MacAddress, Net, NetOptions};
use devices::virtio::queue::{Queue, QueueState};
use devices::virtio::{DeviceInterrupt, Notifier, QueueResources, VirtioDevice, features};
use vm_memory::{Bytes, GuestAddress};
use vmm_sys_util::eventfd::EventFd;

use super::{End, Taken};
use crate::sys::{self, CpuClock};

/// Descriptors of a queue, and buffers of a direction.
const SIZE: u16 = 256;
/// Bytes of a queue's rings.
const RINGS: u64 = 0x4000;
/// Where the buffers begin.
const BUFFERS: u64 = 0x10_0000;
/// Of one buffer: a frame that is to be segmented, its header, and the header in front.
const ROOM: u32 = 68 << 10;
/// CSUM, GUEST_CSUM, TSO4, TSO6 and ECN both ways, as the plain loop has it, and MRG_RXBUF (virtio 1.3 §5.1.3).
const ACCEPTED: u64 = 0x3b83 | 1 << 15 | features::RING_EVENT_IDX | features::VERSION_1;
/// Header flag: the checksum was looked at and is right. No driver says that of what it sends.
const DATA_VALID: u8 = 2;

/// Wakes the driver.
#[derive(Debug)]
struct Interrupt(EventFd);

impl DeviceInterrupt for Interrupt {
    fn queue(&self, _: u16) {
        self.0.write(1).expect("the counter is not full");
    }

    fn config(&self) {}
}

/// A queue, and how far the driver has come.
struct Ring {
    ring: MockDriver,
    doorbell: EventFd,
    /// The available index at the last doorbell.
    rung: u16,
    /// Chains that were taken back.
    seen: u16,
}

impl Ring {
    /// The next chain that came back.
    fn take(&mut self) -> Option<(u16, u32)> {
        let (head, written) = self.ring.take_used()?;
        self.seen = self.seen.wrapping_add(1);
        Some((u16::try_from(head).expect("the device gives back what it got"), written))
    }

    /// EVENT_IDX: a doorbell is wanted when the index that the device names is among those just offered.
    fn ring(&mut self) -> Result<()> {
        fence(Ordering::SeqCst);
        let now = self.ring.avail_index();
        if now.wrapping_sub(self.ring.avail_event()).wrapping_sub(1) < now.wrapping_sub(self.rung) {
            self.doorbell.write(1).context("can't ring a doorbell")?;
        }
        self.rung = now;
        Ok(())
    }
}

struct Card {
    /// Its threads end with it.
    _net: Net,
    rx: Ring,
    tx: Ring,
}

impl Card {
    fn new(number: u8, tap: File, mem: &GuestRam, wake: &EventFd) -> Result<Self> {
        let mac = MacAddress::new([0x52, 0x54, 0, 0, 0, number])?;
        let backend = Backend::Tap { file: tap, vnet_header: true };
        let mut net = Net::new(format!("bench{number}"), vec![backend], NetOptions::new(mac))?;
        let notifier = Arc::new(Notifier::new(Arc::new(Interrupt(wake.try_clone()?))));
        let mut start = |index: u16| -> Result<Ring> {
            let base = RINGS * (1 + 2 * u64::from(number) + u64::from(index));
            let ring = MockDriver::new(mem, base, SIZE);
            let queue = Queue::new(ring.config, SIZE, ACCEPTED, QueueState::default(), mem.clone())?;
            let doorbell = EventFd::new(libc::EFD_CLOEXEC)?;
            let resources = QueueResources { queue, doorbell: doorbell.try_clone()?, notifier: notifier.clone() };
            net.start_queue(index, resources, ACCEPTED)?;
            Ok(Ring { ring, doorbell, rung: 0, seen: 0 })
        };
        let (rx, tx) = (start(0)?, start(1)?);
        Ok(Self { _net: net, rx, tx })
    }

    /// Gives it buffers of its own for what it receives.
    fn fill(&mut self, number: u8) -> Result<()> {
        for head in 0..SIZE {
            self.rx.ring.descriptor(head, buffer(number, head), ROOM, WRITE, 0);
            self.rx.ring.offer(head);
        }
        self.rx.ring()
    }
}

/// A buffer that a card receives into, and the other one sends from.
fn buffer(number: u8, head: u16) -> u64 {
    BUFFERS + u64::from(ROOM) * (u64::from(SIZE) * u64::from(number) + u64::from(head))
}

pub(super) fn pass(taps: [File; 2], end: &End) -> Taken {
    let mem = ram(usize::try_from(buffer(2, 0))?);
    let wake = EventFd::new(libc::EFD_NONBLOCK)?;
    let (all, driver) = (sys::cpu_time(CpuClock::Process), sys::cpu_time(CpuClock::Thread));
    let [near, far] = taps;
    let mut cards = [Card::new(0, near, &mem, &wake)?, Card::new(1, far, &mem, &wake)?];
    cards[0].fill(0)?;
    cards[1].fill(1)?;
    while !end.is_wanted() {
        let [near, far] = &mut cards;
        let there = pass_on(0, &mut near.rx, &mut far.tx, &mem)?;
        let back = pass_on(1, &mut far.rx, &mut near.tx, &mem)?;
        if !there && !back && !interrupts_are_due(&cards) {
            sys::wait_for_any([sys::fd_of(&wake), sys::fd_of(&end.wake)]).context("can't wait for cards")?;
            // Nothing is there when it was the other one.
            let _ = wake.read();
        }
    }
    let driver = sys::cpu_time(CpuClock::Thread) - driver;
    Ok((sys::cpu_time(CpuClock::Process) - all).saturating_sub(driver))
}

/// Whether there was anything to do.
fn pass_on(number: u8, rx: &mut Ring, tx: &mut Ring, mem: &GuestRam) -> Result<bool> {
    let (mut received, mut sent) = (false, false);
    while let Some((head, written)) = rx.take() {
        let at = buffer(number, head);
        let flags: u8 = mem.read_obj(GuestAddress(at))?;
        mem.write_obj(flags & !DATA_VALID, GuestAddress(at))?;
        tx.ring.descriptor(head, at, written, 0, 0);
        tx.ring.offer(head);
        received = true;
    }
    if received {
        tx.ring()?;
    }
    while let Some((head, _)) = tx.take() {
        rx.ring.offer(head);
        sent = true;
    }
    if sent {
        rx.ring()?;
    }
    Ok(received || sent)
}

/// Asks for interrupts; whether something has come back by then, so that none may come.
fn interrupts_are_due(cards: &[Card; 2]) -> bool {
    let rings = || cards.iter().flat_map(|card| [&card.rx, &card.tx]);
    rings().for_each(|ring| ring.ring.set_used_event(ring.seen));
    fence(Ordering::SeqCst);
    rings().any(|ring| ring.ring.used_index() != ring.seen)
}
