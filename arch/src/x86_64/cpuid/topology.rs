// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The leaves that say how many processors there are, which one this is, and who shares a cache.

use kvm_bindings::{KVM_CPUID_FLAG_SIGNIFCANT_INDEX, kvm_cpuid_entry2};

use super::Error;

/// Intel's "extended topology" and its second version; AMD has the first as well.
const EXTENDED_TOPOLOGY: u32 = 0xb;
const EXTENDED_TOPOLOGY_V2: u32 = 0x1f;
/// AMD's version of the same (APM vol. 3 §E.4.24).
const AMD_EXTENDED_TOPOLOGY: u32 = 0x8000_0026;

// Level types of the extended topology leaves.
const LEVEL_SMT: u32 = 1;
const LEVEL_CORE: u32 = 2;

/// Leaf 1, EDX: the package may hold more than one logical processor.
const HTT: u32 = 1 << 28;
/// Leaf 0x8000_0001, ECX, AMD: they are cores and not threads.
const CMP_LEGACY: u32 = 1 << 1;

/// One socket, one core a vCPU, one thread a core.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Topology {
    vcpus: u32,
}

impl Topology {
    /// The topology of a machine with `vcpus` vCPUs.
    ///
    /// # Errors
    ///
    /// [`Error::NoVcpus`] when there are none.
    pub fn new(vcpus: u32) -> Result<Self, Error> {
        if vcpus == 0 { Err(Error::NoVcpus) } else { Ok(Self { vcpus }) }
    }

    /// Low bits of an APIC ID that tell the cores of the socket apart.
    pub fn core_bits(self) -> u32 {
        // As many as the largest ID has.
        u32::BITS - (self.vcpus - 1).leading_zeros()
    }

    /// The largest APIC ID that those bits can name.
    fn last_addressable_id(self) -> u32 {
        1u32.checked_shl(self.core_bits()).map_or(u32::MAX, |ids| ids - 1)
    }

    pub(super) fn apply(self, table: &mut Vec<kvm_cpuid_entry2>, apic_id: u32) {
        let amd = is_amd(table);
        for entry in table.iter_mut() {
            match entry.function {
                0x1 => self.processor(entry, apic_id),
                0x4 if !amd => {
                    self.cache(entry);
                    entry.eax |= self.last_addressable_id().min(0x3f) << 26;
                }
                0x8000_0001 if amd => entry.ecx = set_if(entry.ecx, CMP_LEGACY, self.vcpus > 1),
                0x8000_0008 if amd => {
                    // ApicIdSize [15:12] and NC [7:0], cores less one.
                    let cores = (self.vcpus - 1).min(0xff);
                    entry.ecx = entry.ecx & !0xf0ff | self.core_bits().min(0xf) << 12 | cores;
                }
                0x8000_001d if amd => self.cache(entry),
                0x8000_001e if amd => {
                    // One thread a core [15:8]; the core's number [7:0]; node 0 of 1.
                    (entry.eax, entry.ebx, entry.ecx, entry.edx) = (apic_id, apic_id & 0xff, 0, 0);
                }
                _ => {}
            }
        }
        self.levels(table, apic_id);
    }

    /// Leaf 1: EBX [31:24] initial APIC ID, [23:16] how many IDs the package can have.
    fn processor(self, entry: &mut kvm_cpuid_entry2, apic_id: u32) {
        let ids = self.last_addressable_id().saturating_add(1).min(0xff);
        entry.ebx = entry.ebx & 0x0000_ffff | (apic_id & 0xff) << 24 | ids << 16;
        entry.edx = set_if(entry.edx, HTT, self.vcpus > 1);
    }

    /// Leaves 4 (Intel) and 0x8000_001d (AMD), EAX: [4:0] type, [7:5] level, [25:14] IDs that share the cache, less one.
    fn cache(self, entry: &mut kvm_cpuid_entry2) {
        const NO_MORE_CACHES: u32 = 0;
        if entry.eax & 0x1f == NO_MORE_CACHES {
            return;
        }
        let level = entry.eax >> 5 & 0x7;
        let sharing = if level >= 3 { self.last_addressable_id().min(0xfff) } else { 0 };
        entry.eax = entry.eax & 0x3fff | sharing << 14;
    }

    /// Leaves 0xb and 0x1f: EAX the shift to the next level's ID, EBX logical processors at this level, ECX [15:8] the
    /// level's type and [7:0] the subleaf, EDX the APIC ID. The host's own are replaced; 0xb is added where there is
    /// none, as long as the processor counts that far.
    fn levels(self, table: &mut Vec<kvm_cpuid_entry2>, apic_id: u32) {
        let last_leaf = table.iter().find(|entry| entry.function == 0).map_or(0, |entry| entry.eax);
        let second_version = table.iter().any(|entry| entry.function == EXTENDED_TOPOLOGY_V2);
        table.retain(|entry| {
            !matches!(entry.function, EXTENDED_TOPOLOGY | EXTENDED_TOPOLOGY_V2 | AMD_EXTENDED_TOPOLOGY)
        });
        let levels = [(0, 1, LEVEL_SMT), (self.core_bits(), self.vcpus & 0xffff, LEVEL_CORE), (0, 0, 0)];
        let wanted = [(EXTENDED_TOPOLOGY, true), (EXTENDED_TOPOLOGY_V2, second_version)];
        for (function, _) in wanted.into_iter().filter(|&(leaf, wanted)| wanted && leaf <= last_leaf) {
            table.extend(levels.iter().zip(0..).map(|(&(shift, processors, level), index)| kvm_cpuid_entry2 {
                function,
                index,
                flags: KVM_CPUID_FLAG_SIGNIFCANT_INDEX,
                eax: shift,
                ebx: processors,
                ecx: level << 8 | index,
                edx: apic_id,
                ..Default::default()
            }));
        }
    }
}

fn set_if(value: u32, bits: u32, condition: bool) -> u32 {
    if condition { value | bits } else { value & !bits }
}

/// AMD, or Hygon, which is AMD by another name.
fn is_amd(table: &[kvm_cpuid_entry2]) -> bool {
    table.iter().filter(|entry| entry.function == 0).any(|entry| {
        let name = [entry.ebx, entry.edx, entry.ecx].map(u32::to_le_bytes).concat();
        name == b"AuthenticAMD" || name == b"HygonGenuine"
    })
}
