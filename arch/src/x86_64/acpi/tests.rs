// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

use vm_memory::GuestAddress;

use super::*;
use crate::pci::PciWindow;

fn ram() -> GuestRam {
    GuestRam::from_ranges(&[(GuestAddress(0), 0x20_0000)]).unwrap()
}

fn platform(vcpus: u32, devices: u64) -> Platform {
    let virtio_mmio = (0..devices)
        .map(|index| MmioDevice {
            base: layout::VIRTIO_MMIO_START + index * layout::VIRTIO_MMIO_SIZE,
            size: layout::VIRTIO_MMIO_SIZE,
            gsi: layout::VIRTIO_GSI_START + (index as u32) % (layout::IOAPIC_PINS - layout::VIRTIO_GSI_START),
        })
        .collect();
    Platform { vcpus, serial: true, rtc: true, generation: true, pvpanic: true, virtio_mmio, pci: None }
}

fn read(ram: &GuestRam, address: u64, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    ram.read_slice(&mut bytes, GuestAddress(address)).unwrap();
    bytes
}

fn sum(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0, |sum, byte| sum.wrapping_add(*byte))
}

fn number<const N: usize>(bytes: &[u8], at: usize) -> u64 {
    let mut number = [0; 8];
    number[..N].copy_from_slice(&bytes[at..at + N]);
    u64::from_le_bytes(number)
}

/// A table as a guest reads it: header first, then as long as that says, and the checksum must be right.
fn table(ram: &GuestRam, address: u64, signature: &[u8; 4]) -> Vec<u8> {
    assert_eq!(address % ALIGNMENT, 0);
    assert!((layout::ACPI_START..layout::ACPI_RSDP).contains(&address));
    let length = number::<4>(&read(ram, address, 36), 4);
    assert!(address + length <= layout::ACPI_RSDP);
    let bytes = read(ram, address, length as usize);
    assert_eq!(&bytes[..4], signature);
    assert_eq!(sum(&bytes), 0, "checksum of {}", String::from_utf8_lossy(signature));
    bytes
}

struct Tables {
    fadt: Vec<u8>,
    madt: Vec<u8>,
    dsdt: Vec<u8>,
    mcfg: Option<Vec<u8>>,
}

fn tables(platform: &Platform) -> Tables {
    let ram = ram();
    let address = write(&ram, platform).unwrap();
    assert!((0xe_0000..0x10_0000).contains(&address.0) && address.0.is_multiple_of(16), "Linux scans there");
    let rsdp = read(&ram, address.0, 36);
    assert_eq!((&rsdp[..8], rsdp[15]), (&b"RSD PTR "[..], 2));
    assert_eq!((sum(&rsdp[..20]), sum(&rsdp)), (0, 0));

    let xsdt = table(&ram, number::<8>(&rsdp, 24), b"XSDT");
    assert_eq!(xsdt.len(), 36 + 8 * if platform.pci.is_some() { 3 } else { 2 });
    let fadt = table(&ram, number::<8>(&xsdt, 36), b"FACP");
    let madt = table(&ram, number::<8>(&xsdt, 44), b"APIC");
    let dsdt = table(&ram, number::<8>(&fadt, 140), b"DSDT");
    let mcfg = platform.pci.map(|_| table(&ram, number::<8>(&xsdt, 52), b"MCFG"));
    Tables { fadt, madt, dsdt, mcfg }
}

/// The MADT's structures by type: the bytes of each.
fn structures(madt: &[u8], wanted: u8) -> Vec<Vec<u8>> {
    let mut rest = &madt[44..];
    let mut found = Vec::new();
    while let [kind, length, ..] = *rest {
        let (this, next) = rest.split_at(usize::from(length));
        found.extend((kind == wanted).then(|| this.to_vec()));
        rest = next;
    }
    assert!(rest.is_empty());
    found
}

#[test]
fn every_vcpu_has_one_local_apic_in_the_madt() {
    for (vcpus, lapics, x2apics) in
        [(1, 1, 0), (2, 2, 0), (255, 255, 0), (256, 255, 1), (300, 255, 45), (4096, 255, 3841)]
    {
        let madt = tables(&platform(vcpus, 0)).madt;
        assert_eq!(number::<4>(&madt, 36), layout::LAPIC);
        let lapic = structures(&madt, 0);
        let x2apic = structures(&madt, 9);
        assert_eq!((lapic.len(), x2apic.len()), (lapics, x2apics), "{vcpus} vCPUs");
        for (id, entry) in (0..=254).zip(&lapic) {
            assert_eq!(entry, &[0, 8, id, id, 1, 0, 0, 0]);
        }
        for (id, entry) in (255..).zip(&x2apic) {
            assert_eq!((number::<4>(entry, 4), number::<4>(entry, 8), number::<4>(entry, 12)), (id, 1, id));
        }
        assert_eq!(structures(&madt, 4), [[4, 6, 0xff, 0, 0, 1]]);
        assert_eq!(structures(&madt, 0xa).len(), usize::from(x2apics > 0));
        let ioapic = structures(&madt, 1);
        assert_eq!(ioapic.len(), 1);
        assert_eq!((ioapic[0][2], number::<4>(&ioapic[0], 4), number::<4>(&ioapic[0], 8)), (0, layout::IOAPIC, 0));
    }
}

#[test]
fn the_fadt_is_hardware_reduced_with_registers_in_io_space() {
    let fadt = tables(&platform(1, 0)).fadt;
    assert_eq!((fadt.len(), fadt[8]), (276, 6));
    let flags = number::<4>(&fadt, 112);
    assert_eq!(flags, 1 << 20 | 1 << 10 | 1 << 6 | 1 << 5 | 1 << 4 | 1);
    assert_eq!(number::<4>(&fadt, 40), 0, "one DSDT pointer only");
    let register = |at: usize| (fadt[at], fadt[at + 1], fadt[at + 2], fadt[at + 3], number::<8>(&fadt, at + 4));
    assert_eq!((register(116), fadt[128]), ((1, 8, 0, 1, 0x602), 1), "reset");
    assert_eq!(register(244), (1, 8, 0, 1, 0x600), "sleep control");
    assert_eq!(register(256), (1, 8, 0, 1, 0x601), "sleep status");
}

#[test]
fn a_clock_is_announced_only_when_there_is_one() {
    for (rtc, flags) in [(true, 0x14), (false, 0x34)] {
        let tables = tables(&Platform { rtc, ..platform(1, 0) });
        assert_eq!(number::<2>(&tables.fadt, 109), flags);
        assert_eq!(contains(&tables.dsdt, b"RTC_"), rtc);
    }
}

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    haystack.windows(needle.len()).any(|window| window == needle)
}

#[test]
fn the_dsdt_names_what_is_there_and_no_more() {
    let dsdt = tables(&platform(1, 3)).dsdt;
    for name in [&b"_S5_"[..], b"PWRB", b"GED_", b"ACPI0013", b"_EVT", b"COM1", b"RTC_", b"V000", b"V001", b"V002"] {
        assert!(contains(&dsdt, name), "{}", String::from_utf8_lossy(name));
    }
    assert_eq!(dsdt.windows(8).filter(|window| window == b"LNRO0005").count(), 3);
    let bare = tables(&Platform { vcpus: 1, ..Platform::default() }).dsdt;
    for name in [&b"COM1"[..], b"RTC_", b"V000"] {
        assert!(!contains(&bare, name), "{}", String::from_utf8_lossy(name));
    }
}

#[test]
fn generation_and_vmclock_say_where_they_are_and_are_notified_by_their_events() {
    let dsdt = tables(&platform(1, 0)).dsdt;
    // Package of two: a double word, and zero.
    let address = [&b"\x08ADDR\x12"[..], &[8, 2, 0x0c, 0x28, 0xf0, 0x0c, 0, 0]].concat();
    assert!(contains(&dsdt, &address));
    assert!(contains(&dsdt, b"\x08_CID\x0dVM_Gen_Counter\0"));
    // Read-only memory, fixed.
    assert!(contains(&dsdt, &[0x86, 9, 0, 0, 0, 0xe0, 0x0c, 0, 0, 0x10, 0, 0]));
    assert!(contains(&dsdt, b"\x08_HID\x0dAMZNC10C\0"));
    // If (Local0 & bit) Notify (device, 0x80), for each.
    for (bit, device) in [(&[1u8][..], b"PWRB"), (&[0x0a, 2], b"VGEN"), (&[0x0a, 4], b"VCLK")] {
        let notify = [&[0x86][..], device, &[0x0a, 0x80]].concat();
        let at = dsdt.windows(notify.len()).position(|window| window == notify).unwrap();
        let and = [&[0x7b, 0x60][..], bit, &[0x00]].concat();
        let alternative = [&[0x7b, 0x60, 0x0a][..], &bit[bit.len() - 1..], &[0x00]].concat();
        assert!(dsdt[..at].ends_with(&and) || dsdt[..at].ends_with(&alternative), "{:x?}", &dsdt[at - 12..at]);
    }
    let without = tables(&Platform { generation: false, ..platform(1, 0) }).dsdt;
    for name in [&b"VGEN"[..], b"VCLK", b"ADDR"] {
        assert!(!contains(&without, name));
    }
}

/// The resources of a device: memory at an address, an interrupt with its flags.
fn virtio_resources(base: u32, gsi: u32, flags: u8) -> Vec<u8> {
    let mut resources = vec![0x86, 9, 0, 1];
    resources.extend(base.to_le_bytes());
    resources.extend(0x1000u32.to_le_bytes());
    resources.extend([0x89, 6, 0, flags, 1]);
    resources.extend(gsi.to_le_bytes());
    resources
}

#[test]
fn a_line_is_marked_shared_when_two_devices_raise_it() {
    // 18 lines for 19 devices: the last shares with the first.
    let dsdt = tables(&platform(1, 19)).dsdt;
    assert!(contains(&dsdt, &virtio_resources(0xc100_0000, 6, 0b1011)));
    assert!(contains(&dsdt, &virtio_resources(0xc100_1000, 7, 0b0011)));
    assert!(contains(&dsdt, &virtio_resources(0xc101_2000, 6, 0b1011)));
}

#[test]
fn pci_is_announced_with_its_windows_and_only_when_there_is_pci() {
    let without = tables(&platform(1, 1));
    for name in [&b"PCI0"[..], b"MBRD", b"_OSC"] {
        assert!(!contains(&without.dsdt, name));
    }
    assert_eq!(without.mcfg, None);
    for (window_64, resources) in [(None, 0), (Some(PciWindow { base: 1 << 34, size: 1 << 34 }), 1)] {
        let with = tables(&Platform { pci: Some(PciHost { window_64 }), ..platform(1, 1) });
        for name in [&b"PCI0"[..], b"_HID", b"_CID", b"_SEG", b"_BBN", b"_UID", b"_CRS", b"_OSC", b"MBRD", b"V000"] {
            assert!(contains(&with.dsdt, name), "{}", String::from_utf8_lossy(name));
        }
        assert!(!contains(&with.dsdt, b"_PRT"));
        assert_eq!(with.fadt, without.fadt, "MSI is supported, ASPM is not, as before");
        let low = [0xc200_0000u32, 0xdfff_ffff, 0, 0x1e00_0000].map(u32::to_le_bytes).concat();
        assert!(contains(&with.dsdt, &low), "memory below 4 GiB");
        let high = [1u64 << 34, (1 << 35) - 1, 0, 1 << 34].map(u64::to_le_bytes).concat();
        let found = with.dsdt.windows(high.len()).filter(|window| *window == high).count();
        assert_eq!(found, resources, "memory above 4 GiB");
        assert!(contains(&with.dsdt, &[0x88, 13, 0, 2, 0xc, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0]), "bus 0 to 0");
        assert!(contains(&with.dsdt, &[0x47, 1, 0xf8, 0x0c, 0xf8, 0x0c, 1, 8]), "the configuration ports");
        assert!(contains(&with.dsdt, &[0x86, 9, 0, 1, 0, 0, 0, 0xe0, 0, 0, 0x10, 0]), "configuration space is taken");
    }
}

#[test]
fn the_mcfg_says_where_configuration_space_is() {
    let mcfg = tables(&Platform { pci: Some(PciHost::default()), ..platform(1, 0) }).mcfg.unwrap();
    assert_eq!(mcfg.len(), 36 + 8 + 16);
    assert_eq!((number::<8>(&mcfg, 44), number::<2>(&mcfg, 52)), (layout::PCI_ECAM_START, 0));
    assert_eq!((mcfg[54], mcfg[55]), (0, 0), "bus 0 to 0");
}

#[test]
fn what_cannot_be_described_is_an_error() {
    let ram = ram();
    let message = |platform: &Platform| write(&ram, platform).unwrap_err().to_string();
    assert_eq!(
        message(&Platform {
            virtio_mmio: vec![MmioDevice { base: 0xffff_f000, size: 0x1001, gsi: 6 }],
            ..platform(1, 0)
        }),
        "a virtio-mmio device at 0xfffff000 with 0x1001 bytes of registers does not lie below 4 GiB"
    );
    assert_eq!(message(&platform(1, 0x1001)), "4097 virtio-mmio devices are more than the 4096 that can be named");
    let error = message(&platform(10_000, 0));
    assert!(error.ends_with("and there is room for 131008: use fewer vCPUs or devices"), "{error}");
    let small = GuestRam::from_ranges(&[(GuestAddress(0), 0xa_0000)]).unwrap();
    let error = write(&small, &platform(1, 0)).unwrap_err().to_string();
    assert!(error.starts_with("ACPI tables can't be written at 0xd0000: "), "{error}");
}

#[test]
fn nothing_outside_the_area_is_touched() {
    let ram = ram();
    write(&ram, &platform(300, 32)).unwrap();
    let outside = [0..layout::ACPI_START, layout::ACPI_END..0x20_0000];
    for range in outside {
        let length = (range.end - range.start) as usize;
        assert!(read(&ram, range.start, length).iter().all(|byte| *byte == 0), "{range:x?}");
    }
}
