// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What a file is, by its content; and for the files that people mistake for a kernel, what to do about it.

use linux_loader::elf;

/// Bytes from the start of a file that tell what it is. The farthest mark is ext4's, at 0x438.
pub const HEAD: usize = 0x1000;

/// Where a Linux image of the x86 boot protocol has its second signature.
pub(crate) const BOOT_FLAG: usize = 0x1fe;
/// Where it has its first.
pub(crate) const HEADER_MAGIC: usize = 0x202;
/// Where its version is.
const BOOT_VERSION: usize = 0x206;
/// Where its load flags are.
const LOAD_FLAGS: usize = 0x211;

/// A kernel's format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// An ELF of 64 bits for x86-64, such as `vmlinux`.
    Elf,
    /// A Linux image of the x86 boot protocol, such as `vmlinuz`.
    BzImage,
}

/// The file isn't a kernel that can be started.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("is {looks_like} and not an x86-64 kernel (ELF vmlinux or bzImage){}{}", if cure.is_empty() { "" } else { ": " }, cure)]
pub struct NotAKernel {
    /// What it seems to be, with an article.
    pub looks_like: String,
    /// What to do about it; empty when nothing is known.
    pub cure: &'static str,
}

impl NotAKernel {
    pub(crate) fn new(looks_like: impl Into<String>, cure: &'static str) -> Self {
        Self { looks_like: looks_like.into(), cure }
    }
}

/// Tells a kernel's format from the first bytes of its file, up to [`HEAD`] of them.
///
/// # Errors
///
/// [`NotAKernel`] says what it is instead.
pub fn identify(head: &[u8]) -> Result<Format, NotAKernel> {
    if head.is_empty() {
        return Err(NotAKernel::new("an empty file", "was it copied or built to the end?"));
    }
    if starts(head, 0, b"\x7fELF") {
        return elf_for_us(head).map(|()| Format::Elf);
    }
    // Before all that begins with "MZ": a bzImage with an EFI stub does too.
    if starts(head, HEADER_MAGIC, b"HdrS") && starts(head, BOOT_FLAG, b"\x55\xaa") {
        return bzimage_for_us(head).map(|()| Format::BzImage);
    }
    Err(stranger(head))
}

fn starts(head: &[u8], at: usize, mark: &[u8]) -> bool {
    head.get(at..).is_some_and(|rest| rest.starts_with(mark))
}

fn half_word(head: &[u8], at: usize) -> Option<u16> {
    head.get(at..)?.first_chunk().map(|bytes| u16::from_le_bytes(*bytes))
}

/// Class, byte order, machine and type: the part of an ELF header that says whom it is for.
fn elf_for_us(head: &[u8]) -> Result<(), NotAKernel> {
    const CLASS: usize = 4;
    const DATA: usize = 5;
    const TYPE: usize = 16;
    const MACHINE: usize = 18;
    const NEEDS_X86_64: &str = "build or download the kernel for x86-64";

    match head.get(CLASS) {
        Some(&elf::ELFCLASS64) => {}
        Some(&elf::ELFCLASS32) => return Err(NotAKernel::new("a 32-bit ELF", NEEDS_X86_64)),
        Some(class) => return Err(NotAKernel::new(format!("an ELF of class {class}"), NEEDS_X86_64)),
        None => return Err(NotAKernel::new("an ELF cut short", "copy it again")),
    }
    match head.get(DATA) {
        Some(&elf::ELFDATA2LSB) => {}
        _ => return Err(NotAKernel::new("an ELF that isn't little-endian", NEEDS_X86_64)),
    }
    let (Some(kind), Some(machine)) = (half_word(head, TYPE), half_word(head, MACHINE)) else {
        return Err(NotAKernel::new("an ELF cut short", "copy it again"));
    };
    if machine != elf::EM_X86_64 {
        return Err(NotAKernel::new(format!("an ELF for {}", machine_name(machine)), NEEDS_X86_64));
    }
    match kind {
        elf::ET_EXEC | elf::ET_DYN => Ok(()),
        elf::ET_REL => Err(NotAKernel::new("an object file or a kernel module", "the kernel itself is vmlinux")),
        elf::ET_CORE => Err(NotAKernel::new("a core dump", "")),
        other => Err(NotAKernel::new(format!("an ELF of type {other}"), "")),
    }
}

fn machine_name(machine: u16) -> String {
    let name = match machine {
        elf::EM_386 => "i386",
        elf::EM_ARM => "arm",
        elf::EM_AARCH64 => "arm64",
        elf::EM_RISCV => "riscv",
        elf::EM_PPC => "powerpc",
        elf::EM_PPC64 => "powerpc64",
        elf::EM_S390 => "s390",
        elf::EM_MIPS => "mips",
        elf::EM_LOONGARCH => "loongarch",
        other => return format!("machine {other}"),
    };
    name.to_owned()
}

fn bzimage_for_us(head: &[u8]) -> Result<(), NotAKernel> {
    const LOADED_HIGH: u8 = linux_loader::bootparam::LOADED_HIGH;
    const NEEDS_BZIMAGE: &str = "build a bzImage";
    match (half_word(head, BOOT_VERSION), head.get(LOAD_FLAGS)) {
        (Some(version), _) if version < 0x200 => {
            Err(NotAKernel::new(format!("a Linux image of boot protocol {version:#x}"), NEEDS_BZIMAGE))
        }
        (Some(_), Some(flags)) if flags & LOADED_HIGH == 0 => Err(NotAKernel::new("a zImage", NEEDS_BZIMAGE)),
        (Some(_), Some(_)) => Ok(()),
        _ => Err(NotAKernel::new("a bzImage cut short", "copy it again")),
    }
}

/// A mark of a format: offset, bytes, name, cure.
type Mark = (usize, &'static [u8], &'static str, &'static str);

const ROOTFS: &str = "hand it in as a disk, next to a kernel";
const INITRD: &str = "hand it in as the initrd, next to a kernel";

/// The formats that a wrong file is likely to have. The first one that fits wins.
const MARKS: &[Mark] = &[
    (0, b"\x1f\x8b", "a gzip file", "decompress it first, with gunzip"),
    (0, b"\x28\xb5\x2f\xfd", "a zstd file", "decompress it first, with unzstd"),
    (0, b"\xfd7zXZ\0", "an xz file", "decompress it first, with unxz"),
    (0, b"BZh", "a bzip2 file", "decompress it first, with bunzip2"),
    (0, b"\x02\x21\x4c\x18", "an lz4 file", "decompress it first, with unlz4"),
    (0, b"\x04\x22\x4d\x18", "an lz4 file", "decompress it first, with unlz4"),
    (0, b"\x5d\0\0", "an lzma file", "decompress it first, with unlzma"),
    (0, b"\x89LZO", "an lzop file", "decompress it first, with lzop -d"),
    (0, b"PK\x03\x04", "a zip file", "unpack it first"),
    (0, b"!<arch>\n", "an ar archive or a Debian package", "unpack it first: the kernel is boot/vmlinuz in there"),
    (0, b"\xed\xab\xee\xdb", "an RPM package", "unpack it first, with rpm2cpio"),
    (257, b"ustar", "a tar archive", "unpack it first"),
    (0, b"070701", "a cpio archive", INITRD),
    (0, b"070702", "a cpio archive", INITRD),
    (0, b"\xc7\x71", "a cpio archive", INITRD),
    (56, b"ARM\x64", "an arm64 Image", "build or download the kernel for x86-64"),
    (56, b"RSC\x05", "a riscv Image", "build or download the kernel for x86-64"),
    (36, b"\x18\x28\x6f\x01", "an arm zImage", "build or download the kernel for x86-64"),
    (0, b"\x27\x05\x19\x56", "a U-Boot uImage", "use the vmlinux or bzImage that it was made from"),
    (0, b"\xd0\x0d\xfe\xed", "a device tree or FIT image", "use the vmlinux or bzImage that it was made from"),
    (0, b"ANDROID!", "an Android boot image", "unpack it first"),
    (0, b"hsqs", "a squashfs image", ROOTFS),
    (0, b"QFI\xfb", "a qcow2 image", ROOTFS),
    (0, b"KDMV", "a VMDK image", ROOTFS),
    (0, b"vhdxfile", "a VHDX image", ROOTFS),
    (0, b"XFSB", "an XFS image", ROOTFS),
    (0x400, b"\xe2\xe1\xf5\xe0", "an EROFS image", ROOTFS),
    (0x438, b"\x53\xef", "an ext4 image", ROOTFS),
    (0x200, b"EFI PART", "a partitioned disk image", ROOTFS),
    (0, b"#!", "a script", ""),
    (0, b"<", "an HTML or XML page", "look into it: a download may have failed"),
    (0, b"version https://git-lfs", "a Git LFS pointer", "fetch it, with git lfs pull"),
];

/// Names what isn't a kernel.
fn stranger(head: &[u8]) -> NotAKernel {
    if let Some((_, _, name, cure)) = MARKS.iter().find(|(at, mark, ..)| starts(head, *at, mark)) {
        return NotAKernel::new(*name, cure);
    }
    if starts(head, 0, b"MZ") {
        return efi_program(head);
    }
    if starts(head, BOOT_FLAG, b"\x55\xaa") {
        return NotAKernel::new("a boot sector, or a partitioned disk image", ROOTFS);
    }
    let start: Vec<_> = head.iter().take(4).map(|byte| format!("{byte:02x}")).collect();
    NotAKernel::new(format!("a file that starts with {} (no format known here)", start.join(" ")), "")
}

/// A PE file: with a section of that name it carries a kernel in it.
fn efi_program(head: &[u8]) -> NotAKernel {
    const KERNEL_SECTION: &[u8] = b".linux\0\0";
    if head.windows(KERNEL_SECTION.len()).any(|window| window == KERNEL_SECTION) {
        let cure = "its sections can't be read: is it whole?";
        return NotAKernel::new("a unified kernel image", cure);
    }
    NotAKernel::new("an EFI program (PE)", "")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(size: usize, marks: &[(usize, &[u8])]) -> Vec<u8> {
        let mut head = vec![0; size];
        for (at, mark) in marks {
            head[*at..at + mark.len()].copy_from_slice(mark);
        }
        head
    }

    fn elf(class: u8, data: u8, kind: u8, machine: u8) -> Vec<u8> {
        with(64, &[(0, b"\x7fELF"), (4, &[class, data]), (16, &[kind, 0, machine, 0])])
    }

    #[test]
    fn kernels_are_known_by_content() {
        assert_eq!(identify(&elf(2, 1, 2, 62)), Ok(Format::Elf));
        assert_eq!(identify(&elf(2, 1, 3, 62)), Ok(Format::Elf));
        let marks: [(usize, &[u8]); 5] =
            [(0, b"MZ"), (0x1fe, b"\x55\xaa"), (0x202, b"HdrS"), (0x206, b"\x0f\x02"), (0x211, b"\x01")];
        assert_eq!(identify(&with(0x300, &marks)), Ok(Format::BzImage));
    }

    #[test]
    fn every_mark_is_found_and_named() {
        for (at, mark, name, cure) in MARKS {
            let error = identify(&with(HEAD, &[(*at, mark)])).unwrap_err();
            assert_eq!((error.looks_like.as_str(), error.cure), (*name, *cure));
        }
    }

    #[test]
    fn what_is_not_for_this_machine_says_whom_it_is_for() {
        let cases: Vec<(Vec<u8>, &str)> = vec![
            (vec![], "an empty file"),
            (elf(1, 1, 2, 3), "a 32-bit ELF"),
            (elf(3, 1, 2, 3), "an ELF of class 3"),
            (elf(2, 2, 2, 62), "an ELF that isn't little-endian"),
            (elf(2, 1, 2, 183), "an ELF for arm64"),
            (elf(2, 1, 2, 99), "an ELF for machine 99"),
            (elf(2, 1, 1, 62), "an object file or a kernel module"),
            (elf(2, 1, 4, 62), "a core dump"),
            (elf(2, 1, 9, 62), "an ELF of type 9"),
            (elf(2, 1, 2, 62)[..18].to_vec(), "an ELF cut short"),
            (elf(2, 1, 2, 62)[..4].to_vec(), "an ELF cut short"),
            (with(0x300, &[(0x1fe, b"\x55\xaa"), (0x202, b"HdrS"), (0x206, b"\x0f\x02")]), "a zImage"),
            (with(0x300, &[(0x1fe, b"\x55\xaa"), (0x202, b"HdrS")]), "a Linux image of boot protocol 0x0"),
            (with(0x208, &[(0x1fe, b"\x55\xaa"), (0x202, b"HdrS"), (0x206, b"\x0f\x02")]), "a bzImage cut short"),
            (with(0x300, &[(0x1fe, b"\x55\xaa")]), "a boot sector, or a partitioned disk image"),
            (with(0x300, &[(0, b"MZ"), (0x180, b".linux\0\0")]), "a unified kernel image"),
            (with(0x300, &[(0, b"MZ")]), "an EFI program (PE)"),
            (b"hello".to_vec(), "a file that starts with 68 65 6c 6c (no format known here)"),
            (b"h".to_vec(), "a file that starts with 68 (no format known here)"),
        ];
        for (head, name) in cases {
            assert_eq!(identify(&head).unwrap_err().looks_like, name);
        }
    }

    #[test]
    fn the_message_names_the_format_and_the_cure() {
        assert_eq!(
            identify(b"\x1f\x8b\x08").unwrap_err().to_string(),
            "is a gzip file and not an x86-64 kernel (ELF vmlinux or bzImage): decompress it first, with gunzip"
        );
        assert_eq!(
            identify(b"#!/bin/sh\n").unwrap_err().to_string(),
            "is a script and not an x86-64 kernel (ELF vmlinux or bzImage)"
        );
    }
}
