// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What a guest names when it is asked for its free pages, and what it must not.

use vm_memory::{Bytes, GuestAddress};

use super::BalloonError;
use super::rig::{FREE, HINTS, OUT, RAM, REPORTS, Rig};
use crate::virtio::device::VirtioDevice;
use crate::virtio::mock::{Buffer, ram, readable, writable};

fn rig() -> Rig {
    let rig = Rig::with(ram(RAM as usize), |options| options.free_page_hinting = true);
    rig.fill(8);
    rig
}

fn page(number: u32) -> Buffer {
    writable(u64::from(FREE + number) << 12, 0x1000)
}

/// The driver says which question it answers, or anything.
fn say(rig: &mut Rig, command: &[u8]) {
    rig.mem.write_slice(command, GuestAddress(OUT)).unwrap();
    rig.submit(HINTS, &[readable(OUT, command.len() as u32)]);
}

fn field(rig: &Rig, offset: u64) -> u32 {
    let mut bytes = [0; 4];
    rig.balloon.read_config(offset, &mut bytes);
    u32::from_le_bytes(bytes)
}

#[test]
fn pages_that_answer_a_question_go_until_the_guest_has_named_all() {
    let mut rig = rig();
    for (round, expected) in [(0, 2), (1, 3), (2, 4)] {
        let generation = rig.notifier.config_generation();
        rig.control().ask_for_free_pages().unwrap();
        assert_ne!(rig.notifier.config_generation(), generation);
        assert_eq!(field(&rig, 8), expected, "each question has a number of its own");
        say(&mut rig, &u32::to_le_bytes(expected));
        rig.submit(HINTS, &[page(round)]);
        assert!(rig.control().is_asked_for_free_pages());
        say(&mut rig, &[0; 4]);
        assert_eq!((field(&rig, 8), rig.control().is_asked_for_free_pages()), (1, false));
        // It may use them again by now.
        rig.submit(HINTS, &[page(7)]);
    }
    assert_eq!(rig.gone(8), [0, 1, 2]);
}

#[test]
fn a_question_that_comes_meanwhile_is_answered_by_itself() {
    let mut rig = rig();
    rig.control().ask_for_free_pages().unwrap();
    say(&mut rig, &[2, 0, 0, 0]);
    rig.submit(HINTS, &[page(0)]);
    rig.control().ask_for_free_pages().unwrap();
    rig.submit(HINTS, &[page(1)]);
    say(&mut rig, &[0; 4]);
    assert_eq!((field(&rig, 8), rig.control().is_asked_for_free_pages(), rig.gone(8)), (3, true, vec![0]));
    say(&mut rig, &[3, 0, 0, 0]);
    rig.submit(HINTS, &[page(2)]);
    say(&mut rig, &[0; 4]);
    assert_eq!((field(&rig, 8), rig.gone(8)), (1, vec![0, 2]));
}

#[test]
fn what_answers_no_question_stays_the_guests() {
    let cases: [(&str, &[u8]); 7] = [
        ("nothing", &[]),
        ("half a number", &[2, 0]),
        ("another number", &[3, 0, 0, 0]),
        ("that there are no more", &[0; 4]),
        ("that all is done", &[1, 0, 0, 0]),
        ("the largest number", &[0xff; 4]),
        ("the right number, in the wrong order", &[0, 0, 0, 2]),
    ];
    for is_asked in [false, true] {
        let mut rig = rig();
        if is_asked {
            rig.control().ask_for_free_pages().unwrap();
        }
        for (name, command) in cases {
            say(&mut rig, command);
            rig.submit(HINTS, &[page(0), page(1)]);
            assert_eq!((rig.gone(8), rig.control().is_asked_for_free_pages()), (vec![], is_asked), "{name}");
        }
    }
}

#[test]
fn a_hint_is_whole_pages_of_ram_or_nothing() {
    let mut rig = rig();
    rig.control().ask_for_free_pages().unwrap();
    say(&mut rig, &[2, 0, 0, 0]);
    let at = u64::from(FREE) << 12;
    rig.submit(HINTS, &[writable(at + 1, 0x1ffe), writable(at + 0x2000, 0xfff), readable(at + 0x3000, 0x1000)]);
    rig.submit(HINTS, &[writable(RAM, 0x1000)]);
    rig.submit(HINTS, &[writable(u64::MAX - 0xfff, 0x1000)]);
    assert!(rig.gone(8).is_empty());
    // A number in front of pages counts for them.
    let mut other = self::rig();
    other.control().ask_for_free_pages().unwrap();
    other.mem.write_slice(&[2, 0, 0, 0], GuestAddress(OUT)).unwrap();
    other.submit(HINTS, &[readable(OUT, 4), page(5)]);
    assert_eq!(other.gone(8), [5]);
}

#[test]
fn free_pages_that_hold_something_stay() {
    let mut rig = rig();
    rig.control().ask_for_free_pages().unwrap();
    say(&mut rig, &[2, 0, 0, 0]);
    rig.balloon.write_config(12, &[0xaa; 4]);
    rig.submit(HINTS, &[page(0)]);
    rig.submit(REPORTS, &[page(1)]);
    assert_eq!((rig.gone(8), field(&rig, 12)), (vec![], 0xaaaa_aaaa));
    rig.balloon.write_config(12, &[0; 4]);
    rig.submit(HINTS, &[page(2)]);
    rig.submit(REPORTS, &[page(3)]);
    assert_eq!(rig.gone(8), [2, 3]);
    // The question and what is in free pages are gone with the driver; its number is not given again.
    rig.balloon.write_config(12, &[0xaa; 4]);
    rig.balloon.write_config(8, &[0xff; 4]);
    rig.balloon.reset();
    assert_eq!((field(&rig, 8), field(&rig, 12), rig.control().is_asked_for_free_pages()), (0, 0, false));
    rig.control().ask_for_free_pages().unwrap();
    assert_eq!(field(&rig, 8), 3);
}

#[test]
fn a_balloon_without_hints_asks_for_none() {
    let rig = Rig::new();
    assert!(matches!(rig.control().ask_for_free_pages(), Err(BalloonError::NoHinting)));
    let control = rig.control();
    drop(rig);
    assert!(matches!(control.ask_for_free_pages(), Err(BalloonError::Gone)));
}
