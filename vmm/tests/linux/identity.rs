// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Who the guest is told that it is: its machine's UUID, strings and credentials.

use std::process::Command;

use vmm::{Config, Disk};

use crate::rig::{Boot, CMDLINE, Image, guest_file, path, run_and_react};

const UUID: &str = "00112233-4455-6677-8899-aabbccddeeff";

/// What a program prints, without the last line's end.
fn output(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}");
    String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
}

#[test]
fn the_guest_finds_its_uuid_its_strings_and_its_credentials_byte_for_byte() {
    // Enough for the largest table, and all of it bytes that are no text.
    let secret = Image::random(47 << 10);
    let script = Image::script(
        r#"
        cd /sys/firmware/dmi/entries
        echo uuid=$(cat /sys/class/dmi/id/product_uuid)
        echo names=$(cat /sys/class/dmi/id/sys_vendor /sys/class/dmi/id/product_name /sys/class/dmi/id/bios_vendor)
        echo virtual=$(hexdump -C 0-0/raw | sed -n 's/^00000010 //p')
        tail -c +6 11-0/raw | tr '\0' '\n' > /run/strings
        echo sum=$(sed -n 's/^io.systemd.credential.binary:the.secret=//p' /run/strings | base64 -d | sha256sum)
        echo oem=$(grep -c '^io.example: a word$' /run/strings)
        echo inherited=$(cat /proc/cmdline | grep -c secret)
        dmesg | grep -iE 'dmi|smbios|firmware bug'
        "#,
    );
    for kernel in [&["--transport", "mmio"][..], &["--transport", "pci", "--pvh"]] {
        let arguments = [
            "--machine-id",
            UUID,
            "--oem-string",
            "io.example: a word",
            "--credential",
            &format!("the.secret={}", secret.path),
            "--log-level",
            "trace",
            "--log-file",
            "/tmp/identity.log",
        ];
        let ended = Boot::new().args(kernel).args(&arguments).script(&script).run();
        let sum = output(Command::new("sha256sum").arg(&secret.path));
        let sum = sum.split_whitespace().next().unwrap();
        ended.assert_clean().assert_says(&format!("uuid={UUID}")).assert_says("names=vmm vmm vmm");
        ended.assert_says("virtual= 00 00 00 10 ").assert_says(&format!("sum={sum}")).assert_says("oem=1");
        ended.assert_says("inherited=0").assert_says("SMBIOS 3.7.0 present.");
        assert!(!ended.output.contains("Firmware Bug"), "{}", ended.output);
        // The first bytes, as they are sent.
        let start = output(Command::new("sh").args(["-c", &format!("head -c 30 {} | base64", secret.path)]));
        let log = std::fs::read_to_string("/tmp/identity.log").unwrap();
        std::fs::remove_file("/tmp/identity.log").unwrap();
        assert!(log.contains("built") && !log.contains(&start), "{log}");
    }
}

#[test]
fn a_machine_without_an_id_has_none() {
    let ended = Boot::new().say("vmm.run=\"ls /sys/class/dmi/id/; cat /sys/class/dmi/id/sys_vendor\"").run();
    ended.assert_clean().assert_says("\nvmm");
    assert!(!ended.output.contains("product_uuid"), "{}", ended.output);
}

#[test]
fn a_new_generation_is_in_memory_and_the_guest_is_notified() {
    // The cloud kernel has no driver for either: it shows that ACPI knows both, and that its method runs without complaint.
    let script = Image::script(
        r#"
        look() {
            id=$(dd if=/dev/mem bs=8 skip=$((0xcf028 / 8)) count=2 2>/dev/null | hexdump -e '16/1 "%02x"')
            clock=$(dd if=/dev/mem bs=8 skip=$((0xce010 / 8)) count=1 2>/dev/null | hexdump -e '8/1 "%02x"')
            echo "$1 id=$id marker=$clock"
        }
        ls /sys/bus/acpi/devices
        look before
        events() { grep ACPI:Ged /proc/interrupts | tr -s ' ' | cut -d ' ' -f 3; }
        n=$(events)
        echo "events=$n"
        for i in $(seq 600); do [ "$(events)" = "$n" ] || break; sleep 0.1; done
        look behind
        dmesg | grep -i 'acpi.*error'
        "#,
    );
    let mut config = Config::new(guest_file("vmlinux"));
    config.initrd = Some(guest_file("initrd"));
    config.rootfs = Some(Disk::root(&format!("{},ro", path(&guest_file("rootfs.ext4")))).unwrap());
    config.disks.push(format!("path={},readonly=on", script.path).parse().unwrap());
    config.cmdline = Some(format!("{CMDLINE} vmm.run=\"sh /dev/vdb\""));
    let output = run_and_react(&config, "events=", |control| control.new_generation().unwrap());
    for name in ["VMMX0001:00", "AMZNC10C:00"] {
        assert!(output.contains(name), "{output}");
    }
    let line = |start: &str| {
        let found = output.lines().find_map(|line| line.trim_end().strip_prefix(start));
        found.unwrap_or_else(|| panic!("no {start:?} in {output}")).rsplit_once(" marker=").unwrap()
    };
    let ((id, marker), (new_id, new_marker)) = (line("before id="), line("behind id="));
    assert_eq!((id.len(), marker, new_marker), (32, "0000000000000000", "0100000000000000"), "{output}");
    assert!(id != new_id && id != "0".repeat(32), "{output}");
    assert!(!output.contains("ACPI Error") && !output.contains("ACPI BIOS Error"), "{output}");
}
