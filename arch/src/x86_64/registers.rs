// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The state that a vCPU starts in.

use kvm_bindings::{Msrs, kvm_dtable, kvm_fpu, kvm_lapic_state, kvm_msr_entry, kvm_regs, kvm_sregs};

use super::gdt::{self, Segments};
use crate::{BootProtocol, EntryPoint, layout};

// Control registers (Intel SDM vol. 3 §2.5) and EFER (AMD APM vol. 2 §3.1.7).
const CR0_PE: u64 = 1 << 0;
const CR0_ET: u64 = 1 << 4;
const CR0_NE: u64 = 1 << 5;
const CR0_PG: u64 = 1 << 31;
const CR4_PAE: u64 = 1 << 5;
const EFER_LME: u64 = 1 << 8;
const EFER_LMA: u64 = 1 << 10;
/// The bit of RFLAGS that is always set.
const RFLAGS_RESERVED: u64 = 1 << 1;
/// The boot IDT's limit: half a gate, so that no vector has one.
const IDT_LIMIT: u16 = 7;

// Model-specific registers (Intel SDM vol. 4 table 2-2, AMD APM vol. 2 appendix A).
const MSR_TSC: u32 = 0x10;
const MSR_SYSENTER_CS: u32 = 0x174;
const MSR_SYSENTER_ESP: u32 = 0x175;
const MSR_SYSENTER_EIP: u32 = 0x176;
const MSR_MISC_ENABLE: u32 = 0x1a0;
const MSR_MTRR_DEF_TYPE: u32 = 0x2ff;
const MSR_STAR: u32 = 0xc000_0081;
const MSR_LSTAR: u32 = 0xc000_0082;
const MSR_CSTAR: u32 = 0xc000_0083;
const MSR_SYSCALL_MASK: u32 = 0xc000_0084;
const MSR_KERNEL_GS_BASE: u32 = 0xc000_0102;

const MISC_ENABLE_FAST_STRINGS: u64 = 1 << 0;
const MTRR_ENABLE: u64 = 1 << 11;
const MTRR_WRITE_BACK: u64 = 6;

// The local APIC's local vector table (Intel SDM vol. 3 §11.5.1).
const LVT_LINT0: usize = 0x350;
const LVT_LINT1: usize = 0x360;
const DELIVERY_MODE: u32 = 7 << 8;
const DELIVERY_NMI: u32 = 4 << 8;
const DELIVERY_EXTINT: u32 = 7 << 8;
const LVT_MASKED: u32 = 1 << 16;

/// Why a vCPU's state could not be put together.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// KVM's structure takes fewer entries.
    #[error("{0} model-specific registers are more than KVM takes at once")]
    TooManyMsrs(usize),
}

/// The general registers of the boot vCPU, for `KVM_SET_REGS`.
pub fn general(entry: &EntryPoint) -> kvm_regs {
    let regs = kvm_regs { rip: entry.address.0, rflags: RFLAGS_RESERVED, ..Default::default() };
    match entry.protocol {
        BootProtocol::Linux64 => {
            kvm_regs { rsi: entry.params.0, rsp: layout::BOOT_STACK, rbp: layout::BOOT_STACK, ..regs }
        }
        // PVH leaves the stack to the kernel.
        BootProtocol::Pvh => kvm_regs { rbx: entry.params.0, ..regs },
    }
}

/// Turns what `KVM_GET_SREGS` returned into the boot vCPU's segments and control registers, for `KVM_SET_SREGS`. The
/// APIC base and what else belongs to KVM stays as it was.
pub fn special(entry: &EntryPoint, sregs: &mut kvm_sregs) {
    let segments = Segments::new(entry.protocol);
    sregs.cs = segments.code;
    sregs.ds = segments.data;
    sregs.es = segments.data;
    sregs.fs = segments.data;
    sregs.gs = segments.data;
    sregs.ss = segments.data;
    sregs.tr = segments.tss;
    sregs.gdt = kvm_dtable { base: layout::BOOT_GDT, limit: gdt::LIMIT, ..Default::default() };
    sregs.idt = kvm_dtable { base: layout::BOOT_IDT, limit: IDT_LIMIT, ..Default::default() };
    sregs.cr2 = 0;
    match entry.protocol {
        BootProtocol::Linux64 => {
            sregs.cr0 = CR0_PE | CR0_ET | CR0_NE | CR0_PG;
            sregs.cr3 = layout::BOOT_PAGE_TABLES;
            sregs.cr4 = CR4_PAE;
            sregs.efer = EFER_LME | EFER_LMA;
        }
        // "All the other writeable bits are cleared"; ET isn't one of them.
        BootProtocol::Pvh => {
            sregs.cr0 = CR0_PE | CR0_ET;
            sregs.cr3 = 0;
            sregs.cr4 = 0;
            sregs.efer = 0;
        }
    }
}

/// The x87 and SSE state after FNINIT (Intel SDM vol. 1 §8.1.5, §10.2.3), for `KVM_SET_FPU`.
pub fn fpu() -> kvm_fpu {
    kvm_fpu { fcw: 0x37f, mxcsr: 0x1f80, ..Default::default() }
}

/// The model-specific registers of every vCPU, for `KVM_SET_MSRS`.
///
/// All are zero, as firmware would leave them, but for two: string instructions may be fast, and memory that no MTRR
/// names is write-back (KVM starts with MTRRs off, which means uncached).
///
/// # Errors
///
/// [`Error::TooManyMsrs`] when `kvm-bindings` allows for fewer than there are.
pub fn msrs() -> Result<Msrs, Error> {
    let entries = [
        (MSR_TSC, 0),
        (MSR_SYSENTER_CS, 0),
        (MSR_SYSENTER_ESP, 0),
        (MSR_SYSENTER_EIP, 0),
        (MSR_MISC_ENABLE, MISC_ENABLE_FAST_STRINGS),
        (MSR_MTRR_DEF_TYPE, MTRR_ENABLE | MTRR_WRITE_BACK),
        (MSR_STAR, 0),
        (MSR_LSTAR, 0),
        (MSR_CSTAR, 0),
        (MSR_SYSCALL_MASK, 0),
        (MSR_KERNEL_GS_BASE, 0),
    ]
    .map(|(index, data)| kvm_msr_entry { index, data, ..Default::default() });
    Msrs::from_entries(&entries).map_err(|_| Error::TooManyMsrs(entries.len()))
}

/// Wires the local pins of what `KVM_GET_LAPIC` returned, for `KVM_SET_LAPIC`: LINT0 takes external interrupts, LINT1
/// NMIs, neither is masked. Linux hangs in its timer check when they aren't.
pub fn local_apic(lapic: &mut kvm_lapic_state) {
    wire(lapic, LVT_LINT0, DELIVERY_EXTINT);
    wire(lapic, LVT_LINT1, DELIVERY_NMI);
}

fn wire(lapic: &mut kvm_lapic_state, register: usize, delivery: u32) {
    // The page is an array of C's `char`, whose sign means nothing here.
    let Some(bytes) = lapic.regs.get_mut(register..register + 4) else { return };
    let mut value = [0; 4];
    value.iter_mut().zip(bytes.iter()).for_each(|(to, from)| *to = *from as u8);
    let value = u32::from_le_bytes(value) & !(DELIVERY_MODE | LVT_MASKED) | delivery;
    bytes.iter_mut().zip(value.to_le_bytes()).for_each(|(to, from)| *to = from as _);
}

#[cfg(test)]
mod tests {
    use vm_memory::GuestAddress;

    use super::*;

    fn entry(protocol: BootProtocol) -> EntryPoint {
        EntryPoint { protocol, address: GuestAddress(0x100_0200), params: GuestAddress(layout::ZERO_PAGE) }
    }

    #[test]
    fn linux_starts_in_long_mode_with_its_parameters_in_rsi() {
        let entry = entry(BootProtocol::Linux64);
        let regs = general(&entry);
        assert_eq!((regs.rip, regs.rsi, regs.rbx), (0x100_0200, 0x7000, 0));
        assert_eq!((regs.rsp, regs.rbp, regs.rflags), (layout::BOOT_STACK, layout::BOOT_STACK, 2));

        let mut sregs = kvm_sregs { apic_base: 0xfee0_0900, cr0: 0x6000_0010, ..Default::default() };
        special(&entry, &mut sregs);
        assert_eq!(sregs.apic_base, 0xfee0_0900);
        assert_eq!((sregs.cr0, sregs.cr3, sregs.cr4, sregs.efer), (0x8000_0031, 0x9000, 0x20, 0x500));
        assert_eq!((sregs.cs.selector, sregs.ss.selector, sregs.tr.selector), (0x10, 0x18, 0x20));
        assert_eq!((sregs.cs.l, sregs.cs.db), (1, 0));
        assert_eq!((sregs.gdt.base, sregs.gdt.limit, sregs.idt.limit), (layout::BOOT_GDT, 47, 7));
    }

    #[test]
    fn pvh_starts_flat_in_32_bits_with_its_parameters_in_ebx() {
        let entry = entry(BootProtocol::Pvh);
        let regs = general(&entry);
        assert_eq!((regs.rip, regs.rsi, regs.rbx), (0x100_0200, 0, 0x7000));

        let mut sregs = kvm_sregs { cr4: 0x20, efer: 0x500, ..Default::default() };
        special(&entry, &mut sregs);
        assert_eq!((sregs.cr0, sregs.cr3, sregs.cr4, sregs.efer), (0x11, 0, 0, 0));
        assert_eq!((sregs.cs.l, sregs.cs.db, sregs.cs.limit), (0, 1, u32::MAX));
        assert_eq!((sregs.tr.base, sregs.tr.limit), (0, 0x67));
    }

    #[test]
    fn memory_is_write_back_and_no_register_is_set_twice() {
        let msrs = msrs().unwrap();
        let mut indices: Vec<_> = msrs.as_slice().iter().map(|entry| entry.index).collect();
        assert!(msrs.as_slice().iter().any(|entry| entry.index == MSR_MTRR_DEF_TYPE && entry.data == 0x806));
        indices.sort_unstable();
        indices.dedup();
        assert_eq!(indices.len(), msrs.as_slice().len());
    }

    #[test]
    fn lint_pins_are_unmasked_and_nothing_else_changes() {
        let mut lapic = kvm_lapic_state::default();
        // KVM's reset value: masked.
        lapic.regs[LVT_LINT0 + 2] = 1;
        lapic.regs[LVT_LINT1 + 2] = 1;
        lapic.regs[0x20 + 3] = -1;
        local_apic(&mut lapic);
        let word = |at: usize| u32::from_le_bytes([0, 1, 2, 3].map(|byte| lapic.regs[at + byte] as u8));
        assert_eq!((word(LVT_LINT0), word(LVT_LINT1), word(0x20)), (0x700, 0x400, 0xff00_0000));
        assert_eq!(lapic.regs.iter().filter(|byte| **byte != 0).count(), 3);
    }
}
