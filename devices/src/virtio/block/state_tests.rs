// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! A queue's state carries all that is in flight: a device that never saw the requests does each of them, once.

use std::sync::atomic::Ordering;

use vm_memory::{Bytes, GuestAddress};

use super::control_tests::in_kernel;
use super::machine::{Bus, Machine};
use super::rig::{DATA, ENGINES, HEADER, Rig, STATUS, UNTOUCHED, options};
use super::{Block, BlockOptions, EngineChoice, OnError, spec};
use crate::sys::pipe;
use crate::virtio::device::VirtioDevice;
use crate::virtio::mock::{readable, writable};
use crate::virtio::queue::QueueState;

/// Makes a write of sector `10 + number` available, which has a header, a page and a status byte of its own.
fn offer_write(rig: &mut Rig, number: u8) -> u16 {
    let n = u64::from(number);
    let (header, status, data) = (HEADER + 0x100 + 16 * n, STATUS + 1 + n, DATA + 0x1000 * (n + 1));
    rig.mem.write_obj([u64::from(spec::T_OUT), 10 + n], GuestAddress(header)).unwrap();
    rig.mem.write_obj(UNTOUCHED, GuestAddress(status)).unwrap();
    rig.mem.write_slice(&[0x70 + number; 512], GuestAddress(data)).unwrap();
    rig.driver.submit(&[readable(header, 16), readable(data, 512), writable(status, 1)])
}

#[test]
fn a_new_device_does_what_the_old_one_held_each_once_and_then_what_is_new() {
    for engine in ENGINES {
        let options = BlockOptions { on_error: OnError::Stop, ..options(engine) };
        let mut rig = Rig::running(options.clone());
        rig.block.image().backend.raw().unwrap().full.store(true, Ordering::Release);
        let held = [0, 1, 2].map(|number| offer_write(&mut rig, number));
        // A read behind them is served, so they have been tried.
        assert_eq!(rig.simple(spec::T_IN, 0, writable(DATA, 512)), (spec::S_OK, 513));
        let state = rig.block.stop_queue(0).unwrap();
        assert_eq!(state, QueueState { next_avail: 4, next_used: 1, in_flight: held.into() });
        let new = offer_write(&mut rig, 3);

        rig.block = Block::new("vda", rig.file.try_clone().unwrap(), options).unwrap();
        rig.start(state);
        let mut heads = [(); 4].map(|()| rig.wait_used().0 as u16);
        heads.sort_unstable();
        let mut expected = [held[0], held[1], held[2], new];
        expected.sort_unstable();
        assert_eq!(heads, expected);
        for n in 0..4u8 {
            let sector = 10 + usize::from(n);
            assert_eq!(rig.guest(STATUS + 1 + u64::from(n), 1), [spec::S_OK]);
            assert_eq!(rig.host()[sector * 512..(sector + 1) * 512], [0x70 + n; 512]);
        }
        let state = rig.block.stop_queue(0).unwrap();
        assert_eq!(state, QueueState { next_avail: 5, next_used: 5, in_flight: vec![] });
        assert_eq!((rig.driver.take_used(), rig.driver.used_index()), (None, 5));
    }
}

#[test]
fn a_new_device_does_once_what_was_taken_back_from_the_kernel() {
    let (mut rig, pipe) = in_kernel(spec::T_OUT);
    let state = rig.block.stop_queue(0).unwrap();
    assert_eq!(state, QueueState { next_avail: 2, next_used: 1, in_flight: vec![3] });
    assert_eq!(pipe.drain(), [UNTOUCHED; pipe::CAPACITY]);
    let options = BlockOptions { direct: true, ..options(EngineChoice::IoUring) };
    rig.block = Block::new("vda", super::rig::image(), options).unwrap();
    pipe::replace(rig.block.image().backend.raw().unwrap().file(), &pipe.writer);
    rig.start(state);
    assert_eq!(rig.wait_used(), (3, 1));
    assert_eq!(pipe.drain(), [UNTOUCHED; pipe::CAPACITY]);
    let state = rig.block.stop_queue(0).unwrap();
    assert_eq!(state, QueueState { next_avail: 2, next_used: 2, in_flight: vec![] });
    assert_eq!(pipe.drain(), [], "it is written once");
}

#[test]
fn a_state_stays_whole_over_any_number_of_stops_before_the_first_turn() {
    for engine in ENGINES {
        let mut rig = Rig::running(BlockOptions { on_error: OnError::Stop, ..options(engine) });
        rig.block.image().backend.raw().unwrap().full.store(true, Ordering::Release);
        for number in 0..5 {
            offer_write(&mut rig, number);
        }
        rig.doorbell.write(1).unwrap();
        let mut state = QueueState::default();
        for _ in 0..50 {
            state = rig.block.stop_queue(0).unwrap();
            assert_eq!((usize::from(state.next_avail), state.next_used), (state.in_flight.len(), 0));
            rig.start(state.clone());
        }
        rig.block.image().backend.raw().unwrap().full.store(false, Ordering::Release);
        rig.block.control().resume();
        let mut heads = [(); 5].map(|()| rig.wait_used().0);
        heads.sort_unstable();
        assert_eq!(heads, [0, 3, 6, 9, 12], "{state:?}");
    }
}

#[test]
fn both_transports_give_the_state_out_and_go_on_from_it() {
    for (engine, bus) in ENGINES.into_iter().flat_map(|engine| [Bus::Mmio, Bus::Pci].map(|bus| (engine, bus))) {
        let machine = Machine::new(bus, BlockOptions { on_error: OnError::Stop, ..options(engine) });
        assert_eq!(machine.stop(), []);
        machine.resume();
        machine.set_full(true);
        let mut driver = machine.waiting_driver();
        machine.header(spec::T_OUT, 9);
        let head = driver.submit(&[readable(HEADER, 16), readable(DATA, 512), writable(STATUS, 1)]);
        let read = [u64::from(spec::T_IN), 0];
        machine.mem.write_obj(read, GuestAddress(HEADER + 16)).unwrap();
        machine.driver_ok();
        let buffers = [readable(HEADER + 16, 16), writable(DATA + 0x1000, 512), writable(STATUS + 1, 1)];
        assert_eq!(machine.submit(&mut driver, &buffers), Some((3, 513)));
        let state = QueueState { next_avail: 2, next_used: 1, in_flight: vec![head] };
        assert_eq!(machine.stop(), [(0, Some(state.clone()))], "{engine:?} {bus:?}");
        machine.set_full(false);
        driver.submit(&buffers);
        machine.ring(0);
        assert_eq!(machine.stop(), [(0, Some(state.clone()))], "a doorbell changes nothing");
        machine.resume();
        let mut used = [(); 2].map(|()| machine.serve(&mut driver).unwrap());
        used.sort_unstable();
        assert_eq!(used, [(0, 1), (6, 513)]);
        let state = QueueState { next_avail: 3, next_used: 3, in_flight: vec![] };
        assert_eq!(machine.stop(), [(0, Some(state.clone()))]);
        machine.resume();
        machine.comes_back();
    }
}
