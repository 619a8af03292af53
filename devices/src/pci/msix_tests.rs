// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

use std::sync::atomic::AtomicU64;

use vmm_sys_util::eventfd::EventFd;

use super::*;
use crate::pci::mock::MockVectors;

const ON: u16 = ENABLE;
const ON_BUT_MASKED: u16 = ENABLE | FUNCTION_MASK;

fn msix(count: u16) -> (Msix, Arc<MockVectors>) {
    let vectors = MockVectors::new(count);
    (Msix::new(vectors.clone(), count), vectors)
}

fn word(msix: &Msix, offset: u64) -> u32 {
    let mut data = [0xff; 4];
    msix.read_table(offset, &mut data);
    u32::from_le_bytes(data)
}

fn pending(msix: &Msix) -> u64 {
    let mut data = [0xff; 8];
    msix.read_pba(0, &mut data);
    u64::from_le_bytes(data)
}

fn set_mask(msix: &Msix, index: u64, masked: bool) {
    msix.write_table(16 * index + 12, &u32::from(masked).to_le_bytes());
}

fn set_message(msix: &Msix, index: u64, message: MsiMessage) {
    msix.write_table(16 * index, &message.address.to_le_bytes());
    msix.write_table(16 * index + 8, &message.data.to_le_bytes());
}

const MESSAGE: MsiMessage = MsiMessage { address: 0x1_fee0_1000, data: 0x4041 };

#[test]
fn all_vectors_are_masked_at_first() {
    let (msix, vectors) = msix(3);
    assert_eq!([12, 28, 44, 60].map(|at| word(&msix, at)), [1, 1, 1, 0]);
    msix.set_control(ON);
    msix.trigger(0);
    assert_eq!((vectors.take(0), pending(&msix)), (0, 1));
    assert!(vectors.take_routes().is_empty());
}

#[test]
fn a_message_is_routed_once_it_counts_and_not_in_pieces() {
    let (msix, vectors) = msix(2);
    set_message(&msix, 1, MESSAGE);
    set_mask(&msix, 1, false);
    assert!(vectors.take_routes().is_empty(), "MSI-X is off");
    msix.set_control(ON_BUT_MASKED);
    assert!(vectors.take_routes().is_empty(), "the function is masked");
    msix.set_control(ON);
    assert_eq!(vectors.take_routes(), [(1, MESSAGE)]);
    for _ in 0..3 {
        set_mask(&msix, 1, true);
        set_mask(&msix, 1, false);
        msix.set_control(ON_BUT_MASKED);
        msix.set_control(ON);
        msix.set_control(0);
        msix.set_control(ON);
    }
    assert!(vectors.take_routes().is_empty(), "the host knows this message");
    set_mask(&msix, 1, true);
    let other = MsiMessage { data: 0x4042, ..MESSAGE };
    set_message(&msix, 1, other);
    assert!(vectors.take_routes().is_empty());
    set_mask(&msix, 1, false);
    assert_eq!(vectors.take_routes(), [(1, other)]);
    msix.write_table(16 + 8, &0x4043u32.to_le_bytes());
    assert_eq!(vectors.take_routes(), [(1, MsiMessage { data: 0x4043, ..MESSAGE })], "it counts at once");
}

type Step = fn(&Msix);

/// What keeps a vector from firing, and what lets it.
#[test]
fn a_trigger_while_masked_fires_once_when_unmasked() {
    let closed_and_opened: [(&str, Step, Step); 4] = [
        ("bus master", |msix| msix.set_bus_master(false), |msix| msix.set_bus_master(true)),
        ("vector mask", |msix| set_mask(msix, 0, true), |msix| set_mask(msix, 0, false)),
        ("function mask", |msix| msix.set_control(ON_BUT_MASKED), |msix| msix.set_control(ON)),
        ("disabled", |msix| msix.set_control(0), |msix| msix.set_control(ON)),
    ];
    for (what, close, open) in closed_and_opened {
        let (msix, vectors) = msix(2);
        msix.set_control(ON);
        set_mask(&msix, 0, false);
        msix.trigger(0);
        assert_eq!(vectors.take(0), 1, "{what}");
        close(&msix);
        msix.trigger(0);
        msix.trigger(0);
        assert_eq!((vectors.take(0), pending(&msix)), (0, 1), "{what}");
        open(&msix);
        assert_eq!((vectors.take(0), pending(&msix)), (1, 0), "{what}");
        close(&msix);
        open(&msix);
        assert_eq!(vectors.take(0), 0, "{what}");
    }
}

#[test]
fn a_message_is_routed_only_once_it_may_be_sent() {
    let (msix, vectors) = msix(2);
    msix.set_bus_master(false);
    set_message(&msix, 1, MESSAGE);
    set_mask(&msix, 1, false);
    msix.set_control(ON);
    msix.trigger(1);
    assert_eq!((vectors.take_routes(), vectors.take(1), pending(&msix)), (vec![], 0, 2));
    msix.set_bus_master(true);
    assert_eq!((vectors.take_routes(), vectors.take(1), pending(&msix)), (vec![(1, MESSAGE)], 1, 0));
    msix.set_bus_master(false);
    msix.set_bus_master(true);
    assert_eq!((vectors.take_routes(), vectors.take(1)), (vec![], 0));
}

#[test]
fn vectors_that_are_let_go_together_are_routed_together() {
    let (msix, vectors) = msix(64);
    let message = |index: u64| MsiMessage { data: 0x4000 + index as u32, ..MESSAGE };
    msix.set_control(ON_BUT_MASKED);
    for index in 0..63 {
        set_message(&msix, index, message(index));
        set_mask(&msix, index, index % 2 == 1);
    }
    msix.trigger(2);
    msix.set_control(ON);
    let expected: Vec<_> = (0..63).step_by(2).map(|index| (index, message(index.into()))).collect();
    assert_eq!((vectors.take_routes(), vectors.route_calls.load(Ordering::Acquire)), (expected, 1));
    assert_eq!((vectors.take(2), pending(&msix)), (1, 0));
    // A message that the host refuses among them silences its own vector only, so each is tried alone then.
    vectors.refuse.store(true, Ordering::Release);
    msix.set_control(ON_BUT_MASKED);
    set_message(&msix, 0, message(100));
    set_message(&msix, 2, message(102));
    msix.set_control(ON);
    let refused = [(0, message(100)), (2, message(102))];
    assert_eq!(vectors.take_routes(), refused.repeat(2));
    for index in [0, 2, 4] {
        msix.trigger(index);
    }
    assert_eq!((vectors.take(0), vectors.take(2), vectors.take(4)), (0, 0, 1));
}

#[test]
fn a_vector_whose_message_is_refused_is_silent_until_one_is_taken() {
    let (msix, vectors) = msix(1);
    vectors.refuse.store(true, Ordering::Release);
    msix.set_control(ON);
    set_mask(&msix, 0, false);
    msix.trigger(0);
    assert_eq!((vectors.take(0), pending(&msix)), (0, 1));
    vectors.refuse.store(false, Ordering::Release);
    set_mask(&msix, 0, false);
    assert_eq!((vectors.take(0), pending(&msix)), (1, 0));
    // And a refused change silences one that was routed.
    vectors.refuse.store(true, Ordering::Release);
    set_message(&msix, 0, MESSAGE);
    msix.trigger(0);
    assert_eq!((vectors.take(0), pending(&msix)), (0, 1));
}

#[test]
fn vectors_that_do_not_exist_raise_nothing() {
    let (msix, vectors) = msix(2);
    msix.set_control(ON);
    for index in [2, 0x7ff, 0x800, 0xffff] {
        msix.trigger(index);
    }
    assert_eq!((vectors.take(0), vectors.take(1), pending(&msix)), (0, 0, 0));
    assert_eq!(Msix::new(vectors, 0xffff).count(), MAX_VECTORS);
}

#[test]
fn the_pending_bits_of_many_vectors_are_each_in_their_place() {
    let (msix, _) = msix(70);
    for index in [0, 1, 31, 32, 63, 64, 69] {
        msix.trigger(index);
    }
    let mut data = [0; 8];
    msix.read_pba(8, &mut data);
    assert_eq!((pending(&msix), u64::from_le_bytes(data)), (1 << 63 | 1 << 32 | 1 << 31 | 3, 1 << 5 | 1));
    msix.read_pba(16, &mut data);
    assert_eq!(data, [0; 8]);
}

#[test]
fn every_access_to_table_and_pending_bits_has_an_answer() {
    let (msix, vectors) = msix(3);
    msix.set_control(ON);
    for offset in (0..0x50).chain([0xffc, 0xfff, u64::MAX - 7, u64::MAX - 3, u64::MAX]) {
        for width in 0..=9 {
            let aligned = matches!(width, 4 | 8) && offset % width == 0;
            for value in [0, 0x7f, 0xff] {
                let before: Vec<_> = (0..12).map(|at| word(&msix, 4 * at)).collect();
                msix.write_table(offset, &vec![value; width as usize]);
                let after: Vec<_> = (0..12).map(|at| word(&msix, 4 * at)).collect();
                assert!(aligned || before == after, "{offset:#x}, {width}");
            }
            let mut data = vec![0xaa; width as usize];
            msix.read_table(offset, &mut data);
            assert!(aligned || data.iter().all(|byte| *byte == 0));
            msix.read_pba(offset, &mut data);
            assert!(data.iter().all(|byte| *byte == 0));
        }
    }
    set_message(&msix, 2, MESSAGE);
    set_mask(&msix, 2, false);
    msix.trigger(2);
    assert_eq!(vectors.take(2), 1);
}

/// Vectors that are counted together.
#[derive(Debug, Default)]
struct Counter(AtomicU64);

impl MsiVectors for Counter {
    fn route(&self, _: &[(u16, MsiMessage)]) -> std::io::Result<()> {
        Ok(())
    }
    fn trigger(&self, _: u16) {
        self.0.fetch_add(1, Ordering::AcqRel);
    }
}

#[test]
fn every_trigger_among_masks_that_flip_fires_just_once() {
    const FLIPS: u64 = 400_000;
    let fired: Arc<Counter> = Arc::default();
    let msix = Msix::new(fired.clone(), 1);
    let triggered = std::thread::scope(|scope| {
        let masks = scope.spawn(|| {
            for _ in 0..FLIPS {
                set_mask(&msix, 0, true);
                set_mask(&msix, 0, false);
            }
        });
        let controls = scope.spawn(|| {
            for _ in 0..FLIPS / 5 {
                for control in [ON, ON_BUT_MASKED, ON, 0, ON] {
                    msix.set_control(control);
                }
            }
        });
        // Only when the one before has fired, so that no two become one. One that got lost would be the last one.
        let mut triggered = 0;
        while !(masks.is_finished() && controls.is_finished()) {
            if fired.0.load(Ordering::Acquire) == triggered {
                triggered += 1;
                msix.trigger(0);
            }
        }
        triggered
    });
    assert_eq!((fired.0.load(Ordering::Acquire), pending(&msix)), (triggered, 0));
}

/// A vector that is routed and may fire, and an event that raises it.
fn attached() -> (Msix, Arc<MockVectors>, EventFd) {
    let (msix, vectors) = msix(2);
    vectors.listens.store(true, Ordering::Relaxed);
    set_message(&msix, 1, MESSAGE);
    set_mask(&msix, 1, false);
    msix.set_control(ON);
    let event = EventFd::new(libc::EFD_NONBLOCK).unwrap();
    assert!(msix.attach(1, 7, &event));
    (msix, vectors, event)
}

#[test]
fn an_event_raises_its_vector_and_keeps_what_is_pending_while_that_is_masked() {
    let closed_and_opened: [(&str, Step, Step); 4] = [
        ("bus master", |msix| msix.set_bus_master(false), |msix| msix.set_bus_master(true)),
        ("vector mask", |msix| set_mask(msix, 1, true), |msix| set_mask(msix, 1, false)),
        ("function mask", |msix| msix.set_control(ON_BUT_MASKED), |msix| msix.set_control(ON)),
        ("disabled", |msix| msix.set_control(0), |msix| msix.set_control(ON)),
    ];
    for (what, close, open) in closed_and_opened {
        let (msix, vectors, event) = attached();
        for _ in 0..3 {
            event.write(1).unwrap();
            assert_eq!((vectors.pump(), vectors.take(1), pending(&msix)), (1, 1, 0), "{what}");
            close(&msix);
            event.write(1).unwrap();
            event.write(1).unwrap();
            // The host doesn't listen.
            assert_eq!((vectors.pump(), vectors.take(1), pending(&msix)), (0, 0, 2), "{what}");
            open(&msix);
            assert_eq!((vectors.take(1), pending(&msix)), (1, 0), "{what}");
            close(&msix);
            open(&msix);
            assert_eq!((vectors.pump(), vectors.take(1)), (1, 0), "{what}");
            // We may raise it as well, and once is once.
            close(&msix);
            msix.trigger(1);
            assert_eq!(pending(&msix), 2, "{what}");
            open(&msix);
            assert_eq!(vectors.take(1), 1, "{what}");
        }
        msix.detach(1, 7);
        event.write(1).unwrap();
        assert_eq!((vectors.pump(), vectors.take(1), pending(&msix)), (0, 0, 0), "{what}");
    }
}

#[test]
fn what_is_pending_in_an_event_outlives_it() {
    let (msix, vectors, event) = attached();
    set_mask(&msix, 1, true);
    event.write(1).unwrap();
    msix.detach(1, 7);
    assert_eq!(pending(&msix), 2);
    set_mask(&msix, 1, false);
    assert_eq!((vectors.take(1), pending(&msix)), (1, 0));
    // One that is attached while its vector is masked waits.
    set_mask(&msix, 1, true);
    assert!(msix.attach(1, 7, &event));
    assert_eq!((vectors.pump(), vectors.take(1)), (0, 0));
    event.write(1).unwrap();
    set_mask(&msix, 1, false);
    assert_eq!((vectors.take(1), vectors.pump()), (1, 1));
}

#[test]
fn an_event_of_no_vector_or_on_a_host_without_a_way_is_not_attached() {
    let (msix, vectors, event) = attached();
    assert!(!msix.attach(2, 0, &event) && !msix.attach(0xffff, 0, &event));
    msix.detach(2, 0);
    vectors.refuse.store(true, Ordering::Relaxed);
    assert!(!msix.attach(1, 8, &event));
    assert_eq!(vectors.pump(), 1);
    // A host that doesn't take one back later leaves the vector silent, and keeps what is pending.
    set_mask(&msix, 1, true);
    set_mask(&msix, 1, false);
    event.write(1).unwrap();
    assert_eq!((vectors.pump(), vectors.take(1), pending(&msix)), (0, 0, 2));
    vectors.refuse.store(false, Ordering::Relaxed);
    set_mask(&msix, 1, true);
    set_mask(&msix, 1, false);
    assert_eq!((vectors.take(1), pending(&msix)), (1, 0));
}
