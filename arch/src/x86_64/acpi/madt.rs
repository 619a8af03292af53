// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The MADT: the local APICs and the IOAPIC (ACPI 6.5 §5.2.12).

use acpi_tables::{
    Aml,
    madt::{EnabledStatus, IoApic, ProcessorLocalApic},
    sdt::Sdt,
};

use super::{OEM_ID, OEM_REVISION, OEM_TABLE_ID};
use crate::layout;

/// The revision that ACPI 6.3 and later give the table.
const REVISION: u8 = 5;
/// The first APIC ID that needs an x2APIC entry: 255 is "all processors" to a LAPIC entry (§5.2.12.12).
const FIRST_X2APIC_ID: u32 = 255;
/// LINT1 is the line that NMI arrives on (see `registers::local_apic`).
const NMI_LINT: u8 = 1;

const TYPE_LAPIC_NMI: u8 = 4;
const TYPE_X2APIC: u8 = 9;
const TYPE_X2APIC_NMI: u8 = 0xa;
const ENABLED: u32 = 1;

/// Builds the table for vCPUs whose APIC IDs and ACPI UIDs are `0..vcpus`.
pub(super) fn table(vcpus: u32) -> Vec<u8> {
    let mut body = Vec::new();
    body.extend_from_slice(&u32::to_le_bytes(layout::LAPIC as u32));
    // Flags: no PCAT_COMPAT. KVM has a pair of 8259s, but nothing tells a guest to use them.
    body.extend_from_slice(&0u32.to_le_bytes());

    for id in 0..vcpus {
        match u8::try_from(id) {
            Ok(id) if u32::from(id) < FIRST_X2APIC_ID => {
                ProcessorLocalApic::new(id, id, EnabledStatus::Enabled).to_aml_bytes(&mut body);
            }
            _ => x2apic(&mut body, id),
        }
    }
    IoApic::new(0, layout::IOAPIC as u32, 0).to_aml_bytes(&mut body);
    lapic_nmi(&mut body);
    if vcpus > FIRST_X2APIC_ID {
        x2apic_nmi(&mut body);
    }

    let mut table = Sdt::new(*b"APIC", 36, REVISION, OEM_ID, OEM_TABLE_ID, OEM_REVISION);
    table.append_slice(&body);
    table.as_slice().to_vec()
}

/// A processor's local x2APIC (§5.2.12.12).
fn x2apic(body: &mut Vec<u8>, id: u32) {
    body.extend_from_slice(&[TYPE_X2APIC, 16, 0, 0]);
    body.extend_from_slice(&id.to_le_bytes());
    body.extend_from_slice(&ENABLED.to_le_bytes());
    body.extend_from_slice(&id.to_le_bytes());
}

/// NMI on LINT1 of all processors with a LAPIC entry (§5.2.12.7); polarity and trigger mode as the bus has it.
fn lapic_nmi(body: &mut Vec<u8>) {
    body.extend_from_slice(&[TYPE_LAPIC_NMI, 6, 0xff, 0, 0, NMI_LINT]);
}

/// The same for all processors with an x2APIC entry (§5.2.12.13).
fn x2apic_nmi(body: &mut Vec<u8>) {
    body.extend_from_slice(&[TYPE_X2APIC_NMI, 12, 0, 0]);
    body.extend_from_slice(&u32::MAX.to_le_bytes());
    body.extend_from_slice(&[NMI_LINT, 0, 0, 0]);
}
