// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The tables that a guest finds: ACPI, and what CPUID tells.

use std::hint::black_box;

use arch::acpi::{self, MmioDevice, Platform};
use arch::{cpuid, layout};
use criterion::{Criterion, criterion_group, criterion_main};
use devices::virtio::mock::ram;
use kvm_bindings::{CpuId, kvm_cpuid_entry2};

fn platform(vcpus: u32, devices: u32) -> Platform {
    let device = |index: u32| MmioDevice {
        base: layout::VIRTIO_MMIO_START + u64::from(index) * layout::VIRTIO_MMIO_SIZE,
        size: layout::VIRTIO_MMIO_SIZE,
        gsi: layout::VIRTIO_GSI_START + index % (layout::IOAPIC_PINS - layout::VIRTIO_GSI_START),
    };
    Platform {
        vcpus,
        serial: true,
        rtc: true,
        virtio_mmio: (0..devices).map(device).collect(),
        pci: None,
        pvpanic: true,
        generation: true,
    }
}

fn acpi_tables(criterion: &mut Criterion) {
    let ram = ram(1 << 20);
    let mut group = criterion.benchmark_group("acpi: build and write");
    for (vcpus, devices) in [(1, 1), (64, 40)] {
        let platform = platform(vcpus, devices);
        group.bench_function(format!("{vcpus} vCPUs, {devices} devices"), |bencher| {
            bencher.iter(|| acpi::write(&ram, black_box(&platform)).expect("there is room"));
        });
    }
    group.finish();
}

/// About as many leaves as KVM tells on a processor of today.
fn supported() -> CpuId {
    let leaf =
        |function, index| kvm_cpuid_entry2 { function, index, eax: 0x21, ebx: 1, ecx: 1, edx: 1, ..Default::default() };
    let mut entries = vec![leaf(0, 0)];
    entries[0].eax = 0x1f;
    entries.extend((1..=3).map(|function| leaf(function, 0)));
    entries.extend((0..5).map(|index| leaf(4, index)));
    entries.extend((5..=0xa).map(|function| leaf(function, 0)));
    entries.extend((0..3).map(|index| leaf(0xb, index)));
    entries.extend((0..16).map(|index| leaf(0xd, index)));
    entries.extend((0..3).map(|index| leaf(0x1f, index)));
    entries.extend([0x4000_0000, 0x4000_0001].map(|function| leaf(function, 0)));
    entries.extend((0x8000_0000..=0x8000_0008).map(|function| leaf(function, 0)));
    CpuId::from_entries(&entries).expect("KVM has room for them")
}

fn cpuid_table(criterion: &mut Criterion) {
    let supported = supported();
    let mut group = criterion.benchmark_group("cpuid: build");
    for vcpus in [1, 64] {
        group.bench_function(format!("one of {vcpus} vCPUs"), |bencher| {
            bencher.iter(|| cpuid::vcpu_cpuid(black_box(&supported), vcpus, vcpus - 1).expect("the table is sound"));
        });
    }
    group.finish();
}

criterion_group!(benches, acpi_tables, cpuid_table);
criterion_main!(benches);
