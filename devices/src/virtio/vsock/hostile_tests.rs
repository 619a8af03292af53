// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What a guest may try with a socket device, and how little comes of it.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

use vm_memory::{Bytes, GuestAddress};

use super::credit::LEAST;
use super::rig::{CID, Rig};
use super::spec::{self, Header, SHUTDOWN_ALL, SHUTDOWN_SEND};
use super::*;
use crate::virtio::mock::{readable, writable};

const GUEST: u32 = 10;
const HOST: u32 = 1;
/// Where packets are made: see `rig.rs`.
const OUT: u64 = 0x4_0000;

/// A device with an open connection, and the host's end of that.
fn open() -> (Rig, UnixStream) {
    let mut rig = Rig::ready();
    let listener = rig.listen(HOST);
    let stream = rig.connect(GUEST, &listener, HOST);
    (rig, stream)
}

fn ends(mut stream: &UnixStream) -> bool {
    matches!(stream.read(&mut [0]), Ok(0))
}

#[test]
fn a_packet_that_breaks_the_rules_costs_its_connection_and_nothing_else() {
    let header = |op| Rig::header(GUEST, HOST, op);
    let rw = |len| Header { len, ..header(spec::OP_RW) };
    for (what, packet, data) in [
        ("longer than its buffers", rw(101), 100),
        ("4 GiB long", rw(u32::MAX), 100),
        ("more than there is credit for", rw(LEAST + 1), LEAST as usize + 1),
        ("a second request", header(spec::OP_REQUEST), 0),
        ("an answer to nothing", header(spec::OP_RESPONSE), 0),
        ("operation 0", header(0), 0),
        ("operation 8", header(8), 0),
        ("operation 65535", header(u16::MAX), 0),
    ] {
        let (mut rig, stream) = open();
        let listener = rig.listen(2);
        let neighbour = rig.connect(GUEST, &listener, 2);
        rig.send_raw(packet, &vec![1; data]);
        assert_eq!(rig.hear().0, spec::OP_RST, "{what}");
        assert!(ends(&stream), "{what}");
        rig.send_data(GUEST, 2, b"fine");
        let mut bytes = [0; 4];
        (&neighbour).read_exact(&mut bytes).unwrap();
        assert_eq!(&bytes, b"fine", "{what}");
        assert!(!rig.notifier.needs_reset(), "{what}");
    }
}

#[test]
fn data_after_the_end_of_data_costs_the_connection() {
    let (mut rig, stream) = open();
    rig.shut_down(GUEST, HOST, SHUTDOWN_SEND);
    assert!(ends(&stream));
    rig.send_data(GUEST, HOST, b"x");
    assert_eq!(rig.hear().0, spec::OP_RST);
}

#[test]
fn packets_from_or_to_other_context_ids_are_dropped() {
    let (mut rig, stream) = open();
    stream.set_nonblocking(true).unwrap();
    for (src_cid, dst_cid) in [
        (0, 2),
        (1, 2),
        (2, 2),
        (CID + 1, 2),
        (CID | 1 << 32, 2),
        (u64::MAX, 2),
        (CID, 0),
        (CID, 1),
        (CID, CID),
        (CID, 2 | 1 << 32),
        (CID, u64::MAX),
    ] {
        for op in 0..10 {
            rig.send_raw(Header { src_cid, dst_cid, len: 1, ..Rig::header(GUEST, HOST, op) }, b"x");
        }
    }
    assert!(rig.settle().is_empty());
    assert!((&stream).read(&mut [0]).is_err(), "nothing has come, and it is open");
}

#[test]
fn packets_for_connections_that_do_not_exist_are_refused_and_a_refusal_is_not() {
    let mut rig = Rig::ready();
    for op in 0..10 {
        rig.send(GUEST, HOST, op);
        // Nobody listens, so a request is refused too.
        let expected: &[u16] = if op == spec::OP_RST { &[] } else { &[spec::OP_RST] };
        assert_eq!(rig.settle(), expected, "operation {op}");
    }
    for kind in [0, 2, 3, u16::MAX] {
        rig.send_raw(Header { kind, ..Rig::header(GUEST, HOST, spec::OP_REQUEST) }, &[]);
        let (header, _) = rig.next();
        assert_eq!((header.op, header.kind), (spec::OP_RST, kind));
        rig.give(1);
    }
}

#[test]
fn chains_that_are_no_packets_go_back_and_nothing_happens() {
    let (mut rig, stream) = open();
    stream.set_nonblocking(true).unwrap();
    let data = Header { len: 100, ..Rig::header(GUEST, HOST, spec::OP_RW) };
    rig.write_header(data);
    rig.submit(&[readable(OUT, spec::HEADER_SIZE - 1)]);
    rig.submit(&[readable(OUT, 0)]);
    rig.submit(&[writable(OUT, 4096)]);
    rig.submit(&[readable(0x1_0000_0000, 64)]);
    rig.submit(&[readable(OUT, 20), readable(u64::MAX, 24)]);
    assert!(rig.settle().is_empty());
    assert!((&stream).read(&mut [0]).is_err());
}

#[test]
fn a_header_may_be_spread_over_as_many_buffers_as_it_has_bytes() {
    let (mut rig, mut stream) = open();
    rig.write_header(Header { len: 2, ..Rig::header(GUEST, HOST, spec::OP_RW) });
    rig.mem.write_slice(b"hi", GuestAddress(OUT + u64::from(spec::HEADER_SIZE))).unwrap();
    let bytes: Vec<_> = (0..u64::from(spec::HEADER_SIZE) + 2).map(|at| readable(OUT + at, 1)).collect();
    rig.submit(&bytes);
    let mut seen = [0; 2];
    stream.read_exact(&mut seen).unwrap();
    assert_eq!(&seen, b"hi");
}

#[test]
fn bytes_behind_the_length_that_a_header_says_are_not_sent() {
    let (mut rig, mut stream) = open();
    rig.send_raw(Header { len: 3, ..Rig::header(GUEST, HOST, spec::OP_RW) }, b"yes and no");
    rig.shut_down(GUEST, HOST, SHUTDOWN_SEND);
    let mut all = Vec::new();
    stream.read_to_end(&mut all).unwrap();
    assert_eq!(all, b"yes");
}

#[test]
fn a_header_that_changes_after_it_was_read_has_no_effect() {
    // The packet's own bytes are its data: what is sent is what was there, whoever writes to it meanwhile.
    let (mut rig, mut stream) = open();
    let header = Header { len: spec::HEADER_SIZE, ..Rig::header(GUEST, HOST, spec::OP_RW) };
    rig.write_header(header);
    rig.submit(&[readable(OUT, spec::HEADER_SIZE), readable(OUT, spec::HEADER_SIZE)]);
    let mut seen = [0; spec::HEADER_SIZE as usize];
    stream.read_exact(&mut seen).unwrap();
    assert_eq!(seen, header.to_bytes());
    // Another vCPU writes to the length of each packet while it is sent: what it says is its own affair, or costs its connection.
    let mem = rig.mem.clone();
    let ended = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let (stop, words) = (ended.clone(), [1u32, 100, 101, u32::MAX]);
    let writer = std::thread::spawn(move || {
        while !stop.load(std::sync::atomic::Ordering::Relaxed) {
            for len in words {
                mem.write_obj(len.to_le(), GuestAddress(OUT + 24)).unwrap();
            }
        }
    });
    for guest in 1000..3000 {
        rig.send(guest, HOST, spec::OP_RW);
        rig.submit(&[readable(OUT, spec::HEADER_SIZE), readable(OUT + 0x100, 100)]);
        while rig.poll().is_some() {
            rig.give(1);
        }
    }
    ended.store(true, std::sync::atomic::Ordering::Relaxed);
    writer.join().unwrap();
    assert!(!rig.notifier.needs_reset());
}

#[test]
fn a_guest_whose_room_shrinks_or_goes_back_gets_nothing_and_is_not_asked_without_end() {
    for (buf_alloc, fwd_cnt, has_room) in [
        (0, 0, false),
        (2, 0, false),
        (1 << 20, u32::MAX, true),
        (1 << 20, 6, false),
        (u32::MAX, 6, false),
        // It says that it has room after all: all that it gets is what the host has sent.
        (u32::MAX, 1 << 31, true),
    ] {
        let (mut rig, mut stream) = open();
        stream.write_all(b"hello").unwrap();
        assert_eq!(rig.hear(), (spec::OP_RW, 0, b"hello".to_vec()));
        rig.send_raw(Header { buf_alloc, fwd_cnt, ..Rig::header(GUEST, HOST, spec::OP_CREDIT_UPDATE) }, &[]);
        stream.write_all(b"more").unwrap();
        let (header, data) = rig.next();
        let expected = if has_room { (spec::OP_RW, b"more".to_vec()) } else { (spec::OP_CREDIT_REQUEST, vec![]) };
        assert_eq!((header.op, data), expected, "{buf_alloc}, {fwd_cnt}");
        assert!(rig.settle().is_empty(), "{buf_alloc}, {fwd_cnt}");
    }
}

#[test]
fn a_million_requests_are_answered_one_by_one_and_leave_nothing_behind() {
    let mut rig = Rig::new();
    // Without a buffer for the answers, packets are soon left where they are.
    let mut taken = 0;
    for guest in 0..2000 {
        rig.write_header(Rig::header(guest, HOST, spec::OP_REQUEST));
        if guest - taken < 64 {
            rig.drivers[1].submit(&[readable(OUT, spec::HEADER_SIZE)]);
            rig.ring(spec::TRANSMIT);
        }
        while rig.drivers[1].take_used().is_some() {
            taken += 1;
        }
    }
    assert!(taken < 600, "{taken}");
    let mut rig = Rig::ready();
    const REQUESTS: u32 = if cfg!(debug_assertions) { 20_000 } else { 1_000_000 };
    for guest in 0..REQUESTS {
        rig.send(guest, HOST, spec::OP_REQUEST);
        assert_eq!(rig.hear().0, spec::OP_RST);
    }
}

#[test]
fn the_connection_beyond_the_most_is_refused_and_one_that_ends_makes_room() {
    let Some(fds) = enough_descriptors() else { return };
    assert!(fds > 2 * MAX_CONNECTIONS as u64);
    let mut rig = Rig::ready();
    let listener = rig.listen(HOST);
    let streams: Vec<_> = (0..MAX_CONNECTIONS as u32).map(|guest| rig.connect(guest, &listener, HOST)).collect();
    rig.send(u32::MAX, HOST, spec::OP_REQUEST);
    assert_eq!(rig.hear().0, spec::OP_RST);
    // A program of the host waits, and is not turned away.
    let mut caller = UnixStream::connect(rig.path()).unwrap();
    caller.write_all(b"CONNECT 5\n").unwrap();
    assert!(rig.settle().is_empty());
    rig.shut_down(0, HOST, SHUTDOWN_ALL);
    assert_eq!(rig.hear().0, spec::OP_RST);
    assert_eq!(rig.hear().0, spec::OP_REQUEST);
    drop(streams);
}

/// Allows this process as many descriptors as it may have; says when those are too few.
fn enough_descriptors() -> Option<u64> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }).unwrap();
    let fds = limit.maximum.unwrap_or(u64::MAX);
    if fds <= 2 * MAX_CONNECTIONS as u64 + 64 {
        crate::skip::skip("this process may not have as many descriptors as there are connections");
        return None;
    }
    Some(fds)
}

#[test]
fn buffers_without_room_for_a_packet_go_back_empty_and_hold_up_nobody() {
    let mut rig = Rig::new();
    let listener = rig.listen(HOST);
    for buffer in [writable(0x20_0000, spec::HEADER_SIZE), writable(0x20_0000, 3), readable(0x20_0000, 4096)] {
        rig.drivers[0].submit(&[buffer]);
    }
    rig.send(GUEST, HOST, spec::OP_REQUEST);
    let _stream = listener.accept().unwrap();
    rig.give(1);
    let used: Vec<_> = std::iter::from_fn(|| {
        // The answer comes last.
        while rig.drivers[0].used_index() < 4 {
            std::thread::yield_now();
        }
        rig.drivers[0].take_used()
    })
    .take(4)
    .collect();
    assert_eq!(used.iter().map(|(_, written)| *written).collect::<Vec<_>>(), [0, 0, 0, spec::HEADER_SIZE]);
}

#[test]
fn data_after_a_reset_is_for_nobody() {
    let (mut rig, stream) = open();
    rig.reset();
    rig.give(8);
    rig.send_data(GUEST, HOST, b"x");
    assert_eq!(rig.hear().0, spec::OP_RST);
    assert!(ends(&stream));
}

#[test]
fn a_ring_that_lies_stops_the_device_until_its_reset() {
    let (mut rig, stream) = open();
    rig.drivers[1].set_avail_index(1000);
    rig.ring(spec::TRANSMIT);
    while !rig.notifier.needs_reset() {
        std::thread::yield_now();
    }
    rig.reset();
    assert!(ends(&stream));
    rig.give(8);
    let listener = rig.listen(2);
    rig.connect(GUEST, &listener, 2);
}

#[test]
fn a_host_that_is_gone_is_told_once_and_its_connection_takes_no_data() {
    let (mut rig, stream) = open();
    drop(stream);
    assert_eq!(rig.hear(), (spec::OP_SHUTDOWN, SHUTDOWN_ALL, vec![]));
    assert!(rig.settle().is_empty());
    rig.send_data(GUEST, HOST, b"x");
    assert_eq!(rig.hear().0, spec::OP_RST);
    rig.send_data(GUEST, HOST, b"x");
    assert_eq!(rig.hear().0, spec::OP_RST);
}

#[test]
fn a_host_that_half_closes_is_heard_of_once_and_keeps_nobody_busy() {
    let (mut rig, stream) = open();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(rig.hear(), (spec::OP_SHUTDOWN, SHUTDOWN_SEND, vec![]));
    // Nanoseconds that the worker has had of a processor, of which it takes no more once it sleeps.
    let taken = || {
        let tasks = std::fs::read_dir("/proc/self/task").unwrap().flatten();
        let of = |task: std::fs::DirEntry| {
            let name = std::fs::read_to_string(task.path().join("comm")).ok()?;
            let status = std::fs::read_to_string(task.path().join("schedstat")).ok()?;
            (name.trim() == "vsock").then(|| status.split(' ').next().unwrap().parse::<u64>().unwrap())
        };
        tasks.filter_map(of).sum::<u64>()
    };
    assert!(rig.settle().is_empty());
    let before = taken();
    std::thread::sleep(std::time::Duration::from_millis(100));
    assert!(taken() - before < 10_000_000, "it runs on");
}

#[derive(Debug)]
struct Nobody;

impl PortHandler for Nobody {
    fn connected(&mut self, stream: UnixStream) {
        drop(stream);
    }
}

#[test]
fn a_guest_that_takes_no_answers_can_not_fill_the_host_by_connecting_again_and_again() {
    let mut rig = Rig::with(|options| drop(options.ports.insert(HOST, Box::new(Nobody))));
    for guest in 0..10_000 {
        for op in [spec::OP_REQUEST, spec::OP_RST] {
            rig.send(guest, HOST, op);
        }
    }
    // It is none the worse for it, and nothing was kept to be answered.
    rig.give(8);
    rig.send(GUEST, 99, spec::OP_REQUEST);
    assert_eq!(rig.hear().0, spec::OP_RST);
    assert!(rig.settle().is_empty());
}
