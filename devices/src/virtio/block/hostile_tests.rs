// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What a hostile guest does to a disk, through the registers and the rings, against both engines, behind both transports.
//! Another disk, on the same bus and in the same RAM, is at work meanwhile: after each attack it has done what it was asked
//! for, and goes on without a reset. A reset brings the attacked one back, and its image holds what it held, in the length
//! that it had.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use vm_memory::{Bytes, GuestAddress};

use super::machine::{Bus, HOLE, Machine, QUEUE_READY, QUEUE_SEL, QUEUE_SIZE, RAM_END, RINGS};
use super::rig::{DATA, ENGINES, HEADER, SECTORS, STATUS, UNTOUCHED, options};
use super::{BlockOptions, EngineChoice, OnError, spec};
use crate::pci::mock::{ECAM, WINDOWS};
use crate::sys::pipe::{self, Pipe};
use crate::virtio::mock::{Buffer, INDIRECT, MockDriver, NEXT, WRITE, readable, writable};
use crate::virtio::queue::QueueConfig;

/// Each transport, and a disk that goes around the page cache.
const PLACES: [(Bus, bool); 3] = [(Bus::Mmio, false), (Bus::Pci, false), (Bus::Mmio, true)];

fn machine((bus, direct): (Bus, bool), options: BlockOptions) -> Option<Machine> {
    if direct { Machine::direct(bus, options) } else { Some(Machine::new(bus, options)) }
}

/// Runs every attack on a device of its own, on both engines in each place. What it asks to be changed in the image, it
/// names.
fn attack<T>(cases: &[(&str, T)], run: impl Fn(&Machine, &str, &T)) {
    attack_with(options, cases, run);
}

fn attack_with<T>(
    options: impl Fn(EngineChoice) -> BlockOptions,
    cases: &[(&str, T)],
    run: impl Fn(&Machine, &str, &T),
) {
    for (engine, place) in ENGINES.into_iter().flat_map(|engine| PLACES.map(|place| (engine, place))) {
        for (name, case) in cases {
            let Some(machine) = machine(place, options(engine)) else { continue };
            let before = machine.host();
            machine.neighbour_begins();
            run(&machine, name, case);
            machine.neighbour_works();
            machine.comes_back();
            assert_eq!(machine.host(), before, "{name}, {engine:?}, {place:?}");
        }
    }
}

fn header() -> Buffer {
    readable(HEADER, 16)
}

fn status() -> Buffer {
    writable(STATUS, 1)
}

#[test]
fn a_queue_that_is_none_asks_for_a_reset() {
    let good = QueueConfig { size: 16, descriptor_table: 0x1000, avail_ring: 0x1100, used_ring: 0x1200 };
    let cases = [
        ("a size of 0", QueueConfig { size: 0, ..good }),
        ("a size of 3", QueueConfig { size: 3, ..good }),
        ("a size beyond the largest", QueueConfig { size: 512, ..good }),
        ("a table in the hole", QueueConfig { descriptor_table: HOLE, ..good }),
        ("a table across the hole", QueueConfig { descriptor_table: HOLE - 16, ..good }),
        ("an avail ring across the hole", QueueConfig { avail_ring: HOLE - 4, ..good }),
        ("a used ring across the end", QueueConfig { used_ring: RAM_END - 8, ..good }),
        ("a used ring beyond the end", QueueConfig { used_ring: RAM_END, ..good }),
        ("a table that wraps", QueueConfig { descriptor_table: u64::MAX - 15, ..good }),
        ("an avail ring that wraps", QueueConfig { avail_ring: u64::MAX - 1, ..good }),
        ("a table that isn't aligned", QueueConfig { descriptor_table: 0x1008, ..good }),
        ("a used ring that isn't aligned", QueueConfig { used_ring: 0x1202, ..good }),
    ];
    attack(&cases, |machine, name, config| {
        machine.negotiate();
        machine.configure(*config);
        machine.driver_ok();
        machine.ring(0);
        assert!(machine.needs_reset(), "{name}");
    });
}

#[test]
fn registers_of_a_running_device_and_doorbells_of_no_queue_do_nothing() {
    type Attack = fn(&Machine);
    let cases: [(&str, Attack); 5] = [
        ("a size that changes", |machine| {
            for size in [0, 3, 8, 0xffff, u32::MAX] {
                machine.write(QUEUE_SIZE, size);
            }
        }),
        ("a queue that is taken back", |machine| machine.write(QUEUE_READY, 0)),
        ("a ring that moves", |machine| {
            for register in (0x80..0xa8).step_by(4) {
                machine.write(register, 0xffff_fff0);
            }
        }),
        ("doorbells of no queue", |machine| {
            for queue in [1, 2, 255, 0xffff, 0x1_0000, u32::MAX] {
                machine.ring(queue);
            }
        }),
        ("a queue that doesn't exist", |machine| {
            for queue in [1, 64, u32::MAX] {
                machine.write(QUEUE_SEL, queue);
                machine.write(QUEUE_SIZE, 16);
                machine.write(QUEUE_READY, 1);
            }
        }),
    ];
    attack(&cases, |machine, _, act| {
        let mut driver = machine.driver();
        act(machine);
        machine.read_a_sector(&mut driver);
    });
}

#[test]
fn a_device_without_a_queue_does_nothing() {
    attack(&[("no queue", ())], |machine, _, ()| {
        machine.negotiate();
        machine.driver_ok();
        let before = machine.ram();
        machine.ring(0);
        assert!(!machine.needs_reset());
        assert!(machine.ram() == before);
    });
}

#[test]
fn a_ring_that_lies_asks_for_a_reset_and_is_not_served() {
    type Attack = fn(&mut MockDriver);
    let cases: [(&str, Attack); 5] = [
        ("an index that jumps by one more than the queue holds", |driver| driver.set_avail_index(17)),
        ("an index that jumps far", |driver| driver.set_avail_index(0x8000)),
        ("an index that goes back", |driver| driver.set_avail_index(0xffff)),
        ("a head that is just beyond the queue", |driver| driver.offer(16)),
        ("a head that is far beyond", |driver| driver.offer(0xffff)),
    ];
    attack(&cases, |machine, name, act| {
        let mut driver = machine.driver();
        act(&mut driver);
        assert_eq!(machine.serve(&mut driver), None, "{name}");
        machine.ring(0);
        assert_eq!(driver.used_index(), 0, "{name}");
    });
}

#[test]
fn a_head_that_is_offered_again_while_it_is_in_flight_asks_for_a_reset() {
    let held = |engine| BlockOptions { on_error: OnError::Stop, ..options(engine) };
    attack_with(held, &[("at once", false), ("when the first is held", true)], |machine, name, waits| {
        machine.set_full(true);
        let mut driver = machine.waiting_driver();
        machine.header(spec::T_OUT, 9);
        let head = driver.submit(&[header(), readable(DATA, 512), status()]);
        if *waits {
            machine.driver_ok();
            // The read behind it is served, so the write is held.
            let other = [u64::from(spec::T_IN), 0];
            machine.mem.write_obj(other, GuestAddress(HEADER + 16)).unwrap();
            let read = [readable(HEADER + 16, 16), writable(DATA + 0x1000, 512), writable(STATUS + 1, 1)];
            assert_eq!(machine.submit(&mut driver, &read), Some((3, 513)), "{name}");
            assert_eq!(machine.held(), 1, "{name}");
        }
        driver.offer(head);
        if !waits {
            machine.driver_ok();
        }
        assert_eq!(machine.serve(&mut driver), None, "{name}");
        assert_eq!((driver.used_index(), machine.status_byte()), (u16::from(*waits), UNTOUCHED), "{name}");
        machine.set_full(false);
    });
}

#[test]
fn chains_that_can_not_be_used_go_back_empty() {
    const TABLE: u64 = 0x6000;
    type Attack = fn(&mut MockDriver);
    let cases: [(&str, Attack); 11] = [
        ("a loop", |driver| {
            driver.descriptor(0, HEADER, 16, NEXT, 1);
            driver.descriptor(1, DATA, 512, NEXT, 0);
        }),
        ("a loop of writable ones", |driver| driver.descriptor(0, DATA, 1, NEXT | WRITE, 0)),
        ("a loop in an indirect table", |driver| {
            driver.descriptor(0, TABLE, 32, INDIRECT, 0);
            driver.descriptor_in(TABLE, 0, HEADER, 16, NEXT, 1);
            driver.descriptor_in(TABLE, 1, DATA, 512, NEXT, 0);
        }),
        ("a table in a table", |driver| {
            driver.descriptor(0, TABLE, 16, INDIRECT, 0);
            driver.descriptor_in(TABLE, 0, TABLE, 16, INDIRECT, 0);
        }),
        ("a table of half a descriptor", |driver| driver.descriptor(0, TABLE, 24, INDIRECT, 0)),
        ("a table in the hole", |driver| driver.descriptor(0, HOLE, 16, INDIRECT, 0)),
        ("a descriptor beyond the table", |driver| driver.descriptor(0, HEADER, 16, NEXT, 16)),
        ("an address that wraps", |driver| driver.descriptor(0, u64::MAX - 7, 16, 0, 0)),
        ("a buffer across the hole", |driver| driver.descriptor(0, HOLE - 8, 16, 0, 0)),
        ("4 GiB and more outside of RAM", |driver| {
            driver.descriptor(0, HEADER, u32::MAX, NEXT, 1);
            driver.descriptor(1, HEADER, u32::MAX, 0, 0);
        }),
        ("readable behind writable", |driver| {
            driver.descriptor(0, HEADER, 16, NEXT, 1);
            driver.descriptor(1, STATUS, 1, NEXT | WRITE, 2);
            driver.descriptor(2, DATA, 512, 0, 0);
        }),
    ];
    attack(&cases, |machine, name, act| {
        let mut driver = machine.driver();
        machine.header(spec::T_OUT, 0);
        act(&mut driver);
        driver.offer(0);
        assert_eq!(machine.serve(&mut driver), Some((0, 0)), "{name}");
        assert_eq!(machine.status_byte(), UNTOUCHED, "{name}");
    });
}

#[test]
fn a_chain_of_4_gib_goes_back_empty_though_all_of_it_is_in_ram() {
    const HIGH: u64 = 2 << 20;
    // Sparse: nobody touches it.
    let large = writable(HIGH, 0x3fff_fff0);
    for (engine, bus) in ENGINES.into_iter().flat_map(|engine| [Bus::Mmio, Bus::Pci].map(|bus| (engine, bus))) {
        let machine = Machine::with_high_ram(bus, options(engine), 1 << 30);
        let before = machine.host();
        machine.neighbour_begins();
        let mut driver = machine.driver();
        machine.header(spec::T_IN, 0);
        // With sixteen bytes of the header and one of the status.
        let chain = |rest| [header(), large, large, large, large, writable(HIGH, rest), status()];
        assert_eq!(machine.submit(&mut driver, &chain(0x40 - 17 - 1)), Some((0, 1)));
        assert_eq!(machine.status_byte(), spec::S_IOERR);
        machine.mem.write_obj(UNTOUCHED, GuestAddress(STATUS)).unwrap();
        assert_eq!(machine.submit(&mut driver, &chain(0x40 - 17)), Some((7, 0)));
        assert_eq!(machine.status_byte(), UNTOUCHED);
        machine.neighbour_works();
        machine.comes_back();
        assert_eq!(machine.host(), before);
    }
}

#[test]
fn the_status_byte_is_the_last_one_that_may_be_written() {
    let cases = [
        // Name, length of what comes before the byte that looks like a status, of what comes behind it, status, written.
        ("data that is one byte too long", (512, 1, spec::S_IOERR, 1)),
        ("data that is much too long", (512, 100, spec::S_IOERR, 1)),
        ("data that is right with it", (511, 1, spec::S_OK, 513)),
        ("data that is right with it and more", (400, 112, spec::S_OK, 513)),
        ("no data before it", (0, 512, spec::S_OK, 513)),
    ];
    attack(&cases, |machine, name, &(before, after, expected, written)| {
        let mut driver = machine.driver();
        machine.header(spec::T_IN, 6);
        let buffers = [header(), writable(DATA, before), status(), writable(DATA + 0x1000, after)];
        assert_eq!(machine.submit(&mut driver, &buffers), Some((0, written)), "{name}");
        let behind = DATA + 0x1000 + u64::from(after);
        assert_eq!(machine.mem.read_obj::<u8>(GuestAddress(behind - 1)).unwrap(), expected, "{name}");
        // What looked like a status byte is data.
        assert_eq!(machine.status_byte(), if expected == spec::S_OK { 7 } else { UNTOUCHED }, "{name}");
        let next: u8 = machine.mem.read_obj(GuestAddress(behind)).unwrap();
        assert_eq!(next, UNTOUCHED, "{name}");
    });
}

#[test]
fn requests_that_can_not_be_done_fail_alone() {
    let end = SECTORS;
    let out = |len| vec![header(), readable(DATA, len), status()];
    let into = |len| vec![header(), writable(DATA, len), status()];
    let thrice = vec![header(), readable(DATA, 512), readable(DATA, 512), readable(DATA, 512), status()];
    let ioerr = (spec::S_IOERR, 1);
    let unsupp = (spec::S_UNSUPP, 1);
    let unseen = (UNTOUCHED, 0);
    let cases = [
        ("read past the end", (spec::T_IN, end, into(512), ioerr)),
        ("read across the end", (spec::T_IN, end - 1, into(1024), ioerr)),
        ("write past the end", (spec::T_OUT, end, out(512), ioerr)),
        ("write across the end", (spec::T_OUT, end - 1, out(1024), ioerr)),
        ("each part inside, the sum past the end", (spec::T_OUT, end - 2, thrice, ioerr)),
        ("the top sector", (spec::T_OUT, u64::MAX, out(512), ioerr)),
        ("nothing past the end", (spec::T_OUT, end + 1, out(0), ioerr)),
        ("a sector whose offset wraps", (spec::T_OUT, 1 << 55, out(512), ioerr)),
        ("a sector just below", (spec::T_OUT, (1 << 55) - 1, out(512), ioerr)),
        ("half a sector", (spec::T_OUT, 0, out(511), ioerr)),
        ("an odd read", (spec::T_IN, 0, into(513), ioerr)),
        ("a large read", (spec::T_IN, 0, into(512 << 10), ioerr)),
        ("half a header", (spec::T_OUT, 0, vec![readable(HEADER, 15), status()], ioerr)),
        ("no header", (spec::T_IN, 0, vec![status()], ioerr)),
        ("a header that may only be written", (spec::T_IN, 0, vec![writable(HEADER, 16), status()], ioerr)),
        ("an unknown request", (0xdead, 0, out(512), unsupp)),
        ("a reserved one", (2, 0, out(512), unsupp)),
        ("secure erase, which isn't offered", (14, 0, out(16), unsupp)),
        ("no status byte", (spec::T_OUT, 0, vec![header(), readable(DATA, 512)], unseen)),
        ("a status byte that may only be read", (spec::T_OUT, 0, vec![header(), readable(STATUS, 1)], unseen)),
        ("a status byte of no length", (spec::T_OUT, 0, vec![header(), writable(STATUS, 0)], unseen)),
    ];
    attack(&cases, |machine, name, (kind, sector, buffers, (status, len))| {
        let mut driver = machine.driver();
        machine.header(*kind, *sector);
        assert_eq!(machine.submit(&mut driver, buffers), Some((0, *len)), "{name}");
        assert_eq!(machine.status_byte(), *status, "{name}");
        let data: u8 = machine.mem.read_obj(GuestAddress(DATA)).unwrap();
        assert_eq!(data, UNTOUCHED, "{name}");
    });
}

#[test]
fn a_header_in_pieces_is_a_header() {
    attack(&[("a byte each, and empty ones between", ())], |machine, _, ()| {
        let mut driver = machine.driver();
        machine.header(spec::T_IN, 3);
        let table = 0x6000;
        // Sixteen descriptors are as many as a chain may have.
        for byte in 0..14u16 {
            let (address, len) = (HEADER + u64::from(byte), if byte == 13 { 3 } else { 1 });
            driver.descriptor_in(table, byte, address, len, NEXT, byte + 1);
        }
        driver.descriptor_in(table, 14, DATA, 512, NEXT | WRITE, 15);
        driver.descriptor_in(table, 15, STATUS, 1, WRITE, 0);
        driver.descriptor(0, table, 256, INDIRECT, 0);
        driver.offer(0);
        assert_eq!(machine.serve(&mut driver), Some((0, 513)));
        assert_eq!(machine.mem.read_obj::<u8>(GuestAddress(DATA)).unwrap(), 4);
    });
}

#[test]
fn a_header_that_another_vcpu_changes_is_one_of_the_two() {
    attack(&[("a good read, and writes that aren't", ())], |machine, _, ()| {
        let mut driver = machine.driver();
        let done = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    machine.header(spec::T_OUT, u64::MAX);
                    machine.header(spec::T_IN, 0);
                    machine.header(spec::T_OUT, SECTORS - 1);
                }
            });
            for _ in 0..2000 {
                // Two sectors, none of which may be written: at `SECTORS - 1` the second one is past the end. A header
                // that is read while it changes may be any mixture: only sector 0 and a read go together.
                driver.submit(&[header(), writable(DATA, 1024), status()]);
                let used = machine.serve(&mut driver).unwrap();
                assert!(used.1 == 1 || used.1 == 1025, "{used:?}");
            }
            done.store(true, Ordering::Relaxed);
        });
    });
}

#[test]
fn two_vcpus_that_move_the_index_about_stop_their_own_device_at_most() {
    attack(&[("anywhere", 0x8000), ("within the queue", 16)], |machine, _, modulus: &u16| {
        for _ in 0..5 {
            let mut driver = machine.driver();
            machine.header(spec::T_IN, 0);
            driver.chain(&[header(), writable(DATA, 512), status()]);
            let start = driver.config;
            thread::scope(|scope| {
                for vcpu in 0..2u16 {
                    scope.spawn(move || {
                        let address = GuestAddress(start.avail_ring + 2);
                        for turn in 0..3000u16 {
                            let index = turn.wrapping_mul(vcpu * 2 + 1) % modulus;
                            machine.mem.store(index.to_le(), address, Ordering::Release).unwrap();
                            if turn % 8 == 0 {
                                machine.ring(0);
                            }
                        }
                    });
                }
            });
        }
    });
}

/// What ends a device's work while it has requests.
type End = (&'static str, fn(&Machine));

const ENDS: [End; 3] = [
    ("a reset", Machine::reset),
    ("a stop", |machine| drop(machine.stop())),
    ("a reset of a stopped device", |machine| {
        machine.stop();
        machine.reset();
    }),
];

#[test]
fn nothing_touches_memory_or_image_after_a_reset_or_a_stop() {
    for (engine, place) in ENGINES.into_iter().flat_map(|engine| PLACES.map(|place| (engine, place))) {
        let Some(machine) = machine(place, options(engine)) else { continue };
        machine.neighbour_begins();
        for turn in 0..51u8 {
            let (name, end) = ENDS[usize::from(turn) % ENDS.len()];
            let mut driver = machine.driver();
            // Reads, writes, a flush and zeros: all in the last eight sectors.
            for (kind, data) in [
                (spec::T_OUT, readable(DATA, 4096)),
                (spec::T_IN, writable(DATA + 0x1000, 4096)),
                (spec::T_FLUSH, readable(DATA, 0)),
                (spec::T_OUT, readable(DATA + 0x1000, 4096)),
            ] {
                let at = HEADER + 16 * u64::from(driver.avail_index());
                let request = [u64::from(kind).to_le_bytes(), (SECTORS - 8).to_le_bytes()].concat();
                machine.mem.write_slice(&request, GuestAddress(at)).unwrap();
                driver.submit(&[readable(at, 16), data, status()]);
            }
            machine.ring(0);
            if turn % 2 == 1 {
                machine.wait_interrupt();
            }
            end(&machine);
            machine.mem.write_slice(&vec![turn; 0x2000], GuestAddress(DATA)).unwrap();
            let (ram, host) = (machine.ram(), machine.host());
            machine.ring(0);
            machine.neighbour_works();
            assert!(machine.ram() == ram && machine.host() == host, "{name}, {engine:?}, {place:?}");
            assert_eq!(host.len() as u64, SECTORS * 512);
            assert_eq!((host[0], host[(SECTORS as usize - 8) * 512 - 1]), (1, SECTORS as u8 - 8));
            machine.reset();
            machine.resume();
            machine.neighbour_begins();
        }
        machine.neighbour_works();
        machine.comes_back();
    }
}

#[test]
fn a_reset_takes_back_what_the_kernel_has() {
    for (bus, kind) in
        [Bus::Mmio, Bus::Pci].into_iter().flat_map(|bus| [spec::T_IN, spec::T_OUT].map(|kind| (bus, kind)))
    {
        let machine = Machine::new(bus, BlockOptions { direct: true, ..options(EngineChoice::IoUring) });
        let before = machine.host();
        let pipe = Pipe::new();
        let (end, len) = if kind == spec::T_IN { (&pipe.reader, 4097) } else { (&pipe.writer, 1) };
        machine.replace_file(Some(end));
        if kind == spec::T_IN {
            pipe.fill(&[0x11; pipe::CAPACITY]);
        }
        let mut driver = machine.waiting_driver();
        machine.header(kind, 0);
        for at in [DATA, DATA + 0x1000] {
            let data = if kind == spec::T_IN { writable(at, 4096) } else { readable(at, 4096) };
            driver.submit(&[header(), data, status()]);
        }
        // The kernel gets both, and there is bytes or room for one.
        machine.neighbour_begins();
        machine.driver_ok();
        assert_eq!(machine.serve(&mut driver), Some((0, len)), "{bus:?} {kind}");
        machine.reset();
        machine.neighbour_works();
        let ram = machine.ram();
        if kind == spec::T_IN {
            pipe.fill(&[0x22; pipe::CAPACITY]);
            assert_eq!(pipe.drain(), [0x22; pipe::CAPACITY], "nobody reads it");
        } else {
            assert_eq!(pipe.drain(), [UNTOUCHED; pipe::CAPACITY]);
            assert_eq!(pipe.drain(), [], "nobody writes to it");
        }
        assert!(machine.ram() == ram, "{bus:?} {kind}");
        assert_eq!(driver.used_index(), 1);
        machine.replace_file(None);
        machine.comes_back();
        assert_eq!(machine.host(), before);
    }
}

#[test]
fn one_page_in_every_request_is_the_guests_own_trouble() {
    attack(&[("fifteen reads into one page", ())], |machine, _, ()| {
        let mut driver = machine.driver();
        machine.header(spec::T_IN, 0);
        // Five chains of three: header, data and status are the same bytes for all of them.
        for _ in 0..5 {
            driver.submit(&[header(), writable(DATA, 4096), writable(DATA, 1)]);
        }
        for _ in 0..5 {
            assert_eq!(machine.serve(&mut driver).unwrap().1, 4097);
        }
    });
}

#[test]
fn rings_that_are_their_own_buffers_stop_their_own_device_at_most() {
    attack(&[("a read over the rings", ())], |machine, _, ()| {
        let mut driver = machine.driver();
        machine.header(spec::T_IN, 0);
        driver.submit(&[header(), writable(RINGS, 4096), status()]);
        machine.ring(0);
        machine.wait_interrupt();
    });
}

#[test]
fn a_bar_that_is_moved_anywhere_harms_nobody_and_can_be_moved_back() {
    // With what to add to the neighbour's address.
    let cases = [
        ("zero", (0, 0)),
        ("the top", (u64::MAX, 0)),
        ("wrapping", (0u64.wrapping_sub(0x8000), 0)),
        ("into RAM", (0x10_0000, 0)),
        ("onto the configuration space", (ECAM, 0)),
        ("just before the window", (WINDOWS[0].base - 0x8000, 0)),
        ("across its start", (WINDOWS[0].base - 0x4000, 0)),
        ("across its end", (WINDOWS[0].base + WINDOWS[0].size - 0x4000, 0)),
        ("behind it", (WINDOWS[0].base + WINDOWS[0].size, 0)),
        ("onto the neighbour", (0, 1)),
        ("half onto the neighbour, from below", (0u64.wrapping_sub(0x4000), 1)),
        ("half onto the neighbour, from above", (0x4000, 1)),
        ("not aligned, onto the neighbour", (0x7ff0, 1)),
    ];
    attack(&cases, |machine, name, (address, neighbours)| {
        let Some((bar, move_to)) = machine.bars() else { return };
        let mut driver = machine.driver();
        move_to(address.wrapping_add(bar * neighbours));
        // By the neighbour's registers it is the neighbour that answers.
        machine.neighbour_works();
        for at in [*address, bar, WINDOWS[0].base] {
            machine.access().write(at.wrapping_add(0x3000), &[0, 0]);
        }
        machine.put_back();
        machine.read_a_sector(&mut driver);
        assert!(!machine.needs_reset(), "{name}");
        machine.neighbour_begins();
    });
}

#[test]
fn every_access_to_every_register_has_an_answer_and_harms_nobody() {
    let values: [(&str, u8); 5] =
        [("zeros", 0), ("ones", 1), ("sevens", 7), ("half of the bits", 0x55), ("all bits", 0xff)];
    attack(&values, |machine, _, value| {
        machine.driver();
        let mut data = [0; 9];
        for address in machine.registers() {
            for width in 0..=9 {
                machine.access().read(address, &mut data[..width]);
                machine.access().write(address, &[*value; 9][..width]);
                machine.access().read(address, &mut data[..width]);
            }
        }
        machine.put_back();
    });
}

/// The attacks that a guest is known to try, and the tests that make them: on each transport, with each engine, beside a
/// disk at work. One that is renamed or gets lost doesn't compile.
const LIST: [(&str, fn()); 29] = [
    ("rings outside of RAM or across the hole", a_queue_that_is_none_asks_for_a_reset),
    ("a queue size of 0 or that is no power of two", a_queue_that_is_none_asks_for_a_reset),
    ("a queue that is changed after DRIVER_OK", registers_of_a_running_device_and_doorbells_of_no_queue_do_nothing),
    ("an avail index that jumps", a_ring_that_lies_asks_for_a_reset_and_is_not_served),
    ("loops of descriptors, direct and indirect", chains_that_can_not_be_used_go_back_empty),
    ("an indirect table in an indirect table", chains_that_can_not_be_used_go_back_empty),
    ("an address that wraps with its length", chains_that_can_not_be_used_go_back_empty),
    ("lengths of 4 GiB and more", a_chain_of_4_gib_goes_back_empty_though_all_of_it_is_in_ram),
    ("readable behind writable", chains_that_can_not_be_used_go_back_empty),
    ("a header in many descriptors", a_header_in_pieces_is_a_header),
    ("a header that another vCPU changes", a_header_that_another_vcpu_changes_is_one_of_the_two),
    ("no status byte, or one that may only be read", requests_that_can_not_be_done_fail_alone),
    ("a status byte that isn't the last one", the_status_byte_is_the_last_one_that_may_be_written),
    ("sectors at the top of 64 bits", requests_that_can_not_be_done_fail_alone),
    ("a sum of lengths past the end, each of them inside", requests_that_can_not_be_done_fail_alone),
    ("lengths that are no sectors", requests_that_can_not_be_done_fail_alone),
    ("requests that nobody knows", requests_that_can_not_be_done_fail_alone),
    ("a head that is in flight twice", a_head_that_is_offered_again_while_it_is_in_flight_asks_for_a_reset),
    ("a reset with requests in flight", nothing_touches_memory_or_image_after_a_reset_or_a_stop),
    ("a stop with requests in flight", nothing_touches_memory_or_image_after_a_reset_or_a_stop),
    ("a reset while the kernel has requests", a_reset_takes_back_what_the_kernel_has),
    ("DRIVER_OK without a queue", a_device_without_a_queue_does_nothing),
    ("doorbells of no queue", registers_of_a_running_device_and_doorbells_of_no_queue_do_nothing),
    ("a BAR at an address that is none", a_bar_that_is_moved_anywhere_harms_nobody_and_can_be_moved_back),
    ("a BAR on another one", a_bar_that_is_moved_anywhere_harms_nobody_and_can_be_moved_back),
    ("any width and offset on any register", every_access_to_every_register_has_an_answer_and_harms_nobody),
    ("avail index moved by two vCPUs", two_vcpus_that_move_the_index_about_stop_their_own_device_at_most),
    ("one page in every request", one_page_in_every_request_is_the_guests_own_trouble),
    ("rings that are their own buffers", rings_that_are_their_own_buffers_stop_their_own_device_at_most),
];

#[test]
fn each_attack_is_listed_once() {
    let names: std::collections::BTreeSet<_> = LIST.iter().map(|(name, _)| name).collect();
    assert_eq!(names.len(), LIST.len());
    // Its functions are there, or it wouldn't compile; and so that none is left out of it:
    let (tests, list) = include_str!("hostile_tests.rs").split_once("const LIST").unwrap();
    for test in tests.split("#[test]\nfn ").skip(1) {
        let name = test.split('(').next().unwrap();
        assert!(list.contains(name), "{name} is not listed");
    }
}
