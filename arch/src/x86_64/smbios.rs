// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The SMBIOS tables: who the guest is told that its machine is (DMTF DSP0134, SMBIOS 3.7).
//!
//! An entry point of the 64-bit kind at the first address where a guest looks for one, and right behind it the structures: BIOS
//! information (type 0), system information with the machine's UUID (type 1), OEM strings (type 11), end of table (type 127).
//! That is not all that §6.2 asks of a PC; there is nothing to say of slots, sockets and memory modules.

use vm_memory::{Bytes, GuestAddress, GuestMemoryError};

use crate::{GuestRam, layout};

/// Version of the specification: major and minor.
const VERSION: [u8; 2] = [3, 7];
/// Who made the machine, and what it is.
const NAME: &str = "vmm";
/// When these tables last changed in a way that a guest can see. Linux takes a machine without a date, or with one before
/// 2008, for one with a broken PCI (arch/x86/pci/acpi.c).
const DATE: &str = "11/25/2026";
/// Bytes of the entry point (§5.2.2).
const ENTRY_POINT_SIZE: u64 = 0x18;
/// Where the structures are: a multiple of 16 behind the entry point.
const TABLE: u64 = layout::SMBIOS_START + 0x20;
/// Strings of a structure: their numbers are bytes, and 0 is none (§6.1.3).
const STRINGS: usize = 255;
/// What Linux keeps of each OEM string beside the string itself, rounded up (`struct dmi_device`, drivers/firmware/dmi_scan.c).
const STRING_OVERHEAD: usize = 48;

/// Room for OEM strings, in bytes, with 48 more for each of them.
///
/// A guest's own limit comes before that of the area: Linux copies each string to where it has 64 KiB for all of SMBIOS (`dmi_alloc`
/// in arch/x86/kernel/setup.c), and crashes before it can say so when they are used up.
pub const ROOM: usize = 63 << 10;
const _: () = assert!(TABLE + ROOM as u64 + 0x200 < layout::RESET_VECTOR);

/// Why the tables could not be written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A string is none that SMBIOS could hold.
    #[error("string {0} is empty or has a NUL in it, which ends a string")]
    BadString(usize),
    /// The strings are more than a guest can take.
    #[error("the strings need {needed} bytes and there is room for {ROOM}")]
    NoRoom {
        /// Bytes of all strings, counted as [`ROOM`] says.
        needed: usize,
    },
    /// Guest RAM doesn't reach to where the tables belong.
    #[error("SMBIOS tables can't be written at {address:#x}: {source}")]
    Write {
        /// Where a table belongs.
        address: u64,
        /// What guest memory says.
        source: GuestMemoryError,
    },
}

/// What there is to tell.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Identity {
    /// The machine's UUID, in the order in which it is written and read; `None` says that it has none.
    pub uuid: Option<[u8; 16]>,
    /// OEM strings. They may be secrets.
    pub strings: Vec<String>,
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Identity").field("uuid", &self.uuid).field("strings", &self.strings.len()).finish()
    }
}

impl Identity {
    /// Whether a guest can be told all of it.
    ///
    /// # Errors
    ///
    /// [`Error`] when a string is none that can be, or there are too many.
    pub fn check(&self) -> Result<(), Error> {
        if let Some(at) = self.strings.iter().position(|text| text.is_empty() || text.contains('\0')) {
            return Err(Error::BadString(at));
        }
        let needed = self.strings.iter().map(|text| text.len().saturating_add(STRING_OVERHEAD));
        let needed = needed.fold(0usize, usize::saturating_add);
        if needed > ROOM { Err(Error::NoRoom { needed }) } else { Ok(()) }
    }
}

/// Writes entry point and structures.
///
/// # Errors
///
/// [`Error`] when the strings can't be told, or RAM ends below the area.
pub fn write(ram: &GuestRam, identity: &Identity) -> Result<(), Error> {
    identity.check()?;
    let table = table(identity);
    let put = |bytes: &[u8], address: u64| {
        ram.write_slice(bytes, GuestAddress(address)).map_err(|source| Error::Write { address, source })
    };
    put(&table, TABLE)?;
    put(&entry_point(table.len() as u32), layout::SMBIOS_START)
}

/// The entry point of the 64-bit kind (§5.2.2).
fn entry_point(table_size: u32) -> Vec<u8> {
    let mut bytes = b"_SM3_".to_vec();
    // Checksum; length; major, minor, docrev; revision of the entry point; reserved.
    bytes.extend([0, ENTRY_POINT_SIZE as u8, VERSION[0], VERSION[1], 0, 1, 0]);
    bytes.extend(table_size.to_le_bytes());
    bytes.extend(TABLE.to_le_bytes());
    let sum = bytes.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte));
    bytes[5] = sum.wrapping_neg();
    bytes
}

fn table(identity: &Identity) -> Vec<u8> {
    let mut structures = Structures::default();
    structures.add(0, &bios(), &[NAME, env!("CARGO_PKG_VERSION"), DATE]);
    structures.add(1, &system(identity.uuid), &[NAME, NAME, env!("CARGO_PKG_VERSION")]);
    for strings in identity.strings.chunks(STRINGS) {
        // How many there are is a byte (§7.12).
        structures.add(11, &[strings.len() as u8], strings);
    }
    structures.add(127, &[], &[""; 0]);
    structures.bytes
}

/// BIOS information (§7.1), from behind the header.
fn bios() -> Vec<u8> {
    /// "BIOS characteristics are not supported" (§7.1.1).
    const NOT_SUPPORTED: u64 = 1 << 3;
    /// "The SMBIOS table describes a virtual machine" (§7.1.2.2). systemd looks for it.
    const VIRTUAL_MACHINE: u8 = 1 << 4;
    // Vendor and version; where it starts, which is nowhere; date; size.
    let mut body = vec![1, 2, 0, 0, 3, 0];
    body.extend(NOT_SUPPORTED.to_le_bytes());
    // Characteristics, second part; releases of BIOS and embedded controller, of which there are none; size, second part.
    body.extend([0, VIRTUAL_MACHINE, 0xff, 0xff, 0xff, 0xff, 0, 0]);
    body
}

/// System information (§7.2), from behind the header.
fn system(uuid: Option<[u8; 16]>) -> Vec<u8> {
    /// "Power switch" (§7.2.2).
    const POWER_SWITCH: u8 = 6;
    // Manufacturer, product name, version; no serial number.
    let mut body = vec![1, 2, 3, 0];
    // All zeros say that there is no UUID. The first three fields of one are little-endian, all else is as written (§7.2.1).
    let mut uuid = uuid.unwrap_or_default();
    for field in [0..4, 4..6, 6..8] {
        uuid[field].reverse();
    }
    body.extend(uuid);
    // No SKU number and no family.
    body.extend([POWER_SWITCH, 0, 0]);
    body
}

#[derive(Default)]
struct Structures {
    bytes: Vec<u8>,
    /// The number of the next one.
    handle: u16,
}

impl Structures {
    /// Adds a structure (§6.1.2, §6.1.3): a header, its fields, and its strings, each with a NUL, and one more behind all.
    fn add(&mut self, kind: u8, body: &[u8], strings: &[impl AsRef<str>]) {
        self.bytes.extend([kind, body.len() as u8 + 4]);
        self.bytes.extend(self.handle.to_le_bytes());
        self.bytes.extend(body);
        for text in strings {
            self.bytes.extend(text.as_ref().as_bytes());
            self.bytes.push(0);
        }
        self.bytes.extend_from_slice(if strings.is_empty() { &[0, 0] } else { &[0] });
        self.handle += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A structure as a guest reads it.
    #[derive(Debug)]
    struct Structure {
        kind: u8,
        body: Vec<u8>,
        strings: Vec<String>,
    }

    /// Reads the tables as a guest does: by what they say of themselves, and no further.
    fn read(identity: &Identity) -> Vec<Structure> {
        let ram = GuestRam::from_ranges(&[(GuestAddress(0), 0x10_0000)]).unwrap();
        write(&ram, identity).unwrap();
        let get = |address: u64, len: usize| {
            let mut bytes = vec![0; len];
            ram.read_slice(&mut bytes, GuestAddress(address)).unwrap();
            bytes
        };
        let entry = get(0xf_0000, 0x18);
        assert_eq!((&entry[..5], entry[6], entry[7]), (&b"_SM3_"[..], 0x18, 3));
        assert_eq!(entry.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte)), 0);
        let size = u32::from_le_bytes(entry[12..16].try_into().unwrap());
        let address = u64::from_le_bytes(entry[16..24].try_into().unwrap());
        assert!(address.is_multiple_of(16) && address + u64::from(size) <= layout::RESET_VECTOR);
        let mut rest = &get(address, size as usize)[..];
        let mut found = Vec::new();
        for handle in 0.. {
            let (kind, len) = (rest[0], usize::from(rest[1]));
            assert_eq!(u16::from_le_bytes([rest[2], rest[3]]), handle);
            let body = rest[4..len].to_vec();
            let end = len + rest[len..].windows(2).position(|two| two == [0, 0]).unwrap();
            let strings = rest[len..end].split(|byte| *byte == 0).filter(|text| !text.is_empty());
            let strings = strings.map(|text| String::from_utf8(text.to_vec()).unwrap()).collect();
            found.push(Structure { kind, body, strings });
            rest = &rest[end + 2..];
            if kind == 127 {
                break;
            }
        }
        assert!(rest.is_empty());
        found
    }

    #[test]
    fn a_machine_without_an_identity_has_no_uuid_and_is_a_virtual_machine() {
        let found = read(&Identity::default());
        assert_eq!(found.iter().map(|one| one.kind).collect::<Vec<_>>(), [0, 1, 127]);
        let [bios, system, _] = &found[..] else { panic!("{found:?}") };
        assert_eq!((bios.body.len(), bios.body[15]), (0x1a - 4, 0x10));
        assert_eq!(bios.strings, ["vmm", env!("CARGO_PKG_VERSION"), DATE]);
        assert_eq!((system.body.len(), &system.body[4..20]), (0x1b - 4, &[0; 16][..]));
        assert_eq!(system.strings, ["vmm", "vmm", env!("CARGO_PKG_VERSION")]);
    }

    #[test]
    fn the_first_three_fields_of_a_uuid_are_little_endian() {
        // The example of §7.2.1.
        let written = 0x0011_2233_4455_6677_8899_aabb_ccdd_eeff_u128.to_be_bytes();
        let found = read(&Identity { uuid: Some(written), ..Identity::default() });
        let expected = 0x3322_1100_5544_7766_8899_aabb_ccdd_eeff_u128.to_be_bytes();
        assert_eq!(found[1].body[4..20], expected);
    }

    #[test]
    fn oem_strings_arrive_in_their_order_in_as_many_structures_as_it_takes() {
        for count in [1usize, 254, 255, 256, 510, 600] {
            let strings: Vec<_> = (0..count).map(|at| format!("string {at} é")).collect();
            let found = read(&Identity { strings: strings.clone(), ..Identity::default() });
            let oem: Vec<_> = found.iter().filter(|one| one.kind == 11).collect();
            assert_eq!(oem.len(), count.div_ceil(255));
            for one in &oem {
                assert_eq!(one.body, [one.strings.len() as u8]);
            }
            assert_eq!(oem.iter().flat_map(|one| one.strings.clone()).collect::<Vec<_>>(), strings);
        }
    }

    #[test]
    fn what_a_guest_could_not_take_is_refused() {
        let with = |strings: Vec<String>| Identity { strings, ..Identity::default() };
        for bad in ["", "a\0b", "\0"] {
            assert!(matches!(with(vec!["good".into(), bad.into()]).check(), Err(Error::BadString(1))), "{bad:?}");
        }
        let longest = "x".repeat(ROOM - STRING_OVERHEAD);
        assert_eq!(read(&with(vec![longest.clone()]))[2].strings[0], longest);
        assert!(matches!(with(vec![longest + "x"]).check(), Err(Error::NoRoom { needed }) if needed == ROOM + 1));
        // Many small ones take more of the guest's memory than of the table.
        let most = ROOM / (STRING_OVERHEAD + 1);
        assert!(with(vec!["x".into(); most]).check().is_ok());
        assert!(with(vec!["x".into(); most + 1]).check().is_err());
    }

    #[test]
    fn secrets_are_not_in_the_debug_form() {
        let identity = Identity { strings: vec!["secret".into()], ..Identity::default() };
        assert!(!format!("{identity:?}").contains("secret"));
    }
}
