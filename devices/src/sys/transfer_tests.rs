// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

use std::io::Write;
use std::os::unix::fs::FileExt;

use vm_memory::{Bytes, GuestAddress};

use super::*;

const NO_DEMANDS: Option<Alignment> = None;
/// Nothing in these tests is that aligned, so all of it goes through a buffer of ours.
const BOUNCED: Option<Alignment> = Some(Alignment { memory: 1 << 16, offset: 1 << 16 });

fn segments(parts: &[(u64, u32)]) -> Vec<Segment> {
    parts.iter().map(|&(address, len)| Segment { address: GuestAddress(address), len }).collect()
}

/// Moves everything; how much that was, and the error that ended it.
fn transfer(
    direction: Direction,
    file: &File,
    mem: &GuestRam,
    parts: &[(u64, u32)],
    offset: u64,
    alignment: Option<Alignment>,
) -> (u64, io::Result<()>) {
    let mut transfer = Transfer::default();
    let mut done = 0;
    if let Err(error) = transfer.load(mem, &segments(parts), alignment) {
        return (done, Err(error));
    }
    loop {
        match transfer.run(direction, file, offset + done, 0) {
            Ok(0) => return (done, Ok(())),
            Ok(moved) => done += u64::from(moved),
            Err(error) => return (done, Err(error)),
        }
    }
}

#[test]
fn bytes_go_both_ways_and_only_where_they_belong() {
    for alignment in [NO_DEMANDS, BOUNCED] {
        let mem = GuestRam::from_ranges(&[(GuestAddress(0), 0x1000), (GuestAddress(0x1000), 0x1000)]).unwrap();
        let mut file = tempfile::tempfile().unwrap();
        let content: Vec<u8> = (0..200).collect();
        file.write_all(&content).unwrap();
        // The second one lies across two regions.
        let parts = [(0x10, 50), (0xfff, 100)];
        let (done, result) = transfer(Direction::Read, &file, &mem, &parts, 20, alignment);
        assert_eq!((done, result.is_ok()), (150, true));
        let mut seen = [0; 102];
        mem.read_slice(&mut seen, GuestAddress(0xffe)).unwrap();
        assert_eq!((seen[0], &seen[1..101], seen[101]), (0, &content[70..170], 0));

        let (done, result) = transfer(Direction::Write, &file, &mem, &parts, 1000, alignment);
        assert_eq!((done, result.is_ok()), (150, true));
        let mut back = [0; 150];
        file.read_exact_at(&mut back, 1000).unwrap();
        assert_eq!(back, content[20..170]);
    }
}

#[test]
fn the_end_of_the_file_is_an_error_that_tells_how_far_it_went() {
    for alignment in [NO_DEMANDS, BOUNCED] {
        let mem = GuestRam::from_ranges(&[(GuestAddress(0), 0x1000)]).unwrap();
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(&[1; 100], 0).unwrap();
        let (done, result) = transfer(Direction::Read, &file, &mem, &[(0, 64), (0x100, 64)], 0, alignment);
        assert_eq!((done, result.unwrap_err().kind()), (100, io::ErrorKind::UnexpectedEof));
        assert_eq!(mem.read_obj::<[u8; 3]>(GuestAddress(0x100 + 35)).unwrap(), [1, 0, 0]);
    }
}

#[test]
fn a_segment_outside_of_ram_moves_nothing() {
    let mem = GuestRam::from_ranges(&[(GuestAddress(0), 0x1000)]).unwrap();
    let file = tempfile::tempfile().unwrap();
    let (done, result) = transfer(Direction::Write, &file, &mem, &[(0, 64), (0xff0, 64)], 0, NO_DEMANDS);
    assert!(done == 0 && result.is_err());
    assert_eq!(file.metadata().unwrap().len(), 0);
}

#[test]
fn more_segments_than_one_call_takes_are_all_moved() {
    for alignment in [NO_DEMANDS, BOUNCED] {
        let mem = GuestRam::from_ranges(&[(GuestAddress(0), 0x10000)]).unwrap();
        let file = tempfile::tempfile().unwrap();
        let parts: Vec<_> = (0..3000).map(|i| (i * 8, 3)).collect();
        let (done, result) = transfer(Direction::Write, &file, &mem, &parts, 0, alignment);
        assert_eq!((done, result.is_ok(), file.metadata().unwrap().len()), (9000, true, 9000));
    }
}

#[test]
fn a_large_request_is_moved_whole_and_in_pieces() {
    for (alignment, piece) in [(NO_DEMANDS, PIECE), (BOUNCED, BOUNCE)] {
        let mem = GuestRam::from_ranges(&[(GuestAddress(0), 8 << 20)]).unwrap();
        let file = tempfile::tempfile().unwrap();
        file.set_len(8 << 20).unwrap();
        file.write_all_at(&[7; 5], (8 << 20) - 5).unwrap();
        let parts = [(0, 5 << 20), (5 << 20, 100), ((5 << 20) + 100, (3 << 20) - 100)];
        let (done, result) = transfer(Direction::Read, &file, &mem, &parts, 0, alignment);
        assert_eq!((done, result.is_ok()), (8 << 20, true));
        assert_eq!(mem.read_obj::<[u8; 5]>(GuestAddress((8 << 20) - 5)).unwrap(), [7; 5]);
        let mut transfer = Transfer::default();
        transfer.load(&mem, &segments(&parts), alignment).unwrap();
        assert_eq!(transfer.run(Direction::Read, &file, 0, 0).unwrap() as usize, piece);
    }
}

#[test]
fn buffers_that_are_aligned_are_not_copied() {
    let mem = GuestRam::from_ranges(&[(GuestAddress(0), 0x10000)]).unwrap();
    let alignment = Some(Alignment { memory: 4, offset: 512 });
    let mut transfer = Transfer::default();
    for (parts, bounced) in [
        (&[(0u64, 512u32), (0x2004, 1024)], false),
        (&[(0, 512), (0x2002, 512)], true),
        (&[(0, 500), (512, 524)], true),
    ] {
        transfer.load(&mem, &segments(parts), alignment).unwrap();
        assert_eq!(transfer.bounced, bounced, "{parts:?}");
    }
}

#[test]
fn an_error_leaves_a_piece_to_be_tried_again() {
    let mem = GuestRam::from_ranges(&[(GuestAddress(0), 4 << 20)]).unwrap();
    let file = tempfile::tempfile().unwrap();
    let mut transfer = Transfer::default();
    transfer.load(&mem, &segments(&[(0, 3 << 20)]), None).unwrap();
    let mut moved = 0;
    while transfer.next_piece(Direction::Write).is_some() {
        let result = transfer.finish_piece(Direction::Write, Err(io::ErrorKind::StorageFull.into()));
        assert_eq!(result.unwrap_err().kind(), io::ErrorKind::StorageFull);
        moved += transfer.run(Direction::Write, &file, moved, 0).map(u64::from).unwrap();
    }
    assert_eq!((moved, file.metadata().unwrap().len()), (3 << 20, 3 << 20));
}
