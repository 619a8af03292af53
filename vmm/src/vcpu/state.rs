// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! All that KVM knows of a vCPU and of the interrupt controllers: taken out, and put back (Linux Documentation/virt/kvm/api.rst).
//!
//! CPUID isn't part of it: it is set once, and a guest can't change it.

#![expect(unsafe_code, reason = "KVM_SET_XSAVE reads as much as the processor's features need")]

use kvm_bindings::{
    KVM_IRQCHIP_IOAPIC, KVM_IRQCHIP_PIC_MASTER, KVM_IRQCHIP_PIC_SLAVE, Msrs, kvm_debugregs, kvm_irqchip,
    kvm_lapic_state, kvm_mp_state, kvm_msr_entry, kvm_regs, kvm_sregs, kvm_vcpu_events, kvm_xcrs, kvm_xsave,
};
use kvm_ioctls::{Kvm, VcpuFd, VmFd};

use crate::build::{BuildError, refused};

/// The time stamp counter. KVM takes zero as the wish that all vCPUs begin together (`kvm_synchronize_tsc` in arch/x86/kvm/x86.c).
const MSR_TSC: u32 = 0x10;
/// MSRs that KVM takes in one call.
const MSRS_AT_ONCE: usize = 128;

/// The state of a vCPU that is not in the guest.
pub(crate) struct VcpuState {
    regs: kvm_regs,
    sregs: kvm_sregs,
    xsave: Box<kvm_xsave>,
    xcrs: kvm_xcrs,
    debugregs: kvm_debugregs,
    lapic: Box<kvm_lapic_state>,
    mp_state: kvm_mp_state,
    events: kvm_vcpu_events,
    msrs: Vec<kvm_msr_entry>,
}

impl VcpuState {
    /// Takes it. `msrs` are those that [`msr_indices`] has found.
    pub(crate) fn save(vcpu: &VcpuFd, msrs: &[u32]) -> Result<Self, BuildError> {
        // This first: it has KVM work off what is pending for the LAPIC.
        let mp_state = vcpu.get_mp_state().map_err(refused("tell whether a vCPU runs"))?;
        Ok(Self {
            regs: vcpu.get_regs().map_err(refused("tell a vCPU's registers"))?,
            sregs: vcpu.get_sregs().map_err(refused("tell a vCPU's special registers"))?,
            xsave: Box::new(vcpu.get_xsave().map_err(refused("tell a vCPU's extended registers"))?),
            xcrs: vcpu.get_xcrs().map_err(refused("tell which of a vCPU's extended registers are on"))?,
            debugregs: vcpu.get_debug_regs().map_err(refused("tell a vCPU's debug registers"))?,
            lapic: Box::new(vcpu.get_lapic().map_err(refused("tell a vCPU's LAPIC state"))?),
            mp_state,
            events: vcpu.get_vcpu_events().map_err(refused("tell a vCPU's pending events"))?,
            msrs: read_msrs(vcpu, msrs)?,
        })
    }

    /// Puts it back. The order is KVM's: special registers have the LAPIC's mode, which its state is then read by; events come
    /// last, as others of these forget them.
    pub(crate) fn restore(&self, vcpu: &VcpuFd) -> Result<(), BuildError> {
        let Self { regs, sregs, xsave, xcrs, debugregs, lapic, mp_state, events, msrs } = self;
        vcpu.set_mp_state(*mp_state).map_err(refused("set whether a vCPU runs"))?;
        vcpu.set_regs(regs).map_err(refused("set a vCPU's registers"))?;
        vcpu.set_sregs(sregs).map_err(refused("set a vCPU's special registers"))?;
        // SAFETY: KVM reads more than this structure has only for features that a process has to ask for first
        // (`ARCH_REQ_XCOMP_GUEST_PERM`), and nobody here does.
        unsafe { vcpu.set_xsave(xsave) }.map_err(refused("set a vCPU's extended registers"))?;
        vcpu.set_xcrs(xcrs).map_err(refused("set which of a vCPU's extended registers are on"))?;
        vcpu.set_debug_regs(debugregs).map_err(refused("set a vCPU's debug registers"))?;
        vcpu.set_lapic(lapic).map_err(refused("set a vCPU's LAPIC state"))?;
        write_msrs(vcpu, msrs)?;
        vcpu.set_vcpu_events(events).map_err(refused("set a vCPU's pending events"))
    }
}

/// The MSRs that make up a vCPU's state on this host.
pub(crate) fn msr_indices(kvm: &Kvm) -> Result<Vec<u32>, BuildError> {
    Ok(kvm.get_msr_index_list().map_err(refused("tell which MSRs a vCPU has"))?.as_slice().to_vec())
}

/// Reads those MSRs that this vCPU has: KVM lists some that depend on its CPUID.
fn read_msrs(vcpu: &VcpuFd, indices: &[u32]) -> Result<Vec<kvm_msr_entry>, BuildError> {
    let mut found = Vec::with_capacity(indices.len());
    let mut rest = indices;
    while !rest.is_empty() {
        let (now, _) = rest.split_at(rest.len().min(MSRS_AT_ONCE));
        let entries: Vec<_> = now.iter().map(|&index| kvm_msr_entry { index, ..Default::default() }).collect();
        let mut msrs = list(&entries)?;
        let read = vcpu.get_msrs(&mut msrs).map_err(refused("tell a vCPU's MSRs"))?;
        found.extend(msrs.as_slice().iter().take(read));
        // KVM stops at the first one that it can't read. That one is left out.
        let stopped = usize::from(read < now.len());
        rest = rest.get(read.saturating_add(stopped)..).unwrap_or_default();
    }
    Ok(found)
}

/// Writes those MSRs that have another value now: some that can be read can't be written, but then the guest could neither.
fn write_msrs(vcpu: &VcpuFd, wanted: &[kvm_msr_entry]) -> Result<(), BuildError> {
    let indices: Vec<_> = wanted.iter().map(|msr| msr.index).collect();
    let now = read_msrs(vcpu, &indices)?;
    let is_there = |msr: &kvm_msr_entry| now.iter().any(|now| (now.index, now.data) == (msr.index, msr.data));
    for msr in wanted {
        let data = if msr.index == MSR_TSC { 0 } else { msr.data };
        if msr.index != MSR_TSC && is_there(msr) {
            continue;
        }
        let one = list(&[kvm_msr_entry { index: msr.index, data, ..Default::default() }])?;
        if vcpu.set_msrs(&one).map_err(refused("set a vCPU's MSRs"))? == 0 {
            let problem = format!("KVM doesn't take a value of {data:#x} for MSR {:#x}", msr.index);
            return Err(BuildError::Table { what: "MSRs", problem });
        }
    }
    Ok(())
}

fn list(entries: &[kvm_msr_entry]) -> Result<Msrs, BuildError> {
    let problem = |error| BuildError::Table { what: "MSRs", problem: format!("{error:?}") };
    Msrs::from_entries(entries).map_err(problem)
}

/// The state of the interrupt controllers that all vCPUs share: two PICs and the IOAPIC.
pub(crate) struct IrqchipState([kvm_irqchip; 3]);

impl IrqchipState {
    /// Takes it.
    pub(crate) fn save(vm: &VmFd) -> Result<Self, BuildError> {
        let mut chips = [KVM_IRQCHIP_PIC_MASTER, KVM_IRQCHIP_PIC_SLAVE, KVM_IRQCHIP_IOAPIC]
            .map(|chip_id| kvm_irqchip { chip_id, ..Default::default() });
        for chip in &mut chips {
            vm.get_irqchip(chip).map_err(refused("tell the interrupt controllers' state"))?;
        }
        Ok(Self(chips))
    }

    /// Puts it back.
    pub(crate) fn restore(&self, vm: &VmFd) -> Result<(), BuildError> {
        self.0.iter().try_for_each(|chip| vm.set_irqchip(chip).map_err(refused("set the interrupt controllers' state")))
    }
}
