// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt;

use super::*;
use crate::throttle::Throttle;
use crate::virtio::mock::{Buffer, MockDriver, ram, readable, writable};
use crate::virtio::queue::{Queue, QueueState};

const SECTORS: u64 = 16;
const HEADER: u64 = 0x4000;
const DATA: u64 = 0x8000;
const STATUS: u64 = 0x5000;
const UNTOUCHED: u8 = 0xee;

struct Disk {
    file: File,
    image: Image,
    mem: GuestRam,
    write_through: bool,
}

/// Sector `n` is full of bytes `n + 1`.
fn disk(read_only: bool) -> Disk {
    let mut file = tempfile::tempfile().unwrap();
    for sector in 0..SECTORS {
        file.write_all(&[sector as u8 + 1; 512]).unwrap();
    }
    let image = Image {
        file: file.try_clone().unwrap(),
        sectors: SECTORS,
        read_only,
        failures: Throttle::new(),
        lies: Throttle::new(),
    };
    let mem = ram(0x10_0000);
    mem.write_slice(&[UNTOUCHED; 0x10000], GuestAddress(HEADER)).unwrap();
    Disk { file, image, mem, write_through: false }
}

impl Disk {
    /// Runs one request through a queue; gives the status byte and the used length.
    fn request(&self, kind: u32, sector: u64, buffers: &[Buffer]) -> (u8, u32) {
        let mut header = [0; 16];
        header[..4].copy_from_slice(&kind.to_le_bytes());
        header[8..].copy_from_slice(&sector.to_le_bytes());
        self.mem.write_slice(&header, GuestAddress(HEADER)).unwrap();
        let mut driver = MockDriver::new(&self.mem, 0x1000, 16);
        let mut queue = Queue::new(driver.config, 16, 0, QueueState::default(), self.mem.clone()).unwrap();
        driver.submit(buffers);
        let mut chain = Chain::default();
        queue.pop(&mut chain).unwrap().unwrap().1.unwrap();
        let mut server = Server {
            name: "vda",
            image: &self.image,
            write_through: self.write_through,
            io: VectoredIo::default(),
            stopped: &AtomicBool::new(false),
        };
        let written = server.serve(&self.mem, &mut chain);
        (self.mem.read_obj(GuestAddress(STATUS)).unwrap(), written)
    }

    fn simple(&self, kind: u32, sector: u64, data: Buffer) -> (u8, u32) {
        let header = readable(HEADER, 16);
        self.request(kind, sector, &[header, data, writable(STATUS, 1)])
    }

    fn guest(&self, address: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.mem.read_slice(&mut bytes, GuestAddress(address)).unwrap();
        bytes
    }

    fn host(&self) -> Vec<u8> {
        let mut bytes = vec![0; self.file.metadata().unwrap().len() as usize];
        self.file.read_exact_at(&mut bytes, 0).unwrap();
        bytes
    }
}

#[test]
fn a_read_gets_its_sectors_and_counts_what_it_wrote() {
    let disk = disk(false);
    assert_eq!(disk.simple(spec::T_IN, 3, writable(DATA, 1024)), (spec::S_OK, 1025));
    let data = disk.guest(DATA, 1025);
    assert_eq!((data[0], data[511], data[512], data[1023], data[1024]), (4, 4, 5, 5, UNTOUCHED));
}

#[test]
fn a_write_changes_its_sectors_and_no_other_byte() {
    let disk = disk(false);
    let before = disk.host();
    disk.mem.write_slice(&[0x77; 1024], GuestAddress(DATA)).unwrap();
    assert_eq!(disk.simple(spec::T_OUT, 14, readable(DATA, 1024)), (spec::S_OK, 1));
    let after = disk.host();
    assert_eq!(after.len(), before.len());
    assert_eq!((&after[..14 * 512], &after[14 * 512..]), (&before[..14 * 512], &[0x77; 1024][..]));
}

#[test]
fn header_and_status_may_share_descriptors_with_data() {
    let disk = disk(false);
    let mut header = [0; 16 + 512];
    header[0] = spec::T_OUT as u8;
    header[8] = 2;
    header[16..].fill(0x55);
    disk.mem.write_slice(&header, GuestAddress(DATA)).unwrap();
    let outcome = disk.request(0, 0, &[readable(DATA, 10), readable(DATA + 10, 518), writable(STATUS, 1)]);
    assert_eq!(outcome, (spec::S_OK, 1));
    assert_eq!(disk.host()[1024..1536], [0x55; 512]);

    // A read whose last data descriptor holds the status byte as well.
    assert_eq!(disk.request(spec::T_IN, 2, &[readable(HEADER, 16), writable(STATUS - 512, 513)]), (spec::S_OK, 513));
    assert_eq!(disk.guest(STATUS - 512, 512), [0x55; 512]);
}

#[test]
fn hostile_requests_fail_alone_and_change_nothing() {
    let header = readable(HEADER, 16);
    let status = writable(STATUS, 1);
    let end = SECTORS;
    // What is wrong; type, sector, buffers; the status that is reported.
    let cases: &[(&str, u32, u64, &[Buffer], u8)] = &[
        ("read past the end", spec::T_IN, end, &[header, writable(DATA, 512), status], spec::S_IOERR),
        ("read across the end", spec::T_IN, end - 1, &[header, writable(DATA, 1024), status], spec::S_IOERR),
        ("write past the end", spec::T_OUT, end, &[header, readable(DATA, 512), status], spec::S_IOERR),
        ("write across the end", spec::T_OUT, end - 1, &[header, readable(DATA, 1024), status], spec::S_IOERR),
        (
            "each part inside, the sum past the end",
            spec::T_OUT,
            end - 2,
            &[header, readable(DATA, 512), readable(DATA, 512), readable(DATA, 512), status],
            spec::S_IOERR,
        ),
        ("the top sector", spec::T_OUT, u64::MAX, &[header, readable(DATA, 512), status], spec::S_IOERR),
        ("a sector whose offset wraps", spec::T_OUT, 1 << 55, &[header, readable(DATA, 512), status], spec::S_IOERR),
        ("a sector just below", spec::T_OUT, (1 << 55) - 1, &[header, readable(DATA, 512), status], spec::S_IOERR),
        ("half a sector", spec::T_OUT, 0, &[header, readable(DATA, 511), status], spec::S_IOERR),
        ("an odd read", spec::T_IN, 0, &[header, writable(DATA, 513), status], spec::S_IOERR),
        ("half a header", spec::T_OUT, 0, &[readable(HEADER, 15), status], spec::S_IOERR),
        ("no header", spec::T_IN, 0, &[status], spec::S_IOERR),
        ("an unknown request", 0xdead, 0, &[header, readable(DATA, 512), status], spec::S_UNSUPP),
        ("the reserved types", 2, 0, &[header, readable(DATA, 512), status], spec::S_UNSUPP),
    ];
    for (name, kind, sector, buffers, expected) in cases {
        let disk = disk(false);
        let before = disk.host();
        let (status, written) = disk.request(*kind, *sector, buffers);
        assert_eq!((status, written), (*expected, 1), "{name}");
        assert_eq!(disk.host(), before, "{name}");
        assert_eq!(disk.guest(DATA, 1024), [UNTOUCHED; 1024], "{name}");
    }
}

#[test]
fn a_request_without_a_status_byte_is_not_executed() {
    let disk = disk(false);
    let before = disk.host();
    assert_eq!(disk.request(spec::T_OUT, 0, &[readable(HEADER, 16), readable(DATA, 512)]), (UNTOUCHED, 0));
    assert_eq!(disk.host(), before);
}

#[test]
fn a_read_only_image_is_never_written() {
    let disk = disk(true);
    let before = disk.host();
    assert_eq!(disk.simple(spec::T_OUT, 0, readable(DATA, 512)), (spec::S_IOERR, 1));
    assert_eq!(disk.simple(spec::T_FLUSH, 0, readable(DATA, 0)), (spec::S_OK, 1));
    assert_eq!(disk.simple(spec::T_IN, 0, writable(DATA, 512)), (spec::S_OK, 513));
    assert_eq!(disk.host(), before);
}

#[test]
fn a_file_that_has_shrunk_fails_the_read_and_does_not_grow_again() {
    let disk = disk(false);
    disk.file.set_len(512 + 100).unwrap();
    let (status, written) = disk.simple(spec::T_IN, 0, writable(DATA, 1024));
    assert_eq!((status, written), (spec::S_IOERR, 612 + 1));
    assert_eq!(disk.guest(DATA + 612, 412), [UNTOUCHED; 412]);
}

#[test]
fn a_flush_and_a_write_through_disk_succeed() {
    let mut disk = disk(false);
    assert_eq!(disk.request(spec::T_FLUSH, 0, &[readable(HEADER, 16), writable(STATUS, 1)]), (spec::S_OK, 1));
    disk.write_through = true;
    assert_eq!(disk.simple(spec::T_OUT, 0, readable(DATA, 512)), (spec::S_OK, 1));
}
