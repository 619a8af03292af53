// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What the keys of a disk do, as a guest and its host see it.

use std::fs;

use vmm::{Config, Disk};

use crate::rig::{Boot, CMDLINE, Image, guest_file, path, run_and_react, vmm};

fn root(keys: &str) -> String {
    format!("{},ro{keys}", path(&guest_file("rootfs.ext4")))
}

/// Boots with the root file system on a transport, and with so many vCPUs and queues.
fn boots(transport: &str, queues: u32) {
    let queues = queues.to_string();
    let ended = Boot::with(&["--kernel", &path(&guest_file("vmlinux")), "--cpus", &queues, "--transport", transport])
        .rootfs(&root(&format!(",queues={queues}")))
        .say("vmm.run=\"readlink /sys/block/vda; echo queues=$(ls /sys/block/vda/mq | wc -l)\"")
        .run();
    let place = if transport == "pci" { "/pci0000:00/0000:00:01.0/virtio0/" } else { "/LNRO0005:00/virtio0/" };
    ended.assert_clean().assert_says(place).assert_says(&format!("queues={queues}\r\n"));
}

macro_rules! matrix {
    ($($name:ident: $transport:literal, $queues:literal;)+) => {
        $(#[test] fn $name() { boots($transport, $queues); })+
    };
}

matrix! {
    the_root_file_system_is_on_mmio_with_1_queue: "mmio", 1;
    the_root_file_system_is_on_mmio_with_2_queues: "mmio", 2;
    the_root_file_system_is_on_mmio_with_4_queues: "mmio", 4;
    the_root_file_system_is_on_pci_with_1_queue: "pci", 1;
    the_root_file_system_is_on_pci_with_2_queues: "pci", 2;
    the_root_file_system_is_on_pci_with_4_queues: "pci", 4;
}

/// Copies a disk onto one for each way of serving it, in the guest.
fn copies(transport: &str) {
    let source = Image::random(4 << 20);
    let keys = [
        "engine=io_uring",
        "engine=sync",
        "engine=io_uring,direct=on",
        "engine=sync,direct=on",
        "engine=io_uring,cache=writethrough,queue-size=4",
        "format=qcow2",
    ];
    let format = |keys| if keys == "format=qcow2" { "qcow2" } else { "raw" };
    let images = keys.map(|keys| match format(keys) {
        "qcow2" => Image::qcow2(4 << 20),
        _ => Image::on_disk(4 << 20),
    });
    let mut disks = vec!["--transport".to_owned(), transport.to_owned()];
    disks.extend(["--disk".to_owned(), format!("path={},readonly=on", source.path)]);
    for (image, keys) in images.iter().zip(keys) {
        disks.extend(["--disk".to_owned(), format!("path={},serial=to,{keys}", image.path)]);
    }
    let disks: Vec<_> = disks.iter().map(String::as_str).collect();
    let command = "for d in /sys/block/vd?; do if [ $(cat $d/serial)x = tox ]; then \
                   dd if=/dev/vdb of=/dev/${d##*/} bs=256k oflag=direct; echo copied; fi; done; sync";
    let ended = Boot::new().args(&disks).say(&format!("vmm.run=\"{command}\"")).run();
    assert_eq!(ended.assert_clean().output.matches("copied\r\n").count(), images.len(), "{}", ended.output);
    for (image, keys) in images.iter().zip(keys) {
        image.assert_same(format(keys), &source.path, "raw");
    }
}

#[test]
fn what_the_guest_writes_by_any_engine_on_mmio_is_what_the_host_reads() {
    copies("mmio");
}

#[test]
fn what_the_guest_writes_by_any_engine_on_pci_is_what_the_host_reads() {
    copies("pci");
}

/// Each vCPU copies its part of a disk onto another one that has a queue for each of them.
fn writes_from_all_vcpus(transport: &str, vcpus: u32) {
    const PART: usize = 1 << 20;
    let (source, image) = (Image::random(vcpus as usize * PART), Image::empty(u64::from(vcpus) * PART as u64));
    let count = vcpus.to_string();
    let disks = [
        "--disk",
        &format!("path={},readonly=on", source.path),
        "--disk",
        &format!("path={},queues={count}", image.path),
    ];
    // Without the applet that binds them to a vCPU each, they are at least begun at once.
    let command = format!(
        "echo queues=$(ls /sys/block/vdc/mq | wc -l); which taskset > /dev/null && bind=taskset; i=0; \
         while [ $i -lt {count} ]; do (${{bind:+taskset $((1 << i))}} dd if=/dev/vdb of=/dev/vdc bs=64k count=16 \
         skip=$((i * 16)) seek=$((i * 16)) conv=notrunc iflag=direct oflag=direct) & \
         i=$((i + 1)); done; wait; sync"
    );
    let ended = Boot::new()
        .args(&["--cpus", &count, "--transport", transport])
        .args(&disks)
        .say(&format!("vmm.run=\"{command}\""))
        .run();
    ended.assert_clean().assert_says(&format!("queues={count}\r\n"));
    let content = fs::read(&image.path).unwrap();
    assert!(content == fs::read(&source.path).unwrap(), "{}", ended.output);
}

#[test]
fn what_4_vcpus_write_at_once_by_4_queues_on_pci_is_what_the_host_reads() {
    writes_from_all_vcpus("pci", 4);
}

#[test]
fn what_2_vcpus_write_at_once_by_2_queues_on_mmio_is_what_the_host_reads() {
    writes_from_all_vcpus("mmio", 2);
}

/// What a guest deletes from its root file system is no longer the host's to keep.
fn gives_space_back(image: &Image, format: &str) {
    let command = "dd if=/dev/urandom of=/big bs=1M count=16; sync; echo written; sleep 1000";
    let rootfs = format!("{},format={format}", image.path);
    let boot = || Boot::with(&["--kernel", &path(&guest_file("vmlinux"))]).rootfs(&rootfs);
    let mut vm = boot().say(&format!("vmm.run=\"{command}\"")).start();
    vm.expect("written").signal("TERM");
    vm.wait().assert_clean();
    let full = image.space();
    let ended = boot().say("vmm.run=\"rm /big; sync; fstrim -v /\"").run();
    ended.assert_clean().assert_says("trimmed");
    assert!(image.space() + (15 << 20) < full, "{full} bytes before, {} after", image.space());
}

#[test]
fn fstrim_gives_space_of_a_raw_image_back_to_the_host() {
    gives_space_back(&Image::rootfs(), "raw");
}

#[test]
fn fstrim_gives_space_of_a_qcow2_image_back_to_the_host() {
    gives_space_back(&Image::qcow2_of(&guest_file("rootfs.ext4")), "qcow2");
}

#[test]
fn without_discard_nothing_is_given_back_and_the_guest_is_told() {
    let image = Image::rootfs();
    let ended = Boot::with(&["--kernel", &path(&guest_file("vmlinux"))])
        .rootfs(&format!("{},discard=off", image.path))
        .say("vmm.run=\"cat /sys/block/vda/queue/discard_max_bytes; fstrim / || echo refused\"")
        .run();
    ended.assert_clean().assert_says("0\r\n").assert_says("refused");
}

#[test]
fn an_image_that_another_vm_writes_is_refused_and_stays_as_it_was() {
    let image = Image::rootfs();
    let mut first = Boot::with(&["--kernel", &path(&guest_file("vmlinux"))])
        .rootfs(&image.path)
        .say("vmm.run=\"echo up; sleep 1000\"")
        .start();
    first.expect("up\r\n");
    let pid = first.child.id();
    for (disk, said) in [
        (format!("path={}", image.path), "is in use by"),
        (format!("path={},readonly=on", image.path), "is written by"),
    ] {
        let output = vmm(&["run", "--kernel", &path(&guest_file("vmlinux")), "--disk", &disk]).output().unwrap();
        let line = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{line}");
        let expected = format!(
            "vmm: error: disk {}: {said} process {pid}: close it there, give a copy, or readonly=on to both\n",
            image.path
        );
        assert_eq!(line, expected);
    }
    first.signal("TERM");
    first.wait().assert_clean();
}

/// A guest sees a disk become larger while it runs.
fn grows(image: Image, format: &str) {
    let mut config = Config::new(guest_file("vmlinux"));
    config.initrd = Some(guest_file("initrd"));
    config.rootfs = Some(Disk::root(&root("")).unwrap());
    config.disks = vec![format!("path={},format={format}", image.path).parse().unwrap()];
    let command = "cat /sys/block/vdb/size; while [ $(cat /sys/block/vdb/size) = 2048 ]; do sleep 0.1; done; \
                   echo size=$(cat /sys/block/vdb/size); dd if=/dev/vdb of=/dev/null bs=1M";
    config.cmdline = Some(format!("{CMDLINE} vmm.run=\"{command}\""));
    let seen = run_and_react(&config, "2048\r\n", |control| {
        assert_eq!(control.disks()[1].resize(3 << 20).unwrap(), 3 << 20);
    });
    assert!(seen.contains("size=6144\r\n") && seen.contains("3+0 records in"), "{seen}");
}

#[test]
fn a_raw_disk_that_has_grown_is_seen_by_the_running_guest() {
    grows(Image::empty(1 << 20), "raw");
}

#[test]
fn a_qcow2_disk_that_has_grown_is_seen_by_the_running_guest() {
    grows(Image::qcow2(1 << 20), "qcow2");
}
