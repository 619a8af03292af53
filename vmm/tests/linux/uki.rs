// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! A unified kernel image, made as `ukify` lays one out: Debian 12 has no `ukify` yet.

use std::fs;

use crate::rig::{CMDLINE, Image, guest_file, path, vmm};

/// A PE file for x86-64 with these sections, each aligned as in a file for EFI.
fn pe(sections: &[(&str, &[u8])]) -> Vec<u8> {
    const PE: usize = 0x80;
    const OPTIONAL: usize = 0xf0;
    const ALIGNMENT: usize = 512;
    let mut image = vec![0; 0x400];
    let mut put = |at: usize, bytes: &[u8]| image[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, b"MZ");
    put(0x3c, &(PE as u32).to_le_bytes());
    put(PE, b"PE\0\0");
    put(PE + 4, &0x8664u16.to_le_bytes());
    put(PE + 6, &(sections.len() as u16).to_le_bytes());
    put(PE + 20, &(OPTIONAL as u16).to_le_bytes());
    // PE32+.
    put(PE + 24, &0x20bu16.to_le_bytes());
    let mut header = PE + 24 + OPTIONAL;
    for (name, content) in sections {
        let offset = image.len().next_multiple_of(ALIGNMENT);
        image.resize(offset, 0);
        image.extend_from_slice(content);
        image.resize(image.len().next_multiple_of(ALIGNMENT), 0);
        let raw = image.len() - offset;
        image[header..header + name.len()].copy_from_slice(name.as_bytes());
        for (field, value) in [(8, content.len()), (16, raw), (20, offset)] {
            image[header + field..header + field + 4].copy_from_slice(&(value as u32).to_le_bytes());
        }
        header += 40;
    }
    image
}

#[test]
fn a_unified_kernel_image_boots_with_its_own_initrd_and_command_line_unless_told_otherwise() {
    let (kernel, initrd) = (fs::read(guest_file("vmlinuz")).unwrap(), fs::read(guest_file("initrd")).unwrap());
    let cmdline = format!("{CMDLINE} root=/dev/vda vmm.run=\"echo from the image\"\n\0");
    let sections: [(&str, &[u8]); 5] = [
        (".osrel", b"ID=test\n"),
        (".uname", b"6.1\n"),
        (".cmdline", cmdline.as_bytes()),
        (".initrd", &initrd),
        (".linux", &kernel),
    ];
    let image = Image::empty(0);
    fs::write(&image.path, pe(&sections)).unwrap();
    let rootfs = format!("{},ro", path(&guest_file("rootfs.ext4")));
    let run = |more: &[&str]| {
        let arguments = ["run", "--kernel", &image.path, "--rootfs", &rootfs];
        let output = vmm(&[&arguments, more].concat()).output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert_eq!(output.status.code(), Some(0), "{said}{}", String::from_utf8_lossy(&output.stderr));
        said
    };
    assert!(run(&[]).contains("from the image\r\n"));
    let other = run(&["--cmdline", &format!("{CMDLINE} vmm.run=\"echo from the command line\"")]);
    assert!(other.contains("from the command line\r\n") && !other.contains("from the image"), "{other}");
}
