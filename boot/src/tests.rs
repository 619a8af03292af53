// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Whole loads, from images that are made here byte by byte.

mod hostile;
mod images;

use std::io::Cursor;

use arch::{BootProtocol, EntryPoint, GuestRam, layout};
use linux_loader::{
    bootparam::boot_params,
    start_info::{hvm_memmap_table_entry, hvm_modlist_entry, hvm_start_info},
};
use vm_memory::{ByteValued, Bytes, GuestAddress};

use crate::{Error, Initrd, Kernel, Request, kernel, load};
use images::{bzimage, elf, elf_with_pvh};

const RSDP: GuestAddress = GuestAddress(layout::ACPI_RSDP);
const CMDLINE: &[u8] = b"console=ttyS0 panic=-1";
/// Enough for the images, and little enough to be looked through often.
const RAM: usize = 4 << 20;

fn ram(size: usize) -> GuestRam {
    GuestRam::from_ranges(&[(GuestAddress(0), size)]).unwrap()
}

fn open(image: &[u8]) -> Result<Kernel<Cursor<Vec<u8>>>, kernel::Error> {
    Kernel::open(Cursor::new(image.to_vec()))
}

fn boot(ram: &GuestRam, image: &[u8], initrd: &[u8], protocol: Option<BootProtocol>) -> Result<EntryPoint, Error> {
    let mut kernel = open(image)?;
    let mut initrd = if initrd.is_empty() { None } else { Some(Initrd::open(Cursor::new(initrd.to_vec()))?) };
    load(ram, Request { kernel: &mut kernel, initrd: initrd.as_mut(), cmdline: CMDLINE, protocol, rsdp: RSDP })
}

fn read(ram: &GuestRam, address: u64, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    ram.read_slice(&mut bytes, GuestAddress(address)).unwrap();
    bytes
}

fn object<T: ByteValued + Default>(ram: &GuestRam, address: u64) -> T {
    let mut object = T::default();
    ram.read_slice(object.as_mut_slice(), GuestAddress(address)).unwrap();
    object
}

/// All RAM outside of `allowed` must be zero.
fn assert_only(ram: &GuestRam, size: usize, allowed: &[(u64, u64)]) {
    let mut bytes = read(ram, 0, size);
    for (start, end) in allowed {
        bytes[*start as usize..*end as usize].fill(0);
    }
    if bytes != vec![0; size] {
        let at = bytes.iter().position(|byte| *byte != 0).unwrap();
        panic!("{at:#x} is none of the loader's business");
    }
}

/// What a load may write besides the kernel and the initrd.
fn structures(protocol: BootProtocol) -> [(u64, u64); 2] {
    let cmdline = (layout::CMDLINE, layout::CMDLINE + CMDLINE.len() as u64);
    match protocol {
        BootProtocol::Linux64 => [cmdline, (layout::ZERO_PAGE, layout::ZERO_PAGE + 0x1000)],
        BootProtocol::Pvh => [cmdline, (layout::PVH_START_INFO, layout::ZERO_PAGE)],
    }
}

#[test]
fn an_elf_is_loaded_with_all_that_belongs_to_it() {
    let ram = ram(RAM);
    let entry = boot(&ram, &elf(), &[0x5a; 0x1234], None).unwrap();
    assert_eq!(entry.protocol, BootProtocol::Linux64);
    assert_eq!((entry.address.0, entry.params.0), (images::TEXT + 0x10, layout::ZERO_PAGE));
    assert_eq!(read(&ram, images::TEXT, 0x200), [0xaa; 0x200]);
    assert_eq!(read(&ram, images::DATA, 0x100), [0xbb; 0x100]);
    let initrd = 0x3f_e000;
    assert_eq!(read(&ram, initrd, 0x1234), [0x5a; 0x1234]);
    assert_eq!(read(&ram, layout::CMDLINE, CMDLINE.len() + 1), [CMDLINE, b"\0"].concat());
    let [cmdline, page] = structures(entry.protocol);
    let text = (images::TEXT, images::TEXT + 0x200);
    let data = (images::DATA, images::DATA + 0x100);
    assert_only(&ram, RAM, &[cmdline, page, text, data, (initrd, initrd + 0x1234)]);

    let page: boot_params = object(&ram, layout::ZERO_PAGE);
    let hdr = page.hdr;
    assert_eq!({ hdr.boot_flag }, 0xaa55);
    assert_eq!({ hdr.header }.to_le_bytes(), *b"HdrS");
    assert_eq!((hdr.type_of_loader, { hdr.cmd_line_ptr } as u64), (0xff, layout::CMDLINE));
    assert_eq!(({ hdr.ramdisk_image } as u64, { hdr.ramdisk_size }), (initrd, 0x1234));
    assert_eq!(({ page.ext_ramdisk_image }, { page.ext_ramdisk_size }, { page.ext_cmd_line_ptr }), (0, 0, 0));
    assert_eq!({ page.acpi_rsdp_addr }, RSDP.0);
    let map: Vec<_> =
        { page.e820_table }[..4].iter().map(|entry| ({ entry.addr }, { entry.size }, { entry.r#type })).collect();
    assert_eq!(page.e820_entries, 4);
    assert_eq!(
        map,
        [
            (0, 0x9_fc00, 1),
            (0x9_fc00, 0x6_0400, 2),
            (0x10_0000, 0x30_0000, 1),
            (layout::PCI_ECAM_START, layout::PCI_ECAM_SIZE, 2)
        ]
    );
}

#[test]
fn a_bzimage_is_loaded_behind_its_real_mode_part_and_keeps_its_header() {
    let ram = ram(RAM);
    let entry = boot(&ram, &bzimage(), &[], None).unwrap();
    assert_eq!((entry.protocol, entry.params.0), (BootProtocol::Linux64, layout::ZERO_PAGE));
    assert_eq!(entry.address.0, images::PREFERRED + 0x200);
    assert_eq!(read(&ram, images::PREFERRED, images::CODE), [0xcc; images::CODE]);
    let kernel = (images::PREFERRED, images::PREFERRED + images::CODE as u64);
    let [cmdline, page] = structures(entry.protocol);
    assert_only(&ram, RAM, &[cmdline, page, kernel]);

    let page: boot_params = object(&ram, layout::ZERO_PAGE);
    let hdr = page.hdr;
    assert_eq!((hdr.setup_sects, { hdr.version }, { hdr.init_size }), (1, 0x20f, 0x1_0000));
    // The loader's own fields are set, and what the file had in them is gone.
    assert_eq!((hdr.type_of_loader, { hdr.vid_mode }, { hdr.setup_data }), (0xff, 0xffff, 0));
    assert_eq!(({ hdr.ramdisk_image }, { hdr.ramdisk_size }), (0, 0));
    // The boot sector in front of the header isn't taken over.
    assert_eq!(read(&ram, layout::ZERO_PAGE + 0x1ef, 2), [0, 0]);
    // The byte behind the header's end isn't either: 0x202 and what 0x201 says.
    assert_eq!(read(&ram, layout::ZERO_PAGE + 0x26c, 0x24), [0; 0x24]);
}

#[test]
fn pvh_is_handed_its_own_structure() {
    let ram = ram(RAM);
    let entry = boot(&ram, &elf_with_pvh(), &[0x5a; 0x1000], Some(BootProtocol::Pvh)).unwrap();
    assert_eq!((entry.protocol, entry.address.0), (BootProtocol::Pvh, images::TEXT + 0x20));
    assert_eq!(entry.params.0, layout::PVH_START_INFO);

    let info: hvm_start_info = object(&ram, entry.params.0);
    assert_eq!((info.magic, info.version, info.flags, info.nr_modules), (0x336e_c578, 1, 0, 1));
    assert_eq!((info.cmdline_paddr, info.rsdp_paddr, info.memmap_entries), (layout::CMDLINE, RSDP.0, 4));
    let module: hvm_modlist_entry = object(&ram, info.modlist_paddr);
    assert_eq!((module.paddr, module.size), (0x3f_f000, 0x1000));
    let map = [2, 3].map(|index| object::<hvm_memmap_table_entry>(&ram, info.memmap_paddr + index * 24));
    let [ram, ecam] = map.map(|entry| (entry.addr, entry.size, entry.type_));
    assert_eq!((ram, ecam), ((0x10_0000, 0x30_0000, 1), (layout::PCI_ECAM_START, layout::PCI_ECAM_SIZE, 2)));
}

#[test]
fn the_protocol_is_the_one_asked_for_or_the_one_that_works() {
    use BootProtocol::{Linux64, Pvh};
    let entry_at = |mut image: Vec<u8>, entry: u64| {
        image[24..32].copy_from_slice(&entry.to_le_bytes());
        image
    };
    let outside = entry_at(elf_with_pvh(), 0xffff_fff0);
    let same = entry_at(elf_with_pvh(), images::TEXT + 0x20);
    type Case<'a> = (&'a [u8], Option<BootProtocol>, Result<BootProtocol, &'a str>);
    let cases: &[Case] = &[
        (&elf(), None, Ok(Linux64)),
        (&elf(), Some(Linux64), Ok(Linux64)),
        (&elf(), Some(Pvh), Err("has no PVH entry")),
        (&elf_with_pvh(), None, Ok(Linux64)),
        (&elf_with_pvh(), Some(Pvh), Ok(Pvh)),
        (&outside, None, Ok(Pvh)),
        (&outside, Some(Linux64), Err("its entry 0xfffffff0 is in none of its segments")),
        (&same, None, Ok(Pvh)),
        (&same, Some(Linux64), Ok(Linux64)),
        (&bzimage(), None, Ok(Linux64)),
        (&bzimage(), Some(Linux64), Ok(Linux64)),
        (&bzimage(), Some(Pvh), Err("is a bzImage, which has no PVH entry")),
    ];
    for (index, (image, wanted, expected)) in cases.iter().enumerate() {
        let result = boot(&ram(RAM), image, &[], *wanted).map(|entry| entry.protocol);
        match (result, expected) {
            (Ok(protocol), Ok(expected)) => assert_eq!(protocol, *expected, "case {index}"),
            (Err(error), Err(expected)) => assert!(error.to_string().starts_with(expected), "case {index}: {error}"),
            (result, _) => panic!("case {index}: {result:?}"),
        }
    }
    assert!(open(&elf_with_pvh()).unwrap().has_pvh() && !open(&elf()).unwrap().has_pvh());
}

#[test]
fn too_little_memory_is_an_error_that_says_how_much_is_needed() {
    let message = |image: &[u8], initrd: &[u8], size| boot(&ram(size), image, initrd, None).unwrap_err().to_string();
    let elf_message = message(&elf(), &[], 0x12_0000);
    assert_eq!(
        elf_message,
        "needs memory up to 0x121000 and there is none behind 0x120000: give the guest 2 MiB or more"
    );
    let error = message(&bzimage(), &[], 0x20_0000);
    assert_eq!(error, "needs memory up to 0x210000 and there is none behind 0x200000: give the guest 3 MiB or more");
    let error = message(&bzimage(), &[1; 0x1001], 0x21_1000);
    assert!(error.starts_with("has 4097 bytes (1 MiB) and there are 4096 bytes (0 MiB) for it"), "{error}");
}

#[test]
fn an_initrd_stays_below_the_limit_of_an_old_kernel() {
    let mut image = bzimage();
    images::put(&mut image, 0x236, &1u16.to_le_bytes()); // 64-bit entry, but not loadable above 4 GiB
    images::put(&mut image, 0x22c, &0x2f_ffffu32.to_le_bytes());
    let ram = ram(RAM);
    boot(&ram, &image, &[0x5a; 0x800], None).unwrap();
    assert_eq!(read(&ram, 0x2f_f000, 0x800), [0x5a; 0x800]);
}

#[test]
fn a_relocatable_kernel_is_aligned_and_another_is_not_moved() {
    let cases = [
        // preferred, alignment, relocatable, where it goes
        (0x10_0000u64, 0x20_0000u32, 1u8, Some(0x20_0000)),
        (0x0, 0x10_0000, 1, Some(0x10_0000)),
        (0x30_0000, 0x10_0000, 1, Some(0x30_0000)),
        (0x10_0000, 0, 0, Some(0x10_0000)),
        (0x0, 0x10_0000, 0, None),
        (0x9_0000, 0x10_0000, 0, None),
    ];
    for (preferred, alignment, relocatable, expected) in cases {
        let mut image = bzimage();
        images::put(&mut image, 0x258, &preferred.to_le_bytes());
        images::put(&mut image, 0x230, &alignment.to_le_bytes());
        images::put(&mut image, 0x234, &[relocatable]);
        let entry = boot(&ram(RAM), &image, &[], None).ok().map(|entry| entry.address.0 - 0x200);
        assert_eq!(entry, expected, "{preferred:#x}");
    }
}

#[test]
fn a_command_line_is_as_long_as_the_kernel_allows() {
    let mut limited = bzimage();
    images::put(&mut limited, 0x238, &255u32.to_le_bytes());
    let mut hostile = bzimage();
    images::put(&mut hostile, 0x238, &u32::MAX.to_le_bytes());
    for (image, limit) in [(elf(), 2047), (bzimage(), 2047), (limited, 255), (hostile, 0xffff)] {
        for (length, fits) in [(limit, true), (limit + 1, false)] {
            let ram = ram(RAM);
            let mut kernel = open(&image).unwrap();
            let cmdline = vec![b'x'; length];
            let request = Request { kernel: &mut kernel, initrd: None, cmdline: &cmdline, protocol: None, rsdp: RSDP };
            assert_eq!(load(&ram, request).is_ok(), fits, "{length} of {limit}");
            assert_eq!(read(&ram, layout::CMDLINE, 1), [if fits { b'x' } else { 0 }]);
        }
    }
}

#[test]
fn a_file_that_shrinks_while_it_is_read_is_an_error() {
    let path = std::env::temp_dir().join(format!("boot-test-shrinks-{}", std::process::id()));
    for (bytes, is_kernel) in [(elf(), true), (bzimage(), true), (vec![1; 0x2000], false)] {
        std::fs::write(&path, &bytes).unwrap();
        let file = std::fs::OpenOptions::new().read(true).write(true).open(&path).unwrap();
        let (mut kernel, mut initrd);
        std::fs::write(path.with_extension("elf"), elf()).unwrap();
        let good = || std::fs::File::open(path.with_extension("elf")).unwrap();
        if is_kernel {
            (kernel, initrd) = (Kernel::open(file.try_clone().unwrap()).unwrap(), None);
        } else {
            (kernel, initrd) = (Kernel::open(good()).unwrap(), Some(Initrd::open(file.try_clone().unwrap()).unwrap()));
        }
        file.set_len(bytes.len() as u64 - 0x100).unwrap();
        let request =
            Request { kernel: &mut kernel, initrd: initrd.as_mut(), cmdline: b"", protocol: None, rsdp: RSDP };
        let error = load(&ram(RAM), request).unwrap_err().to_string();
        assert!(error.starts_with("became shorter while it was read"), "{error}");
    }
    std::fs::remove_file(path.with_extension("elf")).unwrap();
    std::fs::remove_file(path).unwrap();
}

#[test]
fn a_directory_is_named_as_one() {
    let directory = || std::fs::File::open(std::env::temp_dir()).unwrap();
    assert!(Kernel::open(directory()).unwrap_err().to_string().starts_with("is a directory"));
    assert!(Initrd::open(directory()).unwrap_err().to_string().starts_with("is a directory"));
}
