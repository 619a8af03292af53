// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Micro-guests: bare-metal programs of a few instructions, run under the real `/dev/kvm`, whatever is behind it.
//!
//! They hold what no mock can: that exits reach the devices, interrupts reach the guest, and every thread ends.

mod elf;
mod programs;
mod qcow2;
mod rig;
#[path = "../skip/mod.rs"]
mod skip;

use std::time::Duration;

use vmm::{Control, Crash, Exit, OnCrash, OnReboot, StopReason};

use rig::{Rig, skip};

#[test]
fn port_io_reaches_the_serial_port_and_power_management() {
    skip!();
    let (exit, output) = Rig::new(programs::HELLO).run();
    assert_eq!((exit, output.as_str()), (Exit::PowerOff, "hello, string"));
}

#[test]
fn the_i8042_resets_the_machine() {
    skip!();
    assert_eq!(Rig::new(programs::RESET).run(), (Exit::Reset, String::new()));
}

#[test]
fn the_acpi_reset_register_resets_the_machine() {
    skip!();
    assert_eq!(Rig::new(programs::ACPI_RESET).run(), (Exit::Reset, String::new()));
}

#[test]
fn pvh_enters_in_32_bit_mode_with_its_start_info() {
    skip!();
    let (exit, output) = Rig::new(programs::PVH).pvh().run();
    // The magic number of hvm_start_info, 0x336ec578, is no text: the guest compares it.
    assert_eq!((exit, output.as_str()), (Exit::PowerOff, "pvh"));
}

#[test]
fn mmio_exits_reach_the_device_and_nobody_answers_where_none_is() {
    skip!();
    let disk = rig::image(b"");
    let (exit, output) = Rig::new(programs::MMIO).disk(&disk).run();
    assert_eq!((exit, output.as_str()), (Exit::PowerOff, "virtFF"));
}

#[test]
fn an_irqfd_interrupts_the_guest() {
    skip!();
    let (exit, output) = Rig::new(programs::INTERRUPT).run();
    assert_eq!((exit, output.as_str()), (Exit::PowerOff, "I"));
}

#[test]
fn a_doorbell_reaches_the_disk_and_its_interrupt_comes_back() {
    skip!();
    let exits = rig::log_lines_with("came by an exit");
    let disk = rig::image(b"sector");
    let (exit, output) = Rig::new(programs::DISK).disk(&disk).run();
    assert_eq!((exit, output.as_str()), (Exit::PowerOff, "sector"));
    // Without an ioeventfd the doorbell would ring as well, but through an exit to user space.
    assert_eq!(exits.lock().unwrap().as_slice(), [0u8; 0]);
}

#[test]
fn the_power_button_interrupts_a_halted_guest() {
    skip!();
    let rig = Rig::new(programs::POWER_BUTTON).when("R", |control| control.power_button());
    assert_eq!(rig.run(), (Exit::PowerOff, "RP".to_owned()));
}

#[test]
fn a_halted_vcpu_can_be_stopped() {
    skip!();
    let rig = Rig::new(programs::HALT).when("R", |control| control.stop());
    assert_eq!(rig.run(), (Exit::Stopped(StopReason::Asked), "R".to_owned()));
}

#[test]
fn a_spinning_vcpu_can_be_stopped() {
    skip!();
    let rig = Rig::new(programs::SPIN).when("R", |control| control.stop());
    assert_eq!(rig.run(), (Exit::Stopped(StopReason::Asked), "R".to_owned()));
}

#[test]
fn a_guest_that_ignores_the_power_button_is_stopped_after_the_grace() {
    skip!();
    let rig = Rig::new(programs::SPIN).when("R", |control| control.shutdown(Duration::from_millis(50)));
    assert_eq!(rig.run(), (Exit::Stopped(StopReason::GraceExpired), "R".to_owned()));
}

#[test]
fn a_guest_that_fills_a_console_nobody_reads_can_be_stopped() {
    skip!();
    let rig = Rig::new(programs::FLOOD)
        .unread()
        .input(b"typed meanwhile")
        .when("", |control| control.shutdown(Duration::from_millis(200)));
    assert_eq!(rig.run().0, Exit::Stopped(StopReason::GraceExpired));
}

#[test]
fn a_triple_fault_is_a_crash() {
    skip!();
    let (exit, _) = Rig::new(programs::TRIPLE_FAULT).run();
    let Exit::Crashed(report) = exit else { panic!("{exit:?}") };
    assert_eq!((report.vcpu, report.crash), (Some(0), Crash::TripleFault));
}

#[test]
fn what_kvm_can_not_emulate_is_a_crash_that_names_the_place() {
    skip!();
    let disk = rig::image(b"");
    let (exit, _) = Rig::new(programs::RUN_FROM_MMIO).disk(&disk).run();
    let Exit::Crashed(report) = exit else { panic!("{exit:?}") };
    assert!(matches!(report.crash, Crash::InternalError { suberror: 1, .. }), "{report:?}");
    assert_eq!(report.rip, Some(0xc100_0000));
}

/// How many there are in a folder of /proc/self.
fn entries(what: &str) -> usize {
    std::fs::read_dir(format!("/proc/self/{what}")).unwrap().count()
}

#[test]
fn a_guest_that_resets_for_ever_finds_new_memory_each_time_takes_nothing_and_can_be_stopped() {
    skip!();
    /// Boots until the host stops it.
    const MANY: &str = "RRRRRRRRRRRRRRRRRRRRRRRRRRRRRRRRRRRRRRRRRRRRRRRRRRRRRRRRRRRRRRRR";
    let rss = || {
        let pages = std::fs::read_to_string("/proc/self/statm").unwrap();
        pages.split(' ').nth(1).unwrap().parse::<usize>().unwrap()
    };
    Rig::new(programs::AGAIN).vcpus(2).run();
    let before = (entries("fd"), entries("task"), rss());
    for grace in [None, Some(Duration::from_millis(1))] {
        let rig = Rig::new(programs::AGAIN).vcpus(2).on_reboot(OnReboot::Reset);
        let react = move |control: Control| match grace {
            None => control.stop(),
            Some(grace) => control.shutdown(grace),
        };
        let (exit, output) = rig.when(MANY, react).run();
        let reason = if grace.is_none() { StopReason::Asked } else { StopReason::GraceExpired };
        assert_eq!(exit, Exit::Stopped(reason));
        assert!(output.len() >= MANY.len() && output.bytes().all(|byte| byte == b'R'), "{output}");
    }
    assert_eq!((entries("fd"), entries("task")), (before.0, before.1));
    // 64 times the guest's memory would be 2 GiB.
    assert!(rss() < before.2 + (16 << 20) / 4096, "{} pages before, {} after", before.2, rss());
}

#[test]
fn a_reset_in_the_middle_of_an_instruction_ends_that_instruction() {
    skip!();
    let rig = Rig::new(programs::ENDLESS_RESET).vcpus(2).on_reboot(OnReboot::Reset);
    let (exit, output) = rig.when("RRRRRRRR", |control| control.stop()).run();
    assert_eq!(exit, Exit::Stopped(StopReason::Asked));
    assert!(output.bytes().all(|byte| byte == b'R'), "{output}");
}

#[test]
fn a_crash_can_be_a_reset_or_a_stand_still_that_the_host_ends() {
    skip!();
    // The host's wish comes while the guest stands still or just before.
    let stop = |control: Control| control.shutdown(Duration::from_secs(3600));
    let (exit, _) = Rig::new(programs::SAY_AND_CRASH).on_crash(OnCrash::Pause).when("R", stop).run();
    assert!(matches!(exit, Exit::Crashed(_)), "{exit:?}");
    let rig = Rig::new(programs::SAY_AND_CRASH).on_crash(OnCrash::Reset);
    let (exit, output) = rig.when("RRRR", |control| control.stop()).run();
    assert_eq!(exit, Exit::Stopped(StopReason::Asked));
    assert!(output.bytes().all(|byte| byte == b'R'), "{output}");
}

#[test]
fn a_second_vcpu_starts_when_it_is_woken() {
    skip!();
    let (exit, output) = Rig::new(programs::TWO_VCPUS).vcpus(2).run();
    assert_eq!((exit, output.as_str()), (Exit::PowerOff, "AB"));
}

#[test]
fn vcpus_that_were_never_woken_do_not_hold_up_the_end() {
    skip!();
    assert_eq!(Rig::new(programs::RESET).vcpus(4).run(), (Exit::Reset, String::new()));
}

#[test]
fn input_interrupts_the_guest_and_is_read() {
    skip!();
    let (exit, output) = Rig::new(programs::ECHO).input(b"abcdefghijq").run();
    assert_eq!((exit, output.as_str()), (Exit::PowerOff, "abcdefghij"));
}

#[test]
fn a_hundred_vms_leave_no_descriptor_and_no_thread() {
    skip!();
    // The first one leaves what is made once a process.
    Rig::new(programs::RESET).run();
    let before = (entries("fd"), entries("task"));
    for _ in 0..100 {
        Rig::new(programs::RESET).vcpus(2).run();
    }
    assert_eq!((entries("fd"), entries("task")), before);
}

#[test]
fn what_lies_behind_a_disk_is_written_by_no_other_and_is_not_read_while_another_writes_it() {
    skip!();
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    std::fs::write(path("base"), vec![0; 1 << 20]).unwrap();
    std::fs::write(path("top"), qcow2::on_top_of("base", 1 << 20)).unwrap();
    let top = format!("path={},format=qcow2,readonly=on,backing=on", path("top"));
    let (base, read_base) = (format!("path={}", path("base")), format!("path={},readonly=on", path("base")));
    let build = |disk: &str| Rig::new(programs::HELLO).build(disk);
    let us = "another disk of this process: give readonly=on to both, or a copy";

    let first = build(&top).unwrap();
    let (other, reader) = (build(&top).unwrap(), build(&read_base).unwrap());
    let error = build(&base).unwrap_err();
    assert_eq!(error, format!("disk {}: is in use by {us}", path("base")));
    drop((first, other, reader));

    let writer = build(&base).unwrap();
    let error = build(&top).unwrap_err();
    let based = format!("the image is based on {}, which is written by {us}", path("base"));
    assert_eq!(error, format!("disk {}: it can't be used as a qcow2 image: {based}", path("top")));
    drop(writer);
    build(&top).unwrap();
}
