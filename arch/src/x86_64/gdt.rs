// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The boot segments, once: as KVM wants them in the segment registers and as descriptors in the boot GDT, so that the
//! two can't differ (Intel SDM vol. 3 §3.4.5).

use kvm_bindings::kvm_segment;

use crate::BootProtocol;

/// `__BOOT_CS` of Linux' boot protocol (Documentation/arch/x86/boot.rst).
const CODE: u16 = 0x10;
/// `__BOOT_DS`.
const DATA: u16 = 0x18;
/// The task state segment: VM entry on Intel demands one. Nothing ever switches to it.
const TSS: u16 = 0x20;

/// Execute, read, accessed.
const TYPE_CODE: u8 = 0xb;
/// Read, write, accessed.
const TYPE_DATA: u8 = 0x3;
/// A busy TSS, of 64 or 32 bits.
const TYPE_TSS: u8 = 0xb;

/// Bytes of an entry.
const DESCRIPTOR: u16 = 8;
/// Entries: null, unused, code, data, and a TSS that takes two in long mode.
const DESCRIPTORS: usize = 6;
/// The GDT's limit.
pub(super) const LIMIT: u16 = DESCRIPTOR * DESCRIPTORS as u16 - 1;

/// The segments that a kernel is entered with.
pub(super) struct Segments {
    pub(super) code: kvm_segment,
    pub(super) data: kvm_segment,
    pub(super) tss: kvm_segment,
}

impl Segments {
    /// Flat segments; code is 64-bit or 32-bit.
    pub(super) fn new(protocol: BootProtocol) -> Self {
        let flat = kvm_segment { limit: u32::MAX, present: 1, s: 1, g: 1, ..Default::default() };
        let long = u8::from(protocol == BootProtocol::Linux64);
        Self {
            code: kvm_segment { selector: CODE, type_: TYPE_CODE, l: long, db: 1 - long, ..flat },
            data: kvm_segment { selector: DATA, type_: TYPE_DATA, db: 1, ..flat },
            // The least that the architecture accepts, and what PVH asks for: base 0, limit 0x67.
            tss: kvm_segment { selector: TSS, type_: TYPE_TSS, limit: 0x67, present: 1, ..Default::default() },
        }
    }

    /// The boot GDT's bytes.
    pub(super) fn gdt(&self) -> Vec<u8> {
        let table: [u64; DESCRIPTORS] =
            [0, 0, descriptor(&self.code), descriptor(&self.data), descriptor(&self.tss), self.tss.base >> 32];
        table.iter().flat_map(|entry| entry.to_le_bytes()).collect()
    }
}

/// The descriptor that loads what `segment` holds.
fn descriptor(segment: &kvm_segment) -> u64 {
    let limit = u64::from(if segment.g == 1 { segment.limit >> 12 } else { segment.limit });
    let bit = |value: u8, shift: u32| u64::from(value & 1) << shift;
    (limit & 0xffff)
        | (segment.base & 0xff_ffff) << 16
        | u64::from(segment.type_ & 0xf) << 40
        | bit(segment.s, 44)
        | u64::from(segment.dpl & 3) << 45
        | bit(segment.present, 47)
        | (limit >> 16 & 0xf) << 48
        | bit(segment.avl, 52)
        | bit(segment.l, 53)
        | bit(segment.db, 54)
        | bit(segment.g, 55)
        | (segment.base >> 24 & 0xff) << 56
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptors_are_the_well_known_numbers() {
        let long = Segments::new(BootProtocol::Linux64);
        assert_eq!(descriptor(&long.code), 0x00af_9b00_0000_ffff);
        assert_eq!(descriptor(&long.data), 0x00cf_9300_0000_ffff);
        assert_eq!(descriptor(&long.tss), 0x0000_8b00_0000_0067);
        let flat = Segments::new(BootProtocol::Pvh);
        assert_eq!(descriptor(&flat.code), 0x00cf_9b00_0000_ffff);
    }

    #[test]
    fn a_selector_is_the_offset_of_its_descriptor() {
        let segments = Segments::new(BootProtocol::Linux64);
        let gdt = segments.gdt();
        assert_eq!(gdt.len(), usize::from(LIMIT) + 1);
        for segment in [segments.code, segments.data, segments.tss] {
            let at = usize::from(segment.selector);
            assert_eq!(gdt[at..at + 8], descriptor(&segment).to_le_bytes());
        }
    }

    #[test]
    fn a_base_and_a_byte_limit_land_in_their_bits() {
        let segment = kvm_segment { base: 0x1234_5678, limit: 0xabcde, dpl: 3, present: 1, ..Default::default() };
        assert_eq!(descriptor(&segment), 0x120a_e034_5678_bcde);
    }
}
