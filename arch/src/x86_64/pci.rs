// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Where PCI lies in the address space, as far as that depends on the machine.

use crate::layout;

/// Addresses that the host bridge passes on to its bus, beside the window below 4 GiB, which is always the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PciWindow {
    /// The first address.
    pub base: u64,
    /// Bytes. Never zero.
    pub size: u64,
}

/// The host bridge, as the tables describe it: bus 0, configuration space at [`layout::PCI_ECAM_START`], a window below
/// 4 GiB from [`layout::PCI_WINDOW_START`] on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PciHost {
    /// The window above 4 GiB, if the guest's addresses reach that far: see [`high_window`].
    pub window_64: Option<PciWindow>,
}

/// The window above 4 GiB: behind RAM, which ends at `ram_end`, and aligned to its size. There is none when a guest with
/// `address_bits` bits of physical address couldn't reach all of it.
pub fn high_window(ram_end: u64, address_bits: u8) -> Option<PciWindow> {
    let size = layout::PCI_HIGH_WINDOW_SIZE;
    let base = ram_end.max(layout::MMIO_HOLE_END).checked_next_multiple_of(size)?;
    let last = base.checked_add(size - 1)?;
    let reachable = u64::MAX.checked_shr(64u32.saturating_sub(address_bits.into())).unwrap_or(0);
    (last <= reachable).then_some(PciWindow { base, size })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_high_window_lies_behind_ram_and_within_the_address_bits() {
        const GIB: u64 = 1 << 30;
        for (ram_end, bits, base) in [
            (128 << 20, 48, Some(16 * GIB)),
            (3 * GIB, 36, Some(16 * GIB)),
            (16 * GIB, 36, Some(16 * GIB)),
            (16 * GIB + 1, 36, Some(32 * GIB)),
            (48 * GIB, 36, Some(48 * GIB)),
            (48 * GIB + 4096, 36, None),
            (48 * GIB + 4096, 39, Some(64 * GIB)),
            (512 * GIB, 39, None),
            (512 * GIB, 40, Some(512 * GIB)),
            (0, 35, Some(16 * GIB)),
            (0, 34, None),
            (0, 32, None),
            (0, 0, None),
            (0, 64, Some(16 * GIB)),
            (0, 255, Some(16 * GIB)),
            (u64::MAX, 64, None),
            (u64::MAX - 16 * GIB, 64, Some(u64::MAX - 16 * GIB + 1)),
        ] {
            let window = base.map(|base| PciWindow { base, size: 16 * GIB });
            assert_eq!(high_window(ram_end, bits), window, "RAM to {ram_end:#x}, {bits} bits");
        }
    }

    #[test]
    fn the_low_window_and_configuration_space_lie_in_the_hole_and_touch_nothing_else() {
        let parts = [
            (layout::VIRTIO_MMIO_START, layout::VIRTIO_MMIO_END),
            (layout::PCI_WINDOW_START, layout::PCI_WINDOW_END),
            (layout::PCI_ECAM_START, layout::PCI_ECAM_START + layout::PCI_ECAM_SIZE),
            (layout::IOAPIC, layout::MMIO_HOLE_END),
        ];
        assert!(parts.is_sorted_by(|a, b| a.0 < a.1 && a.1 <= b.0), "{parts:x?}");
        assert!(parts[0].0 >= layout::MMIO_HOLE_START);
    }
}
