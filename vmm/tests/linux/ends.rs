// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The ways in which a VM ends, each with its exit status.

use crate::rig::{Boot, CMDLINE, vmm};

#[test]
fn a_reboot_ends_the_vm_with_status_0() {
    for how in ["k", "a"] {
        let ended =
            Boot::new().cmdline(&CMDLINE.replace("reboot=k", &format!("reboot={how}"))).say("vmm.then=reboot").run();
        assert_eq!((ended.status, ended.errors.as_str()), (Some(0), ""), "reboot={how}: {}", ended.output);
    }
}

#[test]
fn a_panic_that_ends_in_a_triple_fault_is_a_crash() {
    let ended = Boot::new()
        .cmdline(&CMDLINE.replace("reboot=k", "reboot=t"))
        .say("vmm.run=\"echo c > /proc/sysrq-trigger\"")
        .run();
    assert_eq!(ended.status, Some(3), "{}", ended.output);
    assert_eq!(ended.errors, "vmm: error: the guest crashed: triple fault on vCPU 0\n");
    ended.assert_says("Kernel panic - not syncing: sysrq triggered crash");
}

#[test]
fn sigterm_presses_the_power_button_and_the_guest_powers_off() {
    for signal in ["TERM", "INT", "HUP"] {
        let mut vm = Boot::new().say("vmm.then=hang").start();
        vm.expect("hello from the guest:").signal(signal);
        vm.wait().assert_clean().assert_says("power button: powering off");
    }
}

#[test]
fn a_guest_that_does_not_listen_is_stopped_after_the_grace() {
    // No user space: nobody listens to the power button.
    let mut vm = Boot::new().args(&["--grace", "300ms"]).say("init=/bin/sleep -- 1000").start();
    vm.expect("Run").signal("TERM");
    let ended = vm.wait();
    assert_eq!((ended.status, ended.errors.as_str()), (Some(4), "vmm: the VM was stopped\n"));
}

#[test]
fn a_second_signal_stops_at_once() {
    let mut vm = Boot::new().args(&["--grace", "60m"]).cmdline(&CMDLINE.replace("quiet ", "")).start();
    // The kernel has not come as far as to listen to the power button.
    vm.expect("Linux version").signal("TERM").signal("TERM");
    assert_eq!(vm.wait().status, Some(4));
}

#[test]
fn a_kvm_that_is_absent_or_forbidden_is_named() {
    let kernel = crate::rig::path(&crate::rig::guest_file("vmlinux"));
    let program = vmm::<&str>(&[]).get_program().to_str().unwrap().to_owned();
    let run = format!("{program} run --kernel {kernel}");
    let shell = |script: &str| {
        let output = std::process::Command::new("sh").args(["-c", script]).output().unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (status, errors) = shell(&format!("exec unshare -m sh -c 'mount -t tmpfs none /dev && exec {run}'"));
    assert_eq!(status, Some(2), "{errors}");
    assert!(errors.starts_with("vmm: error: /dev/kvm is not there: load kvm_intel or kvm_amd"), "{errors}");
    let (status, errors) = shell(&format!("exec unshare -m sh -c 'chmod 600 /dev/kvm && exec setuidgid nobody {run}'"));
    assert_eq!(status, Some(2), "{errors}");
    assert!(
        errors.starts_with("vmm: error: /dev/kvm may not be opened by this user: add it to the kvm group"),
        "{errors}"
    );
}
