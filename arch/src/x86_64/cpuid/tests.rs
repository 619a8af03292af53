// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

use super::*;

fn entry(function: u32, index: u32, registers: [u32; 4]) -> kvm_cpuid_entry2 {
    let [eax, ebx, ecx, edx] = registers;
    kvm_cpuid_entry2 { function, index, eax, ebx, ecx, edx, ..Default::default() }
}

/// A host processor: 8 cores with two threads each, caches shared accordingly.
fn host(vendor: &[u8; 12], last_leaf: u32, leaves: &[kvm_cpuid_entry2]) -> CpuId {
    let word = |at: usize| u32::from_le_bytes(vendor[at..at + 4].try_into().unwrap());
    let mut table = vec![entry(0, 0, [last_leaf, word(0), word(8), word(4)])];
    table.push(entry(1, 0, [0xa0671, 0x0510_0800, DTES64 | PDCM | 1, DS | 1 << 28 | 1]));
    table.extend_from_slice(leaves);
    CpuId::from_entries(&table).unwrap()
}

fn intel() -> CpuId {
    let caches = [0x1c00_4121, 0x1c00_4122, 0x1c00_4143, 0x1c03_c163, 0];
    let mut leaves: Vec<_> = (0..).zip(caches).map(|(index, eax)| entry(4, index, [eax, 1, 2, 3])).collect();
    leaves.push(entry(6, 0, [4, 0, EPB | 1, 0]));
    leaves.push(entry(0xa, 0, [0x0730_0805, 0, 0, 0x603]));
    leaves.extend((0..3).map(|index| entry(0xb, index, [5, 16, 0x201, 5])));
    leaves.extend((0..3).map(|index| entry(0x1f, index, [5, 16, 0x201, 5])));
    leaves.push(entry(0x4000_0000, 0, [KVM_FEATURES, 0x4b4d_564b, 0x564b_4d56, 0x4d]));
    leaves.push(entry(KVM_FEATURES, 0, [u32::MAX, 0, 0, 0]));
    leaves.push(entry(ADDRESS_SIZES, 0, [0x3027, 0, 0, 0]));
    host(b"GenuineIntel", 0x1f, &leaves)
}

fn amd() -> CpuId {
    let caches = [0x4121, 0x4122, 0x4143, 0x3c163, 0];
    let mut leaves: Vec<_> = (0..).zip(caches).map(|(index, eax)| entry(0x8000_001d, index, [eax, 1, 2, 3])).collect();
    leaves.push(entry(0x8000_0001, 0, [0, 0, PERFCTR | 1, 0]));
    leaves.push(entry(ADDRESS_SIZES, 0, [0x30, 0, 0x1_700f, 0]));
    leaves.push(entry(0x8000_001e, 0, [9, 0x104, 0x301, 0]));
    leaves.push(entry(0x8000_0022, 0, [1, 6, 0, 0]));
    leaves.push(entry(0x8000_0026, 0, [1, 2, 3, 4]));
    host(b"AuthenticAMD", 0x10, &leaves)
}

fn leaf(table: &CpuId, function: u32, index: u32) -> Option<[u32; 4]> {
    let mut found = table.as_slice().iter().filter(|entry| entry.function == function && entry.index == index);
    let first = found.next().map(|entry| [entry.eax, entry.ebx, entry.ecx, entry.edx]);
    assert!(found.next().is_none(), "leaf {function:#x}.{index} is there twice");
    first
}

#[test]
fn leaf_1_tells_who_and_how_many() {
    // vCPUs, APIC ID, what EBX [31:16] must be, HTT
    let cases = [
        (1, 0, 0x0001, false),
        (2, 1, 0x0102, true),
        (3, 2, 0x0204, true),
        (255, 254, 0xfeff, true),
        (300, 299, 0x2bff, true),
    ];
    for host in [intel(), amd()] {
        for (vcpus, id, expected, htt) in cases {
            let [_, ebx, ecx, edx] = leaf(&vcpu_cpuid(&host, vcpus, id).unwrap(), 1, 0).unwrap();
            assert_eq!(ebx >> 16, expected, "vCPU {id} of {vcpus}");
            assert_eq!(ebx & 0xffff, 0x0800, "CLFLUSH size and brand are the host's");
            assert_eq!(edx >> 28 & 1 == 1, htt, "vCPU {id} of {vcpus}");
            assert_eq!(ecx, HYPERVISOR | TSC_DEADLINE | X2APIC | 1);
        }
    }
}

#[test]
fn extended_topology_has_one_thread_a_core_and_all_cores_in_one_socket() {
    for (vcpus, shift) in [(1, 0), (2, 1), (3, 2), (4, 2), (255, 8), (256, 8), (257, 9), (1024, 10)] {
        let id = vcpus - 1;
        let table = vcpu_cpuid(&intel(), vcpus, id).unwrap();
        for function in [0xb, 0x1f] {
            assert_eq!(leaf(&table, function, 0), Some([0, 1, 0x100, id]));
            assert_eq!(leaf(&table, function, 1), Some([shift, vcpus, 0x201, id]));
            assert_eq!(leaf(&table, function, 2), Some([0, 0, 2, id]));
        }
        assert_eq!(id >> shift, 0, "all IDs are in socket 0");
    }
}

#[test]
fn extended_topology_is_added_only_where_the_processor_counts_that_far() {
    let table = vcpu_cpuid(&amd(), 2, 1).unwrap();
    assert_eq!(leaf(&table, 0xb, 1), Some([1, 2, 0x201, 1]));
    assert_eq!(leaf(&table, 0x1f, 0), None, "the host has none");
    assert_eq!(leaf(&table, 0x8000_0026, 0), None, "it would tell of the host");
    let old = host(b"GenuineIntel", 0xa, &[]);
    assert_eq!(leaf(&vcpu_cpuid(&old, 2, 1).unwrap(), 0xb, 0), None);
}

#[test]
fn only_the_last_level_cache_is_shared() {
    let table = vcpu_cpuid(&intel(), 6, 0).unwrap();
    let eax: Vec<_> = (0..5).map(|index| leaf(&table, 4, index).unwrap()[0]).collect();
    // Up to 8 IDs in the package (7 << 26), of which 8 share level 3 (7 << 14).
    assert_eq!(eax, [7 << 26 | 0x121, 7 << 26 | 0x122, 7 << 26 | 0x143, 7 << 26 | 7 << 14 | 0x163, 7 << 26]);

    let table = vcpu_cpuid(&amd(), 6, 0).unwrap();
    let eax: Vec<_> = (0..5).map(|index| leaf(&table, 0x8000_001d, index).unwrap()[0]).collect();
    assert_eq!(eax, [0x121, 0x122, 0x143, 7 << 14 | 0x163, 0]);
}

#[test]
fn amd_counts_cores_in_its_own_leaves() {
    for (vcpus, sizes, legacy) in [(1, 0x1_0000, 0), (2, 0x1_1001, CMP_LEGACY), (300, 0x1_90ff, CMP_LEGACY)] {
        let id = vcpus - 1;
        let table = vcpu_cpuid(&amd(), vcpus, id).unwrap();
        assert_eq!(leaf(&table, ADDRESS_SIZES, 0).unwrap()[2], sizes, "{vcpus} vCPUs");
        assert_eq!(leaf(&table, 0x8000_0001, 0).unwrap()[2], legacy | 1);
        assert_eq!(leaf(&table, 0x8000_001e, 0), Some([id, id & 0xff, 0, 0]));
    }
    // On Intel the same leaves are left alone.
    assert_eq!(leaf(&vcpu_cpuid(&intel(), 4, 0).unwrap(), ADDRESS_SIZES, 0).unwrap()[2], 0);
}

const CMP_LEGACY: u32 = 1 << 1;

#[test]
fn performance_counters_and_power_bias_are_hidden() {
    let table = vcpu_cpuid(&intel(), 1, 0).unwrap();
    assert_eq!(leaf(&table, 0xa, 0), Some([0; 4]));
    assert_eq!(leaf(&table, 1, 0).unwrap()[3] & DS, 0);
    assert_eq!(leaf(&table, 6, 0), Some([4, 0, 1, 0]));
    let table = vcpu_cpuid(&amd(), 1, 0).unwrap();
    assert_eq!(leaf(&table, 0x8000_0022, 0), Some([0; 4]));
    assert_eq!(leaf(&table, 0x8000_0001, 0).unwrap()[2] & PERFCTR, 0);
}

#[test]
fn virtualization_itself_is_hidden() {
    let mut intel = intel();
    intel.as_mut_slice().iter_mut().filter(|entry| entry.function == 1).for_each(|entry| entry.ecx |= VMX);
    assert_eq!(leaf(&vcpu_cpuid(&intel, 1, 0).unwrap(), 1, 0).unwrap()[2] & VMX, 0);
    let mut amd = amd();
    amd.as_mut_slice().iter_mut().filter(|entry| entry.function == 0x8000_0001).for_each(|entry| entry.ecx |= SVM);
    assert_eq!(leaf(&vcpu_cpuid(&amd, 1, 0).unwrap(), 0x8000_0001, 0).unwrap()[2] & SVM, 0);
}

#[test]
fn the_kvm_clock_stays_and_asynchronous_page_faults_go() {
    let mut table = vcpu_cpuid(&intel(), 1, 0).unwrap();
    assert_eq!(leaf(&table, 0x4000_0000, 0), leaf(&intel(), 0x4000_0000, 0));
    assert_eq!(leaf(&table, KVM_FEATURES, 0).unwrap()[0], 0x0100_3aeb);
    offer_extended_destination_ids(&mut table);
    assert_eq!(leaf(&table, KVM_FEATURES, 0).unwrap()[0], 0x0100_baeb);
}

#[test]
fn a_machine_without_that_vcpu_or_a_table_of_no_processor_is_refused() {
    let cases = [
        (intel(), 0, 0, Error::NoVcpus),
        (intel(), 2, 2, Error::NoSuchVcpu { apic_id: 2, vcpus: 2 }),
        (CpuId::new(0).unwrap(), 1, 0, Error::MissingLeaf(0)),
        (CpuId::from_entries(&[entry(0, 0, [1, 0, 0, 0])]).unwrap(), 1, 0, Error::MissingLeaf(1)),
    ];
    for (host, vcpus, id, error) in cases {
        assert_eq!(vcpu_cpuid(&host, vcpus, id).err(), Some(error));
    }
}

#[test]
fn a_table_that_outgrows_what_kvm_takes_is_an_error() {
    let filler: Vec<_> = (0..KVM_MAX_CPUID_ENTRIES as u32 - 2).map(|index| entry(0xd, index, [0; 4])).collect();
    let host = host(b"GenuineIntel", 0x1f, &filler);
    assert_eq!(vcpu_cpuid(&host, 1, 0).err(), Some(Error::TooManyEntries(KVM_MAX_CPUID_ENTRIES + 3)));
}

#[test]
fn physical_address_bits_come_from_the_host() {
    assert_eq!(physical_address_bits(&intel()), 39);
    assert_eq!(physical_address_bits(&amd()), 48);
    assert_eq!(physical_address_bits(&CpuId::new(0).unwrap()), 36);
}

#[test]
fn enormous_machines_do_not_overflow() {
    for vcpus in [1 << 31, u32::MAX] {
        let table = vcpu_cpuid(&amd(), vcpus, vcpus - 1).unwrap();
        assert!(leaf(&table, 0xb, 1).is_some());
    }
}
