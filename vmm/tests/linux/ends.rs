// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The ways in which a VM ends, each with its exit status.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::process::Command;

use crate::rig::{Boot, CMDLINE, Image, guest_file, path, vmm};
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

/// Counts boots on the disk, reads a line from the console, and leaves twice in some way before it powers off.
fn three_boots(leave: &str) -> Image {
    Image::script(&format!(
        r#"
        echo boot >> /boots
        sync
        n=$(wc -l < /boots)
        echo "boot $n: $(nproc) processors, $(cat /proc/cmdline | wc -w) words"
        dmesg | grep -i 'firmware bug'
        dd if=/dev/vda of=/dev/null bs=1M count=32 2>/dev/null
        echo "ready $n"
        read line
        echo "heard $n: $line"
        [ $n -ge 3 ] || {{ sync; {leave}; sleep 100; }}
        "#
    ))
}

/// Answers each boot.
fn answer_three_boots(boot: Boot) -> crate::rig::Ended {
    let mut vm = boot.stdin().start();
    for (ready, line) in [("ready 1", "one\n"), ("ready 2", "two\n"), ("ready 3", "three\n")] {
        vm.expect(ready).type_in(line);
    }
    let ended = vm.wait();
    for heard in ["heard 1: one", "heard 2: two", "heard 3: three"] {
        ended.assert_says(heard);
    }
    ended
}

#[test]
fn a_reboot_can_reset_the_machine_which_boots_again_with_its_disks_and_its_console() {
    for (transport, cpus, how, more) in [
        ("mmio", "1", "reboot=k", &[][..]),
        ("pci", "2", "reboot=a", &["--memory", "512M,shared=on"]),
        ("pci", "2", "reboot=b", &["--pvh"]),
        ("mmio", "2", "", &["--machine-id", "00112233-4455-6677-8899-aabbccddeeff"]),
    ] {
        let (rootfs, script) = (Image::rootfs(), three_boots("reboot -f"));
        let boot = Boot::with(&["--kernel", &path(&guest_file("vmlinux")), "--on-reboot", "reset"])
            .rootfs(&rootfs.path)
            .args(&["--transport", transport, "--cpus", cpus])
            .args(more)
            .cmdline(&CMDLINE.replace("reboot=k", how))
            .script(&script);
        let ended = answer_three_boots(boot);
        ended.assert_clean().assert_says(&format!("boot 3: {cpus} processors"));
        let words = ended.output.lines().filter(|line| line.contains(" words")).map(|line| line.rsplit(' ').nth(1));
        assert!(
            words.clone().count() == 3 && words.clone().all(|count| Some(count) == words.clone().next()),
            "{ended:?}"
        );
        assert!(!ended.output.contains("Firmware Bug"), "{}", ended.output);
    }
}

#[test]
fn a_crash_can_reset_the_machine() {
    for (cmdline, more) in [(CMDLINE.to_owned(), "on"), (CMDLINE.replace("reboot=k", "reboot=t"), "off")] {
        let (rootfs, script) = (Image::rootfs(), three_boots("echo c > /proc/sysrq-trigger"));
        let boot = Boot::with(&["--kernel", &path(&guest_file("vmlinuz")), "--on-crash", "reset", "--pvpanic", more])
            .rootfs(&rootfs.path)
            .args(&["--cpus", "2"])
            .cmdline(&cmdline)
            .script(&script);
        let ended = answer_three_boots(boot);
        assert_eq!((ended.status, ended.errors.as_str()), (Some(0), ""), "{}", ended.output);
    }
}

#[test]
fn a_crash_can_stand_still_until_a_signal_ends_it() {
    let mut vm = Boot::new().args(&["--on-crash", "pause"]).say("vmm.run=\"echo c > /proc/sysrq-trigger\"").start();
    vm.expect("Kernel panic - not syncing").signal("TERM");
    let ended = vm.wait();
    assert_eq!(ended.status, Some(3), "{}", ended.output);
    assert!(ended.errors.ends_with("vmm: error: the guest crashed: its kernel panicked\n"), "{}", ended.errors);
}

#[test]
fn a_kernel_that_was_written_to_is_looked_at_again_before_a_reset() {
    let folder = tempfile::tempdir().unwrap();
    let kernel = folder.path().join("kernel");
    fs::copy(guest_file("vmlinuz"), &kernel).unwrap();
    let mut vm = Boot::with(&["--kernel", &path(&kernel), "--on-reboot", "reset"])
        .rootfs(&format!("{},ro", path(&guest_file("rootfs.ext4"))))
        .stdin()
        .say("vmm.run=\"echo ready; read line; reboot -f\"")
        .start();
    vm.expect("ready");
    fs::write(&kernel, "no kernel any more, but for whoever has it open").unwrap();
    vm.type_in("go\n");
    let ended = vm.wait();
    assert_eq!(ended.status, Some(1), "{}", ended.output);
    let said = format!("vmm: error: the machine can't be reset: kernel {}: ", kernel.display());
    assert!(ended.errors.starts_with(&said), "{}", ended.errors);
}
