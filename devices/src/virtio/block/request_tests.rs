// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

use std::os::unix::fs::MetadataExt;

use super::super::rig::{DATA, ENGINES, HEADER, Rig, SECTORS, STATUS, UNTOUCHED, options};
use super::super::{BlockOptions, CacheMode, Serial};
use super::*;
use crate::virtio::mock::{Buffer, readable, writable};

/// One segment of a DISCARD or WRITE_ZEROES request.
fn range(sector: u64, sectors: u32, flags: u32) -> [u8; 16] {
    let mut range = [0; 16];
    range[..8].copy_from_slice(&sector.to_le_bytes());
    range[8..12].copy_from_slice(&sectors.to_le_bytes());
    range[12..].copy_from_slice(&flags.to_le_bytes());
    range
}

impl Rig {
    fn ranges(&mut self, kind: u32, ranges: &[[u8; 16]]) -> (u8, u32) {
        let bytes = ranges.concat();
        self.mem.write_slice(&bytes, GuestAddress(DATA)).unwrap();
        self.simple(kind, 0, readable(DATA, bytes.len() as u32))
    }
}

#[test]
fn a_read_gets_its_sectors_and_counts_what_it_wrote() {
    for engine in ENGINES {
        let mut disk = Rig::running(options(engine));
        assert_eq!(disk.simple(spec::T_IN, 3, writable(DATA, 1024)), (spec::S_OK, 1025));
        let data = disk.guest(DATA, 1025);
        assert_eq!((data[0], data[511], data[512], data[1023], data[1024]), (4, 4, 5, 5, UNTOUCHED));
    }
}

#[test]
fn a_write_changes_its_sectors_and_no_other_byte() {
    for engine in ENGINES {
        for cache in [CacheMode::Writeback, CacheMode::Writethrough] {
            let mut disk = Rig::running(BlockOptions { cache, ..options(engine) });
            let before = disk.host();
            disk.mem.write_slice(&[0x77; 1024], GuestAddress(DATA)).unwrap();
            assert_eq!(disk.simple(spec::T_OUT, 62, readable(DATA, 1024)), (spec::S_OK, 1));
            let after = disk.host();
            assert_eq!(after.len(), before.len());
            assert_eq!((&after[..62 * 512], &after[62 * 512..]), (&before[..62 * 512], &[0x77; 1024][..]));
        }
    }
}

#[test]
fn header_and_status_may_share_descriptors_with_data() {
    for engine in ENGINES {
        let mut disk = Rig::running(options(engine));
        let mut header = [0; 16 + 512];
        header[0] = spec::T_OUT as u8;
        header[8] = 2;
        header[16..].fill(0x55);
        disk.mem.write_slice(&header, GuestAddress(DATA)).unwrap();
        let outcome = disk.submit(&[readable(DATA, 10), readable(DATA + 10, 518), writable(STATUS, 1)]);
        assert_eq!(outcome, (spec::S_OK, 1));
        assert_eq!(disk.host()[1024..1536], [0x55; 512]);

        // A read whose last data descriptor holds the status byte as well.
        let buffers = [readable(HEADER, 16), writable(STATUS - 512, 513)];
        assert_eq!(disk.request(spec::T_IN, 2, &buffers), (spec::S_OK, 513));
        assert_eq!(disk.guest(STATUS - 512, 512), [0x55; 512]);
    }
}

#[test]
fn a_read_only_image_is_never_written() {
    for engine in ENGINES {
        let mut disk = Rig::running(BlockOptions { read_only: true, ..options(engine) });
        let before = disk.host();
        assert_eq!(disk.simple(spec::T_OUT, 0, readable(DATA, 512)), (spec::S_IOERR, 1));
        assert_eq!(disk.ranges(spec::T_DISCARD, &[range(0, 1, 0)]), (spec::S_IOERR, 1));
        assert_eq!(disk.ranges(spec::T_WRITE_ZEROES, &[range(0, 1, 0)]), (spec::S_IOERR, 1));
        assert_eq!(disk.simple(spec::T_FLUSH, 0, readable(DATA, 0)), (spec::S_OK, 1));
        assert_eq!(disk.simple(spec::T_IN, 0, writable(DATA, 512)), (spec::S_OK, 513));
        assert_eq!(disk.host(), before);
    }
}

#[test]
fn a_file_that_has_shrunk_fails_the_read_and_does_not_grow_again() {
    for engine in ENGINES {
        let mut disk = Rig::running(options(engine));
        disk.file.set_len(512 + 100).unwrap();
        let (status, written) = disk.simple(spec::T_IN, 0, writable(DATA, 1024));
        assert_eq!((status, written), (spec::S_IOERR, 612 + 1));
        assert_eq!(disk.guest(DATA + 612, 412), [UNTOUCHED; 412]);
        let zeroed = disk.ranges(spec::T_WRITE_ZEROES, &[range(0, SECTORS as u32, 0)]);
        assert_eq!((zeroed, disk.file.metadata().unwrap().len()), ((spec::S_OK, 1), 612));
    }
}

#[test]
fn a_flush_succeeds_whether_or_not_it_was_offered() {
    for engine in ENGINES {
        for cache in [CacheMode::Writeback, CacheMode::Writethrough] {
            let mut disk = Rig::running(BlockOptions { cache, ..options(engine) });
            assert_eq!(disk.features & spec::F_FLUSH != 0, cache == CacheMode::Writeback);
            let buffers = [readable(HEADER, 16), writable(STATUS, 1)];
            assert_eq!(disk.request(spec::T_FLUSH, 0, &buffers), (spec::S_OK, 1));
        }
    }
}

#[test]
fn the_serial_number_comes_whole_and_padded_or_not_at_all() {
    let serial = Serial::new("disk-7").unwrap();
    let mut disk = Rig::running(BlockOptions { serial, ..BlockOptions::default() });
    let parts = [readable(HEADER, 16), writable(DATA, 7), writable(DATA + 7, 14), writable(STATUS, 1)];
    assert_eq!(disk.request(spec::T_GET_ID, u64::MAX, &parts), (spec::S_OK, 21));
    assert_eq!(&disk.guest(DATA, 21)[..], b"disk-7\0\0\0\0\0\0\0\0\0\0\0\0\0\0\xee");
    disk.mem.write_slice(&[UNTOUCHED; 32], GuestAddress(DATA)).unwrap();
    assert_eq!(disk.simple(spec::T_GET_ID, 0, writable(DATA, 19)), (spec::S_IOERR, 1));
    assert_eq!(disk.guest(DATA, 20), [UNTOUCHED; 20]);
}

#[test]
fn ranges_become_zeros_and_holes_and_the_rest_stays() {
    for engine in ENGINES {
        for (kind, flags, frees) in
            [(spec::T_DISCARD, 0, true), (spec::T_WRITE_ZEROES, 1, true), (spec::T_WRITE_ZEROES, 0, false)]
        {
            let mut disk = Rig::running(options(engine));
            disk.file.sync_all().unwrap();
            let (before, blocks) = (disk.host(), disk.file.metadata().unwrap().blocks());
            // A page, a sector, and nothing.
            let ranges = [range(8, 8, flags), range(50, 1, flags), range(SECTORS, 0, flags)];
            assert_eq!(disk.ranges(kind, &ranges), (spec::S_OK, 1));
            let mut expected = before.clone();
            expected[8 * 512..16 * 512].fill(0);
            expected[50 * 512..51 * 512].fill(0);
            assert_eq!(disk.host(), expected, "{kind} {flags}");
            if frees {
                assert!(disk.file.metadata().unwrap().blocks() < blocks, "{kind} {flags}");
            }
        }
    }
}

#[test]
fn a_disk_that_offers_no_discard_answers_so() {
    let mut disk = Rig::running(BlockOptions { discard: false, ..BlockOptions::default() });
    assert_eq!(disk.features & (spec::F_DISCARD | spec::F_WRITE_ZEROES), 0);
    let before = disk.host();
    for kind in [spec::T_DISCARD, spec::T_WRITE_ZEROES] {
        assert_eq!(disk.ranges(kind, &[range(0, 8, 0)]), (spec::S_UNSUPP, 1));
    }
    assert_eq!(disk.host(), before);
}

#[test]
fn hostile_ranges_are_refused_before_the_first_one_is_done() {
    let good = range(0, 8, 0);
    let end = SECTORS;
    let too_many = vec![good; MAX_RANGES + 1];
    let cases: &[(&str, &[[u8; 16]], u8)] = &[
        ("past the end", &[good, range(end, 1, 0)], spec::S_IOERR),
        ("across the end", &[good, range(end - 1, 2, 0)], spec::S_IOERR),
        ("the top sector", &[good, range(u64::MAX, 1, 0)], spec::S_IOERR),
        ("nothing at the top sector", &[good, range(u64::MAX, 0, 0)], spec::S_IOERR),
        ("an offset that wraps", &[good, range(1 << 55, 1, 0)], spec::S_IOERR),
        ("more sectors than announced", &[good, range(0, MAX_RANGE_SECTORS + 1, 0)], spec::S_IOERR),
        ("as many sectors as can be", &[good, range(0, u32::MAX, 0)], spec::S_IOERR),
        ("more segments than announced", &too_many, spec::S_IOERR),
        ("no segment", &[], spec::S_IOERR),
        ("an unknown flag", &[good, range(0, 1, 2)], spec::S_UNSUPP),
        ("all flags", &[good, range(0, 1, u32::MAX)], spec::S_UNSUPP),
    ];
    for engine in ENGINES {
        let mut disk = Rig::running(options(engine));
        let before = disk.host();
        for kind in [spec::T_DISCARD, spec::T_WRITE_ZEROES] {
            for (name, ranges, status) in cases {
                assert_eq!(disk.ranges(kind, ranges), (*status, 1), "{name}");
                assert_eq!(disk.host(), before, "{name}");
            }
            for len in [1, 15, 17, 31] {
                let data: Buffer = readable(DATA, len);
                disk.mem.write_slice(&[0; 32], GuestAddress(DATA)).unwrap();
                assert_eq!(disk.simple(kind, 0, data), (spec::S_IOERR, 1), "{len} bytes");
            }
        }
        assert_eq!(disk.ranges(spec::T_DISCARD, &[range(0, 8, spec::RANGE_UNMAP)]), (spec::S_UNSUPP, 1));
        assert_eq!(disk.host(), before);
        // Ranges that overlap are done like any others.
        assert_eq!(disk.ranges(spec::T_WRITE_ZEROES, &[range(0, 4, 0), range(2, 4, 1), good]), (spec::S_OK, 1));
        assert_eq!(disk.host()[..8 * 512], [0; 8 * 512]);
        assert_eq!(disk.host()[8 * 512..], before[8 * 512..]);
    }
}
