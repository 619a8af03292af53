// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! A reset of the machine in place: what KVM knows, guest memory and what is booted become what they were before the guest's first
//! instruction, and nothing of the host's is opened anew.

use std::sync::Arc;

use arch::GuestRam;
use arch::acpi::Platform;
use kvm_ioctls::{Kvm, VcpuFd, VmFd};

use crate::build::BuildError;
use crate::kvm;
use crate::loader::Loader;
use crate::machine::generation::Generations;
use crate::machine::identity::Told;
use crate::vcpu::{self, IrqchipState, VcpuState};

/// A machine as it was when it was switched on.
pub(crate) struct PowerOn {
    vm: Arc<VmFd>,
    ram: GuestRam,
    loader: Loader,
    platform: Platform,
    told: Told,
    generations: Arc<Generations>,
    vcpus: Vec<VcpuState>,
    irqchip: IrqchipState,
}

impl PowerOn {
    /// Remembers a machine that is ready and has not run.
    pub(crate) fn of(
        kvm: &Kvm,
        vm: &Arc<VmFd>,
        ram: &GuestRam,
        vcpus: &[VcpuFd],
        (loader, platform, told, generations): (Loader, Platform, Told, Arc<Generations>),
    ) -> Result<Self, BuildError> {
        let msrs = vcpu::msr_indices(kvm)?;
        let vcpus = vcpus.iter().map(|vcpu| VcpuState::save(vcpu, &msrs)).collect::<Result<_, _>>()?;
        let irqchip = IrqchipState::save(vm)?;
        Ok(Self { vm: vm.clone(), ram: ram.clone(), loader, platform, told, generations, vcpus, irqchip })
    }

    /// Makes the machine like that again. No vCPU is in the guest, and no device touches its memory.
    pub(crate) fn restore(&mut self, vcpus: &mut [VcpuFd]) -> Result<(), BuildError> {
        let Self { vm, ram, loader, platform, told, generations, vcpus: states, irqchip } = self;
        // Before anything is lost.
        loader.check_again()?;
        for vcpu in &mut *vcpus {
            vcpu::settle(vcpu);
        }
        kvm::empty(ram)?;
        let entry = loader.load(ram, platform, told)?;
        generations.write()?;
        irqchip.restore(vm)?;
        vcpus.iter().zip(states).try_for_each(|(vcpu, state)| state.restore(vcpu))?;
        // Another kernel than before, if somebody has written to the file: it may start elsewhere.
        vcpus.first().map_or(Ok(()), |first| vcpu::enter(first, &entry))
    }
}
