// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The control queue, the link, queue pairs, stops, and a stream that breaks its protocol.

use std::io::{self, Write};
use std::num::NonZeroU64;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::Instant;

use vm_memory::{Bytes, GuestAddress};

use super::machine::{
    ACK, BUFFER, Bus, COMMAND, FRAME, HEADER, Kind, MAC, Machine, PLACES, Peer, UNTOUCHED, frame, options,
};
use super::{Antispoof, Backend, Drops, MacAddress, Net, NetError, NetOptions, Reconnect, spec};
use crate::token_bucket::{Rate, RateLimiter};
use crate::virtio::mock::readable;
use crate::virtio::queue::QueueState;

const TAPS: [(Bus, Kind); 2] = [(Bus::Mmio, Kind::Tap), (Bus::Pci, Kind::Tap)];

#[test]
fn commands_are_done_or_answered_with_an_error() {
    let table = |first: u32, second: u32, rest: usize| {
        let lists = [first, second].map(|count| [&count.to_le_bytes()[..], &vec![2; 6 * count as usize]].concat());
        [&[1, 0], lists.concat().as_slice(), &vec![0; rest]].concat()
    };
    let offloads = |bits: u64| [&[5, 0], bits.to_le_bytes().as_slice()].concat();
    let cases: [(&str, Vec<u8>, u8); 29] = [
        ("promiscuous", vec![0, 0, 1], 0),
        ("not promiscuous", vec![0, 0, 0], 0),
        ("all groups", vec![0, 1, 1], 0),
        ("promiscuous to a degree", vec![0, 0, 2], 1),
        ("promiscuous without data", vec![0, 0], 1),
        ("promiscuous with more", vec![0, 0, 1, 0], 1),
        ("a mode that isn't offered", vec![0, 2, 1], 1),
        ("no addresses", table(0, 0, 0), 0),
        ("addresses", table(3, 5, 0), 0),
        ("addresses and more", table(3, 5, 1), 1),
        ("more addresses than there are", [1, 0, 0xff, 0xff, 0xff, 0xff].to_vec(), 1),
        ("a list that is cut off", table(3, 5, 0)[..40].to_vec(), 1),
        ("one list", table(3, 0, 0)[..24].to_vec(), 1),
        ("another address", vec![1, 1, 2, 0, 0, 0, 0, 9], 0),
        ("a group's address", vec![1, 1, 1, 0, 0, 0, 0, 9], 1),
        ("no address", vec![1, 1, 0, 0, 0, 0, 0, 0], 1),
        ("half an address", vec![1, 1, 2, 0, 0], 1),
        ("VLANs, which aren't offered", vec![2, 0, 1, 0], 1),
        ("an announcement", vec![3, 0], 1),
        ("queue pairs without the feature", vec![4, 0, 1, 0], 1),
        ("receive steering", vec![4, 1, 0, 0], 1),
        ("no offloads", offloads(0), 0),
        ("all offloads", offloads(spec::GUEST_OFFLOADS), 0),
        ("offloads of the host's", offloads(spec::F_CSUM), 1),
        ("offloads that nobody knows", offloads(u64::MAX), 1),
        ("half of the offloads", offloads(0)[..6].to_vec(), 1),
        ("an unknown class", vec![0xff, 0], 1),
        ("half a command", vec![0], 1),
        ("nothing", vec![], 1),
    ];
    for place in TAPS {
        let machine = Machine::new(place, options());
        machine.neighbour_begins();
        let card = &machine.card;
        let mut drivers = card.all_drivers();
        for (name, command, answer) in &cases {
            assert_eq!(card.command(&mut drivers, command), *answer, "{name}");
        }
        let failed = cases.iter().filter(|case| case.2 == 1).count() as u64;
        let counters = card.counters(2);
        assert_eq!((counters.frames, counters.drops.bad_header), (29 - failed, failed));
        assert_eq!(card.config(4), u16::from_le_bytes([0, 9]), "the address that was set");
        card.passes(&mut drivers);
        machine.neighbour_works();
        card.comes_back();
        assert_eq!(card.config(4), u16::from_le_bytes([MAC[4], MAC[5]]), "the card's own");
    }
}

#[test]
fn a_command_that_can_not_be_answered_is_not_done() {
    for place in PLACES {
        let machine = Machine::new(place, options());
        let card = &machine.card;
        let mut drivers = card.all_drivers();
        card.put(COMMAND, &[1, 1, 2, 0, 0, 0, 0, 9]);
        for ack in [card.readable(ACK, 1), card.writable(ACK, 0)] {
            drivers.control().submit(&[card.readable(COMMAND, 8), ack]);
            assert_eq!(card.serve(2, drivers.control()).unwrap().1, 0);
        }
        assert_eq!(card.counters(2).drops, Drops { bad_chain: 2, ..Drops::default() });
        assert_eq!(card.config(4), u16::from_le_bytes([MAC[4], MAC[5]]));
        assert_eq!(card.bytes(ACK, 1), [UNTOUCHED]);
        card.passes(&mut drivers);
    }
}

#[test]
fn who_may_only_send_from_one_address_gets_no_other() {
    let machine = Machine::new(TAPS[0], NetOptions { antispoof: Some(Antispoof::default()), ..options() });
    let mut drivers = machine.card.all_drivers();
    assert_eq!(machine.card.command(&mut drivers, &[1, 1, 2, 0, 0, 0, 0, 9]), 1);
    assert_eq!(machine.card.command(&mut drivers, &[&[1, 1], MAC.as_slice()].concat()), 0);
    machine.card.passes(&mut drivers);
}

#[test]
fn queue_pairs_are_used_as_the_driver_says() {
    for place in TAPS {
        let machine = Machine::with_pairs(place, options(), 2);
        machine.neighbour_begins();
        let card = &machine.card;
        assert_eq!(card.config(8), 2);
        let mut drivers = card.all_drivers();
        let send = |drivers: &mut super::machine::Drivers| {
            card.put(FRAME, &frame(60));
            let tx = &mut drivers.queues[3];
            tx.submit(&[card.readable(HEADER, 12), card.readable(FRAME, 60)]);
            assert_eq!(card.serve(3, tx).unwrap().1, 0);
        };
        send(&mut drivers);
        assert!(card.peers[1].is_silent());
        assert_eq!(card.counters(3).drops.link_down, 1, "it isn't in use yet");
        for pairs in [0u16, 3, 0x8000, 0xffff] {
            assert_eq!(card.command(&mut drivers, &[&[4, 0], pairs.to_le_bytes().as_slice()].concat()), 1);
        }
        assert_eq!(card.command(&mut drivers, &[4, 0, 2, 0]), 0);
        send(&mut drivers);
        assert_eq!(card.peers[1].receive().1, frame(60));
        drivers.queues[2].submit(&[card.writable(BUFFER, 2000)]);
        card.ring(2);
        card.peers[1].send(&frame(77));
        assert_eq!(card.wait_used(&mut drivers.queues[2]).unwrap().1, 89);
        card.passes(&mut drivers);
        assert_eq!(card.command(&mut drivers, &[4, 0, 1, 0]), 0);
        card.settles(1);
        send(&mut drivers);
        assert!(card.peers[1].is_silent());
        card.passes(&mut drivers);
        machine.neighbour_works();
        // Without the feature, the control queue is the third one.
        card.comes_back();
        let mut drivers = card.drivers(spec::F_CTRL_VQ | spec::F_CTRL_RX);
        assert_eq!(drivers.queues.len(), 3);
        assert_eq!(card.command(&mut drivers, &[0, 0, 1]), 0);
        assert_eq!(card.command(&mut drivers, &[4, 0, 2, 0]), 1);
    }
}

#[test]
fn no_frame_passes_while_the_link_is_down() {
    for place in PLACES {
        let machine = Machine::new(place, options());
        machine.neighbour_begins();
        let card = &machine.card;
        let mut drivers = card.all_drivers();
        assert_eq!((card.config(6), card.control.link()), (1, true));
        card.control.set_link(false);
        card.wait_interrupt();
        assert_eq!((card.config(6), card.control.link()), (0, false));
        assert_eq!(card.transmit(&mut drivers, [0; 12], &frame(60)), None);
        card.peers[0].send(&frame(60));
        card.peers[0].send(&frame(61));
        // They go even though there are no buffers.
        while card.counters(0).drops.link_down < 2 {
            thread::yield_now();
        }
        card.settles(0);
        assert_eq!(card.counters(1).drops, Drops { link_down: 1, ..Drops::default() });
        card.control.set_link(true);
        assert_eq!(card.config(6), 1);
        card.passes(&mut drivers);
        machine.neighbour_works();
        card.comes_back();
    }
}

#[test]
fn nothing_is_touched_after_a_stop_and_each_frame_goes_once() {
    for place in PLACES {
        let machine = Machine::new(place, options());
        machine.neighbour_begins();
        let card = &machine.card;
        // Large ones: nobody reads them, so that there is no room for all, and a stream stops within one.
        let mut drivers = card.drivers(spec::F_MRG_RXBUF);
        let large: Vec<Vec<u8>> = (0..15u8).map(|n| [&frame(14)[..], &vec![n; 60_000]].concat()).collect();
        for (at, frame) in (2u64 << 20..).step_by(0x1_0000).zip(&large) {
            card.mem.write_slice(&[&[0; 12], frame.as_slice()].concat(), GuestAddress(at)).unwrap();
            drivers.tx().submit(&[readable(at, 12 + frame.len() as u32)]);
        }
        for _ in 0..3 {
            drivers.rx().submit(&[card.writable(BUFFER, 100)]);
        }
        card.ring(0);
        card.ring(1);
        card.settles(0);
        for _ in 0..3 {
            let state = card.stop();
            let done = drivers.tx().used_index();
            assert!(done < 15, "there was room for all");
            let states: Vec<_> =
                state.iter().map(|(index, state)| (*index, state.as_ref().unwrap().in_flight.len())).collect();
            // On a stream, one is enough until a length is there.
            let taken = if place.1 == Kind::Tap { 3 } else { 1 };
            assert_eq!(states[0], (0, taken), "buffers that were taken");
            assert_eq!((states[1].0, states[1].1 <= 1), (1, true));
            let before = card.bytes(BUFFER, 0x1000);
            card.ring(0);
            card.ring(1);
            card.settles(0);
            assert_eq!((card.bytes(BUFFER, 0x1000), drivers.tx().used_index()), (before, done));
            // What has come back is the guest's again.
            while let Some((head, _)) = drivers.tx().take_used() {
                let at = (2 << 20) + u64::from(head) * 0x1_0000;
                card.mem.write_slice(&[0xaa; 1000], GuestAddress(at + 59_000)).unwrap();
            }
            card.resume();
        }
        for frame in &large {
            assert!(card.peers[0].receive().1 == *frame);
        }
        while drivers.tx().used_index() < 15 {
            card.wait_interrupt();
        }
        card.peers[0].send(&frame(150));
        let used: u32 = (0..2).map(|_| card.wait_used(drivers.rx()).unwrap().1).sum();
        assert_eq!(used, 162);
        machine.neighbour_works();
    }
}

#[test]
fn a_reset_drops_what_waits_for_room() {
    for place in PLACES {
        let machine = Machine::new(place, options());
        let card = &machine.card;
        let mut drivers = card.drivers(0);
        for _ in 0..7 {
            let data = readable(2 << 20, 65_000);
            drivers.tx().submit(&[card.readable(HEADER, 12), data]);
        }
        card.ring(1);
        card.settles(0);
        assert!(drivers.tx().used_index() < 7, "there was room for all");
        card.reset();
        let mut new = card.drivers(0);
        // Of a stream, the one that had begun goes to its end.
        for _ in 0..card.counters(1).frames {
            assert_eq!(card.peers[0].receive().1.len(), 65_000);
        }
        card.passes(&mut new);
    }
}

#[derive(Debug)]
struct Again(Receiver<UnixStream>, Sender<()>);

impl Reconnect for Again {
    fn try_connect(&mut self) -> io::Result<UnixStream> {
        let _ = self.1.send(());
        self.0.try_recv().map_err(|_| io::ErrorKind::ConnectionRefused.into())
    }
}

#[test]
fn a_stream_that_breaks_its_protocol_or_ends_takes_the_link_down_until_there_is_another() {
    type End = fn(UnixStream);
    let cases: [(&str, End, u64); 6] = [
        ("it ends", drop, 0),
        ("it ends in a length", |mut peer| peer.write_all(&[0, 0]).unwrap(), 0),
        ("it ends in a frame", |mut peer| peer.write_all(&[0, 0, 0, 100, 1, 2, 3]).unwrap(), 0),
        ("no length", |mut peer| peer.write_all(&[0; 4]).unwrap(), 1),
        ("a length beyond all frames", |mut peer| peer.write_all(&65_554u32.to_be_bytes()).unwrap(), 1),
        ("a huge length", |mut peer| peer.write_all(&[0xff; 5]).unwrap(), 1),
    ];
    for (bus, (name, end, host)) in
        [Bus::Mmio, Bus::Pci].into_iter().flat_map(|bus| cases.iter().map(move |case| (bus, case)))
    {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let (give, get) = channel();
        let (tried, tries) = channel();
        let backend = Backend::Stream { socket: theirs, reconnect: Some(Box::new(Again(get, tried))) };
        let machine = Machine::on(bus, options(), vec![(Peer::Stream(ours), backend)], Peer::pair(Kind::Stream));
        let Machine { mut card, neighbour: _neighbour, .. } = machine;
        let mut drivers = card.drivers(0);
        card.passes(&mut drivers);
        drivers.rx().submit(&[card.writable(BUFFER, 2000)]);
        card.ring(0);
        card.settles(0);
        let Peer::Stream(ours) = card.peers.remove(0) else { unreachable!() };
        end(ours);
        while card.control.link() {
            card.wait_interrupt();
        }
        assert_eq!((card.config(6), card.counters(0).drops.host), (0, *host), "{name}");
        // Frames of the guest's are dropped meanwhile, and it is tried again and again.
        card.offer(&mut drivers, &frame(60));
        card.serve(1, drivers.tx()).unwrap();
        tries.recv().unwrap();
        tries.recv().unwrap();
        let (ours, theirs) = UnixStream::pair().unwrap();
        give.send(theirs).unwrap();
        while !card.control.link() {
            card.wait_interrupt();
        }
        card.peers.push(Peer::Stream(ours));
        card.peers[0].send(&frame(200));
        assert_eq!(card.wait_used(drivers.rx()).unwrap().1, 212, "{name}");
        card.passes(&mut drivers);
        card.settles(0);
    }
}

#[test]
fn a_stream_in_any_pieces_is_frames() {
    let machine = Machine::new((Bus::Mmio, Kind::Stream), options());
    let card = &machine.card;
    let mut drivers = card.drivers(spec::F_MRG_RXBUF);
    let Peer::Stream(peer) = &card.peers[0] else { unreachable!() };
    let frames: Vec<Vec<u8>> = [14, 15, 60, 13, 300, 1, 1500, 99].map(frame_of).to_vec();
    let bytes: Vec<u8> = frames.iter().flat_map(|f| [&(f.len() as u32).to_be_bytes(), f.as_slice()].concat()).collect();
    for piece in [1, 2, 3, 7, 50, 4000] {
        thread::scope(|scope| {
            // It waits while there is no room, as small pieces need much.
            scope.spawn(|| {
                let mut peer = peer;
                bytes.chunks(piece).for_each(|part| peer.write_all(part).unwrap());
            });
            for frame in frames.iter().filter(|frame| frame.len() >= 14) {
                drivers.rx().submit(&[card.writable(BUFFER, 2000)]);
                assert_eq!(card.serve(0, drivers.rx()).unwrap().1 as usize, 12 + frame.len());
                assert_eq!(card.bytes(BUFFER + 12, frame.len()), *frame);
            }
        });
    }
    assert_eq!(card.counters(0).drops, Drops { bad_length: 12, ..Drops::default() });
}

fn frame_of(len: usize) -> Vec<u8> {
    let mut bytes = frame(len.max(14));
    bytes.truncate(len);
    bytes
}

#[test]
fn what_is_no_card_is_named() {
    let datagram = |vnet_header| {
        let (socket, _) = std::os::unix::net::UnixDatagram::pair().unwrap();
        Backend::Datagram { socket, vnet_header }
    };
    let stream = || Peer::pair(Kind::Stream).1;
    let message = |backends, options| Net::new("eth0", backends, options).unwrap_err().to_string();
    assert!(message(vec![], options()).starts_with("0 queue pairs"));
    assert!(message(vec![datagram(true)], NetOptions { queue_size: 100, ..options() }).contains("power of two"));
    assert!(message(vec![datagram(true)], NetOptions { mtu: Some(67), ..options() }).contains("MTU of 67"));
    assert!(message(vec![stream(), stream()], options()).contains("not 2"));
    assert!(message(vec![datagram(true), datagram(false)], options()).contains("of one kind"));
    let file = tempfile::tempfile().unwrap();
    let error = Net::new("eth0", vec![Backend::Tap { file, vnet_header: true }], options()).unwrap_err();
    assert!(matches!(error, NetError::NotATap(_)), "{error}");
    assert!(MacAddress::new([1; 6]).is_err());
}

#[test]
fn a_queue_that_waits_for_its_limit_stops_at_once_and_has_taken_nothing() {
    // A frame of a hundred bytes is paid for by a hundred seconds.
    let rate = Rate { per_second: NonZeroU64::MIN, burst: 0 };
    let limiter = || vec![Arc::new(RateLimiter::new(Some(rate), None, Instant::now()))];
    for place in PLACES {
        let machine = Machine::new(place, NetOptions { rx_limiters: limiter(), tx_limiters: limiter(), ..options() });
        machine.neighbour_begins();
        let card = &machine.card;
        let mut drivers = card.drivers(0);
        card.passes(&mut drivers);
        card.offer(&mut drivers, &frame(60));
        drivers.rx().submit(&[card.writable(BUFFER, 2000)]);
        card.peers[0].send(&frame(60));
        card.ring(0);
        card.ring(1);
        card.settles(0);
        assert_eq!([0, 1].map(|queue| card.counters(queue).frames), [1, 1]);
        let states = card.stop();
        assert_eq!(states[1].1, Some(QueueState { next_avail: 1, next_used: 1, in_flight: vec![] }));
        assert_eq!(states[0].1.as_ref().unwrap().next_used, 1);
        machine.neighbour_works();
    }
}
