// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! PCI: the host bridge in the DSDT, and the MCFG, which says where configuration space is.

use acpi_tables::{
    Aml,
    aml::{
        AddressSpace, AddressSpaceCacheable, And, Arg, CreateDWordField, Device, EISAName, Else, Equal, IO, If, Local,
        Memory32Fixed, Method, Name, NotEqual, ONE, Or, Path, ResourceTemplate, Return, Store, Uuid, ZERO,
    },
    mcfg::MCFG,
};

use super::{OEM_ID, OEM_REVISION, OEM_TABLE_ID, bytes_of};
use crate::layout;
use crate::pci::PciHost;

/// What `_OSC` of a host bridge is called with (PCI Firmware 3.3 §4.5.1).
const OSC_UUID: &str = "33DB4D5B-1FF7-401C-9657-7441C03DD766";
/// What the guest may control: the PCI Express capability structure. There is no hotplug, no PME and no AER to control.
const OSC_GRANTED: u8 = 1 << 4;
/// Status of `_OSC` (ACPI 6.5 §6.2.11): unknown UUID, unknown revision, capabilities masked.
const OSC_UNKNOWN_UUID: u8 = 1 << 2;
const OSC_UNKNOWN_REVISION: u8 = 1 << 3;
const OSC_MASKED: u8 = 1 << 4;

/// Builds the MCFG: configuration space of segment 0, bus 0 (PCI Firmware 3.3 §4.1.2).
pub(super) fn mcfg() -> Vec<u8> {
    let mut mcfg = MCFG::new(OEM_ID, OEM_TABLE_ID, OEM_REVISION);
    mcfg.add_ecam(layout::PCI_ECAM_START, 0, 0, 0);
    bytes_of(&mcfg)
}

/// The host bridge, and what keeps others off its configuration space.
pub(super) fn host_bridge(scope: &mut Vec<u8>, host: &PciHost) {
    // No _PRT: there is no INTx.
    Device::new(
        "PCI0".into(),
        vec![
            &Name::new("_HID".into(), &EISAName::new("PNP0A08")),
            &Name::new("_CID".into(), &EISAName::new("PNP0A03")),
            &Name::new("_SEG".into(), &ZERO),
            &Name::new("_BBN".into(), &ZERO),
            &Name::new("_UID".into(), &ZERO),
            &Name::new("_CCA".into(), &ONE),
            &Name::new("_CRS".into(), &Resources(host)),
            &OperatingSystemCapabilities,
        ],
    )
    .to_aml_bytes(scope);

    // A guest trusts the MCFG only where a motherboard resource claims the same addresses (PCI Firmware 3.3 §4.1.2).
    let ecam = Memory32Fixed::new(true, layout::PCI_ECAM_START as u32, layout::PCI_ECAM_SIZE as u32);
    Device::new(
        "MBRD".into(),
        vec![
            &Name::new("_HID".into(), &EISAName::new("PNP0C02")),
            &Name::new("_UID".into(), &ZERO),
            &Name::new("_CRS".into(), &ResourceTemplate::new(vec![&ecam])),
        ],
    )
    .to_aml_bytes(scope);
}

/// What the bridge passes on, and the ports that it takes for itself.
struct Resources<'a>(&'a PciHost);

impl Aml for Resources<'_> {
    fn to_aml_bytes(&self, sink: &mut dyn acpi_tables::AmlSink) {
        let device = AddressSpaceCacheable::NotCacheable;
        let buses = AddressSpace::new_bus_number(0u16, 0);
        let ports = IO::new(layout::PCI_CONFIG_PORT, layout::PCI_CONFIG_PORT, 1, layout::PCI_CONFIG_PORT_SIZE as u8);
        let (start, end) = (layout::PCI_WINDOW_START as u32, layout::PCI_WINDOW_END as u32);
        let low = AddressSpace::new_memory(device, true, start, end - 1, None);
        let high = self.0.window_64.map(|window| {
            let last = window.base.saturating_add(window.size.saturating_sub(1));
            AddressSpace::new_memory(device, true, window.base, last, None)
        });
        let mut resources: Vec<&dyn Aml> = vec![&buses, &ports, &low];
        resources.extend(high.as_ref().map(|high| high as &dyn Aml));
        ResourceTemplate::new(resources).to_aml_bytes(sink);
    }
}

/// `_OSC`: what the operating system may control (PCI Firmware 3.3 §4.5.1). Its first word is the status, its third what
/// is asked for and granted.
struct OperatingSystemCapabilities;

impl Aml for OperatingSystemCapabilities {
    fn to_aml_bytes(&self, sink: &mut dyn acpi_tables::AmlSink) {
        let (status, control) = (Path::new("CDW1"), Path::new("CDW3"));
        Method::new(
            "_OSC".into(),
            4,
            true,
            vec![
                &CreateDWordField::new(&status, &Arg(3), &ZERO),
                &If::new(
                    &Equal::new(&Arg(0), &Uuid::new(OSC_UUID)),
                    vec![
                        &CreateDWordField::new(&control, &Arg(3), &8u8),
                        &If::new(
                            &NotEqual::new(&Arg(1), &ONE),
                            vec![&Or::new(&status, &status, &OSC_UNKNOWN_REVISION)],
                        ),
                        &And::new(&Local(0), &control, &OSC_GRANTED),
                        &If::new(&NotEqual::new(&Local(0), &control), vec![&Or::new(&status, &status, &OSC_MASKED)]),
                        &Store::new(&control, &Local(0)),
                    ],
                ),
                &Else::new(vec![&Or::new(&status, &status, &OSC_UNKNOWN_UUID)]),
                &Return::new(&Arg(3)),
            ],
        )
        .to_aml_bytes(sink);
    }
}
