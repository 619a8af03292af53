// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What a kernel finds in low memory: GDT, IDT and page tables at its entry point, a reset vector at its end.

use vm_memory::{Bytes, GuestAddress, GuestMemoryError};

use super::gdt::Segments;
use crate::{BootProtocol, GuestRam, layout};

const PAGE: u64 = 0x1000;
const ENTRIES: u64 = 512;
/// What an entry of a page directory maps.
const LARGE_PAGE: u64 = 2 << 20;
/// Page directories: one a GiB of the low 4 GiB.
const DIRECTORIES: u64 = 4;

const PRESENT: u64 = 1 << 0;
const WRITABLE: u64 = 1 << 1;
const LARGE: u64 = 1 << 7;

/// Why the tables could not be written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Guest RAM doesn't reach to where a table belongs.
    #[error("the boot {table} can't be written at {address:#x}: {source}")]
    Write {
        /// GDT, IDT, page tables or reset vector.
        table: &'static str,
        /// Where it belongs.
        address: u64,
        /// What guest memory says.
        source: GuestMemoryError,
    },
}

/// What is at the reset vector, in real mode: it writes the reset register, and waits for that to be noticed.
///
/// Without `reboot=` on its command line, Linux takes hardware-reduced ACPI for a sign of EFI, and where there is none it
/// reboots "through the BIOS" (arch/x86/kernel/reboot.c): by a jump to here.
const RESET_CODE: [u8; 9] = {
    let [low, high] = (layout::PM_PORT + layout::PM_RESET).to_le_bytes();
    [
        0xba,
        low,
        high, // mov dx, PM_RESET
        0xb0,
        layout::PM_RESET_VALUE, // mov al, PM_RESET_VALUE
        0xee,                   // out dx, al
        0xf4,                   // hlt
        0xeb,
        0xfd, // jmp to the hlt
    ]
};

/// Writes the GDT, the IDT and the code at the reset vector, and for a protocol that starts in long mode the page tables.
///
/// # Errors
///
/// [`Error::Write`] when RAM ends below the tables.
pub fn write(ram: &GuestRam, protocol: BootProtocol) -> Result<(), Error> {
    put(ram, "GDT", layout::BOOT_GDT, &Segments::new(protocol).gdt())?;
    put(ram, "IDT", layout::BOOT_IDT, &[0; 8])?;
    put(ram, "reset vector", layout::RESET_VECTOR, &RESET_CODE)?;
    match protocol {
        BootProtocol::Linux64 => put(ram, "page tables", layout::BOOT_PAGE_TABLES, &page_tables()),
        BootProtocol::Pvh => Ok(()),
    }
}

fn put(ram: &GuestRam, table: &'static str, address: u64, bytes: &[u8]) -> Result<(), Error> {
    ram.write_slice(bytes, GuestAddress(address)).map_err(|source| Error::Write { table, address, source })
}

/// A PML4, a PDPT and four page directories, page by page: the low 4 GiB one to one in pages of 2 MiB. That covers all
/// that a kernel touches before it has tables of its own: itself, its initrd, and the structures of `boot`, all of which
/// are kept below 4 GiB.
fn page_tables() -> Vec<u8> {
    let table = |index: u64| (layout::BOOT_PAGE_TABLES + index * PAGE) | PRESENT | WRITABLE;
    let none = |count: u64| (0..count).map(|_| 0);
    let pml4 = std::iter::once(table(1)).chain(none(ENTRIES - 1));
    let pdpt = (0..DIRECTORIES).map(|directory| table(2 + directory)).chain(none(ENTRIES - DIRECTORIES));
    let directories = (0..DIRECTORIES * ENTRIES).map(|page| (page * LARGE_PAGE) | PRESENT | WRITABLE | LARGE);
    pml4.chain(pdpt).chain(directories).flat_map(u64::to_le_bytes).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ram() -> GuestRam {
        GuestRam::from_ranges(&[(GuestAddress(0), 0x10_0000)]).unwrap()
    }

    fn entry(ram: &GuestRam, table: u64, index: u64) -> u64 {
        ram.read_obj(GuestAddress(table + index * 8)).unwrap()
    }

    /// Walks the tables as the processor does.
    fn translate(ram: &GuestRam, address: u64) -> Option<u64> {
        let next = |table: u64, shift: u32| {
            let entry = entry(ram, table, address >> shift & 0x1ff);
            (entry & PRESENT != 0).then_some(entry)
        };
        let pml4 = next(layout::BOOT_PAGE_TABLES, 39)?;
        let pdpt = next(pml4 & !0xfff, 30)?;
        let directory = next(pdpt & !0xfff, 21)?;
        assert_ne!(directory & LARGE, 0);
        Some((directory & !0x1f_ffff) + (address & 0x1f_ffff))
    }

    #[test]
    fn the_reset_vector_writes_the_reset_register() {
        let ram = ram();
        write(&ram, BootProtocol::Pvh).unwrap();
        let mut code = [0; 9];
        ram.read_slice(&mut code, GuestAddress(0xf_fff0)).unwrap();
        assert_eq!(code, [0xba, 0x02, 0x06, 0xb0, 0x01, 0xee, 0xf4, 0xeb, 0xfd]);
    }

    #[test]
    fn the_low_4_gib_map_to_themselves_and_nothing_else_is_mapped() {
        let ram = ram();
        write(&ram, BootProtocol::Linux64).unwrap();
        for address in (0..4 << 30).step_by(LARGE_PAGE as usize) {
            assert_eq!(translate(&ram, address + 0x1234), Some(address + 0x1234));
        }
        for address in [4 << 30, 512 << 30, 1 << 47] {
            assert_eq!(translate(&ram, address), None, "{address:#x}");
        }
    }

    #[test]
    fn the_tables_end_where_the_map_says() {
        assert_eq!(page_tables().len() as u64, 6 * PAGE);
        const { assert!(layout::BOOT_PAGE_TABLES + 6 * PAGE <= layout::CMDLINE) };
        const { assert!(layout::BOOT_STACK < layout::BOOT_PAGE_TABLES) };
        const { assert!(layout::ZERO_PAGE + PAGE <= layout::BOOT_STACK) };
    }

    #[test]
    fn pvh_gets_no_page_tables() {
        let ram = ram();
        write(&ram, BootProtocol::Pvh).unwrap();
        assert_eq!(entry(&ram, layout::BOOT_PAGE_TABLES, 0), 0);
        assert_ne!(entry(&ram, layout::BOOT_GDT, 2), 0);
    }

    #[test]
    fn memory_that_ends_early_is_an_error_that_says_where() {
        let ram = GuestRam::from_ranges(&[(GuestAddress(0), 0x9000)]).unwrap();
        let error = write(&ram, BootProtocol::Linux64).unwrap_err();
        assert!(error.to_string().starts_with("the boot reset vector can't be written at 0xffff0: "), "{error}");
    }
}
