// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The configuration space of a virtio device: who it is, and where in its BAR things are (virtio 1.3 §4.1.2, §4.1.4).

use super::registers::COMMON_SIZE;
use super::{
    BAR, BAR_SIZE, COMMON, DEVICE, ISR, MSIX_PBA, MSIX_TABLE, NOTIFY, NOTIFY_OFF_MULTIPLIER, PAGE, PciTransportError,
};
use crate::pci::msix::{self, Msix};
use crate::pci::{BarAccess, ConfigError, ConfigSpace, Identity};

/// The vendor of all virtio devices, and the device ID that the type is added to (§4.1.2.1).
const VENDOR: u16 = 0x1af4;
const FIRST_DEVICE: u16 = 0x1040;
/// The vendor has no device IDs for types from here on (§4.1.2).
const TYPES: u32 = 0x40;
/// "Not a transitional device" (§4.1.2.1).
const REVISION: u8 = 1;
/// From 0x40 on, so that no legacy driver takes it for its own (§4.1.2.1).
const SUBSYSTEM: u16 = 0x40;

/// A capability of the vendor's.
const VENDOR_SPECIFIC: u8 = 0x09;

/// What a capability is about (§4.1.4).
mod cfg_type {
    pub(super) const COMMON: u8 = 1;
    pub(super) const NOTIFY: u8 = 2;
    pub(super) const ISR: u8 = 3;
    pub(super) const DEVICE: u8 = 4;
    pub(super) const PCI: u8 = 5;
}

/// Offsets into the capability of the window (§4.1.4.9).
const WINDOW_BAR: usize = 4;
const WINDOW_OFFSET: usize = 8;
const WINDOW_LENGTH: usize = 12;
const WINDOW_DATA: usize = 16;
const WINDOW_DATA_SIZE: usize = 4;

/// Where in the configuration space the capabilities are that do something when they are accessed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Places {
    msix: usize,
    window: usize,
}

/// The configuration space of a device of type `device_type` at power-on.
pub(super) fn space(device_type: u32, msix: &Msix) -> Result<(ConfigSpace, Places), PciTransportError> {
    let number = u16::try_from(device_type).ok().filter(|_| (1..TYPES).contains(&device_type));
    let mut space = ConfigSpace::new(Identity {
        vendor: VENDOR,
        device: number.ok_or(PciTransportError::BadType(device_type))? | FIRST_DEVICE,
        revision: REVISION,
        class: class(device_type),
        subsystem_vendor: VENDOR,
        subsystem: SUBSYSTEM,
    });
    space.add_bar(BAR, BAR_SIZE)?;

    let queues = u64::from(msix.count().saturating_sub(1));
    let doorbells = queues.saturating_mul(NOTIFY_OFF_MULTIPLIER);
    let regions = [(cfg_type::COMMON, COMMON, COMMON_SIZE), (cfg_type::ISR, ISR, 1), (cfg_type::DEVICE, DEVICE, PAGE)];
    for (kind, offset, length) in regions {
        add(&mut space, kind, offset, length, &[], &[])?;
    }
    let multiplier = u32::try_from(NOTIFY_OFF_MULTIPLIER).unwrap_or_default().to_le_bytes();
    add(&mut space, cfg_type::NOTIFY, NOTIFY, doorbells, &multiplier, &[])?;
    // BAR, offset, length and data are the driver's.
    let writable = [0, 0, 0xff, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff];
    let window = add(&mut space, cfg_type::PCI, 0, 0, &[0; WINDOW_DATA_SIZE], &writable)?;

    let in_bar = |offset: u64| u32::try_from(offset).unwrap_or_default();
    let (body, writable) = msix.capability(BAR, in_bar(MSIX_TABLE), in_bar(MSIX_PBA));
    let msix = space.add_capability(msix::CAPABILITY_ID, &body, &writable)?;
    Ok((space, Places { msix, window }))
}

/// Adds a capability that names a region of the BAR (§4.1.4); `more` follows its common part.
fn add(
    space: &mut ConfigSpace,
    kind: u8,
    offset: u64,
    length: u64,
    more: &[u8],
    writable: &[u8],
) -> Result<usize, ConfigError> {
    let len = WINDOW_DATA.saturating_add(more.len());
    let mut body = vec![u8::try_from(len).unwrap_or_default(), kind, BAR, 0, 0, 0];
    for word in [offset, length] {
        body.extend(u32::try_from(word).unwrap_or_default().to_le_bytes());
    }
    body.extend(more);
    space.add_capability(VENDOR_SPECIFIC, &body, writable)
}

impl Places {
    /// Where in the BAR an access to the window's data goes. The driver must name a width of 1, 2 or 4 and an aligned offset
    /// (§4.1.4.9.2); an access by any other names does nothing.
    pub(super) fn window_access(&self, space: &ConfigSpace, register: usize, len: usize) -> Option<BarAccess> {
        let data = self.window.saturating_add(WINDOW_DATA);
        if !overlap(register, len, data, WINDOW_DATA_SIZE) {
            return None;
        }
        let field = |offset: usize| u32::from_le_bytes(space.get(self.window.saturating_add(offset)));
        let [bar] = space.get(self.window.saturating_add(WINDOW_BAR));
        let (offset, length) = (field(WINDOW_OFFSET), field(WINDOW_LENGTH));
        let fits = matches!(length, 1 | 2 | 4) && offset.is_multiple_of(length) && u64::from(offset) < BAR_SIZE;
        let width = usize::try_from(length).ok()?;
        (bar == BAR && fits).then_some(BarAccess { bar, offset: offset.into(), width, data })
    }

    /// MSI-X Message Control, when it was part of an access.
    pub(super) fn message_control(&self, space: &ConfigSpace, register: usize, len: usize) -> Option<u16> {
        let at = self.msix.saturating_add(msix::MESSAGE_CONTROL);
        overlap(register, len, at, 2).then(|| u16::from_le_bytes(space.get(at)))
    }
}

/// Whether two ranges have a byte in common.
fn overlap(a: usize, a_len: usize, b: usize, b_len: usize) -> bool {
    a < b.saturating_add(b_len) && b < a.saturating_add(a_len)
}

/// Class code by device type: what a guest's tools show. No driver of a class takes the devices of virtio, so the
/// sub-class is "other", but for networks.
fn class(device_type: u32) -> u32 {
    match device_type {
        1 => 0x02_0000,
        2 | 8 | 26 => 0x01_8000,
        3 | 19 => 0x07_8000,
        16 => 0x03_8000,
        18 => 0x09_8000,
        27 => 0x05_8000,
        _ => 0xff_0000,
    }
}
