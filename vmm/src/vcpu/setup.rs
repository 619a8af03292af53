// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! A vCPU's state before its first instruction.

use arch::EntryPoint;
use kvm_bindings::{CpuId, Msrs};
use kvm_ioctls::{VcpuFd, VmFd};

use crate::build::{BuildError, refused};

/// Creates vCPU `index` of `count`. The first one starts at `entry`; the others wait for it to wake them up.
pub(crate) fn create(
    vm: &VmFd,
    supported: &CpuId,
    index: u32,
    count: u32,
    entry: &EntryPoint,
) -> Result<VcpuFd, BuildError> {
    let vcpu = vm.create_vcpu(index.into()).map_err(refused("create a vCPU"))?;
    let cpuid = arch::cpuid::vcpu_cpuid(supported, count, index).map_err(|error| table("CPUID", &error))?;
    vcpu.set_cpuid2(&cpuid).map_err(refused("set a vCPU's CPUID"))?;
    set_msrs(&vcpu, &arch::registers::msrs().map_err(|error| table("MSRs", &error))?)?;
    let mut lapic = vcpu.get_lapic().map_err(refused("tell a vCPU's LAPIC state"))?;
    arch::registers::local_apic(&mut lapic);
    vcpu.set_lapic(&lapic).map_err(refused("set a vCPU's LAPIC state"))?;
    // The others get theirs from the INIT and start-up interrupts that the first one sends.
    if index == 0 {
        enter(&vcpu, entry)?;
    }
    Ok(vcpu)
}

/// Has the first vCPU start at `entry`.
pub(crate) fn enter(vcpu: &VcpuFd, entry: &EntryPoint) -> Result<(), BuildError> {
    let mut sregs = vcpu.get_sregs().map_err(refused("tell a vCPU's special registers"))?;
    arch::registers::special(entry, &mut sregs);
    vcpu.set_sregs(&sregs).map_err(refused("set a vCPU's special registers"))?;
    vcpu.set_regs(&arch::registers::general(entry)).map_err(refused("set a vCPU's registers"))?;
    vcpu.set_fpu(&arch::registers::fpu()).map_err(refused("set a vCPU's FPU state"))
}

fn set_msrs(vcpu: &VcpuFd, msrs: &Msrs) -> Result<(), BuildError> {
    let wanted = msrs.as_slice();
    let set = vcpu.set_msrs(msrs).map_err(refused("set a vCPU's MSRs"))?;
    match wanted.get(set) {
        None => Ok(()),
        // KVM stops at the first one that it doesn't take.
        Some(refused) => Err(BuildError::Table {
            what: "MSRs",
            problem: format!("KVM doesn't take a value of {:#x} for MSR {:#x}", refused.data, refused.index),
        }),
    }
}

fn table(what: &'static str, error: &impl ToString) -> BuildError {
    BuildError::Table { what, problem: error.to_string() }
}
