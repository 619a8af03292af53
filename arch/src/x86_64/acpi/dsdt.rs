// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The DSDT: the devices that nothing can enumerate, and how to switch the machine off.

use acpi_tables::{
    Aml,
    aml::{
        And, Device, EISAName, Field, FieldAccessType, FieldEntry, FieldLockRule, FieldUpdateRule, IO, If, Interrupt,
        Local, Memory32Fixed, Method, Name, Notify, ONE, OpRegion, OpRegionSpace, Package, Path, ResourceTemplate,
        Scope, Store, ZERO,
    },
    sdt::Sdt,
};

use super::{Error, MmioDevice, OEM_ID, OEM_REVISION, OEM_TABLE_ID, Platform, pci};
use crate::layout;

/// Revision 2: integers of 64 bits (ACPI 6.5 §5.2.11.1).
const REVISION: u8 = 2;
/// How many names `V000` to `VFFF` there are.
pub(super) const MAX_VIRTIO_MMIO: usize = 0x1000;
/// The notification "the button was pressed" (§4.8.3.2.1.2), and that the generation or the vmclock has changed.
const NOTIFIED: u8 = 0x80;

/// Builds the table.
pub(super) fn table(platform: &Platform) -> Result<Vec<u8>, Error> {
    let devices = &platform.virtio_mmio;
    if devices.len() > MAX_VIRTIO_MMIO {
        return Err(Error::TooManyDevices(devices.len()));
    }
    let mut body = Vec::new();
    Name::new("_S5_".into(), &Package::new(vec![&layout::PM_SLEEP_TYPE_S5])).to_aml_bytes(&mut body);

    let mut scope = Vec::new();
    if platform.generation {
        generation(&mut scope);
    }
    events(&mut scope, platform.generation);
    if platform.serial {
        serial(&mut scope);
    }
    if platform.rtc {
        rtc(&mut scope);
    }
    if platform.pvpanic {
        pvpanic(&mut scope);
    }
    if let Some(host) = &platform.pci {
        pci::host_bridge(&mut scope, host);
    }
    for (index, device) in devices.iter().enumerate() {
        let shared = devices.iter().filter(|other| other.gsi == device.gsi).count() > 1;
        virtio_mmio(&mut scope, index, device, shared)?;
    }
    body.extend(Scope::raw("\\_SB_".into(), scope));

    let mut table = Sdt::new(*b"DSDT", 36, REVISION, OEM_ID, OEM_TABLE_ID, OEM_REVISION);
    table.append_slice(&body);
    Ok(table.as_slice().to_vec())
}

/// The power button (§4.8.3.2.1.2), and the generic event device that presses it (§5.6.9): its method reads the event
/// register, which clears it, once, and passes on every event that it finds.
fn events(scope: &mut Vec<u8>, generation: bool) {
    Device::new("PWRB".into(), vec![&Name::new("_HID".into(), &EISAName::new("PNP0C0C"))]).to_aml_bytes(scope);

    let register = Path::new("EVTS");
    let (button, id, clock) = (Path::new("PWRB"), Path::new("VGEN"), Path::new("VCLK"));
    let mut receivers = vec![(layout::PM_EVENT_POWER_BUTTON, &button)];
    if generation {
        receivers.extend([(layout::PM_EVENT_GENERATION, &id), (layout::PM_EVENT_CLOCK, &clock)]);
    }
    let bits: Vec<_> = receivers.iter().map(|(bit, _)| And::new(&ZERO, &Local(0), bit)).collect();
    let notified: Vec<_> = receivers.iter().map(|(_, receiver)| Notify::new(*receiver, &NOTIFIED)).collect();
    let ifs: Vec<_> = bits.iter().zip(&notified).map(|(bit, notify)| If::new(bit, vec![notify])).collect();
    let store = Store::new(&Local(0), &register);
    let mut steps: Vec<&dyn Aml> = vec![&store];
    steps.extend(ifs.iter().map(|step| step as &dyn Aml));
    Device::new(
        "GED_".into(),
        vec![
            &Name::new("_HID".into(), &"ACPI0013"),
            &Name::new("_UID".into(), &ZERO),
            &Name::new("_CRS".into(), &ResourceTemplate::new(vec![&edge(layout::GED_GSI, false)])),
            &OpRegion::new(
                "EVTR".into(),
                OpRegionSpace::SystemIO,
                &(layout::PM_PORT + layout::PM_EVENTS),
                &1u8, // bytes
            ),
            &Field::new(
                "EVTR".into(),
                FieldAccessType::Byte,
                FieldLockRule::NoLock,
                FieldUpdateRule::WriteAsZeroes,
                vec![FieldEntry::Named(*b"EVTS", 8)],
            ),
            &Method::new("_EVT".into(), 1, true, steps),
        ],
    )
    .to_aml_bytes(scope);
}

/// The generation ID, by an address in two halves (Microsoft, "Virtual Machine Generation ID"), and the vmclock, as a resource (Linux
/// drivers/virt/vmgenid.c, drivers/ptp/ptp_vmclock.c).
fn generation(scope: &mut Vec<u8>) {
    let (low, high) = ((layout::GENERATION_ID & 0xffff_ffff) as u32, (layout::GENERATION_ID >> 32) as u32);
    Device::new(
        "VGEN".into(),
        vec![
            &Name::new("_HID".into(), &"VMMX0001"),
            &Name::new("_CID".into(), &"VM_Gen_Counter"),
            &Name::new("_DDN".into(), &"VM_Gen_Counter"),
            &Name::new("ADDR".into(), &Package::new(vec![&low, &high])),
        ],
    )
    .to_aml_bytes(scope);
    let page = Memory32Fixed::new(false, layout::VMCLOCK as u32, layout::VMCLOCK_SIZE as u32);
    Device::new(
        "VCLK".into(),
        vec![
            &Name::new("_HID".into(), &"AMZNC10C"),
            &Name::new("_CID".into(), &"VMCLOCK"),
            &Name::new("_DDN".into(), &"VMCLOCK"),
            &Name::new("_CRS".into(), &ResourceTemplate::new(vec![&page])),
        ],
    )
    .to_aml_bytes(scope);
}

/// A 16550 (PNP0501).
fn serial(scope: &mut Vec<u8>) {
    let ports = IO::new(layout::SERIAL_PORT, layout::SERIAL_PORT, 1, layout::SERIAL_PORT_SIZE as u8);
    Device::new(
        "COM1".into(),
        vec![
            &Name::new("_HID".into(), &EISAName::new("PNP0501")),
            &Name::new("_UID".into(), &ZERO),
            &Name::new("_DDN".into(), &"COM1"),
            &Name::new("_CRS".into(), &ResourceTemplate::new(vec![&ports, &edge(layout::SERIAL_GSI, false)])),
        ],
    )
    .to_aml_bytes(scope);
}

/// The real-time clock, without an interrupt: it tells the time and has no alarm.
fn rtc(scope: &mut Vec<u8>) {
    let ports = IO::new(layout::RTC_PORT, layout::RTC_PORT, 1, layout::RTC_PORT_SIZE as u8);
    Device::new(
        "RTC_".into(),
        vec![
            &Name::new("_HID".into(), &EISAName::new("PNP0B00")),
            &Name::new("_CRS".into(), &ResourceTemplate::new(vec![&ports])),
        ],
    )
    .to_aml_bytes(scope);
}

/// The port by which a kernel says that it has panicked, under the name that Linux' driver answers to.
fn pvpanic(scope: &mut Vec<u8>) {
    let port = IO::new(layout::PVPANIC_PORT, layout::PVPANIC_PORT, 1, 1);
    Device::new(
        "PEVT".into(),
        vec![&Name::new("_HID".into(), &"QEMU0001"), &Name::new("_CRS".into(), &ResourceTemplate::new(vec![&port]))],
    )
    .to_aml_bytes(scope);
}

/// A virtio-mmio device, under the name that Linux' driver answers to.
fn virtio_mmio(scope: &mut Vec<u8>, index: usize, device: &MmioDevice, shared: bool) -> Result<(), Error> {
    let &MmioDevice { base, size, gsi } = device;
    let not_below = || Error::DeviceNotBelow4Gib { base, size };
    let start = u32::try_from(base).map_err(|_| not_below())?;
    let length = u32::try_from(size).map_err(|_| not_below())?;
    start.checked_add(length).ok_or_else(not_below)?;

    Device::new(
        Path::new(&format!("V{index:03X}")),
        vec![
            &Name::new("_HID".into(), &"LNRO0005"),
            &Name::new("_UID".into(), &index),
            &Name::new("_CCA".into(), &ONE),
            &Name::new(
                "_CRS".into(),
                &ResourceTemplate::new(vec![&Memory32Fixed::new(true, start, length), &edge(gsi, shared)]),
            ),
        ],
    )
    .to_aml_bytes(scope);
    Ok(())
}

/// An interrupt that the device consumes: edge-triggered, active high.
fn edge(gsi: u32, shared: bool) -> Interrupt {
    Interrupt::new(true, true, false, shared, gsi)
}
