// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What passes between a guest and whoever is at its ports.

use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;

use super::backlog::CAPACITY;
use super::rig::{OUT, Rig, port, socket};
use super::spec;
use super::*;
use crate::virtio::device::VirtioDevice;
use crate::virtio::mock::readable;

fn read(mut stream: &UnixStream, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    stream.read_exact(&mut bytes).unwrap();
    bytes
}

fn ends(mut stream: &UnixStream) -> bool {
    match stream.read(&mut [0]) {
        Ok(len) => len == 0,
        Err(error) => error.kind() == ErrorKind::ConnectionReset,
    }
}

#[test]
fn a_lone_console_has_two_queues_and_no_control_messages() {
    let rig = Rig::lone();
    assert_eq!(rig.console.queue_sizes(), [64, 64]);
    assert_eq!(rig.console.features(), spec::F_SIZE);
    assert_eq!(rig.config(), (0, 0, 1));
    let rig = Rig::many();
    assert_eq!(rig.console.queue_sizes(), [64; 6]);
    assert_eq!(rig.console.features(), spec::F_SIZE | spec::F_MULTIPORT);
    assert_eq!(rig.config(), (0, 0, 2));
}

#[test]
fn bytes_pass_both_ways() {
    let mut rig = Rig::lone();
    let mut client = rig.attach("0");
    rig.put_out(0, b"hello");
    assert_eq!(read(&client, 5), b"hello");
    client.write_all(b"you").unwrap();
    assert_eq!(rig.take_in(0), b"you");
    client.write_all(&[7; 6000]).unwrap();
    assert_eq!((rig.take_in(0).len(), rig.take_in(0).len()), (4096, 1904));
}

#[test]
fn nothing_is_read_that_the_guest_has_no_buffer_for() {
    let mut rig = Rig::lone();
    let mut client = rig.attach("0");
    client.set_nonblocking(true).unwrap();
    while client.write(&[1; 4096]).is_ok() {}
    rig.put_out(0, b"x");
    rig.put_out(0, b"y");
    assert!(client.write(&[1; 4096]).is_err(), "the device has read what nobody has room for");
    assert_eq!(rig.take_in(0), [1; 4096]);
}

#[test]
fn who_comes_late_is_shown_the_last_output_and_who_comes_again_too() {
    let mut rig = Rig::lone();
    for at in 0..40u8 {
        rig.put_out(0, &[at; 4000]);
    }
    for _ in 0..2 {
        let seen = read(&rig.attach("0"), CAPACITY);
        assert_eq!((seen[0], seen[CAPACITY - 1]), (((160_000 - CAPACITY) / 4000) as u8, 39));
    }
}

#[test]
fn who_comes_takes_the_place_of_who_is_there() {
    let mut rig = Rig::lone();
    let first = rig.attach("0");
    rig.put_out(0, b"one");
    assert_eq!(read(&first, 3), b"one");
    let mut second = rig.attach("0");
    assert_eq!(read(&second, 3), b"one");
    assert!(ends(&first));
    rig.put_out(0, b"two");
    assert_eq!(read(&second, 3), b"two");
    second.write_all(b"in").unwrap();
    assert_eq!(rig.take_in(0), b"in");
}

#[test]
fn what_was_sent_by_one_who_has_left_is_still_read() {
    let mut rig = Rig::lone();
    let mut client = rig.attach("0");
    client.write_all(b"a last word").unwrap();
    rig.put_out(0, b"x");
    drop(client);
    rig.put_out(0, b"y");
    assert_eq!(rig.take_in(0), b"a last word");
    let mut next = rig.attach("0");
    assert_eq!(read(&next, 2), b"xy");
    next.write_all(b"hi").unwrap();
    assert_eq!(rig.take_in(0), b"hi");
}

#[test]
fn one_who_has_said_all_still_hears() {
    let mut rig = Rig::lone();
    let client = rig.attach("0");
    (&client).write_all(b"all").unwrap();
    client.shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(rig.take_in(0), b"all");
    rig.give(0);
    rig.put_out(0, b"answer");
    assert_eq!(read(&client, 6), b"answer");
}

#[test]
fn a_reader_that_takes_nothing_does_not_stop_the_guest() {
    let mut rig = Rig::lone();
    let client = rig.attach("0");
    // More than a socket and the device hold together: each chain comes back all the same.
    for at in 0..200u32 {
        rig.put_out(0, &[at as u8; 8000]);
    }
    // The reader that wakes up gets what the socket has, and then the last output.
    client.set_nonblocking(true).unwrap();
    let (mut seen, mut bytes) = (Vec::new(), [0; 65536]);
    rig.put_out(0, b"the end");
    while !seen.ends_with(b"the end") {
        match (&client).read(&mut bytes) {
            Ok(len) => seen.extend_from_slice(&bytes[..len]),
            Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
        }
    }
    assert!(seen.len() < 200 * 8000, "something was lost");
    assert!(seen.ends_with(&[&[199; 8000][..], b"the end"].concat()));
}

#[test]
fn a_reader_that_reads_gets_everything() {
    let mut rig = Rig::lone();
    let mut client = rig.attach("0");
    let reader = std::thread::spawn(move || {
        let mut all = vec![0; 300 * 8000];
        client.read_exact(&mut all).unwrap();
        all
    });
    for at in 0..300u32 {
        rig.put_out(0, &[at as u8; 8000]);
    }
    let all = reader.join().unwrap();
    assert!(all.chunks(8000).zip(0..).all(|(piece, at): (&[u8], u32)| piece == [at as u8; 8000]));
}

#[test]
fn a_driver_is_told_of_its_ports_and_a_program_that_opens_one_gets_its_input() {
    let mut rig = Rig::many();
    rig.console.control().resize(1, 80, 24);
    rig.say(spec::message(0, spec::DEVICE_READY, 1));
    assert_eq!(rig.hear(), (0, spec::DEVICE_ADD, 1, vec![]));
    assert_eq!(rig.hear(), (1, spec::DEVICE_ADD, 1, vec![]));
    rig.say(spec::message(1, spec::PORT_READY, 1));
    assert_eq!(rig.hear(), (1, spec::PORT_NAME, 1, b"one".to_vec()));
    assert_eq!(rig.hear(), (1, spec::PORT_OPEN, 1, vec![]));
    assert_eq!(rig.hear(), (1, spec::RESIZE, 1, vec![80, 0, 24, 0]));
    rig.say(spec::message(0, spec::PORT_READY, 1));
    assert_eq!(rig.hear(), (0, spec::CONSOLE_PORT, 1, vec![]));
    assert_eq!(rig.hear(), (0, spec::PORT_NAME, 1, b"zero".to_vec()));
    assert_eq!(rig.hear(), (0, spec::PORT_OPEN, 1, vec![]));
    // Nobody reads it yet.
    let mut client = rig.attach("1");
    client.write_all(b"hi").unwrap();
    rig.give(4);
    rig.put_out(1, b"out");
    assert_eq!(read(&client, 3), b"out");
    assert!(rig.drivers[4].take_used().is_none());
    rig.say(spec::message(1, spec::PORT_OPEN, 1));
    assert_eq!(rig.taken(4), b"hi");
    rig.say(spec::message(1, spec::PORT_OPEN, 0));
    client.write_all(b"again").unwrap();
    rig.give(4);
    rig.put_out(1, b"out");
    assert!(rig.drivers[4].take_used().is_none());
}

#[test]
fn a_size_reaches_the_guest_by_its_configuration_or_by_a_message() {
    let mut rig = Rig::lone();
    assert!(rig.console.control().resize(0, 120, 40));
    rig.wait_for_config();
    assert_eq!(rig.config(), (120, 40, 1));
    rig.say_size("0", "132 43\n");
    rig.wait_for_config();
    assert_eq!(rig.config(), (132, 43, 1));
    assert!(!rig.console.control().resize(1, 1, 1));
    // Nothing that isn't a size changes it.
    for text in ["", "80", "80 ", " 24", "80x24", "80 24 1", "-1 2", "65536 1", "99999999999999999999 1", "\u{fffd}"] {
        rig.say_size("0", text);
    }
    rig.put_out(0, b"x");
    assert_eq!(rig.config(), (132, 43, 1));
    rig = Rig::many().open(2);
    rig.say_size("1", "65535 1");
    assert_eq!(rig.hear(), (1, spec::RESIZE, 1, vec![255, 255, 1, 0]));
}

#[test]
fn a_log_gets_all_output_whoever_is_there() {
    let log = tempfile::NamedTempFile::new().unwrap();
    let file = log.reopen().unwrap();
    let mut rig = Rig::new(|folder| vec![ConsolePort { log: Some(file), ..port(None, socket(folder, "0")) }]);
    for _ in 0..50 {
        rig.put_out(0, &[b'x'; 5000]);
    }
    assert_eq!(std::fs::read(log.path()).unwrap(), vec![b'x'; 250_000]);
}

#[test]
fn output_goes_to_a_file_and_input_comes_from_one() {
    let (mut from, to) = (tempfile::NamedTempFile::new().unwrap(), tempfile::NamedTempFile::new().unwrap());
    from.write_all(&[b'i'; 5000]).unwrap();
    let input = File::open(from.path()).unwrap();
    let output = to.reopen().unwrap();
    let streams = ConsoleBackend::Streams { input: Some(Box::new(input)), output: Some(Box::new(output)) };
    let mut rig = Rig::new(|_| vec![port(None, streams)]);
    rig.put_out(0, &[b'o'; 9000]);
    assert_eq!(std::fs::read(to.path()).unwrap(), [b'o'; 9000]);
    assert_eq!((rig.take_in(0).len(), rig.take_in(0).len()), (4096, 904));
    rig.give(0);
    rig.put_out(0, b"and on");
    assert!(rig.drivers[0].take_used().is_none(), "it has ended");
}

#[test]
fn what_is_put_out_without_a_doorbell_is_there_when_the_queue_stops() {
    let mut rig = Rig::lone();
    let client = rig.attach("0");
    rig.put_out(0, b"x");
    assert_eq!(read(&client, 1), b"x");
    vm_memory::Bytes::write_slice(&rig.mem, b"last", vm_memory::GuestAddress(OUT)).unwrap();
    rig.drivers[1].submit(&[readable(OUT, 4)]);
    rig.console.stop_queue(1).unwrap();
    assert_eq!(read(&client, 4), b"last");
}

#[test]
fn a_reset_keeps_who_is_there_and_a_stopped_queue_goes_on() {
    let mut rig = Rig::many().open(2);
    let mut client = rig.attach("1");
    rig.put_out(1, b"before");
    rig.give(4);
    assert_eq!(read(&client, 6), b"before");
    for index in [4, 5] {
        let state = rig.console.stop_queue(index).unwrap();
        rig.start(index, state);
    }
    client.write_all(b"in").unwrap();
    assert_eq!(rig.taken(4), b"in");
    rig.reset();
    client.write_all(b"again").unwrap();
    let mut rig = rig.open(2);
    assert_eq!(rig.take_in(1), b"again");
    rig.put_out(1, b"after");
    assert_eq!(read(&client, 5), b"after");
}

#[test]
fn what_can_be_no_console_is_refused() {
    let streams = || ConsoleBackend::Streams { input: None, output: None };
    let many = |count: usize| (0..count).map(|_| port(None, streams())).collect::<Vec<_>>();
    for (ports, expected) in [
        (many(0), "0 ports: a console has 1 to 16"),
        (many(17), "17 ports: a console has 1 to 16"),
        (
            vec![port(Some("a/b"), streams())],
            "\"a/b\" can't be a port's name: give 1 to 64 letters, digits, dots, dashes and underscores",
        ),
    ] {
        assert_eq!(Console::new("c", ports).unwrap_err().to_string(), expected);
    }
    assert!(!is_port_name("") && !is_port_name(&"x".repeat(65)) && is_port_name("org.qemu.guest_agent.0"));
    assert!(Console::new("c", many(16)).is_ok());
}
