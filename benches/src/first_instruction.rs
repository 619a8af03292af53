// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! A kernel of six instructions: it says one byte on the serial port, and pulls the reset line.
//!
//! When the byte arrives, the guest's first instruction has just run, and all that was before it was the VMM's.

/// What the kernel says: a byte that no log line holds.
pub const BYTE: u8 = 0x06;

/// Entered in 64-bit mode; the serial port is COM1, and the reset line is the keyboard controller's.
const CODE: [u8; 13] = [
    0x66, 0xba, 0xf8, 0x03, // mov dx, 0x3f8
    0xb0, BYTE, // mov al, BYTE
    0xee, // out dx, al
    0xb0, 0xfe, // mov al, 0xfe
    0xe6, 0x64, // out 0x64, al
    0xeb, 0xfe, // jmp to itself
];

/// Where it is loaded and entered.
const BASE: u64 = 0x10_0000;

/// The kernel as an ELF file with one segment, entered by the 64-bit boot protocol.
pub fn elf() -> Vec<u8> {
    const HEADER: u16 = 64;
    const PROGRAM_HEADER: u16 = 56;
    const CODE_AT: u64 = 0x1000;
    let mut elf = vec![0x7f, b'E', b'L', b'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    elf.extend(2u16.to_le_bytes()); // ET_EXEC
    elf.extend(62u16.to_le_bytes()); // EM_X86_64
    elf.extend(1u32.to_le_bytes());
    for word in [BASE, HEADER.into(), 0] {
        elf.extend(word.to_le_bytes());
    }
    elf.extend(0u32.to_le_bytes());
    for half in [HEADER, PROGRAM_HEADER, 1, 0, 0, 0] {
        elf.extend(half.to_le_bytes());
    }
    elf.extend(1u32.to_le_bytes()); // PT_LOAD
    elf.extend(7u32.to_le_bytes()); // readable, writable, executable
    let size = CODE.len() as u64;
    for word in [CODE_AT, BASE, BASE, size, size, CODE_AT] {
        elf.extend(word.to_le_bytes());
    }
    elf.resize(CODE_AT as usize, 0);
    elf.extend(CODE);
    elf
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn its_entry_is_the_first_byte_of_its_code() {
        let elf = elf();
        let word = |at: usize| u64::from_le_bytes(elf[at..at + 8].try_into().unwrap());
        let (entry, headers) = (word(24), word(32) as usize);
        let (offset, physical, size) = (word(headers + 8), word(headers + 24), word(headers + 32));
        assert_eq!(entry, physical);
        assert_eq!(&elf[offset as usize..][..size as usize], CODE);
        assert_eq!(elf.len() as u64, offset + size);
    }
}
