// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! A card whose rings another process works off: one that does what it should, and ones that don't.

use std::fs::File;
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use vmm_sys_util::sock_ctrl_msg::ScmSocket;

use super::machine::{BUFFER, Bus, Drivers, HEADER, Machine, Peer, Seat, frame, options};
use super::{Antispoof, Backend, Net, NetError, NetOptions, Reconnect, spec};
use crate::virtio::VirtioDevice;
use crate::virtio::features;
use crate::virtio::queue::QueueState;
use crate::virtio::transport::pci::mock::QUEUE_VECTOR;
use crate::virtio::vhost::PATIENCE;

#[path = "../../../tests/vhost_user/mod.rs"]
mod bridge;
use bridge::{FEATURES, MQ, PROTOCOL_FEATURES};

pub(super) const ALL: u64 = FEATURES | PROTOCOL_FEATURES;
pub(super) const BUSES: [Bus; 2] = [Bus::Mmio, Bus::Pci];

#[derive(Debug)]
pub(super) struct Again(pub(super) Receiver<UnixStream>, pub(super) Sender<()>);

impl Reconnect for Again {
    fn try_connect(&mut self) -> io::Result<UnixStream> {
        let _ = self.1.send(());
        self.0.try_recv().map_err(|_| io::ErrorKind::ConnectionRefused.into())
    }
}

/// Where the next backend is given, and told that one is asked for.
pub(super) struct Next(Sender<UnixStream>, Receiver<()>);

pub(super) fn backend(socket: UnixStream, pairs: u16) -> (Backend, Next) {
    let ((give, get), (tried, tries)) = (channel(), channel());
    (Backend::VhostUser { socket, reconnect: Some(Box::new(Again(get, tried))), pairs }, Next(give, tries))
}

pub(super) fn wires(count: usize) -> (Vec<Peer>, Vec<File>) {
    let pair = |_| {
        let (ours, theirs) = UnixDatagram::pair().unwrap();
        (Peer::Tap(ours), File::from(OwnedFd::from(theirs)))
    };
    (0..count).map(pair).unzip()
}

/// A backend that does what it should: the card's end of its socket, and its own.
fn good(wires: Vec<File>, features: u64, protocol: u64) -> (UnixStream, UnixStream) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let end = theirs.try_clone().unwrap();
    bridge::serve(theirs, wires, features, protocol);
    (ours, end)
}

/// A card on such a one.
fn machine(bus: Bus, pairs: u16, features: u64, protocol: u64) -> (Machine, UnixStream, Next) {
    let (peers, wires) = wires(pairs.into());
    let (socket, end) = good(wires, features, protocol);
    let (backend, next) = backend(socket, pairs);
    (Machine::with_user(bus, peers, backend), end, next)
}

fn transmits(card: &Seat, drivers: &mut Drivers, pair: usize) {
    let sent = frame(60 + pair);
    card.put(HEADER, &[0; 12]);
    card.put(super::machine::FRAME, &sent);
    let chain = [card.readable(HEADER, 12), card.readable(super::machine::FRAME, sent.len())];
    let queue = &mut drivers.queues[2 * pair + 1];
    let head = queue.submit(&chain);
    assert_eq!(card.serve(2 * pair as u32 + 1, queue), Some((head.into(), 0)));
    assert_eq!(card.peers[pair].receive(), ([0; 12], sent));
}

fn passes(card: &Seat, drivers: &mut Drivers) {
    transmits(card, drivers, 0);
    card.comes_in(drivers, &frame(100));
}

fn wait_for_link(card: &Seat, up: bool) {
    while card.control.link() != up {
        card.wait_interrupt();
    }
}

#[test]
fn another_process_moves_frames_both_ways() {
    for bus in BUSES {
        for (features, protocol) in [(FEATURES, 0), (ALL, 0), (ALL, MQ), (1 << 32 | 1 << 28, 0)] {
            let (machine, _end, _next) = machine(bus, 1, features, protocol);
            machine.neighbour_begins();
            let card = &machine.card;
            let mut drivers = card.drivers(card.features);
            for _ in 0..40 {
                passes(card, &mut drivers);
            }
            assert!(!card.needs_reset());
            assert_eq!([0, 1].map(|queue| card.counters(queue).frames), [0; 2], "they are not counted");
            card.settles(0);
            machine.neighbour_works();
            // A new driver begins from nothing.
            let mut drivers = card.drivers(0);
            passes(card, &mut drivers);
        }
    }
}

#[test]
fn each_pair_is_used_as_the_driver_says() {
    for bus in BUSES {
        let (machine, _end, _next) = machine(bus, 2, ALL, MQ);
        let card = &machine.card;
        let mut drivers = card.drivers(card.features);
        passes(card, &mut drivers);
        // A pair that isn't used gives back what it gets, and sends none of it.
        let head = drivers.queues[3].submit(&[card.readable(HEADER, 12), card.readable(HEADER, 60)]);
        assert_eq!(card.serve(3, &mut drivers.queues[3]), Some((head.into(), 0)));
        assert!(card.peers[1].is_silent());
        for _ in 0..3 {
            assert_eq!(card.command(&mut drivers, &[4, 0, 2, 0]), spec::CTRL_OK);
            transmits(card, &mut drivers, 1);
            assert_eq!(card.command(&mut drivers, &[4, 0, 1, 0]), spec::CTRL_OK);
            passes(card, &mut drivers);
        }
        assert_eq!(card.counters(3).drops.link_down, 1);
    }
}

#[test]
fn a_ring_goes_on_where_it_was_stopped() {
    for bus in BUSES {
        let (machine, _end, _next) = machine(bus, 1, ALL, MQ);
        let card = &machine.card;
        let mut drivers = card.drivers(spec::F_CTRL_VQ);
        for round in 1..20 {
            passes(card, &mut drivers);
            let states = card.stop();
            let state = QueueState { next_avail: round, next_used: round, in_flight: vec![] };
            assert_eq!([0, 1].map(|queue| states[queue].1.clone()), [Some(state.clone()), Some(state)]);
            // Nothing is touched before it goes on.
            let head = card.offer(&mut drivers, &frame(77));
            card.peers[0].send(&frame(60));
            assert!(drivers.tx().take_used().is_none() && card.peers[0].is_silent());
            drivers.rx().submit(&[card.writable(BUFFER, 2000)]);
            card.resume();
            assert_eq!(card.wait_used(drivers.tx()), Some((head.into(), 0)));
            assert_eq!(card.peers[0].receive().1, frame(77));
            assert_eq!(card.wait_used(drivers.rx()).unwrap().1, 72);
            // The first one of the next round is the second one here.
            let _ = card.stop();
            card.reset();
            drivers = card.waiting_drivers(spec::F_CTRL_VQ | features::RING_INDIRECT_DESC);
            card.resume();
            card.driver_ok();
            for _ in 0..round {
                passes(card, &mut drivers);
            }
        }
    }
}

#[test]
fn a_link_that_its_owner_puts_down_passes_nothing_and_gives_everything_back() {
    for bus in BUSES {
        let (machine, _end, _next) = machine(bus, 1, ALL, 0);
        let card = &machine.card;
        let mut drivers = card.drivers(spec::F_CTRL_VQ);
        for round in [1, 3, 5, 7] {
            passes(card, &mut drivers);
            card.control.set_link(false);
            // What was on its way may still pass.
            while card.counters(1).drops.link_down < round {
                let head = card.offer(&mut drivers, &frame(60));
                assert_eq!(card.serve(1, drivers.tx()), Some((head.into(), 0)));
            }
            while !card.peers[0].is_silent() {}
            let head = card.offer(&mut drivers, &frame(60));
            assert_eq!(card.serve(1, drivers.tx()), Some((head.into(), 0)));
            assert_eq!((card.counters(1).drops.link_down, card.config(6)), (round + 1, 0));
            assert!(card.peers[0].is_silent());
            card.control.set_link(true);
        }
        passes(card, &mut drivers);
    }
}

#[test]
fn a_backend_that_ends_takes_the_link_down_until_there_is_another() {
    for bus in BUSES {
        let (peers, wires) = wires(1);
        let again = wires[0].try_clone().unwrap();
        let (socket, end) = good(wires, ALL, MQ);
        let (backend, next) = backend(socket, 1);
        let machine = Machine::with_user(bus, peers, backend);
        let card = &machine.card;
        let mut drivers = card.drivers(card.features);
        passes(card, &mut drivers);
        drivers.rx().submit(&[card.writable(BUFFER, 2000)]);
        card.ring(0);
        end.shutdown(Shutdown::Both).unwrap();
        wait_for_link(card, false);
        assert_eq!(card.config(6), 0);
        // Frames of the guest's are dropped meanwhile, and it is tried again and again.
        card.offer(&mut drivers, &frame(60));
        card.serve(1, drivers.tx()).unwrap();
        next.1.recv().unwrap();
        // One that knows less than the guest was offered is none.
        let (socket, _) = good(vec![again.try_clone().unwrap()], ALL & !spec::F_MRG_RXBUF, 0);
        next.0.send(socket).unwrap();
        next.1.recv().unwrap();
        next.1.recv().unwrap();
        assert!(!card.control.link());
        let (socket, _end) = good(vec![again], ALL, 0);
        next.0.send(socket).unwrap();
        wait_for_link(card, true);
        // The buffer that the first one had is used now.
        card.peers[0].send(&frame(200));
        assert_eq!(card.wait_used(drivers.rx()).unwrap().1, 212);
        passes(card, &mut drivers);
        assert!(!card.needs_reset());
        card.settles(0);
    }
}

/// What a backend does with a request: answers, says nothing, or closes.
pub(super) enum Does {
    Says(Vec<u8>),
    Nothing,
    Closes,
}

pub(super) fn answer(code: u32, body: &[u8]) -> Does {
    Does::Says([&[code, 5, body.len() as u32].map(u32::to_ne_bytes).concat(), body].concat())
}

/// A backend that does what it is told to with each request. Descriptors go nowhere.
pub(super) fn odd(mut does: impl FnMut(u32, &[u8]) -> Does + Send + 'static) -> UnixStream {
    odd_with_files(move |code, body, _| does(code, body))
}

/// The same, with the first descriptor that came with the request.
pub(super) fn odd_with_files(mut does: impl FnMut(u32, &[u8], Option<File>) -> Does + Send + 'static) -> UnixStream {
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    thread::spawn(move || {
        let mut header = [0; 12];
        while let Ok((12, file)) = theirs.recv_with_fd(&mut header) {
            let [code, _, size] = [0, 4, 8].map(|at| u32::from_ne_bytes(header[at..at + 4].try_into().unwrap()));
            let mut body = vec![0; size as usize];
            theirs.read_exact(&mut body).unwrap();
            match does(code, &body, file) {
                Does::Says(bytes) => theirs.write_all(&bytes).unwrap(),
                Does::Nothing => {}
                Does::Closes => return,
            }
        }
    });
    ours
}

pub(super) const GET_FEATURES: u32 = 1;
const SET_MEM_TABLE: u32 = 5;
pub(super) const GET_VRING_BASE: u32 = 11;
pub(super) const SET_VRING_KICK: u32 = 12;

#[test]
fn backends_that_can_not_be_used_are_named() {
    let says = |code: u32, value: u64| answer(code, &value.to_ne_bytes());
    type Case = (&'static str, u16, Box<dyn FnMut(u32, &[u8]) -> Does + Send>);
    let cases: Vec<Case> = vec![
        ("it was closed", 1, Box::new(|_, _| Does::Closes)),
        ("it hasn't answered GET_FEATURES within 1s", 1, Box::new(|_, _| Does::Nothing)),
        ("it answers GET_FEATURES with something else", 1, Box::new(move |code, _| says(code + 1, 1 << 32))),
        ("it answers GET_FEATURES with something else", 1, Box::new(|code, _| answer(code, &[0; 4]))),
        ("it answers GET_FEATURES with something else", 1, Box::new(|_, _| Does::Says(vec![0xff; 200]))),
        ("it hasn't answered GET_FEATURES within 1s", 1, Box::new(|_, _| Does::Says(vec![1, 0, 0]))),
        (
            "it doesn't know VIRTIO_F_VERSION_1, so it is too old",
            1,
            Box::new(move |code, _| if code == GET_FEATURES { says(code, 1 << 15) } else { Does::Nothing }),
        ),
        (
            "it has one queue pair and not 2: it lacks VHOST_USER_PROTOCOL_F_MQ",
            2,
            Box::new(move |code, _| if code == GET_FEATURES { says(code, FEATURES) } else { Does::Nothing }),
        ),
        (
            "it has 1 queues or queue pairs, not 2",
            2,
            Box::new(move |code, _| match code {
                GET_FEATURES => says(code, ALL),
                15 | 17 => says(code, 1),
                _ => Does::Nothing,
            }),
        ),
        (
            "it refuses SET_OWNER",
            1,
            Box::new(move |code, _| match code {
                GET_FEATURES => says(code, ALL),
                15 => says(code, 8),
                16 => Does::Nothing,
                _ => says(code, 1),
            }),
        ),
        (
            "it was closed",
            1,
            Box::new(move |code, _| if code == GET_FEATURES { says(code, ALL) } else { Does::Closes }),
        ),
    ];
    for (expected, pairs, does) in cases {
        let (backend, _next) = backend(odd(does), pairs);
        let begun = Instant::now();
        let error = Net::new("eth0", vec![backend], options()).unwrap_err();
        assert_eq!(error.to_string(), format!("the vhost-user backend can't be used: {expected}"));
        assert!(begun.elapsed() < 20 * PATIENCE, "{expected}");
    }
}

#[test]
fn a_backend_that_drips_its_answer_has_no_more_time_than_others() {
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    thread::spawn(move || {
        while theirs.write_all(&[1]).is_ok() {
            thread::sleep(PATIENCE / 4);
        }
    });
    let begun = Instant::now();
    let error = Net::new("eth0", vec![backend(ours, 1).0], options()).unwrap_err();
    assert!(matches!(error, NetError::VhostUser(_)) && begun.elapsed() < 4 * PATIENCE, "{error}");
}

/// How it ends for a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    No,
    Closed,
    /// It hasn't said that it stops, and hasn't ended.
    AtLarge,
}

#[test]
fn a_backend_that_lies_harms_nobody_and_is_replaced_by_another_one() {
    let base = |index: u32, base: u32| answer(GET_VRING_BASE, &[index, base].map(u32::to_ne_bytes).concat());
    let index = |body: &[u8]| u32::from_ne_bytes(body[..4].try_into().unwrap());
    type Case = (&'static str, u32, Box<dyn Fn(u32, &[u8]) -> Does + Send>, End);
    // What is done with a request, and how that ends.
    let cases = || -> Vec<Case> {
        vec![
            ("closes when it gets memory", SET_MEM_TABLE, Box::new(|_, _| Does::Closes), End::Closed),
            ("closes when it gets a kick", SET_VRING_KICK, Box::new(|_, _| Does::Closes), End::Closed),
            ("closes when it is to stop", GET_VRING_BASE, Box::new(|_, _| Does::Closes), End::Closed),
            ("says nothing when it is to stop", GET_VRING_BASE, Box::new(|_, _| Does::Nothing), End::AtLarge),
            ("stops another ring", GET_VRING_BASE, Box::new(move |_, body| base(index(body) ^ 1, 0)), End::AtLarge),
            (
                "has a base that is no index",
                GET_VRING_BASE,
                Box::new(move |_, body| base(index(body), 1 << 16)),
                End::AtLarge,
            ),
            ("answers half", GET_VRING_BASE, Box::new(|code, _| answer(code, &[0; 4])), End::AtLarge),
            ("answers something huge", GET_VRING_BASE, Box::new(|_, _| Does::Says(vec![0xff; 4000])), End::AtLarge),
            ("has a base that can't be", GET_VRING_BASE, Box::new(move |_, body| base(index(body), 12345)), End::No),
            ("speaks when nobody asks", SET_VRING_KICK, Box::new(|_, _| Does::Says(vec![0; 100])), End::AtLarge),
        ]
    };
    for bus in BUSES {
        for (name, at, does, end) in cases() {
            let (peers, wires) = wires(1);
            let liar = odd(move |code, body| match code {
                code if code == at => does(code, body),
                GET_FEATURES => answer(code, &FEATURES.to_ne_bytes()),
                _ => Does::Nothing,
            });
            let (backend, next) = backend(liar, 1);
            let machine = Machine::with_user(bus, peers, backend);
            machine.neighbour_begins();
            let card = &machine.card;
            let mut drivers = card.drivers(spec::F_CTRL_VQ);
            card.offer(&mut drivers, &frame(60));
            card.ring(1);
            // It has the rings, or is gone already.
            card.settles(0);
            let begun = Instant::now();
            let states = card.stop();
            assert!(begun.elapsed() < 20 * PATIENCE, "{name}: {:?}", begun.elapsed());
            machine.neighbour_works();
            // Nobody has used anything; what was dropped here was dropped before the stop.
            match &states[1].1 {
                None => assert_eq!(end, End::AtLarge, "{name}"),
                Some(state) => {
                    assert!(end != End::AtLarge && state.in_flight.is_empty(), "{name}");
                    assert_eq!(state.next_avail, state.next_used, "{name}");
                }
            }
            card.resume();
            if end != End::No {
                wait_for_link(card, false);
                if end == End::AtLarge {
                    // It may be in the rings that it had.
                    assert!(card.needs_reset(), "{name}");
                    card.reset();
                    drivers = card.drivers(spec::F_CTRL_VQ);
                    card.offer(&mut drivers, &frame(60));
                }
                card.serve(1, drivers.tx()).unwrap();
                next.1.recv().unwrap();
                let (socket, _end) = good(wires, ALL, 0);
                next.0.send(socket).unwrap();
                wait_for_link(card, true);
                passes(card, &mut drivers);
            }
            assert!(!card.needs_reset(), "{name}");
            card.reset();
            assert_eq!(card.status(), 0);
        }
    }
}

#[test]
fn only_what_the_backend_can_do_is_offered() {
    let offered = |features: u64| {
        let (socket, _end) = good(wires(1).1, features, 0);
        let net = Net::new("eth0", vec![backend(socket, 1).0], options()).unwrap();
        (net.features(), net.missing_features())
    };
    let ours = spec::F_MAC | spec::F_STATUS | spec::F_CTRL_VQ | spec::F_CTRL_RX | spec::F_CTRL_MAC_ADDR;
    let ring = features::RING_EVENT_IDX | features::RING_INDIRECT_DESC;
    assert_eq!(offered(1 << 32), (ours, ring));
    assert_eq!(offered(FEATURES), (ours | spec::F_MRG_RXBUF, 0));
    // Offloads, but not the command that changes them, which the backend wouldn't hear of; and nothing that is ours.
    let theirs = spec::F_CSUM | spec::F_GUEST_CSUM | spec::F_GUEST_TSO4 | spec::F_HOST_TSO4;
    assert_eq!(offered(FEATURES | theirs | spec::F_MTU | spec::F_MQ | 1 << 21), (ours | spec::F_MRG_RXBUF | theirs, 0));
}

#[test]
fn a_driver_is_not_offered_what_the_backend_does_not_know_of_rings() {
    for bus in BUSES {
        let (machine, _end, _next) = machine(bus, 1, 1 << 32, 0);
        let card = &machine.card;
        // FEATURES_OK doesn't stay.
        card.negotiate(features::VERSION_1 | features::RING_EVENT_IDX);
        assert_eq!(card.status(), 3, "{bus:?}");
        card.negotiate(features::VERSION_1);
        assert_eq!(card.status(), 11, "{bus:?}");
    }
}

#[test]
fn what_nobody_would_enforce_is_refused() {
    let limited = crate::token_bucket::RateLimiter::new(None, None, Instant::now());
    let limiters = vec![std::sync::Arc::new(limited)];
    for (options, what) in [
        (NetOptions { antispoof: Some(Antispoof::default()), ..options() }, "antispoof"),
        (NetOptions { tx_limiters: limiters, ..options() }, "a rate limit"),
    ] {
        let (socket, _end) = good(wires(1).1, ALL, 0);
        let error = Net::new("eth0", vec![backend(socket, 1).0], options).unwrap_err();
        assert!(matches!(error, NetError::NotEnforced(said) if said == what), "{error}");
    }
}

#[test]
fn memory_that_is_nobody_elses_can_not_be_worked_in() {
    let (peers, wires) = wires(1);
    let (socket, _end) = good(wires, ALL, 0);
    let (backend, next) = backend(socket, 1);
    let peer = peers.into_iter().next().unwrap();
    let machine = Machine::on(Bus::Mmio, options(), vec![(peer, backend)], Peer::pair(super::machine::Kind::Tap));
    let mut drivers = machine.card.drivers(spec::F_CTRL_VQ);
    wait_for_link(&machine.card, false);
    machine.card.offer(&mut drivers, &frame(60));
    machine.card.serve(1, drivers.tx()).unwrap();
    next.1.recv_timeout(Duration::from_secs(10)).unwrap();
}

#[test]
fn interrupts_go_past_us_where_there_is_msix_and_follow_the_vector() {
    let (machine, _end, _next) = machine(Bus::Pci, 1, ALL, 0);
    let card = &machine.card;
    let mut drivers = card.drivers(spec::F_CTRL_VQ);
    passes(card, &mut drivers);
    card.connected(2);
    card.set_vector(1, 0xffff);
    card.connected(1);
    // Without a vector nobody is told, and with one again, of what was before.
    card.offer(&mut drivers, &frame(60));
    card.ring(1);
    assert_eq!(card.peers[0].receive().1, frame(60));
    card.set_vector(1, QUEUE_VECTOR);
    card.connected(2);
    while drivers.tx().take_used().is_none() {
        card.wait_interrupt();
    }
    passes(card, &mut drivers);
    // Masked, it is pending, and not lost.
    card.mask(QUEUE_VECTOR.into(), true);
    card.connected(0);
    card.offer(&mut drivers, &frame(60));
    card.ring(1);
    assert_eq!(card.peers[0].receive().1, frame(60));
    while card.pending() >> QUEUE_VECTOR & 1 == 0 {
        thread::yield_now();
    }
    card.mask(QUEUE_VECTOR.into(), false);
    card.connected(2);
    assert!(card.wait_used(drivers.tx()).is_some());
    // All of them go with their queues.
    card.reset();
    card.connected(0);
    let mut drivers = card.drivers(0);
    passes(card, &mut drivers);
}

#[test]
fn an_event_that_the_host_does_not_take_with_its_new_vector_is_passed_on_by_us() {
    let (machine, _end, _next) = machine(Bus::Pci, 1, ALL, 0);
    let card = &machine.card;
    let mut drivers = card.drivers(spec::F_CTRL_VQ);
    passes(card, &mut drivers);
    card.connected(2);
    card.set_listens(false);
    card.set_vector(1, QUEUE_VECTOR);
    card.connected(1);
    card.set_listens(true);
    for _ in 0..3 {
        passes(card, &mut drivers);
    }
    card.connected(1);
    card.reset();
    let mut drivers = card.drivers(spec::F_CTRL_VQ);
    passes(card, &mut drivers);
    card.connected(2);
}

#[test]
fn a_ring_that_lies_to_whoever_has_it_asks_for_a_reset() {
    for bus in BUSES {
        let (machine, _end, _next) = machine(bus, 1, ALL, 0);
        machine.neighbour_begins();
        let card = &machine.card;
        for queue in [0, 1] {
            let mut drivers = card.drivers(spec::F_CTRL_VQ);
            passes(card, &mut drivers);
            drivers.queues[queue].set_avail_index(1000);
            card.ring(queue as u32);
            while !card.needs_reset() {
                card.wait_interrupt();
            }
            assert!(card.control.link(), "that is the guest's fault and not the backend's");
            card.settles(0);
            machine.neighbour_works();
            machine.neighbour_begins();
        }
        let mut drivers = card.drivers(0);
        passes(card, &mut drivers);
    }
}
