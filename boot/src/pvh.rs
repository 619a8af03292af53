// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! `hvm_start_info`, which a kernel is handed at its PVH entry (xen/include/public/arch-x86/hvm/start_info.h).

use arch::{GuestRam, layout};
use linux_loader::start_info::{XEN_HVM_START_MAGIC_VALUE, hvm_memmap_table_entry, hvm_modlist_entry, hvm_start_info};
use vm_memory::{ByteValued, GuestAddress};

use crate::{Error, Machine, write as put};

/// The version that has a memory map.
const VERSION: u32 = 1;
/// Where the module list is: behind the structure.
const MODULES: u64 = layout::PVH_START_INFO + 0x40;
/// Where the memory map is: behind a list of one module.
const MEMORY_MAP: u64 = MODULES + 0x20;
/// Entries of the map that there is room for, up to the next boot structure.
const MAX_ENTRIES: usize = (layout::ZERO_PAGE - MEMORY_MAP) as usize / size_of::<hvm_memmap_table_entry>();

const _: () = assert!(size_of::<hvm_start_info>() as u64 <= MODULES - layout::PVH_START_INFO);
const _: () = assert!(size_of::<hvm_modlist_entry>() as u64 <= MEMORY_MAP - MODULES);

/// Writes the structure with its module list and its memory map, and says where it is.
pub(crate) fn write(ram: &GuestRam, machine: &Machine) -> Result<GuestAddress, Error> {
    let mut map = Vec::new();
    for entry in machine.memory.entries().iter().take(MAX_ENTRIES) {
        let entry =
            hvm_memmap_table_entry { addr: entry.start, size: entry.size, type_: entry.kind as u32, reserved: 0 };
        map.extend_from_slice(entry.as_slice());
    }
    let mut info = hvm_start_info {
        magic: XEN_HVM_START_MAGIC_VALUE,
        version: VERSION,
        cmdline_paddr: layout::CMDLINE,
        rsdp_paddr: machine.rsdp.0,
        memmap_paddr: MEMORY_MAP,
        memmap_entries: machine.memory.entries().len().min(MAX_ENTRIES) as u32,
        ..Default::default()
    };
    if let Some(range) = machine.ramdisk {
        let module = hvm_modlist_entry { paddr: range.start, size: range.size, ..Default::default() };
        put(ram, "PVH module list", MODULES, module.as_slice())?;
        info.modlist_paddr = MODULES;
        info.nr_modules = 1;
    }
    put(ram, "PVH memory map", MEMORY_MAP, &map)?;
    put(ram, "PVH start info", layout::PVH_START_INFO, info.as_slice())?;
    Ok(GuestAddress(layout::PVH_START_INFO))
}
