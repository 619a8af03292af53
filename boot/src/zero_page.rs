// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! `boot_params`, the "zero page" (Linux Documentation/arch/x86/zero-page.rst).

use arch::{GuestRam, layout};
use linux_loader::bootparam::{
    E820_MAX_ENTRIES_ZEROPAGE, KASLR_FLAG, LOADED_HIGH, QUIET_FLAG, boot_e820_entry, boot_params, setup_header,
};
use vm_memory::{ByteValued, GuestAddress};

use crate::{Error, Machine};

/// A loader without an ID of its own.
const LOADER_UNDEFINED: u8 = 0xff;
/// "Normal" video mode.
const VIDEO_NORMAL: u16 = 0xffff;
/// What stands in the header of an ELF, which brings none: the marks of the protocol, and its version 2.12.
const BOOT_FLAG: u16 = 0xaa55;
const HEADER_MAGIC: u32 = u32::from_le_bytes(*b"HdrS");
const VERSION: u16 = 0x20c;
/// Where `vmlinux` is aligned to, when it was built as by default.
const ALIGNMENT: u32 = 16 << 20;

/// Writes the page, with the setup header of a bzImage if there is one, and says where it is.
pub(crate) fn write(ram: &GuestRam, header: Option<&setup_header>, machine: &Machine) -> Result<GuestAddress, Error> {
    crate::write(ram, "zero page", layout::ZERO_PAGE, page(header, machine).as_slice())?;
    Ok(GuestAddress(layout::ZERO_PAGE))
}

/// Fills in the page. It starts as all zeros, so that no field of a bzImage's boot sector is mistaken for a value; the
/// kernel takes that for granted when `sentinel` is zero.
fn page(header: Option<&setup_header>, machine: &Machine) -> boot_params {
    let (cmdline, ext_cmdline) = halves(layout::CMDLINE);
    let (image, ext_image) = halves(machine.ramdisk.map_or(0, |range| range.start));
    let (size, ext_size) = halves(machine.ramdisk.map_or(0, |range| range.size));
    let hdr = header.copied().unwrap_or(setup_header {
        boot_flag: BOOT_FLAG,
        header: HEADER_MAGIC,
        version: VERSION,
        loadflags: LOADED_HIGH,
        kernel_alignment: ALIGNMENT,
        ..setup_header::default()
    });
    let mut page = boot_params {
        acpi_rsdp_addr: machine.rsdp.0,
        ext_ramdisk_image: ext_image,
        ext_ramdisk_size: ext_size,
        ext_cmd_line_ptr: ext_cmdline,
        hdr: setup_header {
            type_of_loader: LOADER_UNDEFINED,
            // Both bits are the kernel's notes to itself.
            loadflags: hdr.loadflags & !(KASLR_FLAG | QUIET_FLAG),
            vid_mode: VIDEO_NORMAL,
            cmd_line_ptr: cmdline,
            ramdisk_image: image,
            ramdisk_size: size,
            // A list for the loader to fill. There is nothing in it, whatever the file says.
            setup_data: 0,
            ..hdr
        },
        ..boot_params::default()
    };
    let mut table = [boot_e820_entry::default(); E820_MAX_ENTRIES_ZEROPAGE];
    let entries = machine.memory.entries();
    for (to, from) in table.iter_mut().zip(entries) {
        *to = boot_e820_entry { addr: from.start, size: from.size, r#type: from.kind as u32 };
    }
    page.e820_table = table;
    page.e820_entries = entries.len().min(E820_MAX_ENTRIES_ZEROPAGE) as u8;
    page
}

/// A number's low and high 32 bits.
fn halves(value: u64) -> (u32, u32) {
    (value as u32, (value >> 32) as u32)
}
