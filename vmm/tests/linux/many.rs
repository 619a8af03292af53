// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Many VMs in one process, one after the other.

use std::fs;
use std::io::Read;
use std::os::unix::net::UnixStream;
use std::thread;

use vmm::{Config, Console, Disk, Exit, Vm};

use crate::rig::{CMDLINE, guest_file};

/// Boots to user space and to the power-off, with the library.
fn boot() {
    let mut config = Config::new(guest_file("vmlinux"));
    config.initrd = Some(guest_file("initrd"));
    config.rootfs = Some(Disk { readonly: true, ..Disk::new(guest_file("rootfs.ext4")) });
    config.cmdline = Some(CMDLINE.to_owned());
    let (mut output, guest) = UnixStream::pair().unwrap();
    let reader = thread::spawn(move || {
        let mut seen = String::new();
        output.read_to_string(&mut seen).unwrap();
        seen
    });
    let vm = Vm::build(&config, Some(Console { input: None, output: Box::new(guest) })).unwrap();
    assert_eq!(vm.run(Vec::new()).unwrap(), Exit::PowerOff);
    assert!(reader.join().unwrap().contains("hello from the guest:"));
}

/// Descriptors, threads, mappings, and KiB of resident memory.
fn footprint() -> ([usize; 3], u64) {
    let count = |what: &str| fs::read_dir(format!("/proc/self/{what}")).unwrap().count();
    let mappings = fs::read_to_string("/proc/self/maps").unwrap().lines().count();
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    ([count("fd"), count("task"), mappings], resident.trim().trim_end_matches(" kB").parse().unwrap())
}

/// In a process of its own, so that other tests' threads don't count.
#[test]
fn fifty_boots_in_a_row_leave_no_thread_descriptor_or_memory_behind() {
    const CHILD: &str = "VMM_TEST_FIFTY_BOOTS";
    if std::env::var_os(CHILD).is_none() {
        let name = "many::fifty_boots_in_a_row_leave_no_thread_descriptor_or_memory_behind";
        let mut child = std::process::Command::new(std::env::current_exe().unwrap());
        // Its lines are no results of this run.
        child.args([name, "--exact", "--test-threads=1"]).env(CHILD, "1").stdout(std::process::Stdio::null());
        assert!(child.status().unwrap().success());
        return;
    }
    // The first ones make what is made once a process: stacks and arenas that are kept.
    (0..3).for_each(|_| boot());
    let (before, resident_before) = footprint();
    (0..47).for_each(|_| boot());
    let (after, resident_after) = footprint();
    assert_eq!(after[..2], before[..2], "descriptors and threads");
    assert!(after[2] <= before[2] + 2, "{} mappings became {}", before[2], after[2]);
    assert!(resident_after < resident_before + 2048, "{resident_before} KiB became {resident_after}");
}
