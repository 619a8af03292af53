// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

use std::os::unix::net::UnixDatagram;

use vm_memory::{Bytes, GuestAddress};

use super::*;

/// Two regions that don't touch each other.
fn mem() -> GuestRam {
    let mem = GuestRam::from_ranges(&[(GuestAddress(0), 0x1000), (GuestAddress(0x1000), 0x1000)]).unwrap();
    let bytes: Vec<u8> = (0..0x2000u32).map(|at| (at / 3) as u8).collect();
    mem.write_slice(&bytes, GuestAddress(0)).unwrap();
    mem
}

fn segment(address: u64, len: u32) -> Segment {
    Segment { address: GuestAddress(address), len }
}

/// Three segments, one of them across two regions: 4 ranges of 30 bytes.
fn buffers() -> FrameBuffers {
    let mut buffers = FrameBuffers::new(mem());
    assert_eq!(buffers.push(&[segment(0x100, 10), segment(0xffa, 12), segment(0x200, 8)]), (4, 30));
    buffers
}

fn expected() -> Vec<u8> {
    let mem = mem();
    let mut bytes = vec![0; 30];
    for (at, address, len) in [(0, 0x100, 10), (10, 0xffa, 12), (22, 0x200, 8)] {
        mem.read_slice(&mut bytes[at..at + len], GuestAddress(address)).unwrap();
    }
    bytes
}

#[test]
fn a_frame_is_sent_from_any_byte_on() {
    let (a, b) = UnixDatagram::pair().unwrap();
    let mut buffers = buffers();
    let own: [&[u8]; 2] = [b"head", b"prefix"];
    for at in [0, 6, 10, 29] {
        let whole = [b"head".as_slice(), b"prefix", &expected()[at..]].concat();
        for skip in 0..whole.len() {
            for peer in [Peer::Tap, Peer::Socket] {
                assert_eq!(buffers.send(&a, peer, own, at, skip).unwrap(), whole.len() - skip);
                let mut got = [0; 64];
                let len = b.recv(&mut got).unwrap();
                assert_eq!(&got[..len], &whole[skip..], "{at} {skip}");
            }
        }
    }
}

#[test]
fn a_frame_is_received_into_its_range_and_what_is_ours() {
    let (a, b) = UnixDatagram::pair().unwrap();
    for (from, to) in [(0, 30), (4, 30), (10, 22), (12, 13), (29, 30), (5, 5)] {
        let mut buffers = buffers();
        let frame: Vec<u8> = (100..100 + 4 + (to - from) as u8 + 3).collect();
        b.send(&frame).unwrap();
        let (mut head, mut tail) = ([0; 4], [0; 3]);
        assert_eq!(buffers.receive(&a, &mut head, from..to, &mut tail).unwrap(), frame.len());
        let mut now = vec![0; 30];
        assert_eq!(buffers.read(0, &mut now), 30);
        let mut then = expected();
        then[from..to].copy_from_slice(&frame[4..frame.len() - 3]);
        assert_eq!((head.as_slice(), now, tail.as_slice()), (&frame[..4], then, &frame[frame.len() - 3..]));
    }
}

#[test]
fn bytes_are_written_and_read_across_ranges_and_not_beyond_them() {
    let mut buffers = buffers();
    buffers.write(7, b"across three");
    let mut bytes = [0; 14];
    assert_eq!(buffers.read(6, &mut bytes), 14);
    assert_eq!(&bytes[1..13], b"across three");
    buffers.write(28, b"beyond");
    assert_eq!((buffers.read(28, &mut bytes), &bytes[..2]), (2, b"be".as_slice()));
    assert_eq!((buffers.read(30, &mut bytes), buffers.read(usize::MAX, &mut bytes)), (0, 0));
    buffers.drop_first(2);
    assert_eq!(buffers.read(0, &mut [0; 64]), 14);
    buffers.drop_first(99);
    assert_eq!(buffers.read(0, &mut [0; 64]), 0);
}

#[test]
fn no_more_ranges_are_taken_than_a_call_takes() {
    let mut buffers = FrameBuffers::new(mem());
    assert_eq!(buffers.push(&[segment(0, 1); 1000]), (1000, 1000));
    assert!(!buffers.is_full());
    assert_eq!(buffers.push(&[segment(0, 1); 1000]), (22, 22));
    assert!(buffers.is_full());
    let (a, b) = UnixDatagram::pair().unwrap();
    assert_eq!(buffers.send(&a, Peer::Tap, [b"a", b"b"], 0, 0).unwrap(), 1024);
    assert_eq!(b.recv(&mut [0; 2000]).unwrap(), 1024);
    buffers.clear();
    assert_eq!(buffers.push(&[segment(0x1ff0, 17)]), (1, 16), "as far as it is RAM");
}

#[test]
fn a_socket_without_another_end_is_an_error() {
    let (a, b) = std::os::unix::net::UnixStream::pair().unwrap();
    drop(b);
    let error = buffers().send(&a, Peer::Socket, [b"", b""], 0, 0).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
    assert_eq!(send_bytes(&a, b"x").unwrap_err().kind(), io::ErrorKind::BrokenPipe);
}
