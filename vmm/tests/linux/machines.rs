// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Kernels × vCPUs × memory, and what the guest finds.

use crate::rig::{Boot, guest_file, path};

/// Boots one combination, and looks whether the guest has what was asked for.
fn boots(kernel: &str, pvh: bool, cpus: u32, memory_mib: u64) {
    let file = path(&guest_file(kernel));
    let (cpus_argument, memory) = (cpus.to_string(), memory_mib.to_string());
    let boot = Boot::with(&["--kernel", &file, "--cpus", &cpus_argument, "--memory", &memory])
        .args(if pvh { &["--pvh"] } else { &[] })
        .rootfs(&format!("{},ro", path(&guest_file("rootfs.ext4"))))
        .say("vmm.show");
    let ended = boot.run();
    ended.assert_clean().assert_says(&format!("processors: {cpus} ×"));
    let found = memory_of(&ended.output);
    // The kernel keeps its own part to itself: 64 bytes a page, its text, and the initrd.
    assert!(found <= memory_mib && found + 90 + memory_mib / 40 > memory_mib, "{found} MiB of {memory_mib}");
}

fn memory_of(output: &str) -> u64 {
    let line = output.lines().find_map(|line| line.trim().strip_prefix("memory: ")).expect("a line about memory");
    line.split(' ').next().unwrap().parse().unwrap()
}

macro_rules! matrix {
    ($($name:ident: $kernel:literal, $pvh:literal, $cpus:literal, $memory:literal;)+) => {
        $(#[test] fn $name() { boots($kernel, $pvh, $cpus, $memory); })+
    };
}

matrix! {
    vmlinux_boots_with_1_vcpu_and_128m: "vmlinux", false, 1, 128;
    vmlinux_boots_with_1_vcpu_and_3g: "vmlinux", false, 1, 3072;
    vmlinux_boots_with_1_vcpu_and_5g: "vmlinux", false, 1, 5120;
    vmlinux_boots_with_2_vcpus_and_128m: "vmlinux", false, 2, 128;
    vmlinux_boots_with_2_vcpus_and_3g: "vmlinux", false, 2, 3072;
    vmlinux_boots_with_2_vcpus_and_5g: "vmlinux", false, 2, 5120;
    pvh_boots_with_1_vcpu_and_128m: "vmlinux", true, 1, 128;
    pvh_boots_with_1_vcpu_and_3g: "vmlinux", true, 1, 3072;
    pvh_boots_with_1_vcpu_and_5g: "vmlinux", true, 1, 5120;
    pvh_boots_with_2_vcpus_and_128m: "vmlinux", true, 2, 128;
    pvh_boots_with_2_vcpus_and_3g: "vmlinux", true, 2, 3072;
    pvh_boots_with_2_vcpus_and_5g: "vmlinux", true, 2, 5120;
    bzimage_boots_with_1_vcpu_and_128m: "vmlinuz", false, 1, 128;
    bzimage_boots_with_1_vcpu_and_3g: "vmlinuz", false, 1, 3072;
    bzimage_boots_with_1_vcpu_and_5g: "vmlinuz", false, 1, 5120;
    bzimage_boots_with_2_vcpus_and_128m: "vmlinuz", false, 2, 128;
    bzimage_boots_with_2_vcpus_and_3g: "vmlinuz", false, 2, 3072;
    bzimage_boots_with_2_vcpus_and_5g: "vmlinuz", false, 2, 5120;
}

#[test]
fn the_guest_finds_its_topology_its_clock_and_its_hypervisor() {
    let command = "grep -E '^(siblings|cpu cores)' /proc/cpuinfo; \
                   cat /sys/devices/system/clocksource/clocksource0/current_clocksource; \
                   grep -c hypervisor /proc/cpuinfo; date +now=%s; cat /sys/class/rtc/rtc0/since_epoch; \
                   ls /sys/bus/acpi/devices; dmesg | grep -iE 'ACPI (BIOS )?(Error|Warning)|firmware bug'";
    let before = now();
    let ended = Boot::new().args(&["--cpus", "2", "--transport", "mmio"]).say(&format!("vmm.run=\"{command}\"")).run();
    let output = &ended.assert_clean().output;
    assert_eq!(output.matches("siblings\t: 2").count(), 2, "{output}");
    assert_eq!(output.matches("cpu cores\t: 2").count(), 2, "{output}");
    for found in ["kvm-clock", "PNP0C0C:00", "LNRO0005:00", "PNP0501:00", "ACPI0013:00"] {
        ended.assert_says(found);
    }
    for complaint in ["ACPI Error", "ACPI BIOS Error", "ACPI Warning", "Firmware Bug"] {
        assert!(!output.contains(complaint), "{output}");
    }
    let clock = output.lines().find_map(|line| line.trim().strip_prefix("now=")).unwrap();
    let clock: u64 = clock.parse().unwrap();
    assert!((before..=now()).contains(&clock), "the guest's clock is {clock}, the host's was {before}");
}

fn now() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs()
}
