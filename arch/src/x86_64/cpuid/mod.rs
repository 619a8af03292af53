// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What a vCPU's CPUID instruction tells: what KVM can do on this host, with the topology of this machine and without
//! what the machine doesn't have.
//!
//! The topology is one socket with as many cores as there are vCPUs, one thread each; a vCPU's APIC ID is its index. A
//! cache of level 3 is shared by all, the ones below are private. Sources: Intel SDM vol. 2 "CPUID" and vol. 3 §9.9,
//! AMD APM vol. 3 appendix E, Linux Documentation/virt/kvm/x86/cpuid.rst.

mod topology;

#[cfg(test)]
mod tests;

use kvm_bindings::{CpuId, KVM_MAX_CPUID_ENTRIES, kvm_cpuid_entry2};

pub use topology::Topology;

// Leaf 1, ECX.
const DTES64: u32 = 1 << 2;
const PDCM: u32 = 1 << 15;
/// Leaf 1 ECX: Intel's virtualization.
const VMX: u32 = 1 << 5;
/// Leaf 0x8000_0001 ECX: AMD's virtualization.
const SVM: u32 = 1 << 2;
const X2APIC: u32 = 1 << 21;
const TSC_DEADLINE: u32 = 1 << 24;
const HYPERVISOR: u32 = 1 << 31;
// Leaf 1, EDX.
const DS: u32 = 1 << 21;
/// Leaf 6, ECX: the energy performance bias register.
const EPB: u32 = 1 << 3;
/// Leaf 0x8000_0001, ECX: AMD's performance counters of cores, the north bridge and the last-level cache.
const PERFCTR: u32 = 1 << 23 | 1 << 24 | 1 << 28;

/// KVM's leaf of paravirtual features.
const KVM_FEATURES: u32 = 0x4000_0001;
/// The features that go on to the guest, where KVM offers them: clock (0, 3, 24), no I/O delay (1), steal time (5), end
/// of interrupt (6), spin locks (7), TLB flush (9), IPIs (11), polling control (12), yield (13).
///
/// Not asynchronous page faults (4, 10, 14): a "page ready" that is due when a VM is paused belongs to no register of
/// the vCPU, and a task in a restored guest would wait for it for ever. Not what only a VMM can promise (15 extended
/// destination IDs, 16 shared pages, 17 migration control), and nothing that isn't known here.
const KVM_FEATURES_KEPT: u32 =
    1 << 0 | 1 << 1 | 1 << 3 | 1 << 5 | 1 << 6 | 1 << 7 | 1 << 9 | 1 << 11 | 1 << 12 | 1 << 13 | 1 << 24;
/// The feature that [`offer_extended_destination_ids`] switches on.
const KVM_FEATURE_MSI_EXT_DEST_ID: u32 = 1 << 15;

/// Leaf 0x8000_0008: address sizes.
const ADDRESS_SIZES: u32 = 0x8000_0008;
/// What a processor without the leaf has (Intel SDM vol. 3 §4.1.4).
const DEFAULT_PHYSICAL_BITS: u8 = 36;

/// Why a CPUID table could not be made.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A machine has a processor.
    #[error("0 vCPUs, where a machine needs at least 1")]
    NoVcpus,
    /// The vCPU isn't one of the machine's.
    #[error("APIC ID {apic_id} in a machine of {vcpus} vCPUs, where it must be less than that")]
    NoSuchVcpu {
        /// The vCPU's APIC ID.
        apic_id: u32,
        /// vCPUs of the machine.
        vcpus: u32,
    },
    /// KVM's table lacks a leaf that every processor has.
    #[error("KVM reports no CPUID leaf {0:#x}, which every x86-64 processor has")]
    MissingLeaf(u32),
    /// The table is larger than KVM takes.
    #[error("{0} CPUID entries are more than the {KVM_MAX_CPUID_ENTRIES} that KVM takes")]
    TooManyEntries(usize),
}

/// Makes the table for one vCPU, for `KVM_SET_CPUID2`, from what `KVM_GET_SUPPORTED_CPUID` returned.
///
/// # Errors
///
/// [`Error`] when there is no such vCPU, `supported` isn't that of a processor, or the table gets too large.
pub fn vcpu_cpuid(supported: &CpuId, vcpus: u32, apic_id: u32) -> Result<CpuId, Error> {
    let topology = Topology::new(vcpus)?;
    if apic_id >= vcpus {
        return Err(Error::NoSuchVcpu { apic_id, vcpus });
    }
    let mut table = supported.as_slice().to_vec();
    for leaf in [0, 1] {
        if !table.iter().any(|entry| entry.function == leaf) {
            return Err(Error::MissingLeaf(leaf));
        }
    }
    features(&mut table);
    without_pmu(&mut table);
    without_nesting(&mut table);
    topology.apply(&mut table, apic_id);
    CpuId::from_entries(&table).map_err(|_| Error::TooManyEntries(table.len()))
}

/// Tells the guest that interrupts can be sent to APIC IDs above 255 without interrupt remapping (bits 11 to 5 of an
/// MSI's address carry bits 14 to 8 of the ID). Without this, Linux leaves vCPUs with larger IDs off.
///
/// Only for a VMM that has enabled `KVM_CAP_X2APIC_API` with 32-bit IDs, puts those bits into the routes that it makes,
/// and has an IOAPIC that does the same: the one in the kernel doesn't.
pub fn offer_extended_destination_ids(table: &mut CpuId) {
    for entry in table.as_mut_slice().iter_mut().filter(|entry| entry.function == KVM_FEATURES) {
        entry.eax |= KVM_FEATURE_MSI_EXT_DEST_ID;
    }
}

/// The width of a guest-physical address; 36 where the processor doesn't tell.
pub fn physical_address_bits(supported: &CpuId) -> u8 {
    let leaf = supported.as_slice().iter().find(|entry| entry.function == ADDRESS_SIZES);
    match leaf.map(|entry| entry.eax as u8) {
        None | Some(0) => DEFAULT_PHYSICAL_BITS,
        Some(bits) => bits,
    }
}

fn features(table: &mut [kvm_cpuid_entry2]) {
    for entry in table {
        match entry.function {
            // KVM doesn't list what depends on where the local APIC is emulated. It is in the kernel, which can do both.
            0x1 => entry.ecx |= HYPERVISOR | TSC_DEADLINE | X2APIC,
            // The register behind this bit is the host's to set.
            0x6 => entry.ecx &= !EPB,
            KVM_FEATURES => entry.eax &= KVM_FEATURES_KEPT,
            _ => {}
        }
    }
}

/// Hides virtualization itself: what KVM does for a guest's own guests is a large part of the host's kernel that nobody
/// has asked to be reachable.
fn without_nesting(table: &mut [kvm_cpuid_entry2]) {
    for entry in table {
        match entry.function {
            0x1 => entry.ecx &= !VMX,
            0x8000_0001 => entry.ecx &= !SVM,
            0x8000_000a => (entry.eax, entry.ebx, entry.ecx, entry.edx) = (0, 0, 0, 0),
            _ => {}
        }
    }
}

/// Hides the performance counters. They are a fine-grained view of what else runs on the host's core, a guest's NMI
/// watchdog would take one and an NMI a few seconds for it on every vCPU, and their registers differ from host to host,
/// so a guest that uses them can't be moved.
fn without_pmu(table: &mut [kvm_cpuid_entry2]) {
    for entry in table {
        match entry.function {
            0x1 => {
                entry.ecx &= !(DTES64 | PDCM);
                entry.edx &= !DS;
            }
            0xa | 0x8000_0022 => (entry.eax, entry.ebx, entry.ecx, entry.edx) = (0, 0, 0, 0),
            0x8000_0001 => entry.ecx &= !PERFCTR,
            _ => {}
        }
    }
}
