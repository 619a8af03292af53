// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The smallest ELF that a kernel can be: a header, one segment, and a note for PVH.

/// Where the programs are loaded and entered.
pub(crate) const BASE: u64 = 0x10_0000;

/// Wraps a program; with `pvh`, a note says that it is entered in 32-bit mode.
pub(crate) fn wrap(code: &[u8], pvh: bool) -> Vec<u8> {
    const HEADER: u64 = 64;
    const PROGRAM_HEADER: u64 = 56;
    let note_at = HEADER + 2 * PROGRAM_HEADER;
    let mut note = Vec::new();
    // XEN_ELFNOTE_PHYS32_ENTRY: lengths of name and value, type, "Xen", address.
    for word in [4u32, 4, 18] {
        note.extend(word.to_le_bytes());
    }
    note.extend(b"Xen\0");
    note.extend((BASE as u32).to_le_bytes());
    let code_at = 0x1000u64;

    let mut elf = vec![0x7f, b'E', b'L', b'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    elf.extend(2u16.to_le_bytes()); // ET_EXEC
    elf.extend(62u16.to_le_bytes()); // EM_X86_64
    elf.extend(1u32.to_le_bytes());
    elf.extend(BASE.to_le_bytes());
    elf.extend(HEADER.to_le_bytes());
    elf.extend(0u64.to_le_bytes());
    elf.extend(0u32.to_le_bytes());
    for half in [HEADER as u16, PROGRAM_HEADER as u16, if pvh { 2 } else { 1 }, 0, 0, 0] {
        elf.extend(half.to_le_bytes());
    }
    // Type and flags, then offset, virtual and physical address, sizes in file and memory, alignment.
    let mut segment = |kind: u32, offset: u64, address: u64, size: u64| {
        elf.extend(kind.to_le_bytes());
        elf.extend(7u32.to_le_bytes());
        for word in [offset, address, address, size, size, 4] {
            elf.extend(word.to_le_bytes());
        }
    };
    segment(1, code_at, BASE, code.len() as u64);
    segment(4, note_at, 0, note.len() as u64);
    elf.extend(note);
    elf.resize(code_at as usize, 0);
    elf.extend(code);
    elf
}
