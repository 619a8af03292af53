// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What a guest may try with a console, and how little comes of it.

use std::io::{Read, Write};

use super::backlog::CAPACITY;
use super::rig::{OUT, Rig};
use super::spec::{self, message};
use crate::virtio::mock::{Buffer, readable, writable};

/// The port works as if nothing had happened.
fn assert_works(rig: &mut Rig, what: &str) {
    let mut client = rig.attach("1");
    rig.put_out(1, b"fine");
    let mut seen = Vec::new();
    while !seen.ends_with(b"fine") {
        let mut bytes = [0; 4096];
        let len = client.read(&mut bytes).unwrap();
        seen.extend_from_slice(&bytes[..len]);
    }
    client.write_all(b"ok").unwrap();
    assert_eq!(rig.take_in(1), b"ok", "{what}");
    assert!(!rig.notifier.needs_reset(), "{what}");
}

#[test]
fn control_messages_that_make_no_sense_change_nothing() {
    let mut rig = Rig::many().open(2);
    for (what, bad) in [
        ("a port that there isn't", message(2, spec::PORT_READY, 1)),
        ("port 65536", message(1 << 16 | 1, spec::PORT_OPEN, 0)),
        ("the last port there could be", message(u32::MAX, spec::PORT_OPEN, 1)),
        ("an add, which is the device's to say", message(1, spec::DEVICE_ADD, 1)),
        ("a removal", message(1, 2, 1)),
        ("a console", message(1, spec::CONSOLE_PORT, 1)),
        ("a size", message(1, spec::RESIZE, 1)),
        ("a name", message(1, spec::PORT_NAME, 1)),
        ("event 8", message(1, 8, 1)),
        ("event 65535", message(1, u16::MAX, u16::MAX)),
        ("opened twice as much", message(1, spec::PORT_OPEN, 2)),
        ("ready in another way", message(0, spec::DEVICE_READY, 7)),
    ] {
        rig.say(bad);
        assert_works(&mut rig, what);
    }
    rig.give(spec::CONTROL_RECEIVE);
    assert_works(&mut rig, "afterwards");
    assert!(rig.drivers[2].take_used().is_none(), "nothing was answered");
}

#[test]
fn chains_that_are_no_messages_and_no_output_go_back_and_nothing_happens() {
    let mut rig = Rig::many().open(2);
    let chains: [(&str, &[Buffer]); 6] = [
        ("short", &[readable(OUT, 7)]),
        ("empty", &[readable(OUT, 0)]),
        ("for the device to write", &[writable(OUT, 4096)]),
        ("beyond RAM", &[readable(0x1_0000_0000, 8)]),
        ("with an end that wraps", &[readable(OUT, 4), readable(u64::MAX, 8)]),
        ("of 4 GiB", &[readable(0, u32::MAX), readable(0, 1)]),
    ];
    for (what, chain) in chains {
        rig.submit(spec::CONTROL_TRANSMIT, chain);
        if what != "short" {
            rig.submit(5, chain);
        }
        assert_works(&mut rig, what);
    }
}

#[test]
fn buffers_without_room_go_back_empty_and_no_byte_is_lost() {
    let mut rig = Rig::many().open(2);
    let mut client = rig.attach("1");
    let chains: [&[Buffer]; 4] =
        [&[writable(OUT, 0)], &[readable(OUT, 64)], &[writable(u64::MAX, 2)], &[writable(0x1_0000_0000, 64)]];
    for chain in chains {
        rig.drivers[4].submit(chain);
        rig.ring(4);
        client.write_all(b"x").unwrap();
        assert_eq!(rig.used(4), 0);
    }
    assert_eq!(rig.take_in(1), b"xxxx");
    // Control messages wait for a buffer that they fit into.
    rig.say_size("1", "80 24");
    for len in [0, 7, 11] {
        rig.drivers[2].submit(&[writable(OUT, len)]);
        rig.ring(2);
        assert_eq!(rig.used(2), 0);
    }
    assert_eq!(rig.hear(), (1, spec::RESIZE, 1, vec![80, 0, 24, 0]));
}

#[test]
fn messages_that_nobody_takes_do_not_pile_up() {
    let mut rig = Rig::many();
    for round in 0..1000 {
        rig.say(message(0, spec::DEVICE_READY, 1));
        rig.say(message(round % 2, spec::PORT_READY, 1));
    }
    rig.say(message(0, spec::DEVICE_READY, 1));
    let rig = rig.open(2);
    assert!(!rig.notifier.needs_reset());
}

#[test]
fn ports_that_are_used_before_they_are_ready_take_output_and_get_no_input() {
    let mut rig = Rig::many();
    let mut client = rig.attach("1");
    client.write_all(b"wait").unwrap();
    rig.say(message(1, spec::PORT_OPEN, 1));
    rig.give(4);
    rig.put_out(1, b"early");
    let mut seen = [0; 5];
    client.read_exact(&mut seen).unwrap();
    assert_eq!(&seen, b"early");
    assert!(rig.drivers[4].take_used().is_none());
    let mut rig = rig.open(2);
    assert_eq!(rig.taken(4), b"wait");
    assert_works(&mut rig, "afterwards");
}

#[test]
fn a_huge_chain_keeps_no_other_port_waiting_and_is_kept_nowhere() {
    let mut rig = Rig::many().open(2);
    // All of RAM, sixteen times over: 48 MiB.
    let huge = [readable(0, 3 << 20); 16];
    rig.drivers[1].submit(&huge);
    rig.ring(1);
    assert_works(&mut rig, "meanwhile");
    assert_eq!(rig.used(1), 0);
    let mut client = rig.attach("0");
    let mut kept = vec![0; CAPACITY];
    client.read_exact(&mut kept).unwrap();
    client.set_nonblocking(true).unwrap();
    assert!(client.read(&mut [0]).is_err());
}

#[test]
fn a_queue_that_lies_stops_the_device_until_a_reset() {
    for index in 0..6u16 {
        let mut rig = Rig::many().open(2);
        rig.drivers[usize::from(index)].set_avail_index(1000);
        let _client = (rig.attach("0"), rig.attach("1"));
        rig.say_size("0", "1 1");
        rig.ring(index);
        while !rig.notifier.needs_reset() {
            std::thread::yield_now();
        }
        rig.reset();
        rig.notifier.clear_needs_reset();
        let mut rig = rig.open(2);
        assert_works(&mut rig, &format!("queue {index}"));
    }
}

#[test]
fn a_driver_that_knows_one_port_can_say_nothing_by_the_queues_of_others() {
    let mut rig = Rig::lone();
    // The configuration space has no more than it has.
    for (offset, expected) in [(4, [1, 0]), (8, [0, 0]), (u64::MAX, [0, 0]), (1 << 32, [0, 0])] {
        let mut bytes = [0; 2];
        crate::virtio::device::VirtioDevice::read_config(&rig.console, offset, &mut bytes);
        assert_eq!(bytes, expected);
    }
    crate::virtio::device::VirtioDevice::write_config(&mut rig.console, 8, &[1; 4]);
    rig.put_out(0, b"fine");
}
