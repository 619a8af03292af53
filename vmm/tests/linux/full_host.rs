// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! A guest whose disk lies on a file system of the host that becomes really full.

use std::fs::File;
use std::path::Path;
use std::process::Command;
use std::thread;

use vmm::{Config, Control, Disk};

use crate::mounted::{self, Mounted};
use crate::rig::{CMDLINE, Image, guest_file, path, run_and_react};
use crate::sound::assert_sound;

/// The guest copies a disk of random bytes to one on a file system that has room for half of it. Then something happens.
fn copies(
    format: &str,
    on_error: &str,
    until: &'static str,
    react: impl FnOnce(&Control, Mounted) -> Mounted + Send + 'static,
) {
    let Some(mounted) = Mounted::new("ext4") else { return };
    let image = mounted.path("image");
    create(&image, format);
    let source = Image::random(mounted::DISK as usize);
    let mut config = Config::new(guest_file("vmlinux"));
    config.initrd = Some(guest_file("initrd"));
    config.rootfs = Some(Disk::root(&format!("{},ro", path(&guest_file("rootfs.ext4")))).unwrap());
    let disk = format!("path={},format={format},on-error={on_error}", path(&image));
    config.disks = vec![disk.parse().unwrap(), format!("path={},readonly=on", source.path).parse().unwrap()];
    let command = "echo copying; until dd if=/dev/vdc of=/dev/vdb bs=64k oflag=direct; do echo refused; sleep 0.2; done; \
                   sync; echo whole";
    config.cmdline = Some(format!("{CMDLINE} vmm.run=\"{command}\""));
    let (send, back) = std::sync::mpsc::channel();
    let seen = run_and_react(&config, until, move |control| send.send(react(control, mounted)).unwrap());
    let mounted = back.recv().unwrap();
    assert!(seen.contains("whole\r\n"), "{seen}");
    assert_eq!(seen.contains("refused"), on_error == "report", "{seen}");
    assert_sound(&image);
    source.assert_same("raw", &path(&image), format);
    drop(mounted);
}

fn create(image: &Path, format: &str) {
    match format {
        "raw" => File::create(image).unwrap().set_len(mounted::DISK).unwrap(),
        _ => {
            let made = Command::new("qemu-img").args(["create", "-q", "-f", format]).arg(image).arg("8M").status();
            assert!(made.unwrap().success());
        }
    }
}

/// The write fails, and so does the copy; when there is room, the next one doesn't.
fn reports(format: &str) {
    copies(format, "report", "refused", |_, mounted| {
        mounted.make_room();
        mounted
    });
}

/// The write is held, and the guest sees nothing but a slow disk.
fn stops(format: &str) {
    copies(format, "stop", "copying", |control, mounted| {
        let disk = &control.disks()[1];
        while disk.waiting() == 0 {
            thread::yield_now();
        }
        mounted.make_room();
        disk.resume();
        mounted
    });
}

#[test]
fn a_write_to_a_raw_image_on_a_full_host_fails_and_the_next_one_is_served() {
    reports("raw");
}

#[test]
fn a_write_to_a_qcow2_image_on_a_full_host_fails_and_the_next_one_is_served() {
    reports("qcow2");
}

#[test]
fn a_write_to_a_raw_image_on_a_full_host_waits_until_there_is_room() {
    stops("raw");
}

#[test]
fn a_write_to_a_qcow2_image_on_a_full_host_waits_until_there_is_room() {
    stops("qcow2");
}
