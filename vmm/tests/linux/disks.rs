// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What the guest writes, and what is left of it.

use std::fs;

use crate::rig::{Boot, Image, guest_file, path};

fn boot(rootfs: &str) -> Boot {
    Boot::with(&["--kernel", &path(&guest_file("vmlinux"))]).rootfs(rootfs)
}

#[test]
fn a_file_that_was_written_is_on_the_image_and_the_image_is_sound() {
    let image = Image::rootfs();
    let command = "seq 1 100000 > /written; md5sum /written; sync";
    let ended = boot(&image.path).say(&format!("vmm.run=\"{command}\"")).run();
    let output = &ended.assert_clean().output;
    let sum = output.lines().find_map(|line| line.trim().strip_suffix("  /written")).unwrap().to_owned();
    let (_, content) = image.tool("debugfs", &["-R", "cat /written"]);
    let expected: String = (1..=100_000).map(|i| format!("{i}\n")).collect();
    assert!(content.contains(&expected), "{} bytes, whose sum in the guest was {sum}", content.len());
}

#[test]
fn a_vmm_that_is_killed_leaves_nothing_that_a_journal_can_not_mend() {
    let image = Image::rootfs();
    for round in 0..5 {
        let command = "i=0; while true; do seq 1 5000 > /f$((i % 20)); rm -f /f$(((i + 7) % 20)); \
                       sync; i=$((i + 1)); echo round $i; done";
        let mut vm = boot(&image.path).say(&format!("vmm.run=\"{command}\"")).start();
        vm.expect(&format!("round {}", 2 + round)).signal("KILL");
        assert_eq!(vm.wait().status, None);
        // Replays the journal; 1 says that it did.
        let (status, text) = image.tool("e2fsck", &["-E", "journal_only", "-y"]);
        assert!(matches!(status, Some(0 | 1)), "round {round}: {text}");
        let (status, text) = image.tool("e2fsck", &["-fn"]);
        assert_eq!(status, Some(0), "round {round}: {text}");
    }
}

#[test]
fn a_read_only_disk_is_not_written() {
    let (rootfs, data) = (Image::rootfs(), Image::empty(1 << 20));
    let before = [fs::read(&rootfs.path).unwrap(), fs::read(&data.path).unwrap()];
    let command = "cat /sys/block/vda/ro /sys/block/vdb/ro; echo x > /dev/vdb; mount -o remount,rw / || echo refused; \
                   echo x > /file";
    let ended = boot(&format!("{},ro", rootfs.path))
        .args(&["--disk", &format!("path={},readonly=on", data.path)])
        .say(&format!("vmm.run=\"{command}\""))
        .run();
    ended.assert_clean().assert_says("1\r\n1\r\n").assert_says("refused");
    assert!(before == [fs::read(&rootfs.path).unwrap(), fs::read(&data.path).unwrap()]);
}

#[test]
fn many_disks_come_in_order_and_share_interrupt_lines() {
    // More than there are lines.
    let images: Vec<_> = (1..=25).map(|i| Image::empty(i * 4096)).collect();
    let disks: Vec<String> = images.iter().flat_map(|i| ["--disk".to_owned(), format!("path={}", i.path)]).collect();
    let disks: Vec<&str> = disks.iter().map(String::as_str).collect();
    let command = "for d in b c d e f g h i j k l m n o p q r s t u v w x y z; do \
                   echo $d >> /dev/vd$d && sync && echo vd$d=$(cat /sys/block/vd$d/size); done";
    let ended = Boot::new().args(&disks).say(&format!("vmm.run=\"{command}\"")).run();
    ended.assert_clean();
    for (i, image) in (1..).zip(&images) {
        let letter = char::from(b'a' + i as u8);
        ended.assert_says(&format!("vd{letter}={}\r\n", i * 8));
        let content = fs::read(&image.path).unwrap();
        assert_eq!((content.len() as u64, &content[..2]), (i * 4096, &[letter as u8, b'\n'][..]));
    }
}
