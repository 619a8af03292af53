// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Backends that use what they are given against us: eventfds, and our patience.

use std::io::{Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::channel;
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use vm_memory::{FileOffset, GuestAddress, GuestRegionMmap, MmapRegion};
use vmm_sys_util::eventfd::EventFd;

use super::card::Card;
use super::lent::{Lent, Vhost};
use super::machine::{Machine, frame, options};
use super::pair::Role;
use super::port::Loss;
use super::ring::Ring;
use super::spec;
use super::user::{UserNet, Watcher};
use super::user_tests::*;
use crate::GuestRam;
use crate::virtio::device::QueueResources;
use crate::virtio::features;
use crate::virtio::notifier::{DeviceInterrupt, Notifier};
use crate::virtio::queue::{Queue, QueueConfig, QueueState};
use crate::virtio::vhost::PATIENCE;

/// Without those of the protocol.
const FEATURES: u64 = ALL & !(1 << 30);

/// Answers as one that works off nothing.
fn idle(code: u32, body: &[u8]) -> Does {
    match code {
        GET_FEATURES => answer(code, &FEATURES.to_ne_bytes()),
        GET_VRING_BASE => answer(code, &[&body[..4], &[0; 4]].concat()),
        _ => Does::Nothing,
    }
}

#[test]
fn a_backend_that_fills_the_doorbells_keeps_nobody_waiting() {
    for bus in BUSES {
        let (peers, _wires) = wires(1);
        let fills = odd_with_files(|code, body, file| {
            if code == SET_VRING_KICK {
                let kick = file.unwrap();
                // The most that there can be, and one more write would wait for somebody to read.
                (&kick).write_all(&(u64::MAX - 1).to_ne_bytes()).unwrap();
            }
            idle(code, body)
        });
        let (backend, _next) = backend(fills, 1);
        let machine = Machine::with_user(bus, peers, backend);
        let card = &machine.card;
        for _ in 0..3 {
            let mut drivers = card.drivers(spec::F_CTRL_VQ);
            card.settles(0);
            for queue in [0, 1] {
                card.ring(queue);
            }
            card.stop();
            card.resume();
            card.control.set_link(false);
            let head = card.offer(&mut drivers, &frame(60));
            assert_eq!(card.serve(1, drivers.tx()), Some((head.into(), 0)));
            card.control.set_link(true);
            card.ring(1);
            assert!(!card.needs_reset());
            card.reset();
        }
    }
}

#[test]
fn what_is_served_here_is_served_though_a_backend_eats_the_doorbells() {
    for bus in BUSES {
        let (peers, _wires) = wires(1);
        let (backend, _next) = backend(odd(idle), 1);
        let machine = Machine::with_user(bus, peers, backend);
        let card = &machine.card;
        let mut drivers = card.drivers(spec::F_CTRL_VQ);
        card.settles(0);
        card.control.set_link(false);
        for _ in 0..3 {
            card.settles(0);
            // One that is eaten is as one that isn't rung.
            let head = card.offer(&mut drivers, &frame(60));
            assert_eq!(card.wait_used(drivers.tx()), Some((head.into(), 0)));
        }
        assert!(!card.needs_reset());
    }
}

#[test]
fn a_backend_that_has_doorbells_wait_and_fills_them_is_not_waited_for() {
    for bus in BUSES {
        let (peers, _wires) = wires(1);
        let (filled, fills) = channel();
        let waits = odd_with_files(move |code, body, file| {
            if code == SET_VRING_KICK {
                let (mut kick, filled) = (file.unwrap(), filled.clone());
                // That of a loan comes first, and what is done to it at that moment isn't prevented.
                while kick.read(&mut [0; 8]).is_err() {}
                fcntl_setfl(&kick, fcntl_getfl(&kick).unwrap() & !OFlags::NONBLOCK).unwrap();
                kick.write_all(&(u64::MAX - 1).to_ne_bytes()).unwrap();
                filled.send(()).unwrap();
            }
            idle(code, body)
        });
        let (backend, _next) = backend(waits, 1);
        let machine = Machine::with_user(bus, peers, backend);
        let card = &machine.card;
        let _drivers = card.drivers(spec::F_CTRL_VQ);
        for queue in [0, 1] {
            fills.recv().unwrap();
            card.ring(queue);
        }
        card.ring(0);
        card.reset();
        assert_eq!(card.status(), 0);
    }
}

#[test]
fn a_backend_that_is_slow_with_each_ring_is_not_waited_for_by_the_number_of_rings() {
    const PAIRS: u16 = 2;
    for bus in BUSES {
        let (peers, _wires) = wires(PAIRS.into());
        let stops = Arc::new(AtomicU32::new(0));
        let seen = stops.clone();
        let slow = odd(move |code, body| match code {
            GET_FEATURES => answer(code, &ALL.to_ne_bytes()),
            15 => answer(code, &1u64.to_ne_bytes()),
            17 => answer(code, &u64::from(PAIRS).to_ne_bytes()),
            GET_VRING_BASE => {
                // Each of the four in time.
                seen.fetch_add(1, Ordering::Relaxed);
                thread::sleep(PATIENCE * 19 / 20);
                idle(code, body)
            }
            _ => Does::Nothing,
        });
        let (backend, _next) = backend(slow, PAIRS);
        let machine = Machine::with_user(bus, peers, backend);
        let card = &machine.card;
        let mut drivers = card.drivers(card.features);
        assert_eq!(card.command(&mut drivers, &[4, 0, PAIRS as u8, 0]), spec::CTRL_OK);
        (0..PAIRS).for_each(|pair| card.settles(pair.into()));
        card.reset();
        assert_eq!(card.status(), 0);
        let stops = stops.load(Ordering::Relaxed);
        assert!((1..4).contains(&stops), "{stops} rings were waited for");
    }
}

#[derive(Debug)]
struct Nobody;

impl DeviceInterrupt for Nobody {
    fn queue(&self, _: u16) {}
    fn config(&self) {}
}

#[test]
fn a_ring_that_one_backend_had_is_none_of_the_next_ones() {
    let (asked, questions) = channel();
    let next = odd(move |code, body| {
        if code == GET_VRING_BASE {
            asked.send(()).unwrap();
        }
        idle(code, body)
    });
    let user = Arc::new(UserNet::new(odd(idle), 1).unwrap());
    let ((give, get), (tried, _tries)) = (channel(), channel());
    let mut watcher = Watcher::new(user.clone(), Some(Box::new(Again(get, tried)))).unwrap();
    let card = Arc::new(Card::new("eth0".into(), options(), 1, None, 0, None).unwrap());
    let mut vhost = Vhost::User(user.clone());
    let mut lend = || {
        let file = FileOffset::new(tempfile::tempfile().unwrap(), 0);
        file.file().set_len(1 << 20).unwrap();
        let mapping = MmapRegion::from_file(file, 1 << 20).unwrap();
        let mem = GuestRam::from_regions(vec![GuestRegionMmap::new(mapping, GuestAddress(0)).unwrap()]).unwrap();
        let config = QueueConfig { size: 8, descriptor_table: 0x1000, avail_ring: 0x2000, used_ring: 0x3000 };
        let queue = Queue::new(config, 8, features::VERSION_1, QueueState::default(), mem).unwrap();
        let doorbell = EventFd::new(libc::EFD_CLOEXEC).unwrap();
        let resources = QueueResources { queue, doorbell, notifier: Arc::new(Notifier::new(Arc::new(Nobody))) };
        let ring = Ring::new(0, 0, resources, features::VERSION_1, card.clone(), Arc::default());
        Lent::new(Role::Receive, ring, &mut vhost, card.wake_of(0).unwrap()).unwrap()
    };
    let of_first = lend();
    give.send(next).unwrap();
    watcher.lose(&Loss::Closed, &card, Instant::now());
    watcher.maintain(&card, Instant::now() + Duration::from_secs(60));
    let of_next = lend();
    assert_eq!([&of_first, &of_next].map(|lent| lent.is_others(Some(&vhost))), [true, false]);
    // It isn't asked, and is there for others.
    assert!(of_first.take_back(Some(&mut vhost)).is_err(), "the first one hasn't closed");
    assert!(questions.try_recv().is_err() && card.link() && !user.is_gone());
    of_next.take_back(Some(&mut vhost)).unwrap();
    assert!(questions.try_recv().is_ok() && card.link());
}
