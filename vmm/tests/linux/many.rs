// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Many VMs in one process, one after the other.

use std::fs;
use std::io::Read;
use std::os::unix::net::UnixStream;
use std::thread;

use vmm::{Config, Console, Disk, Exit, Vm};

use crate::rig::{CMDLINE, guest_file, path};
use crate::skip::skip;

/// Boots to user space and to the power-off, with the library.
fn boot() {
    let mut config = Config::new(guest_file("vmlinux"));
    config.initrd = Some(guest_file("initrd"));
    config.rootfs = Some(Disk::root(&format!("{},ro", path(&guest_file("rootfs.ext4")))).unwrap());
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

/// Boots this often in a process of its own, where no other test's threads are counted, and looks at what is left.
fn leaves_nothing_behind(test: &str, boots: u32) {
    const CHILD: &str = "VMM_TEST_MANY_BOOTS";
    if std::env::var_os(CHILD).is_none() {
        let mut child = std::process::Command::new(std::env::current_exe().unwrap());
        let output = child.args([test, "--exact", "--test-threads=1"]).env(CHILD, "1").output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
        return;
    }
    // The first two make what is made once a process: stacks and arenas that are kept.
    (0..2).for_each(|_| boot());
    let (before, resident_before) = footprint();
    (2..boots).for_each(|_| boot());
    let (after, resident_after) = footprint();
    assert_eq!(after[..2], before[..2], "descriptors and threads");
    assert!(after[2] <= before[2] + 2, "{} mappings became {}", before[2], after[2]);
    assert!(resident_after < resident_before + 2048, "{resident_before} KiB became {resident_after}");
}

#[test]
fn fifty_boots_in_a_row_leave_no_thread_descriptor_or_memory_behind() {
    // `cargo xtask test` sets it in the testbed, which seldom lives through fifty boots of one test.
    if std::env::var_os("VMM_TEST_EMULATED").is_some() {
        return skip("the emulated host gets the same fifty boots in ten tests of five");
    }
    leaves_nothing_behind("many::fifty_boots_in_a_row_leave_no_thread_descriptor_or_memory_behind", 50);
}

macro_rules! five_boots {
    ($($name:ident)+) => {
        $(#[test] fn $name() { leaves_nothing_behind(concat!("many::", stringify!($name)), 5); })+
    };
}

five_boots! {
    boots_01_to_05_leave_nothing_behind
    boots_06_to_10_leave_nothing_behind
    boots_11_to_15_leave_nothing_behind
    boots_16_to_20_leave_nothing_behind
    boots_21_to_25_leave_nothing_behind
    boots_26_to_30_leave_nothing_behind
    boots_31_to_35_leave_nothing_behind
    boots_36_to_40_leave_nothing_behind
    boots_41_to_45_leave_nothing_behind
    boots_46_to_50_leave_nothing_behind
}
