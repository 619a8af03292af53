// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The FADT: fixed features, of which a hardware-reduced platform has next to none (ACPI 6.5 §5.2.9).

use acpi_tables::{
    fadt::{FADTBuilder, Flags},
    gas::{AccessSize, AddressSpace, GAS},
};

use super::{OEM_ID, OEM_REVISION, OEM_TABLE_ID, Platform, bytes_of};
use crate::layout;

// IA-PC boot architecture flags (§5.2.9.3). Bit 0 ("legacy devices") and bit 1 ("8042") stay clear: the serial port and
// the clock are in the DSDT, and there is no keyboard controller, so a guest needn't spend half a second on finding out.
const VGA_NOT_PRESENT: u16 = 1 << 2;
const NO_PCIE_ASPM: u16 = 1 << 4;
const NO_CMOS_RTC: u16 = 1 << 5;

/// Builds the table. `dsdt` is the DSDT's address.
pub(super) fn table(platform: &Platform, dsdt: u64) -> Vec<u8> {
    let mut fadt = FADTBuilder::new(OEM_ID, OEM_TABLE_ID, OEM_REVISION)
        .dsdt_64(dsdt)
        .flag(Flags::HwReducedAcpi)
        .flag(Flags::ResetRegSup)
        // WBINVD is there and flushes the caches: required of every ACPI x86 processor since 1.0.
        .flag(Flags::Wbinvd)
        // "Not a fixed feature": the power button is a device in the DSDT, a sleep button doesn't exist, and nothing
        // wakes the machine from a fixed RTC event.
        .flag(Flags::PwrButton)
        .flag(Flags::SlpButton)
        .flag(Flags::FixRtc);

    let rtc = if platform.rtc { 0 } else { NO_CMOS_RTC };
    fadt.iapc_boot_arch = (VGA_NOT_PRESENT | NO_PCIE_ASPM | rtc).into();
    fadt.reset_reg = register(layout::PM_RESET);
    fadt.reset_value = layout::PM_RESET_VALUE;
    fadt.sleep_control_reg = register(layout::PM_SLEEP_CONTROL);
    fadt.sleep_status_reg = register(layout::PM_SLEEP_STATUS);
    bytes_of(&fadt.finalize())
}

/// A byte-wide register of the power management block.
fn register(offset: u16) -> GAS {
    GAS::new(AddressSpace::SystemIo, 8, 0, AccessSize::ByteAccess, u64::from(layout::PM_PORT + offset))
}
