// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Images that mean harm, or were cut or flipped on the way: each is a named error or loads within its bounds.

use super::*;
use images::{NOTES_OFFSET, program, put};

/// Offsets in a program header.
const P_TYPE: usize = 0;
const P_OFFSET: usize = 8;
const P_PADDR: usize = 24;
const P_FILESZ: usize = 32;
const P_MEMSZ: usize = 40;

/// A change to an image: bytes at an offset.
type Change<'a> = (usize, &'a [u8]);

fn refused(name: &str, image: &[u8], expected: &str) {
    let ram = ram(RAM);
    let error = boot(&ram, image, &[1; 0x1000], None).map_err(|error| error.to_string());
    match error {
        Ok(entry) => panic!("{name}: loaded at {entry:x?}"),
        Err(error) => assert_eq!(error, expected, "{name}"),
    }
    assert_only(&ram, RAM, &[]);
}

#[test]
fn every_malformed_elf_header_is_named() {
    let huge = u64::MAX.to_le_bytes();
    let quad = |value: u64| value.to_le_bytes();
    let cases: &[(&str, &[Change], &str)] = &[
        ("no headers", &[(56, &[0, 0])], "has 0 program headers, where a kernel has 1 to 128"),
        ("headers elsewhere", &[(56, &[0xff, 0xff])], "has 65535 program headers, where a kernel has 1 to 128"),
        ("129 headers", &[(56, &[129, 0])], "has 129 program headers, where a kernel has 1 to 128"),
        ("headers of 32 bytes", &[(54, &[32, 0])], "has program headers of 32 bytes, where an ELF of 64 bits has 56"),
        (
            "headers behind the end",
            &[(32, &quad(0x6b0))],
            "is cut short: the table of program headers ends at 0x720 and the file has 0x700 bytes",
        ),
        (
            "headers behind all numbers",
            &[(32, &huge)],
            "is cut short: the table of program headers ends at 0xffffffffffffffff and the file has 0x700 bytes",
        ),
        ("nothing to load", &[(program(0), &[0]), (program(1), &[0])], "has no segment to load"),
        (
            "segments without memory",
            &[(program(0) + P_FILESZ, &[0; 16]), (program(1) + P_FILESZ, &[0; 16])],
            "has no segment to load",
        ),
        (
            "an interpreter",
            &[(program(0) + P_TYPE, &[3])],
            "is a program for an operating system and not a kernel: it names an interpreter",
        ),
        (
            "more in the file than in memory",
            &[(program(1) + P_MEMSZ, &quad(0x1ff))],
            "segment 1 has 0x200 bytes in the file and 0x1ff in memory, where it can't have fewer",
        ),
        (
            "a segment behind the end",
            &[(program(1) + P_OFFSET, &quad(0x501))],
            "is cut short: segment 1 ends at 0x701 and the file has 0x700 bytes",
        ),
        (
            "a segment behind all numbers",
            &[(program(0) + P_OFFSET, &huge)],
            "is cut short: segment 0 ends at 0xffffffffffffffff and the file has 0x700 bytes",
        ),
        (
            "over the boot structures",
            &[(program(1) + P_PADDR, &quad(layout::ZERO_PAGE))],
            "segment 1 is to be loaded at 0x7000 with 0x200 bytes of memory, where it must lie between 0x100000 and 0xc0000000",
        ),
        (
            "into firmware's area",
            &[(program(1) + P_PADDR, &quad(0xf_ff00))],
            "segment 1 is to be loaded at 0xfff00 with 0x200 bytes of memory, where it must lie between 0x100000 and 0xc0000000",
        ),
        (
            "into the hole",
            &[(program(1) + P_PADDR, &quad(0xbfff_ff00))],
            "segment 1 is to be loaded at 0xbfffff00 with 0x200 bytes of memory, where it must lie between 0x100000 and 0xc0000000",
        ),
        (
            "around the end of addresses",
            &[(program(1) + P_PADDR, &quad(u64::MAX - 0xff))],
            "segment 1 is to be loaded at 0xffffffffffffff00 with 0x200 bytes of memory, where it must lie between 0x100000 and 0xc0000000",
        ),
        (
            "all the memory there is",
            &[(program(1) + P_MEMSZ, &huge)],
            "segment 1 is to be loaded at 0x110000 with 0xffffffffffffffff bytes of memory, where it must lie between 0x100000 and 0xc0000000",
        ),
        ("one over the other", &[(program(1) + P_PADDR, &quad(0x12_0fff))], "segments 0 and 1 overlap at 0x120fff"),
        ("twice the same", &[(program(1) + P_PADDR, &quad(0x12_0000))], "segments 0 and 1 overlap at 0x120000"),
        (
            "an entry between segments",
            &[(24, &quad(0x11_0200))],
            "its entry 0x110200 is in none of its segments, and it has no PVH entry",
        ),
        ("an entry outside", &[(24, &quad(0))], "its entry 0x0 is in none of its segments, and it has no PVH entry"),
        (
            "behind RAM",
            &[(program(0) + P_PADDR, &quad(0x40_0000))],
            "needs memory up to 0x401000 and there is none behind 0x400000: give the guest 5 MiB or more",
        ),
    ];
    for (name, changes, expected) in cases {
        let mut image = elf();
        changes.iter().for_each(|(at, bytes)| put(&mut image, *at, bytes));
        refused(name, &image, expected);
    }
}

#[test]
fn every_malformed_note_is_named() {
    let notes = program(2);
    let cases: &[(&str, &[Change], &str)] = &[
        (
            "notes behind the end",
            &[(notes + P_OFFSET, &0x700u64.to_le_bytes())],
            "is cut short: a segment of notes ends at 0x714 and the file has 0x700 bytes",
        ),
        (
            "a name without end",
            &[(NOTES_OFFSET, &[0xff; 4])],
            "has a malformed note: at offset 0x0 a name of 0xffffffff and a descriptor of 0x4 bytes don't fit in 0x14",
        ),
        (
            "a descriptor without end",
            &[(NOTES_OFFSET + 4, &[0xff; 4])],
            "has a malformed note: at offset 0x0 a name of 0x4 and a descriptor of 0xffffffff bytes don't fit in 0x14",
        ),
        (
            "an entry of 2 bytes",
            &[(NOTES_OFFSET + 4, &[2])],
            "has a malformed note: the PVH entry has 2 bytes, where it has 4 or 8",
        ),
        (
            "both entries outside",
            &[(24, &[0; 8]), (NOTES_OFFSET + 16, &[0; 4])],
            "its PVH entry 0x0 is in none of its segments",
        ),
    ];
    for (name, changes, expected) in cases {
        let mut image = elf_with_pvh();
        changes.iter().for_each(|(at, bytes)| put(&mut image, *at, bytes));
        refused(name, &image, expected);
    }

    let mut image = elf_with_pvh();
    put(&mut image, notes + P_FILESZ, &0x1_0001u64.to_le_bytes());
    image.resize(0x2_0000, 0);
    refused("too many notes", &image, "has notes of 0x10001 bytes, where 0x10000 are looked through");
}

#[test]
fn every_malformed_bzimage_header_is_named() {
    let cases: &[(&str, &[Change], &str)] = &[
        (
            "old",
            &[(0x206, &[0x0b, 2])],
            "has boot protocol 2.11, where the 64-bit entry needs 2.12 or later (Linux 3.8)",
        ),
        ("32-bit", &[(0x236, &[2, 0])], "has no 64-bit entry (xloadflags is 0x2 without bit 0): it is a 32-bit kernel"),
        (
            "a header behind the end",
            &[(0x1f1, &[5])],
            "is cut short: the protected-mode code ends at 0x1400 and the file has 0xc00 bytes",
        ),
        (
            "the default of setup sectors",
            &[(0x1f1, &[0])],
            "is cut short: the protected-mode code ends at 0x1200 and the file has 0xc00 bytes",
        ),
        (
            "code behind the end",
            &[(0x1f4, &0x82u32.to_le_bytes())],
            "is cut short: the protected-mode code ends at 0xc20 and the file has 0xc00 bytes",
        ),
        (
            "more code than there can be",
            &[(0x1f4, &[0xff; 4])],
            "is cut short: the protected-mode code ends at 0x10000003f0 and the file has 0xc00 bytes",
        ),
        ("no code", &[(0x1f4, &[0; 4])], "has 0x0 bytes of protected-mode code, where its entry is at 0x200"),
        (
            "no entry",
            &[(0x1f4, &[0x20, 0, 0, 0])],
            "has 0x200 bytes of protected-mode code, where its entry is at 0x200",
        ),
        (
            "no alignment",
            &[(0x230, &[0; 4])],
            "asks for an alignment of 0x0, where it must be a power of two up to 1 GiB",
        ),
        (
            "an odd alignment",
            &[(0x230, &[0xff; 4])],
            "asks for an alignment of 0xffffffff, where it must be a power of two up to 1 GiB",
        ),
        (
            "over the boot structures",
            &[(0x234, &[0]), (0x258, &0x7000u64.to_le_bytes())],
            "wants to be loaded at 0x7000 with 0x10000 bytes of memory, where it must lie between 0x100000 and 0xc0000000",
        ),
        (
            "around the end of addresses",
            &[(0x258, &[0xff; 8])],
            "wants to be loaded at 0xffffffffffffffff with 0x10000 bytes of memory, where it must lie between 0x100000 and 0xc0000000",
        ),
        (
            "memory into the hole",
            &[(0x260, &[0xff; 4])],
            "wants to be loaded at 0x200000 with 0xffffffff bytes of memory, where it must lie between 0x100000 and 0xc0000000",
        ),
        (
            "memory behind RAM",
            &[(0x260, &0x20_0001u32.to_le_bytes())],
            "needs memory up to 0x400001 and there is none behind 0x400000: give the guest 5 MiB or more",
        ),
        ("no command line", &[(0x238, &[0; 4])], "has 22 bytes and the kernel takes 0: make it shorter by 22"),
        (
            "no room for an initrd",
            &[(0x236, &[1, 0]), (0x22c, &[0; 4])],
            "has 4096 bytes (1 MiB) and there are 0 bytes (0 MiB) for it between the kernel, which ends at 0x210000, and 0x1: give the guest more memory",
        ),
    ];
    for (name, changes, expected) in cases {
        let mut image = bzimage();
        changes.iter().for_each(|(at, bytes)| put(&mut image, *at, bytes));
        refused(name, &image, expected);
    }
}

#[test]
fn an_image_cut_anywhere_is_refused_and_memory_stays_as_it_was() {
    let ram = ram(RAM);
    for (image, protocol) in
        [(elf(), BootProtocol::Linux64), (elf_with_pvh(), BootProtocol::Pvh), (bzimage(), BootProtocol::Linux64)]
    {
        // Up to a paragraph may be missing from the end of a bzImage's code.
        for length in 0..image.len() - 16 {
            let result = boot(&ram, &image[..length], &[], Some(protocol));
            assert!(result.is_err(), "{length} of {} bytes", image.len());
        }
    }
    assert_only(&ram, RAM, &[]);
}

/// Marsaglia's xorshift: the same numbers every time.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }

    /// A number as they are found at edges.
    fn edge(&mut self) -> u64 {
        const EDGES: [u64; 12] = [
            0,
            1,
            0x7fff_ffff,
            0xffff_ffff,
            u64::MAX,
            1 << 63,
            0xf_ffff,
            0x10_0000,
            0xbfff_ffff,
            0xc000_0000,
            0x1000,
            0x40_0000,
        ];
        let edge = EDGES[self.below(EDGES.len())];
        edge.wrapping_add(self.next() % 3).wrapping_sub(1)
    }
}

/// Changes up to four places of an image's headers.
fn mutate(random: &mut Random, image: &mut Vec<u8>, headers: std::ops::Range<usize>) {
    for _ in 0..=random.below(4) {
        let at = headers.start + random.below(headers.len());
        let bytes = match random.below(3) {
            0 => vec![random.next() as u8],
            1 => random.edge().to_le_bytes()[..1 << random.below(4)].to_vec(),
            // A field of a structure that is aligned to 8.
            _ => {
                let field = at & !7;
                put(image, field, &random.edge().to_le_bytes());
                continue;
            }
        };
        put(image, at, &bytes);
    }
    if random.below(16) == 0 {
        let length = random.below(image.len());
        image.truncate(length);
    }
}

#[test]
fn whatever_the_headers_say_a_load_stays_within_its_bounds() {
    /// As little as the images need: it is looked through after every load.
    const RAM: usize = 0x24_0000;
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let mut clean = ram(RAM);
    let mut loaded = 0;
    for round in 0..3000 {
        let (mut image, headers) = match round % 3 {
            0 => (elf(), 16..0xb0),
            1 => (elf_with_pvh(), 16..0x320),
            _ => (bzimage(), 0x1f1..0x270),
        };
        mutate(&mut random, &mut image, headers);
        let protocol = [None, Some(BootProtocol::Linux64), Some(BootProtocol::Pvh)][random.below(3)];
        // One that is refused leaves the memory clean for the next one; what it left would be found there.
        let Ok(entry) = boot(&clean, &image, &[0x5a; 0x800], protocol) else { continue };
        let ram = std::mem::replace(&mut clean, ram(RAM));
        loaded += 1;
        let placement = open(&image).unwrap().place(entry.protocol, RAM as u64).unwrap();
        assert!(placement.start >= layout::HIGH_MEMORY_START && placement.end <= RAM as u64);
        assert!((placement.start..placement.end).contains(&entry.address.0));
        let [cmdline, params] = structures(entry.protocol);
        // Behind the kernel there is only the initrd, which starts at a page.
        let behind = read(&ram, placement.end, RAM - placement.end as usize);
        let initrd = behind.iter().rposition(|byte| *byte != 0).unwrap() as u64 + placement.end + 1 - 0x800;
        assert_eq!(initrd % 0x1000, 0);
        assert_only(&ram, RAM, &[cmdline, params, (placement.start, placement.end), (initrd, initrd + 0x800)]);
    }
    assert_only(&clean, RAM, &[]);
    assert!(loaded > 100, "only {loaded} of the images were still kernels");
}
