// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The ACPI tables: what the guest is told about the machine (ACPI 6.5).
//!
//! The platform is hardware-reduced (§3.11.1): no PM1 block, no SCI, no legacy timer or interrupt controller that a
//! guest would have to find and probe. Power management is three byte-wide registers in I/O space and a generic event
//! device. All tables are built in one pass and written to the area between `layout::ACPI_START` and
//! `layout::ACPI_END`, which the memory map reports as reserved.

mod dsdt;
mod fadt;
mod madt;
mod pci;

#[cfg(test)]
mod tests;

use acpi_tables::{Aml, rsdp::Rsdp, xsdt::XSDT};
use vm_memory::{Bytes, GuestAddress, GuestMemoryError};

use crate::pci::PciHost;
use crate::{GuestRam, layout};

/// Who made the tables.
const OEM_ID: [u8; 6] = *b"VMM   ";
/// Which machine they describe. Equal in all tables, as §5.2.6 asks.
const OEM_TABLE_ID: [u8; 8] = *b"VMMX86  ";
/// Raised when the tables change in a way that a guest can see.
const OEM_REVISION: u32 = 3;
/// Tables start at multiples of this; the RSDP must (§5.2.5.1).
const ALIGNMENT: u64 = 16;

/// Why the ACPI tables could not be written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The tables are larger than the room for them.
    #[error("the ACPI tables need {needed} bytes and there is room for {room}: use fewer vCPUs or devices")]
    NoRoom {
        /// Bytes that were asked for when the room ran out.
        needed: u64,
        /// Bytes that there are.
        room: u64,
    },
    /// A device's registers can't be named in a 32-bit resource.
    #[error("a virtio-mmio device at {base:#x} with {size:#x} bytes of registers does not lie below 4 GiB")]
    DeviceNotBelow4Gib {
        /// The first address.
        base: u64,
        /// Bytes.
        size: u64,
    },
    /// There is no name left for a device.
    #[error("{0} virtio-mmio devices are more than the {max} that can be named", max = dsdt::MAX_VIRTIO_MMIO)]
    TooManyDevices(usize),
    /// Guest RAM doesn't reach to where the tables belong.
    #[error("ACPI tables can't be written at {address:#x}: {source}")]
    Write {
        /// Where a table belongs.
        address: u64,
        /// What guest memory says.
        source: GuestMemoryError,
    },
}

/// What there is to describe.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Platform {
    /// vCPUs, one local APIC each; the APIC ID is the vCPU's index.
    pub vcpus: u32,
    /// Is there a 16550 at `layout::SERIAL_PORT`?
    pub serial: bool,
    /// Is there a real-time clock at `layout::RTC_PORT`?
    pub rtc: bool,
    /// Are there a generation ID at `layout::GENERATION_ID` and a vmclock at `layout::VMCLOCK`?
    pub generation: bool,
    /// Is there a pvpanic at `layout::PVPANIC_PORT`?
    pub pvpanic: bool,
    /// The virtio-mmio devices, in the order in which a guest is to find them.
    pub virtio_mmio: Vec<MmioDevice>,
    /// Is there PCI?
    pub pci: Option<PciHost>,
}

/// Where a virtio-mmio device is, and which line it raises.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MmioDevice {
    /// The first address of its registers.
    pub base: u64,
    /// Bytes of registers.
    pub size: u64,
    /// The line: edge-triggered, active high.
    pub gsi: u32,
}

/// Writes all tables that describe `platform`, and says where the RSDP is.
///
/// # Errors
///
/// [`Error`] when the tables don't fit in their area, a device can't be described, or RAM ends below the area.
pub fn write(ram: &GuestRam, platform: &Platform) -> Result<GuestAddress, Error> {
    let mut area = Area::new(ram);
    let dsdt = area.place(&dsdt::table(platform)?)?;
    let fadt = area.place(&fadt::table(platform, dsdt))?;
    let madt = area.place(&madt::table(platform.vcpus))?;
    let mcfg = platform.pci.map(|_| area.place(&pci::mcfg())).transpose()?;

    let mut xsdt = XSDT::new(OEM_ID, OEM_TABLE_ID, OEM_REVISION);
    xsdt.add_entry(fadt);
    xsdt.add_entry(madt);
    if let Some(mcfg) = mcfg {
        xsdt.add_entry(mcfg);
    }
    let xsdt = area.place(&bytes_of(&xsdt))?;

    area.write(&bytes_of(&Rsdp::new(OEM_ID, xsdt)), layout::ACPI_RSDP)?;
    Ok(GuestAddress(layout::ACPI_RSDP))
}

fn bytes_of(table: &dyn Aml) -> Vec<u8> {
    let mut bytes = Vec::new();
    table.to_aml_bytes(&mut bytes);
    bytes
}

/// The area for tables, filled from its start. The RSDP has its own place at the end.
struct Area<'a> {
    ram: &'a GuestRam,
    next: u64,
}

impl<'a> Area<'a> {
    fn new(ram: &'a GuestRam) -> Self {
        Self { ram, next: layout::ACPI_START }
    }

    fn place(&mut self, table: &[u8]) -> Result<u64, Error> {
        let address = self.next.next_multiple_of(ALIGNMENT);
        let end = address.saturating_add(table.len() as u64);
        if end > layout::ACPI_RSDP {
            let room = layout::ACPI_RSDP - layout::ACPI_START;
            return Err(Error::NoRoom { needed: end - layout::ACPI_START, room });
        }
        self.write(table, address)?;
        self.next = end;
        Ok(address)
    }

    fn write(&self, table: &[u8], address: u64) -> Result<(), Error> {
        self.ram.write_slice(table, GuestAddress(address)).map_err(|source| Error::Write { address, source })
    }
}
