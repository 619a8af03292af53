// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! `vmm.show` and `vmm.cpuinfo`: what the guest sees of its machine.

use crate::sys;

/// Prints `/proc/cpuinfo`.
pub(crate) fn cpuinfo() {
    print!("{}", std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default());
}

/// Prints processors, memory and disks.
pub(crate) fn machine() {
    processors();
    memory();
    disks();
}

fn processors() {
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let values = |name: &str| -> Vec<String> {
        let lines = text.lines().filter_map(|line| line.split_once(':'));
        lines.filter(|(key, _)| key.trim() == name).map(|(_, value)| value.trim().to_owned()).collect()
    };
    let models = values("model name");
    println!("processors: {} × {}", models.len(), models.first().map_or("unknown", String::as_str));
    let hypervisor = values("flags").first().is_some_and(|flags| flags.split(' ').any(|flag| flag == "hypervisor"));
    println!("hypervisor flag: {}", if hypervisor { "set" } else { "not set" });
    let clock = std::fs::read_to_string("/sys/devices/system/clocksource/clocksource0/current_clocksource");
    println!("clock: {}", clock.unwrap_or_default().trim());
}

fn memory() {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kib = |name: &str| -> u64 {
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        line.and_then(|rest| rest.trim_start_matches(':').trim().trim_end_matches(" kB").parse().ok()).unwrap_or(0)
    };
    println!("memory: {} MiB, of which {} MiB available", kib("MemTotal") / 1024, kib("MemAvailable") / 1024);
}

fn disks() {
    let entries = std::fs::read_dir("/sys/block").into_iter().flatten().flatten();
    let mut names: Vec<_> = entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    for name in names {
        let attribute = |what: &str| -> u64 {
            let value = std::fs::read_to_string(format!("/sys/block/{name}/{what}"));
            value.ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0)
        };
        let access = if attribute("ro") == 1 { "read-only" } else { "read-write" };
        // Sectors of 512 bytes, whatever the device's own block size is.
        println!("disk: /dev/{name}, {} MiB, {access}", attribute("size") / 2048);
    }
    if let Ok((all, free)) = sys::space("/") {
        println!("root file system: {} MiB, of which {} MiB free", all >> 20, free >> 20);
    }
}
