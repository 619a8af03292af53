// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The ways in which a VM ends, each with its exit status.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::process::Command;

use crate::rig::{Boot, CMDLINE, guest_file, path, vmm};
use crate::skip::skip;

#[test]
fn a_reboot_ends_the_vm_with_status_0() {
    // The last one is what the kernel does by itself.
    for how in ["reboot=k", "reboot=a", "reboot=b", ""] {
        let ended = Boot::new().cmdline(&CMDLINE.replace("reboot=k", how)).say("vmm.then=reboot").run();
        assert_eq!((ended.status, ended.errors.as_str()), (Some(0), ""), "{how}: {}", ended.output);
    }
}

#[test]
fn a_panic_ends_the_vm_with_status_3() {
    for transport in ["mmio", "pci"] {
        let ended = Boot::new().args(&["--transport", transport]).say("vmm.run=\"echo c > /proc/sysrq-trigger\"").run();
        assert_eq!(ended.status, Some(3), "{}", ended.output);
        assert_eq!(ended.errors, "vmm: error: the guest crashed: its kernel panicked\n");
        ended.assert_says("Kernel panic - not syncing: sysrq triggered crash");
    }
}

#[test]
fn a_panic_that_ends_in_a_triple_fault_is_a_crash() {
    let ended = Boot::new()
        .args(&["--pvpanic", "off"])
        .cmdline(&CMDLINE.replace("reboot=k", "reboot=t"))
        .say("vmm.run=\"echo c > /proc/sysrq-trigger\"")
        .run();
    assert_eq!(ended.status, Some(3), "{}", ended.output);
    assert_eq!(ended.errors, "vmm: error: the guest crashed: triple fault on vCPU 0\n");
    ended.assert_says("Kernel panic - not syncing: sysrq triggered crash");
}

#[test]
fn sigterm_presses_the_power_button_and_the_guest_powers_off() {
    for signal in ["TERM", "INT", "HUP", "QUIT"] {
        let mut vm = Boot::new().say("vmm.run=\"echo listening; sleep 1000\"").start();
        vm.expect("listening").signal(signal);
        vm.wait().assert_clean().assert_says("power button: powering off");
    }
}

#[test]
fn a_guest_that_does_not_listen_is_stopped_after_the_grace() {
    let mut vm = Boot::new().args(&["--grace", "300ms"]).say("init=/bin/sh").start();
    vm.expect("# ").signal("TERM");
    let ended = vm.wait();
    assert_eq!(
        (ended.status, ended.errors.as_str()),
        (Some(4), "vmm: the VM was stopped: its guest did not power off within the grace\n")
    );
}

#[test]
fn a_second_signal_stops_at_once() {
    let mut vm = Boot::new().args(&["--grace", "60m"]).cmdline(&CMDLINE.replace("quiet ", "")).start();
    // The kernel has not come as far as to listen to the power button.
    // Two of one kind may become one.
    vm.expect("Linux version").signal("TERM").signal("INT");
    assert_eq!(vm.wait().status, Some(4));
}

#[test]
fn a_kvm_that_is_absent_or_forbidden_is_named() {
    if fs::metadata("/proc/self").unwrap().uid() != 0 {
        return skip("only root can become another user");
    }
    let kernel = path(&guest_file("vmlinux"));
    let vmm = vmm(&["run", "--kernel", &kernel]);
    let refused = |mut command: Command| {
        let output = command.output().unwrap();
        assert_eq!(output.status.code(), Some(2));
        String::from_utf8(output.stderr).unwrap()
    };
    let mut hidden = Command::new("unshare");
    hidden.args(["-m", "sh", "-c", "mount -t tmpfs none /dev && exec \"$@\"", "sh"]);
    hidden.arg(vmm.get_program()).args(vmm.get_args());
    let said = refused(hidden);
    assert!(said.starts_with("vmm: error: /dev/kvm is not there: load the module kvm_intel or kvm_amd"), "{said}");

    let mut nobody = vmm;
    nobody.uid(65534).gid(65534);
    let said = refused(nobody);
    assert!(
        said.starts_with("vmm: error: /dev/kvm may not be opened by this user: add this user to the kvm group"),
        "{said}"
    );
}
