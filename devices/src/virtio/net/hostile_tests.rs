// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What a hostile guest does to a network card, behind both transports, on a tap and on a stream. Another card, on the same
//! bus and in the same RAM, is at work meanwhile: after each attack it goes on without a reset. A reset brings the attacked
//! one back, and then frames pass.

use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use vm_memory::{Bytes, GuestAddress};

use super::machine::{
    BASE, BUFFER, Drivers, FRAME, HEADER, HOLE, MAC, Machine, PLACES, Peer, RAM_END, Seat, UNTOUCHED, frame, options,
};
use super::{Antispoof, Drops, NetOptions, spec};
use crate::virtio::features;
use crate::virtio::mock::{Buffer, INDIRECT, MockDriver, NEXT, WRITE, readable, writable};

/// Runs every attack on a card of its own in each place.
fn attack<T>(cases: &[(&str, T)], run: impl Fn(&Machine, &str, &T)) {
    for place in PLACES {
        for (name, case) in cases {
            let machine = Machine::new(place, options());
            machine.neighbour_begins();
            run(&machine, name, case);
            machine.neighbour_works();
            machine.card.comes_back();
        }
    }
}

fn header(flags: u8, gso: u8, words: [u16; 4]) -> [u8; 12] {
    let words = words.map(u16::to_le_bytes).concat();
    [&[flags, gso], words.as_slice(), &[0, 0]].concat().try_into().unwrap()
}

/// What a queue has dropped since this was asked last.
fn drops(card: &Seat, queue: usize) -> Drops {
    card.counters(queue).drops
}

#[test]
fn frames_pass_both_ways() {
    attack(&[("all features", u64::MAX), ("none", 0), ("merging", spec::F_MRG_RXBUF)], |machine, _, accepted| {
        let mut drivers = machine.card.drivers(machine.card.features & accepted);
        for _ in 0..40 {
            machine.card.passes(&mut drivers);
        }
        assert_eq!(
            [0, 1].map(|queue| (machine.card.counters(queue).frames, drops(&machine.card, queue).total())),
            [(40, 0); 2]
        );
        assert_eq!([0, 1].map(|queue| machine.card.counters(queue).bytes), [4000, 2400]);
        machine.card.settles(0);
    });
}

#[test]
fn a_virtio_header_that_lies_is_a_counted_drop() {
    // Ethernet, IPv4 and TCP.
    let tcp = [54, 1448, 34, 16];
    let cases = [
        ("a checksum beyond the frame", header(1, 0, [0, 0, 3000, 16])),
        ("a checksum half beyond it", header(1, 0, [0, 0, 2980, 19])),
        ("a checksum whose place wraps", header(1, 0, [0, 0, 0xffff, 0xffff])),
        ("a checksum over the source", header(1, 0, [0, 0, 0, 6])),
        ("a checksum from the Ethernet header on", header(1, 0, [0, 0, 13, 20])),
        ("segments without a size", header(1, 1, [54, 0, 34, 16])),
        ("segments without a checksum", header(0, 1, tcp)),
        ("headers beyond the frame", header(1, 1, [3001, 1448, 34, 16])),
        ("an unknown kind", header(1, 2, tcp)),
        ("all kinds", header(1, 0xff, tcp)),
        ("ECN of nothing", header(0, 0x80, tcp)),
        ("ECN of UDP", header(1, 0x83, tcp)),
        ("ECN of datagrams", header(1, 0x85, tcp)),
    ];
    attack(&cases, |machine, name, bytes| {
        let card = &machine.card;
        let mut drivers = card.all_drivers();
        assert_eq!(card.transmit(&mut drivers, *bytes, &frame(3000)), None, "{name}");
        assert_eq!(drops(card, 1), Drops { bad_header: 1, ..Drops::default() }, "{name}");
        card.passes(&mut drivers);
    });
}

#[test]
fn an_offload_that_was_not_agreed_upon_is_a_counted_drop() {
    let tcp = [54, 1448, 34, 16];
    let cases = [
        ("a checksum", (spec::F_CSUM, header(1, 0, [0, 0, 34, 16]))),
        ("TSO4", (spec::F_HOST_TSO4, header(1, 1, tcp))),
        ("TSO6", (spec::F_HOST_TSO6, header(1, 4, tcp))),
        ("ECN", (spec::F_HOST_ECN, header(1, 0x81, tcp))),
        ("UFO", (spec::F_HOST_UFO, header(1, 3, tcp))),
        ("USO", (spec::F_HOST_USO, header(1, 5, tcp))),
    ];
    attack(&cases, |machine, name, (feature, bytes)| {
        let card = &machine.card;
        let mut drivers = card.all_drivers();
        // A stream has none of them.
        let expected = (card.features & feature != 0).then(|| (*bytes, frame(3000)));
        assert_eq!(card.transmit(&mut drivers, *bytes, &frame(3000)), expected, "{name}");
        let mut drivers = card.drivers(card.features & !feature);
        let before = drops(card, 1).bad_header;
        assert_eq!(card.transmit(&mut drivers, *bytes, &frame(3000)), None, "{name}");
        assert_eq!(drops(card, 1).bad_header, before + 1, "{name}");
        card.passes(&mut drivers);
    });
}

#[test]
fn what_a_header_must_not_say_does_not_reach_the_host() {
    attack(&[("flags and fields without a meaning", ())], |machine, _, ()| {
        let mut drivers = machine.card.all_drivers();
        let sent = machine.card.transmit(&mut drivers, header(0xfe, 0, [0xffff; 4]), &frame(60));
        assert_eq!(sent, Some(([0; 12], frame(60))));
    });
}

type Chain = fn(&Seat) -> Vec<Buffer>;

#[test]
fn frames_that_are_none_go_back_and_are_counted() {
    let bad_chain = |count| Drops { bad_chain: count, ..Drops::default() };
    let bad_length = |count| Drops { bad_length: count, ..Drops::default() };
    let cases: [(&str, (Chain, Drops)); 13] = [
        ("nothing", (|card| vec![card.readable(HEADER, 0)], bad_chain(1))),
        ("half a header", (|card| vec![card.readable(HEADER, 11)], bad_chain(1))),
        ("a header and no frame", (|card| vec![card.readable(HEADER, 12)], bad_length(1))),
        ("a short frame", (|card| vec![card.readable(HEADER, 12), card.readable(FRAME, 13)], bad_length(1))),
        (
            "a short frame in pieces",
            (|card| vec![card.readable(HEADER, 24), card.readable(FRAME, 0), card.readable(FRAME, 1)], bad_length(1)),
        ),
        (
            "a frame that is too long by a byte",
            (
                |card| {
                    [
                        vec![card.readable(HEADER, 12)],
                        vec![card.readable(FRAME, 6000); 10],
                        vec![card.readable(FRAME, 5554)],
                    ]
                    .concat()
                },
                bad_length(1),
            ),
        ),
        ("a frame of a mebibyte", (|card| vec![card.readable(HEADER, 12), readable(2 << 20, 1 << 20)], bad_length(1))),
        ("only writable", (|card| vec![card.writable(HEADER, 12), card.writable(FRAME, 60)], bad_chain(1))),
        ("a header that may only be written", (|card| vec![card.writable(HEADER, 100)], bad_chain(1))),
        (
            "something to be written behind it",
            (|card| vec![card.readable(HEADER, 12), card.readable(FRAME, 60), card.writable(FRAME, 60)], bad_chain(1)),
        ),
        ("a frame in the hole", (|card| vec![card.readable(HEADER, 12), readable(HOLE, 60)], bad_chain(1))),
        ("a frame across the hole", (|card| vec![card.readable(HEADER, 12), readable(HOLE - 8, 60)], bad_chain(1))),
        ("a frame across the end", (|card| vec![card.readable(HEADER, 12), readable(RAM_END - 8, 60)], bad_chain(1))),
    ];
    attack(&cases, |machine, name, (chain, expected)| {
        let card = &machine.card;
        let mut drivers = card.all_drivers();
        let chain = chain(card);
        drivers.tx().submit(&chain);
        assert_eq!(card.serve(1, drivers.tx()), Some((0, 0)), "{name}");
        assert_eq!(drops(card, 1), *expected, "{name}");
        assert!(card.peers[0].is_silent(), "{name}");
        card.passes(&mut drivers);
    });
}

#[test]
fn the_shortest_and_the_longest_frame_pass_in_any_pieces() {
    let lengths = [("14 bytes", 14), ("65535 bytes", 65_535), ("65553 bytes, which passt takes for an attack", 65_553)];
    attack(&lengths, |machine, name, &len| {
        let card = &machine.card;
        let mut drivers = card.all_drivers();
        let sent = frame(len);
        card.mem.write_slice(&sent, GuestAddress(2 << 20)).unwrap();
        // The header a byte at a time, and the frame's first bytes with its last one.
        let table = BASE + 0xe000;
        for at in 0..12u16 {
            drivers.tx().descriptor_in(table, at, BASE + HEADER + u64::from(at), 1, NEXT, at + 1);
        }
        drivers.tx().descriptor_in(table, 12, 2 << 20, 7, NEXT, 13);
        drivers.tx().descriptor_in(table, 13, (2 << 20) + 7, len as u32 - 7, 0, 0);
        drivers.tx().descriptor(0, table, 14 * 16, INDIRECT, 0);
        drivers.tx().offer(0);
        assert_eq!(card.serve(1, drivers.tx()), Some((0, 0)), "{name}");
        if len <= 65_535 || matches!(card.peers[0], Peer::Tap(_)) {
            assert!(card.peers[0].receive() == ([0; 12], sent), "{name}");
        }
        // Otherwise nothing of it went: the next frame would be out of step.
    });
}

#[test]
fn chains_that_can_not_be_used_go_back_empty_from_each_queue() {
    const TABLE: u64 = BASE + 0xe000;
    type Attack = fn(&mut MockDriver);
    let cases: [(&str, Attack); 9] = [
        ("a loop", |driver| {
            driver.descriptor(0, BASE + FRAME, 16, NEXT, 1);
            driver.descriptor(1, BASE + FRAME, 512, NEXT, 0);
        }),
        ("a loop of writable ones", |driver| driver.descriptor(0, BASE + FRAME, 1, NEXT | WRITE, 0)),
        ("a loop in an indirect table", |driver| {
            driver.descriptor(0, TABLE, 32, INDIRECT, 0);
            driver.descriptor_in(TABLE, 0, BASE + FRAME, 16, NEXT, 1);
            driver.descriptor_in(TABLE, 1, BASE + FRAME, 512, NEXT, 0);
        }),
        ("a table in a table", |driver| {
            driver.descriptor(0, TABLE, 16, INDIRECT, 0);
            driver.descriptor_in(TABLE, 0, TABLE, 16, INDIRECT, 0);
        }),
        ("a table in the hole", |driver| driver.descriptor(0, HOLE, 16, INDIRECT, 0)),
        ("a descriptor beyond the table", |driver| driver.descriptor(0, BASE + FRAME, 16, NEXT, 16)),
        ("an address that wraps", |driver| driver.descriptor(0, u64::MAX - 7, 16, WRITE, 0)),
        ("4 GiB and more", |driver| {
            driver.descriptor(0, 0, u32::MAX, NEXT | WRITE, 1);
            driver.descriptor(1, 0, u32::MAX, WRITE, 0);
        }),
        ("readable behind writable", |driver| {
            driver.descriptor(0, BASE + FRAME, 64, NEXT | WRITE, 1);
            driver.descriptor(1, BASE + FRAME, 512, 0, 0);
        }),
    ];
    attack(&cases, |machine, name, act| {
        let mut drivers = machine.card.all_drivers();
        for (queue, driver) in drivers.queues.iter_mut().enumerate() {
            act(driver);
            driver.offer(0);
            assert_eq!(machine.card.serve(queue as u32, driver), Some((0, 0)), "{name}, queue {queue}");
            assert_eq!(
                drops(&machine.card, queue),
                Drops { bad_chain: 1, ..Drops::default() },
                "{name}, queue {queue}"
            );
        }
    });
}

#[test]
fn a_ring_that_lies_asks_for_a_reset() {
    type Attack = fn(&mut MockDriver);
    let cases: [(&str, Attack); 4] = [
        ("an index that jumps", |driver| driver.set_avail_index(17)),
        ("an index that goes back", |driver| driver.set_avail_index(0xffff)),
        ("a head beyond the queue", |driver| driver.offer(16)),
        ("a head that is in flight", |driver| {
            driver.descriptor(0, BASE + BUFFER, 40, WRITE, 0);
            driver.offer(0);
            driver.offer(0);
        }),
    ];
    attack(&cases, |machine, name, act| {
        for queue in 0..2 {
            // A frame that is sent is given back at once: only a buffer stays in flight.
            if name.contains("in flight") && queue == 1 {
                continue;
            }
            let mut drivers = machine.card.drivers(machine.card.features);
            act(&mut drivers.queues[queue]);
            // For which the buffer is too small alone.
            machine.card.peers[0].send(&frame(1000));
            machine.card.ring(queue as u32);
            while !machine.card.needs_reset() {
                machine.card.wait_interrupt();
            }
            machine.card.ring(queue as u32);
            machine.card.settles(0);
            assert_eq!(drivers.queues[queue].used_index(), 0, "{name}, queue {queue}");
            machine.card.comes_back();
        }
    });
}

#[test]
fn doorbells_and_registers_of_no_queue_do_nothing() {
    attack(&[("doorbells", ())], |machine, _, ()| {
        let card = &machine.card;
        let mut drivers = card.all_drivers();
        for queue in [3, 4, 255, 0xffff, u32::MAX] {
            card.ring(queue);
            card.write(0x30, queue);
            card.write(0x38, 16);
            card.write(0x44, 1);
        }
        card.passes(&mut drivers);
    });
}

#[test]
fn a_queue_that_has_no_use_asks_for_a_reset() {
    attack(&[("a control queue that was not agreed upon", ())], |machine, _, ()| {
        let card = &machine.card;
        card.negotiate(features::VERSION_1);
        let drivers: Vec<_> = (0..3).map(|index| card.queue(index)).collect();
        card.driver_ok();
        assert!(card.needs_reset());
        card.ring(2);
        assert_eq!(drivers[2].used_index(), 0);
    });
}

#[test]
fn buffers_that_are_none_go_back_and_the_next_one_is_used() {
    let cases: [(&str, Chain); 6] = [
        ("nothing", |card| vec![card.writable(BUFFER, 0)]),
        ("readable", |card| vec![card.readable(BUFFER, 2000)]),
        ("readable and writable", |card| vec![card.readable(BUFFER, 12), card.writable(BUFFER, 2000)]),
        ("no room for a header", |card| vec![card.writable(BUFFER, 11)]),
        ("in the hole", |_| vec![writable(HOLE, 2000)]),
        ("across the end", |_| vec![writable(RAM_END - 100, 2000)]),
    ];
    attack(&cases, |machine, name, chain| {
        for accepted in [0, machine.card.features] {
            let card = &machine.card;
            let mut drivers = card.drivers(accepted);
            let before = drops(card, 0).bad_chain;
            let chain = chain(card);
            drivers.rx().submit(&chain);
            assert_eq!(card.serve(0, drivers.rx()), Some((0, 0)), "{name}");
            assert_eq!(drops(card, 0), Drops { bad_chain: before + 1, ..Drops::default() }, "{name}");
            card.passes(&mut drivers);
        }
    });
}

#[test]
fn frames_wait_for_buffers_and_nobody_spins_meanwhile() {
    attack(&[("no buffers", ())], |machine, _, ()| {
        let card = &machine.card;
        let mut drivers = card.drivers(0);
        for len in [100, 101, 102] {
            card.peers[0].send(&frame(len));
        }
        card.ring(0);
        card.settles(0);
        assert_eq!(drivers.rx().used_index(), 0);
        for len in [100, 101, 102] {
            drivers.rx().submit(&[card.writable(BUFFER, 2000)]);
            assert_eq!(card.serve(0, drivers.rx()).unwrap().1, 12 + len);
        }
        card.settles(0);
        // Frames of the guest's pass while it posts no buffers.
        card.peers[0].send(&frame(103));
        assert!(card.transmit(&mut drivers, [0; 12], &frame(60)).is_some());
        card.settles(0);
    });
}

#[test]
fn a_frame_that_does_not_fit_is_a_counted_drop_and_the_buffer_is_used_for_the_next_one() {
    attack(&[("a buffer that is too small", ())], |machine, _, ()| {
        let card = &machine.card;
        let mut drivers = card.drivers(0);
        drivers.rx().submit(&[card.writable(BUFFER, 12), card.writable(BUFFER + 0x100, 50)]);
        card.ring(0);
        for len in [51, 1500, 5000] {
            card.peers[0].send(&frame(len));
        }
        card.peers[0].send(&frame(50));
        assert_eq!(card.wait_used(drivers.rx()), Some((0, 62)));
        assert_eq!(drops(card, 0), Drops { no_room: 3, ..Drops::default() });
        assert_eq!(card.bytes(BUFFER + 0x100, 51), [frame(50), vec![UNTOUCHED]].concat());
        card.passes(&mut drivers);
    });
}

#[test]
fn a_frame_is_spread_over_as_many_chains_as_it_needs() {
    let large = spec::F_GUEST_CSUM | spec::F_GUEST_TSO4;
    attack(&[("usual frames", 0), ("large ones", large)], |machine, name, accepted| {
        let card = &machine.card;
        let mut drivers = card.drivers(card.features & accepted | spec::F_MRG_RXBUF);
        for at in 0..16 {
            drivers.rx().submit(&[card.writable(BUFFER + 0x100 * at, 200)]);
        }
        card.ring(0);
        card.peers[0].send(&frame(500));
        // 188 bytes, 200 bytes and 112 bytes.
        let used: Vec<_> = (0..3).map(|_| card.wait_used(drivers.rx()).unwrap()).collect();
        assert_eq!(used, [(0, 200), (1, 200), (2, 112)], "{name}");
        let [first, second, third] =
            [(0, 200), (0x100, 200), (0x200, 112)].map(|(at, len)| card.bytes(BUFFER + at, len));
        assert_eq!((&first[..10], &first[10..12]), ([0; 10].as_slice(), [3, 0].as_slice()));
        assert_eq!([&first[12..], &second, &third].concat(), frame(500));
        // The rest of them is there for others.
        card.peers[0].send(&frame(20));
        assert_eq!(card.wait_used(drivers.rx()), Some((3, 32)), "{name}");
        card.peers[0].send(&frame(188));
        assert_eq!(card.wait_used(drivers.rx()), Some((4, 200)), "{name}");
        if *accepted == 0 {
            return;
        }
        // There are 2200 bytes left, and no frame that is longer fits.
        card.peers[0].send(&frame(2189));
        card.peers[0].send(&frame(2188));
        let used: u32 = (0..11).map(|_| card.wait_used(drivers.rx()).unwrap().1).sum();
        assert_eq!((used, drops(card, 0)), (2200, Drops { no_room: 1, ..Drops::default() }), "{name}");
        card.settles(0);
    });
}

#[test]
fn a_frame_that_has_begun_waits_for_the_rest_of_its_room_and_loses_nothing() {
    attack(&[("500 bytes in 400", ())], |machine, name, ()| {
        let card = &machine.card;
        let mut drivers = card.drivers(card.features & spec::F_MRG_RXBUF);
        for at in 0..2 {
            drivers.rx().submit(&[card.writable(BUFFER + 0x100 * at, 200)]);
        }
        card.ring(0);
        card.peers[0].send(&frame(500));
        card.settles(0);
        assert_eq!(drivers.rx().used_index(), 0, "{name}");
        drivers.rx().submit(&[card.writable(BUFFER + 0x200, 200)]);
        card.ring(0);
        let used: Vec<_> = (0..3).map(|_| card.wait_used(drivers.rx()).unwrap()).collect();
        assert_eq!(used, [(0, 200), (1, 200), (2, 112)], "{name}");
        let all = [(0, 200), (0x100, 200), (0x200, 112)].map(|(at, len)| card.bytes(BUFFER + at, len)).concat();
        assert_eq!((&all[10..12], &all[12..]), ([3, 0].as_slice(), frame(500).as_slice()), "{name}");
        // Half of all buffers are there, and don't suffice: the driver may wait for some to be used. The next one has them.
        for at in 0..8 {
            drivers.rx().submit(&[card.writable(BUFFER + 0x100 * at, 50)]);
        }
        card.ring(0);
        card.peers[0].send(&frame(500));
        card.peers[0].send(&frame(38));
        assert_eq!(card.wait_used(drivers.rx()), Some((3, 50)), "{name}");
        assert_eq!(card.bytes(BUFFER + 12, 38), frame(38), "{name}");
        assert_eq!(drops(card, 0), Drops { no_room: 1, ..Drops::default() }, "{name}");
    });
}

#[test]
fn a_header_that_another_vcpu_changes_is_one_of_those_that_may_be() {
    attack(&[("good and bad ones", ())], |machine, _, ()| {
        let card = &machine.card;
        let mut drivers = card.all_drivers();
        let good = [header(0, 0, [0; 4]), header(1, 1, [54, 1448, 34, 16])];
        let done = AtomicBool::new(false);
        card.put(FRAME, &frame(3000));
        thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    for bytes in [good[0], header(1, 1, [0xffff; 4]), good[1], header(1, 0, [0, 0, 0, 6])] {
                        card.put(HEADER, &bytes);
                    }
                }
            });
            for _ in 0..300 {
                let before = card.counters(1).frames;
                drivers.tx().submit(&[card.readable(HEADER, 12), card.readable(FRAME, 3000)]);
                assert_eq!(card.serve(1, drivers.tx()).unwrap().1, 0);
                if card.counters(1).frames > before {
                    let (bytes, sent) = card.peers[0].receive();
                    assert!(super::header::Header::check(bytes, card.features, 3000).is_some(), "{bytes:?}");
                    assert_eq!(sent, frame(3000));
                }
            }
            done.store(true, Ordering::Relaxed);
        });
    });
}

fn guarded() -> NetOptions {
    let antispoof = Antispoof { ipv4: vec![Ipv4Addr::new(192, 0, 2, 7)], ipv6: vec![] };
    NetOptions { antispoof: Some(antispoof), ..options() }
}

/// A packet of TCP over IPv4 from the guest's own address.
fn own_packet(len: usize) -> Vec<u8> {
    let mut packet = frame(len.max(34));
    packet[12..16].copy_from_slice(&[8, 0, 0x45, 0]);
    packet[20..22].fill(0);
    packet[26..30].copy_from_slice(&[192, 0, 2, 7]);
    packet.truncate(len);
    packet
}

#[test]
fn a_guest_that_says_it_is_another_is_not_heard() {
    let changed = |changes: &[(usize, &[u8])]| {
        let mut packet = own_packet(1000);
        for (at, bytes) in changes {
            packet[*at..at + bytes.len()].copy_from_slice(bytes);
        }
        packet
    };
    let none = header(0, 0, [0; 4]);
    let cases = [
        ("another source", (none, changed(&[(11, &[1])]))),
        ("another address", (none, changed(&[(29, &[8])]))),
        ("a tag", (none, changed(&[(12, &[0x81, 0, 0, 1, 8, 0])]))),
        ("an unknown kind", (none, frame(1000))),
        ("a short packet", (none, own_packet(33))),
        ("no packet", (none, own_packet(14))),
        ("another's ARP", (none, changed(&[(12, &[8, 6, 0, 1, 8, 0, 6, 4, 0, 1]), (22, &MAC), (28, &[192, 0, 2, 8])]))),
        ("a checksum over the address", (header(1, 0, [0, 0, 14, 12]), own_packet(1000))),
        ("a checksum half over the address", (header(1, 0, [0, 0, 24, 1]), own_packet(1000))),
    ];
    for (place, (name, (bytes, packet))) in PLACES.into_iter().flat_map(|place| cases.iter().map(move |c| (place, c))) {
        let machine = Machine::new(place, guarded());
        let card = &machine.card;
        machine.neighbour_begins();
        let mut drivers = card.all_drivers();
        assert_eq!(card.transmit(&mut drivers, *bytes, packet), None, "{name}");
        // A stream knows no checksums, and says so first.
        assert_eq!(drops(card, 1).spoofed + drops(card, 1).bad_header, 1, "{name}");
        for len in [34, 54, 191, 192, 193, 1500] {
            assert_eq!(card.transmit(&mut drivers, none, &own_packet(len)), Some((none, own_packet(len))), "{name}");
        }
        machine.neighbour_works();
    }
}

#[test]
fn an_address_that_another_vcpu_changes_is_not_sent() {
    for place in PLACES {
        let machine = Machine::new(place, guarded());
        let card = &machine.card;
        machine.neighbour_begins();
        let mut drivers = card.all_drivers();
        let done = AtomicBool::new(false);
        card.put(HEADER, &[0; 12]);
        card.put(FRAME, &own_packet(1000));
        thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    for last in [8, 7] {
                        card.put(FRAME + 29, &[last]);
                        card.put(FRAME + 11, &[last]);
                        card.put(FRAME + 11, &MAC[5..]);
                    }
                }
            });
            for _ in 0..500 {
                let before = card.counters(1).frames;
                drivers.tx().submit(&[card.readable(HEADER, 12), card.readable(FRAME, 1000)]);
                assert_eq!(card.serve(1, drivers.tx()).unwrap().1, 0);
                if card.counters(1).frames > before {
                    assert_eq!(card.peers[0].receive().1, own_packet(1000));
                }
            }
            done.store(true, Ordering::Relaxed);
        });
        assert!(card.peers[0].is_silent());
        machine.neighbour_works();
    }
}

#[test]
fn one_page_in_every_buffer_and_ring_is_the_guests_own_trouble() {
    attack(&[("rings as buffers", ())], |machine, _, ()| {
        let card = &machine.card;
        let mut drivers: Drivers = card.drivers(spec::F_MRG_RXBUF);
        for _ in 0..15 {
            drivers.rx().submit(&[writable(BASE, 0x1000)]);
        }
        card.ring(0);
        for _ in 0..5 {
            card.peers[0].send(&frame(1400));
        }
        card.settles(0);
    });
}
