// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Any bytes as a kernel: they are refused with one line, or loaded to where a kernel may lie.

use std::io::Cursor;

use arch::{BootProtocol, GuestRam, layout};
use boot::uki::Section;
use boot::{Error, Initrd, Kernel, Request, Uki};
use vm_memory::{Bytes, GuestAddress};

/// As little as a small kernel at 2 MiB needs.
const RAM: usize = 0x24_0000;
const CMDLINE: &[u8] = b"console=ttyS0";
const RSDP: GuestAddress = GuestAddress(layout::ACPI_RSDP);

/// Loads `data` by each protocol.
///
/// # Panics
///
/// When a load breaks out of its bounds.
pub fn run(data: &[u8]) {
    match Uki::read(&mut Cursor::new(data)) {
        Ok(None) => {}
        Ok(Some(Uki { linux, initrd, cmdline })) => {
            let is_in = |section: Section| section.offset + section.len <= data.len() as u64;
            assert!(is_in(linux) && initrd.is_none_or(is_in) && cmdline.is_none_or(|text| text.len() <= data.len()));
        }
        Err(error) => assert_one_line(&error.to_string()),
    }
    let kernel = match Kernel::open(Cursor::new(data)) {
        Ok(kernel) => kernel,
        Err(error) => return assert_one_line(&error.to_string()),
    };
    let pvh = kernel.protocol(Some(BootProtocol::Pvh));
    assert_eq!(kernel.has_pvh(), pvh.is_ok());

    for protocol in [None, Some(BootProtocol::Linux64), Some(BootProtocol::Pvh)] {
        let Ok(ram) = GuestRam::from_ranges(&[(GuestAddress(0), RAM)]) else { return };
        let Ok(mut kernel) = Kernel::open(Cursor::new(data)) else { panic!("opened once and not again") };
        let Ok(mut initrd) = Initrd::open(Cursor::new(&[0x5a; 0x800][..])) else { panic!("an initrd is any bytes") };
        let request =
            Request { kernel: &mut kernel, initrd: Some(&mut initrd), cmdline: CMDLINE, protocol, rsdp: RSDP };
        match boot::load(&ram, request) {
            Ok(entry) => {
                assert!(protocol.is_none_or(|wanted| wanted == entry.protocol));
                assert!((layout::HIGH_MEMORY_START..RAM as u64).contains(&entry.address.0));
                let (params, size) = match entry.protocol {
                    BootProtocol::Linux64 => (layout::ZERO_PAGE, 0x1000),
                    BootProtocol::Pvh => (layout::PVH_START_INFO, layout::ZERO_PAGE - layout::PVH_START_INFO),
                };
                assert_eq!(entry.params.0, params);
                assert_low_memory(&ram, &[(params, size), (layout::CMDLINE, CMDLINE.len() as u64)]);
            }
            Err(error) => {
                assert_one_line(&error.to_string());
                // A source that is all in memory can be read to its end.
                assert!(!matches!(error, Error::Kernel(boot::kernel::Error::Source(_)) | Error::Write { .. }));
                assert_low_memory(&ram, &[]);
            }
        }
    }
}

fn assert_one_line(message: &str) {
    assert!(!message.is_empty() && !message.contains('\n'), "{message:?}");
}

/// Below 1 MiB nothing but the loader's own structures may have been written.
fn assert_low_memory(ram: &GuestRam, written: &[(u64, u64)]) {
    let mut bytes = vec![0; layout::HIGH_MEMORY_START as usize];
    assert!(ram.read_slice(&mut bytes, GuestAddress(0)).is_ok());
    for (start, size) in written {
        bytes[*start as usize..(start + size) as usize].fill(0);
    }
    assert!(bytes == vec![0; bytes.len()], "a kernel wrote to low memory");
}
