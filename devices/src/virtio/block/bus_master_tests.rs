// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! A disk on PCI whose guest turns bus master off and on: while it is off, no byte of guest memory changes and no message
//! goes out; when it is on again, everything that was under way is done, once.

use std::thread;

use vm_memory::{Bytes, GuestAddress};

use super::machine::{Bus, Machine};
use super::rig::{DATA, ENGINES, HEADER, STATUS, UNTOUCHED, options};
use super::{BlockOptions, EngineChoice, OnError, spec};
use crate::sys::pipe::{self, Pipe};
use crate::virtio::mock::{MockDriver, readable, writable};

/// Offers reads of the first sectors, each with a header, a buffer and a status byte of its own.
fn offer_reads(machine: &Machine, driver: &mut MockDriver, reads: u64) {
    for sector in 0..reads {
        let header = HEADER + 16 * sector;
        machine.mem.write_obj([u64::from(spec::T_IN), sector], GuestAddress(header)).unwrap();
        let buffers = [readable(header, 16), writable(DATA + 512 * sector, 512), writable(STATUS + sector, 1)];
        driver.submit(&buffers);
    }
}

/// Waits until so many have come back; their heads, in order.
fn wait(machine: &Machine, driver: &mut MockDriver, count: usize) -> Vec<u32> {
    let mut heads: Vec<_> = (0..count).map(|_| machine.serve(driver).unwrap().0).collect();
    heads.sort_unstable();
    heads
}

#[test]
fn a_driver_that_is_ready_before_bus_master_is_on_is_served_when_it_is() {
    for engine in ENGINES {
        let machine = Machine::new(Bus::Pci, options(engine));
        machine.set_bus_master(false);
        let mut driver = machine.driver();
        offer_reads(&machine, &mut driver, 5);
        let ram = machine.ram();
        machine.ring(0);
        thread::yield_now();
        assert!(machine.ram() == ram && machine.messages() == 0 && !machine.needs_reset());
        machine.set_bus_master(true);
        assert_eq!(wait(&machine, &mut driver, 5), [0, 3, 6, 9, 12]);
        machine.comes_back();
    }
}

#[test]
fn nothing_is_touched_while_bus_master_is_off_and_nothing_is_lost() {
    for engine in ENGINES {
        let machine = Machine::new(Bus::Pci, options(engine));
        let before = machine.host();
        for turn in 0..50 {
            let mut driver = machine.driver();
            offer_reads(&machine, &mut driver, 5);
            machine.ring(0);
            if turn % 2 == 1 {
                machine.wait_interrupt();
            }
            machine.set_bus_master(false);
            let (ram, used) = (machine.ram(), driver.used_index());
            machine.messages();
            for _ in 0..3 {
                machine.ring(0);
                thread::yield_now();
            }
            assert!(machine.ram() == ram, "{engine:?}, {used} of 5 were done");
            assert_eq!(machine.messages(), 0);
            machine.set_bus_master(true);
            assert_eq!(wait(&machine, &mut driver, 5), [0, 3, 6, 9, 12], "{engine:?}");
            assert_eq!(driver.used_index(), 5);
        }
        assert_eq!(machine.host(), before);
        machine.comes_back();
    }
}

#[test]
fn what_the_kernel_has_is_taken_back_when_bus_master_goes_off() {
    let machine = Machine::new(Bus::Pci, BlockOptions { direct: true, ..options(EngineChoice::IoUring) });
    let pipe = Pipe::new();
    machine.replace_file(Some(&pipe.reader));
    let mut driver = machine.waiting_driver();
    machine.header(spec::T_IN, 0);
    driver.submit(&[readable(HEADER, 16), writable(DATA, 4096), writable(STATUS, 1)]);
    driver.submit(&[readable(HEADER, 16), writable(DATA + 0x1000, 4096), writable(STATUS, 1)]);
    pipe.fill(&[0x11; pipe::CAPACITY]);
    machine.driver_ok();
    // The kernel has both, and bytes for one.
    assert_eq!(machine.serve(&mut driver), Some((0, 4097)));
    machine.set_bus_master(false);
    let ram = machine.ram();
    pipe.fill(&[0x22; pipe::CAPACITY]);
    assert_eq!(pipe.drain(), [0x22; pipe::CAPACITY], "nobody reads it");
    assert!(machine.ram() == ram);
    machine.set_bus_master(true);
    pipe.fill(&[0x33; pipe::CAPACITY]);
    assert_eq!(machine.serve(&mut driver), Some((3, 4097)));
    assert_eq!((machine.mem.read_obj::<u8>(GuestAddress(DATA + 0x1fff)).unwrap(), driver.used_index()), (0x33, 2));
    machine.replace_file(None);
    machine.comes_back();
}

#[test]
fn a_held_write_survives_any_number_of_turns_and_is_done_once() {
    for engine in ENGINES {
        let machine = Machine::new(Bus::Pci, BlockOptions { on_error: OnError::Stop, ..options(engine) });
        machine.set_full(true);
        let mut driver = machine.waiting_driver();
        machine.header(spec::T_OUT, 9);
        driver.submit(&[readable(HEADER, 16), readable(DATA, 512), writable(STATUS, 1)]);
        machine.driver_ok();
        machine.ring(0);
        for _ in 0..100 {
            machine.set_bus_master(false);
            machine.set_bus_master(true);
        }
        assert_eq!((driver.used_index(), machine.status_byte()), (0, UNTOUCHED), "{engine:?}");
        machine.set_bus_master(false);
        machine.set_full(false);
        machine.set_bus_master(true);
        assert_eq!(machine.serve(&mut driver), Some((0, 1)));
        assert_eq!((machine.status_byte(), driver.used_index()), (spec::S_OK, 1));
        assert_eq!(machine.host()[9 * 512..10 * 512], [UNTOUCHED; 512]);
        machine.comes_back();
    }
}

#[test]
fn vcpus_that_turn_bus_master_to_and_fro_agree_on_what_was_written_last() {
    for engine in ENGINES {
        let machine = Machine::new(Bus::Pci, options(engine));
        let mut driver = machine.driver();
        offer_reads(&machine, &mut driver, 5);
        machine.ring(0);
        thread::scope(|scope| {
            for vcpu in 0..2 {
                let machine = &machine;
                scope.spawn(move || {
                    for turn in 0..100 {
                        machine.set_bus_master((turn + vcpu) % 2 == 0);
                        machine.ring(0);
                    }
                });
            }
        });
        machine.set_bus_master(false);
        let ram = machine.ram();
        machine.ring(0);
        thread::yield_now();
        assert!(machine.ram() == ram);
        machine.set_bus_master(true);
        assert_eq!(wait(&machine, &mut driver, 5), [0, 3, 6, 9, 12]);
        machine.comes_back();
    }
}
