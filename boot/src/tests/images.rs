// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Kernels as small as they can be.

use linux_loader::elf::{Elf64_Ehdr, Elf64_Phdr, PT_LOAD, PT_NOTE};
use vm_memory::ByteValued;

/// Where the ELF's first segment goes: 0x200 bytes of 0xaa, all of them in the file.
pub(super) const TEXT: u64 = 0x11_0000;
/// Where its second segment goes: 0x100 bytes of 0xbb in the file and 0x1000 in memory.
pub(super) const DATA: u64 = 0x12_0000;
/// Where the bytes of the segments are in the file.
pub(super) const TEXT_OFFSET: usize = 0x400;
pub(super) const DATA_OFFSET: usize = 0x600;
/// Where the notes are.
pub(super) const NOTES_OFFSET: usize = 0x300;

/// Where the bzImage prefers to lie.
pub(super) const PREFERRED: u64 = 0x20_0000;
/// Bytes of its protected-mode code, all 0xcc.
pub(super) const CODE: usize = 0x800;

/// Where program header `index` starts.
pub(super) fn program(index: usize) -> usize {
    size_of::<Elf64_Ehdr>() + index * size_of::<Elf64_Phdr>()
}

pub(super) fn put(image: &mut [u8], at: usize, bytes: &[u8]) {
    image[at..at + bytes.len()].copy_from_slice(bytes);
}

fn programs(programs: &[Elf64_Phdr]) -> Vec<u8> {
    let mut ident = [0; 16];
    ident[..7].copy_from_slice(b"\x7fELF\x02\x01\x01");
    let header = Elf64_Ehdr {
        e_ident: ident,
        e_type: 2,
        e_machine: 62,
        e_version: 1,
        e_entry: TEXT + 0x10,
        e_phoff: size_of::<Elf64_Ehdr>() as u64,
        e_ehsize: size_of::<Elf64_Ehdr>() as u16,
        e_phentsize: size_of::<Elf64_Phdr>() as u16,
        e_phnum: programs.len() as u16,
        ..Default::default()
    };
    let mut image = header.as_slice().to_vec();
    programs.iter().for_each(|program| image.extend_from_slice(program.as_slice()));
    image.resize(TEXT_OFFSET, 0);
    image.resize(DATA_OFFSET, 0xaa);
    image.resize(DATA_OFFSET + 0x100, 0xbb);
    image
}

fn segments() -> [Elf64_Phdr; 2] {
    let load = Elf64_Phdr { p_type: PT_LOAD, p_align: 0x1000, ..Default::default() };
    [
        // Not in the order of addresses.
        Elf64_Phdr { p_offset: DATA_OFFSET as u64, p_paddr: DATA, p_filesz: 0x100, p_memsz: 0x1000, ..load },
        Elf64_Phdr { p_offset: TEXT_OFFSET as u64, p_paddr: TEXT, p_filesz: 0x200, p_memsz: 0x200, ..load },
    ]
}

/// An ELF with two segments, entered at 0x10 of the first one.
pub(super) fn elf() -> Vec<u8> {
    programs(&segments())
}

/// The same with a PVH entry at 0x20 of the first segment.
pub(super) fn elf_with_pvh() -> Vec<u8> {
    let [data, text] = segments();
    let note = Elf64_Phdr { p_type: PT_NOTE, p_offset: NOTES_OFFSET as u64, p_filesz: 20, p_align: 4, ..data };
    let mut image = programs(&[data, text, note]);
    put(&mut image, NOTES_OFFSET, &[4, 0, 0, 0, 4, 0, 0, 0, 18, 0, 0, 0]);
    put(&mut image, NOTES_OFFSET + 12, b"Xen\0");
    put(&mut image, NOTES_OFFSET + 16, &(TEXT as u32 + 0x20).to_le_bytes());
    image
}

/// A bzImage of protocol 2.15 with one sector of setup code.
pub(super) fn bzimage() -> Vec<u8> {
    // What isn't set is 0xee, so that a field that is taken over by mistake shows.
    let mut image = vec![0xee; 0x400];
    image.resize(0x400 + CODE, 0xcc);
    let mut word = |at: usize, bytes: &[u8]| put(&mut image, at, bytes);
    word(0x1f1, &[1]); // setup_sects
    word(0x1f4, &(CODE as u32 / 16).to_le_bytes()); // syssize
    word(0x1fe, b"\x55\xaa\xeb\x6aHdrS\x0f\x02");
    word(0x211, &[1]); // loadflags: LOADED_HIGH
    word(0x22c, &0x7fff_ffffu32.to_le_bytes()); // initrd_addr_max
    word(0x230, &0x20_0000u32.to_le_bytes()); // kernel_alignment
    word(0x234, &[1, 21]); // relocatable_kernel, min_alignment
    word(0x236, &3u16.to_le_bytes()); // xloadflags: KERNEL_64, CAN_BE_LOADED_ABOVE_4G
    word(0x238, &2047u32.to_le_bytes()); // cmdline_size
    word(0x258, &PREFERRED.to_le_bytes()); // pref_address
    word(0x260, &0x1_0000u32.to_le_bytes()); // init_size
    image
}
