// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Bad input: exit status 2, one line that names the value and the cure, and nothing left behind.

use std::fs;
use std::path::Path;

use tempfile::TempDir;

use crate::skip::without_kvm;
use crate::{elf, programs, text, vmm};

/// A directory with a good kernel, a disk, and everything that is no kernel.
fn inputs() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    let put = |name: &str, bytes: &[u8]| fs::write(dir.path().join(name), bytes).unwrap();
    let kernel = elf::wrap(programs::RESET(), false);
    put("kernel", &kernel);
    put("truncated", &kernel[..kernel.len() - 1]);
    put("cut-header", &kernel[..50]);
    put("empty", b"");
    put("gzip", b"\x1f\x8b\x08\0\0\0\0\0");
    put("text", b"not a kernel at all, but a text");
    let mut arm = vec![0; 64];
    arm[56..60].copy_from_slice(b"ARM\x64");
    put("arm64", &arm);
    let mut hostile = kernel.clone();
    // The segment's physical address: in the middle of the boot structures.
    hostile[64 + 24..64 + 32].copy_from_slice(&0x7000u64.to_le_bytes());
    put("low", &hostile);
    hostile[64 + 24..64 + 32].copy_from_slice(&u64::MAX.to_le_bytes());
    put("wraps", &hostile);
    put("disk", &[0x55; 4096]);
    put("odd", &[0; 1000]);
    fs::create_dir(dir.path().join("dir")).unwrap();
    let large = fs::File::create(dir.path().join("large")).unwrap();
    large.set_len(200 << 20).unwrap();
    dir
}

/// Everything in a directory, with its content where it is small.
fn snapshot(dir: &Path) -> Vec<(String, u64, Vec<u8>)> {
    let mut all: Vec<_> = fs::read_dir(dir)
        .unwrap()
        .map(|entry| {
            let entry = entry.unwrap();
            let len = entry.metadata().unwrap().len();
            let content = if len < 1 << 20 { fs::read(entry.path()).unwrap_or_default() } else { Vec::new() };
            (entry.file_name().into_string().unwrap(), len, content)
        })
        .collect();
    all.sort();
    all
}

/// Runs `vmm run` in a directory of inputs; each line that it must say has to start and to end like this.
fn refused(arguments: &[&str], starts: &str, ends: &str) {
    let dir = inputs();
    let before = snapshot(dir.path());
    let (status, out, err) = text(&vmm(&["run"]).args(arguments).current_dir(dir.path()).output().unwrap());
    assert_eq!((status, out.as_str()), (Some(2), ""), "{arguments:?}: {err}");
    assert_eq!(err.lines().count(), 1, "{arguments:?}: {err}");
    let line = err.trim_end();
    assert!(line.starts_with(starts) && line.ends_with(ends), "{arguments:?}: {line}");
    assert_eq!(snapshot(dir.path()), before, "{arguments:?}");
}

#[test]
fn what_is_no_kernel_is_named_for_what_it_is() {
    for (name, says) in [
        ("absent", "there is no such file"),
        ("dir", "is a directory"),
        ("empty", "empty"),
        ("gzip", "gzip"),
        ("arm64", "arm64 Image"),
        ("text", "not an x86-64 kernel"),
        ("truncated", "is cut short"),
        ("cut-header", "is cut short"),
        ("low", "0x7000"),
        ("wraps", "0xffffffffffffffff"),
    ] {
        let dir = inputs();
        let (status, _, err) = text(&vmm(&["run", "--kernel", name]).current_dir(dir.path()).output().unwrap());
        assert_eq!((status, err.lines().count()), (Some(2), 1), "{name}: {err}");
        assert!(err.starts_with(&format!("vmm: error: kernel {name}: ")) && err.contains(says), "{name}: {err}");
    }
}

#[test]
fn values_that_can_not_be_right_are_named_with_their_cure() {
    let kernel = ["--kernel", "kernel"];
    for (arguments, says) in [
        (&["--memory", "0"][..], "at least 32M"),
        (&["--memory", "16M"], "16M of memory are too little: a machine has at least 32M"),
        (&["--memory", "lots"], "'lots' is not an amount of memory"),
        (&["--memory", "99999999T"], "'99999999T' is not an amount of memory"),
        (&["--memory", "512M,shared=maybe"], "'--memory <SIZE[,shared=on|off]>': shared=maybe: give on or off"),
        (&["--memory", "512M,pages=2M"], "there is no key 'pages': there are shared"),
        (&["--serial", "tty"], "give stdio, null, file=PATH or socket=PATH"),
        (&["--disk", "disk"], "'disk' is not KEY=VALUE"),
        (&["--disk", "path=disk,readonly=perhaps"], "readonly=perhaps: give on or off"),
        (&["--net", "tap0"], "'tap0' is not KEY=VALUE"),
        (
            &["--net", "mtu=1400"],
            "it isn't connected to anything: give tap=NAME, fd=N, passt=SOCKET, vhost-user=SOCKET or user",
        ),
        (&["--net", "tap=a,fd=3"], "it can be connected to one thing only"),
        (&["--net", "tap=a,mac=01:00:5e:00:00:01"], "01:00:5e:00:00:01 is a multicast address"),
        (&["--net", "tap=a,mac=52:54:00"], "is no MAC address"),
        (&["--net", "tap=a,vhost=on,antispoof=on"], "antispoof: with vhost=on nobody would see to it"),
        (&["--net", "user,vhost=on"], "vhost=on: the kernel moves a tap's frames: give tap= or fd="),
        (&["--net", "user,hostfwd=tcp:8080"], "hostfwd=tcp:8080: there is no '-' between host and guest"),
        (&["--grace", "soon"], "not a time"),
        (&["--log-level", "loud"], "there are error, warn, info, debug and trace"),
        (&["--cpus", "x"], "'--cpus <N>': not a whole number"),
        (&["--frobnicate"], "unexpected argument '--frobnicate'"),
    ] {
        let (status, out, err) = text(&vmm(&["run"]).args(kernel).args(arguments).output().unwrap());
        assert_eq!((status, out.as_str(), err.lines().count()), (Some(2), "", 1), "{arguments:?}: {err}");
        assert!(err.starts_with("vmm: error: ") && err.contains(says), "{arguments:?}: {err}");
    }
}

#[test]
fn a_missing_kernel_option_is_named() {
    let (status, _, err) = text(&vmm(&["run"]).output().unwrap());
    assert_eq!((status, err.lines().count()), (Some(2), 1), "{err}");
    assert!(err.contains("--kernel"), "{err}");
}

#[test]
fn disks_that_are_none_are_named_and_never_changed() {
    let disk = |value: &str, says: &str| {
        let path = value.trim_start_matches("path=");
        let said = format!("vmm: error: disk {path}: ");
        refused(&["--kernel", "kernel", "--disk", value], &said, says);
        let said = format!("vmm: error: rootfs {path}: ");
        refused(&["--kernel", "kernel", "--rootfs", path], &said, says);
    };
    disk("path=absent", "there is no such file");
    disk("path=dir", "is a directory");
    if !without_kvm() {
        disk("path=odd", "its size of 1000 bytes is not a multiple of 512");
        disk("path=empty", "it is empty: a disk has at least one sector of 512 bytes");
    }
}

#[test]
fn what_does_not_fit_is_named() {
    if without_kvm() {
        return;
    }
    refused(
        &["--kernel", "kernel", "--cpus", "0"],
        "vmm: error: 0 vCPUs are not possible: this host's KVM allows 1 to ",
        "",
    );
    refused(&["--kernel", "kernel", "--cpus", "100000"], "vmm: error: 100000 vCPUs are not possible", "");
    refused(&["--kernel", "kernel", "--memory", "8000000T"], "vmm: error: ", "");
    refused(&["--kernel", "kernel", "--initrd", "large", "--memory", "64M"], "vmm: error: initrd large: ", "");
    refused(&["--kernel", "kernel", "--initrd", "empty"], "vmm: error: initrd empty: ", "");
    refused(&["--kernel", "kernel", "--pvh"], "vmm: error: kernel kernel: ", "");
    let long = "x".repeat(3000);
    refused(&["--kernel", "kernel", "--cmdline", &long], "vmm: error: command line: ", "");
}

#[test]
fn serial_places_that_can_not_be_are_named_and_nothing_is_left() {
    if without_kvm() {
        return;
    }
    let serial =
        |place: &str, says: &str| refused(&["--kernel", "kernel", "--serial", place], "vmm: error: serial ", says);
    serial("file=kernel", "is a file that the machine is made of, which would be lost");
    refused(
        &["--kernel", "kernel", "--disk", "path=disk", "--serial", "file=./disk"],
        "vmm: error: serial ",
        "be lost",
    );
    refused(
        &["--kernel", "kernel", "--disk", "path=disk", "--log-file", "disk"],
        "vmm: error: log file disk: ",
        "made of",
    );
    refused(
        &["--kernel", "kernel", "--disk", "path=disk", "--rootfs", "disk"],
        "vmm: error: disk disk: ",
        "both places",
    );
    serial("file=dir", "can't be written: it is a directory");
    serial("file=no/log", "can't be written: there is no such directory");
    serial("socket=disk", "something else is there, which would be overwritten");
    serial("socket=no/socket", "can't be created: there is no such directory");
    serial(&format!("socket={}", "s".repeat(120)), "use a relative one");
    // A mistake elsewhere leaves no file of the serial port's.
    let arguments = ["--kernel", "kernel", "--serial", "file=new-log", "--initrd", "large", "--memory", "64M"];
    refused(&arguments, "vmm: error: initrd large: ", "");
    refused(&["--kernel", "absent", "--log-file", "new-log"], "vmm: error: kernel absent: ", "");
    refused(&["--kernel", "kernel", "--log-file", "no/log"], "vmm: error: log file no/log: can't be written: ", "");
}

#[test]
fn a_balloon_beyond_memory_and_a_device_that_is_both_there_and_not_are_refused() {
    refused(
        &["--kernel", "kernel", "--rng", "bw=1M", "--no-rng"],
        "vmm: error: the argument '--rng <KEY=VALUE>' cannot be used with '--no-rng'",
        "(see 'vmm run --help')",
    );
    refused(
        &["--kernel", "kernel", "--balloon", "size=all"],
        "vmm: error: invalid value 'size=all' for '--balloon <KEY=VALUE>': size=all: give a number of bytes",
        "(see 'vmm run --help')",
    );
    if without_kvm() {
        return;
    }
    refused(
        &["--kernel", "kernel", "--memory", "64M", "--balloon", "size=65M"],
        "vmm: error: balloon: a balloon of 68157440 bytes is more than the machine's RAM: ",
        "give at most 67108864",
    );
}
