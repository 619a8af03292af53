// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;

use super::credit::{LEAST, MOST};
use super::rig::{ROOM, Rig};
use super::spec::{self, Header, SHUTDOWN_ALL, SHUTDOWN_RCV, SHUTDOWN_SEND};
use super::*;
use crate::virtio::device::VirtioDevice;

fn read(mut stream: &UnixStream, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    stream.read_exact(&mut bytes).unwrap();
    bytes
}

/// A program of the host connects to port 1024 of the guest's, which agrees; its socket and the port of the host's.
fn call(rig: &mut Rig) -> (UnixStream, u32) {
    let mut caller = UnixStream::connect(rig.path()).unwrap();
    caller.write_all(b"CONNECT 1024\n").unwrap();
    let (header, _) = rig.next();
    rig.give(1);
    assert_eq!((header.op, header.dst_port), (spec::OP_REQUEST, 1024));
    rig.send(1024, header.src_port, spec::OP_RESPONSE);
    let answer = format!("OK {}\n", header.src_port);
    assert_eq!(read(&caller, answer.len()), answer.as_bytes());
    (caller, header.src_port)
}

#[test]
fn the_configuration_space_holds_the_context_id_and_nothing_else() {
    let rig = Rig::new();
    let mut config = [0; 16];
    rig.vsock.read_config(0, &mut config);
    assert_eq!(config, [3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    let mut past = [0; 4];
    rig.vsock.read_config(u64::MAX, &mut past);
    assert_eq!(past, [0; 4]);
}

#[test]
fn a_context_id_that_stands_for_somebody_else_is_refused() {
    for cid in [0, 1, 2, u32::MAX] {
        let error = Vsock::new("v", VsockOptions { cid, host: None, ports: Default::default() }).unwrap_err();
        assert_eq!(error.to_string(), format!("{cid} can't be a guest's context ID: give one from 3 to 4294967294"));
    }
}

#[test]
fn a_program_of_the_host_reaches_the_guest_and_data_passes_both_ways() {
    let mut rig = Rig::ready();
    let (mut caller, port) = call(&mut rig);
    caller.write_all(b"question").unwrap();
    assert_eq!(rig.hear(), (spec::OP_RW, 0, b"question".to_vec()));
    rig.send_data(1024, port, b"answer");
    assert_eq!(read(&caller, 6), b"answer");
}

#[test]
fn what_the_guest_has_sent_behind_its_request_or_the_host_behind_its_greeting_is_not_lost() {
    let mut rig = Rig::ready();
    let mut caller = UnixStream::connect(rig.path()).unwrap();
    caller.write_all(b"CONNECT 7\nearly").unwrap();
    let (header, _) = rig.next();
    rig.send(7, header.src_port, spec::OP_RESPONSE);
    assert_eq!(rig.hear(), (spec::OP_RW, 0, b"early".to_vec()));
}

#[test]
fn the_guest_reaches_who_listens_at_its_port_and_is_refused_where_nobody_does() {
    let mut rig = Rig::ready();
    let listener = rig.listen(52);
    let mut stream = rig.connect(5000, &listener, 52);
    rig.send_data(5000, 52, b"hello");
    assert_eq!(read(&stream, 5), b"hello");
    stream.write_all(b"world").unwrap();
    assert_eq!(rig.hear(), (spec::OP_RW, 0, b"world".to_vec()));
    rig.send(5001, 53, spec::OP_REQUEST);
    let (header, _) = rig.next();
    assert_eq!((header.op, header.src_port, header.dst_port), (spec::OP_RST, 53, 5001));
}

#[test]
fn a_guest_that_refuses_has_the_program_of_the_host_see_an_end() {
    let mut rig = Rig::ready();
    let mut caller = UnixStream::connect(rig.path()).unwrap();
    caller.write_all(b"CONNECT 9\n").unwrap();
    let (header, _) = rig.next();
    rig.send(9, header.src_port, spec::OP_RST);
    assert_eq!(caller.read(&mut [0]).unwrap(), 0);
}

#[test]
fn a_program_that_says_something_else_is_hung_up_on() {
    let mut rig = Rig::ready();
    let mut caller = UnixStream::connect(rig.path()).unwrap();
    caller.write_all(b"GET / HTTP/1.1\n").unwrap();
    assert_eq!(caller.read(&mut [0]).unwrap(), 0);
    assert!(rig.poll().is_none());
}

#[test]
fn a_port_that_the_embedder_serves_is_reached_without_a_listener() {
    #[derive(Debug)]
    struct Handler(std::sync::mpsc::Sender<UnixStream>);
    impl PortHandler for Handler {
        fn connected(&mut self, stream: UnixStream) {
            self.0.send(stream).unwrap();
        }
    }
    let (sender, streams) = std::sync::mpsc::channel();
    let mut rig = Rig::with(|options| {
        options.ports.insert(8888, Box::new(Handler(sender)));
        options.host = None;
    });
    rig.give(8);
    rig.send(1, 8888, spec::OP_REQUEST);
    assert_eq!(rig.hear().0, spec::OP_RESPONSE);
    rig.send_data(1, 8888, b"READY=1");
    let stream = streams.recv().unwrap();
    assert_eq!(read(&stream, 7), b"READY=1");
    rig.send(1, 8889, spec::OP_REQUEST);
    assert_eq!(rig.hear().0, spec::OP_RST);
}

#[test]
fn each_side_can_close_its_half_and_go_on_with_the_other() {
    let mut rig = Rig::ready();
    let listener = rig.listen(1);
    let mut stream = rig.connect(10, &listener, 1);
    rig.send_data(10, 1, b"last words");
    rig.shut_down(10, 1, SHUTDOWN_SEND);
    let mut all = Vec::new();
    stream.read_to_end(&mut all).unwrap();
    assert_eq!(all, b"last words");
    stream.write_all(b"and mine").unwrap();
    assert_eq!(rig.hear(), (spec::OP_RW, 0, b"and mine".to_vec()));
    // Nothing can pass any more, in either direction.
    stream.shutdown(Shutdown::Write).unwrap();
    assert_eq!(rig.hear(), (spec::OP_SHUTDOWN, SHUTDOWN_ALL, vec![]));
    rig.shut_down(10, 1, SHUTDOWN_ALL);
    assert_eq!(rig.hear().0, spec::OP_RST);
    // The name is free again.
    rig.connect(10, &listener, 1);
}

#[test]
fn a_host_that_half_closes_still_hears_the_guest() {
    let mut rig = Rig::ready();
    let (caller, port) = call(&mut rig);
    caller.shutdown(Shutdown::Write).unwrap();
    assert_eq!(rig.hear(), (spec::OP_SHUTDOWN, SHUTDOWN_SEND, vec![]));
    rig.send_data(1024, port, b"still here");
    assert_eq!(read(&caller, 10), b"still here");
    drop(caller);
    assert_eq!(rig.hear(), (spec::OP_SHUTDOWN, SHUTDOWN_ALL, vec![]));
}

#[test]
fn a_host_that_reads_no_more_has_the_guest_told_and_what_it_sends_dropped() {
    let mut rig = Rig::ready();
    let listener = rig.listen(1);
    let mut stream = rig.connect(10, &listener, 1);
    stream.shutdown(Shutdown::Read).unwrap();
    rig.send_data(10, 1, b"nobody wants this");
    assert_eq!(rig.hear(), (spec::OP_SHUTDOWN, SHUTDOWN_RCV, vec![]));
    for _ in 0..100 {
        rig.send_data(10, 1, &[0; 4096]);
    }
    stream.write_all(b"x").unwrap();
    assert_eq!(rig.hear(), (spec::OP_RW, 0, b"x".to_vec()));
}

#[test]
fn a_guest_that_closes_is_answered_at_once_and_the_host_gets_all_that_was_sent() {
    let mut rig = Rig::ready();
    let listener = rig.listen(1);
    let mut stream = rig.connect(10, &listener, 1);
    // More than a socket takes, without a reader.
    let mut sent = 0;
    loop {
        let (_, room) = fill(&mut rig, sent);
        sent += room;
        if room == 0 {
            break;
        }
    }
    rig.shut_down(10, 1, SHUTDOWN_ALL);
    assert_eq!(rig.hear().0, spec::OP_RST);
    let mut all = Vec::new();
    stream.read_to_end(&mut all).unwrap();
    assert_eq!(all.len(), sent);
    assert!(all.iter().enumerate().all(|(at, byte)| *byte == (at / 4096) as u8));
}

/// Sends one piece of data on connection 10 to 1 if there is credit, of which it was told last; gives how much.
fn fill(rig: &mut Rig, sent: usize) -> (usize, usize) {
    // There is always credit for what the socket took; the rest is kept until the credit is used up.
    if sent + 4096 > (LEAST as usize) {
        return (sent, 0);
    }
    rig.send_data(10, 1, &[(sent / 4096) as u8; 4096]);
    (sent, 4096)
}

#[test]
fn what_a_slow_reader_leaves_is_kept_up_to_the_credit_and_the_guest_is_told_as_it_reads() {
    let mut rig = Rig::ready();
    let listener = rig.listen(1);
    let mut stream = rig.connect(10, &listener, 1);
    let (mut alloc, mut fwd, mut sent) = (LEAST, 0u32, 0u32);
    let piece = [7; 32 << 10];
    // Until there is no credit: the socket is full, and we keep as much as we said.
    loop {
        while let Some((header, _)) = rig.poll() {
            (alloc, fwd) = (header.buf_alloc, header.fwd_cnt);
            rig.give(1);
        }
        if alloc - (sent - fwd) < piece.len() as u32 {
            // What was sent last may not have been answered yet.
            if rig.settle().is_empty() {
                break;
            }
            let (header, _) = ask_for_credit(&mut rig);
            (alloc, fwd) = (header.buf_alloc, header.fwd_cnt);
            if alloc - (sent - fwd) < piece.len() as u32 {
                break;
            }
        }
        rig.send_data(10, 1, &piece);
        sent += piece.len() as u32;
    }
    assert!(alloc <= MOST && sent - fwd <= alloc && sent > LEAST);
    let mut read = 0;
    let mut buffer = vec![0; 64 << 10];
    while read < sent as usize {
        let len = stream.read(&mut buffer).unwrap();
        assert!(buffer[..len].iter().all(|byte| *byte == 7));
        read += len;
    }
    loop {
        let (header, _) = ask_for_credit(&mut rig);
        if header.fwd_cnt == sent {
            break;
        }
    }
}

fn ask_for_credit(rig: &mut Rig) -> (Header, Vec<u8>) {
    rig.send(10, 1, spec::OP_CREDIT_REQUEST);
    loop {
        let (header, data) = rig.next();
        rig.give(1);
        if header.op == spec::OP_CREDIT_UPDATE {
            return (header, data);
        }
    }
}

#[test]
fn the_guest_gets_what_it_has_room_for_and_the_rest_when_it_has_more() {
    let mut rig = Rig::ready();
    let listener = rig.listen(1);
    let request = Header { buf_alloc: 10, ..Rig::header(10, 1, spec::OP_REQUEST) };
    rig.send_raw(request, &[]);
    let mut stream = listener.accept().unwrap().0;
    assert_eq!(rig.hear().0, spec::OP_RESPONSE);
    stream.write_all(b"0123456789abcdef").unwrap();
    assert_eq!(rig.hear(), (spec::OP_RW, 0, b"0123456789".to_vec()));
    let (header, _) = rig.next();
    assert_eq!(header.op, spec::OP_CREDIT_REQUEST);
    assert!(rig.settle().is_empty());
    let update = Header { buf_alloc: 10, fwd_cnt: 8, ..Rig::header(10, 1, spec::OP_CREDIT_UPDATE) };
    rig.send_raw(update, &[]);
    assert_eq!(rig.hear(), (spec::OP_RW, 0, b"abcdef".to_vec()));
}

#[test]
fn much_data_is_spread_over_many_buffers_by_one_call() {
    let mut rig = Rig::new();
    let listener = rig.listen(1);
    rig.give(1);
    rig.send(10, 1, spec::OP_REQUEST);
    let mut stream = listener.accept().unwrap().0;
    assert_eq!(rig.next().0.op, spec::OP_RESPONSE);
    let data: Vec<u8> = (0..20_000u32).map(|at| (at / 7) as u8).collect();
    stream.write_all(&data).unwrap();
    // No buffer: it waits, and nothing is lost.
    rig.give(16);
    let mut got = Vec::new();
    let mut lengths = Vec::new();
    while got.len() < data.len() {
        let (header, part) = rig.next();
        assert_eq!(header.op, spec::OP_RW);
        lengths.push(header.len);
        got.extend(part);
    }
    assert_eq!(got, data);
    let room = (ROOM - u64::from(spec::HEADER_SIZE)) as u32;
    assert_eq!(lengths, [room, room, room, room, 20_000 - 4 * room]);
}

#[test]
fn a_queue_that_stops_goes_on_where_it_was_with_its_connections() {
    let mut rig = Rig::ready();
    let listener = rig.listen(1);
    let mut stream = rig.connect(10, &listener, 1);
    let states = [0, 1, 2].map(|index| rig.vsock.stop_queue(index).unwrap());
    stream.write_all(b"meanwhile").unwrap();
    for (index, state) in (0..).zip(states) {
        rig.start(index, state);
    }
    assert_eq!(rig.hear(), (spec::OP_RW, 0, b"meanwhile".to_vec()));
    rig.send_data(10, 1, b"and back");
    assert_eq!(read(&stream, 8), b"and back");
}

#[test]
fn a_reset_ends_all_connections_and_the_device_works_again() {
    let mut rig = Rig::ready();
    let listener = rig.listen(1);
    let mut stream = rig.connect(10, &listener, 1);
    let (mut caller, _) = call(&mut rig);
    rig.reset();
    assert_eq!((stream.read(&mut [0]).unwrap(), caller.read(&mut [0]).unwrap()), (0, 0));
    rig.give(8);
    let _stream = rig.connect(10, &listener, 1);
    call(&mut rig);
}

#[test]
fn programs_of_the_host_wait_while_no_driver_runs() {
    let mut rig = Rig::ready();
    rig.reset();
    for index in 0..3 {
        rig.vsock.stop_queue(index);
    }
    rig.vsock.reset();
    let mut caller = UnixStream::connect(rig.path()).unwrap();
    caller.write_all(b"CONNECT 1\n").unwrap();
    rig.reset();
    rig.give(4);
    let (header, _) = rig.next();
    assert_eq!((header.op, header.dst_port), (spec::OP_REQUEST, 1));
}

#[test]
fn a_listener_that_is_busy_is_asked_again() {
    let mut rig = Rig::ready();
    let address = rustix::net::SocketAddrUnix::new(port_path(&rig.path(), 1)).unwrap();
    let socket = rustix::net::socket(rustix::net::AddressFamily::UNIX, rustix::net::SocketType::STREAM, None).unwrap();
    rustix::net::bind(&socket, &address).unwrap();
    rustix::net::listen(&socket, 0).unwrap();
    let listener = std::os::unix::net::UnixListener::from(socket);
    // One waits in its queue, and there is no room for another.
    rig.send(1, 1, spec::OP_REQUEST);
    rig.send(2, 1, spec::OP_REQUEST);
    assert_eq!(rig.hear().0, spec::OP_RESPONSE);
    assert!(rig.settle().is_empty());
    let _first = listener.accept().unwrap();
    let (header, _) = rig.next();
    assert_eq!((header.op, header.dst_port), (spec::OP_RESPONSE, 2));
}

#[test]
fn a_guest_that_waits_for_credit_is_told_of_it_unasked() {
    let mut rig = Rig::ready();
    let listener = rig.listen(1);
    let mut stream = rig.connect(10, &listener, 1);
    const BYTES: usize = 8 << 20;
    let reader = std::thread::spawn(move || {
        let (mut read, mut buffer) = (0, vec![0; 16 << 10]);
        while read < BYTES {
            read += stream.read(&mut buffer).unwrap();
        }
        stream
    });
    let (mut alloc, mut fwd, mut sent) = (LEAST, 0u32, 0u32);
    while (sent as usize) < BYTES {
        let room = (alloc - (sent - fwd)).min(64 << 10);
        if room > 0 {
            rig.send_data(10, 1, &vec![7; room as usize]);
            sent += room;
        } else {
            let (header, _) = rig.next();
            rig.give(1);
            assert_eq!(header.op, spec::OP_CREDIT_UPDATE);
            (alloc, fwd) = (header.buf_alloc, header.fwd_cnt);
        }
    }
    reader.join().unwrap();
}
