// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What tells a guest that it is not alone any more, or that time has jumped: the generation ID (Microsoft, "Virtual Machine
//! Generation ID", 2012) and the vmclock (Linux include/uapi/linux/vmclock-abi.h). ACPI says where they are.
//!
//! Both are in memory that the guest may write to: what counts is what the host knows.

use std::sync::atomic::Ordering;

use vm_memory::{Bytes, GuestAddress, GuestMemoryError};

use crate::{GuestRam, layout};

/// "VCLK".
const MAGIC: u32 = 0x4b4c_4356;
/// The one version that there is.
const VERSION: u16 = 1;
/// `VMCLOCK_COUNTER_INVALID`: the structure doesn't tell the time.
const COUNTER_INVALID: u8 = 0xff;
/// `VMCLOCK_FLAG_VM_GEN_COUNTER_PRESENT` and `VMCLOCK_FLAG_NOTIFICATION_PRESENT`.
const FLAGS: u64 = 1 << 8 | 1 << 9;

/// Offsets into the vmclock.
mod field {
    pub(super) const VERSION: usize = 8;
    pub(super) const COUNTER_ID: usize = 10;
    pub(super) const SEQ_COUNT: usize = 12;
    pub(super) const DISRUPTION_MARKER: usize = 16;
    pub(super) const FLAGS: usize = 24;
    pub(super) const VM_GENERATION_COUNTER: usize = 104;
    /// Where the fields end.
    pub(super) const END: usize = 112;
}

/// The generation can't be told.
#[derive(Debug, thiserror::Error)]
#[error("the generation can't be written at {address:#x}: {source}")]
pub struct Error {
    /// Where it belongs.
    address: u64,
    /// What guest memory says.
    source: GuestMemoryError,
}

/// A generation of a machine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Generation {
    /// Random, and another one for each that is started from one saved state.
    pub id: [u8; 16],
    /// How many there were before.
    pub count: u32,
}

/// Writes both structures. A guest that reads the vmclock meanwhile finds out by its sequence count, which is odd until all is
/// written.
///
/// # Errors
///
/// [`Error`] when RAM ends below them.
pub fn write(ram: &GuestRam, generation: &Generation) -> Result<(), Error> {
    let Generation { id, count } = *generation;
    let put = |address: u64, bytes: &[u8]| {
        ram.write_slice(bytes, GuestAddress(address)).map_err(|source| Error { address, source })
    };
    let sequence = |value: u32| {
        let address = layout::VMCLOCK + field::SEQ_COUNT as u64;
        ram.store(value, GuestAddress(address), Ordering::SeqCst).map_err(|source| Error { address, source })
    };
    let done = count.wrapping_mul(2);
    sequence(done.wrapping_sub(1))?;
    let mut clock = [0; field::END];
    let mut set = |at: usize, bytes: &[u8]| clock[at..at + bytes.len()].copy_from_slice(bytes);
    set(0, &MAGIC.to_le_bytes());
    set(4, &(layout::VMCLOCK_SIZE as u32).to_le_bytes());
    set(field::VERSION, &VERSION.to_le_bytes());
    set(field::COUNTER_ID, &[COUNTER_INVALID]);
    set(field::DISRUPTION_MARKER, &u64::from(count).to_le_bytes());
    set(field::FLAGS, &FLAGS.to_le_bytes());
    set(field::VM_GENERATION_COUNTER, &u64::from(count).to_le_bytes());
    put(layout::VMCLOCK, &clock[..field::SEQ_COUNT])?;
    put(layout::VMCLOCK + field::DISRUPTION_MARKER as u64, &clock[field::DISRUPTION_MARKER..])?;
    put(layout::GENERATION_ID, &id)?;
    sequence(done)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_structures_tell_each_generation() {
        let ram = GuestRam::from_ranges(&[(GuestAddress(0), 0x10_0000)]).unwrap();
        for count in [0, 1, 2, u32::MAX] {
            let id = [count as u8 ^ 0x5a; 16];
            write(&ram, &Generation { id, count }).unwrap();
            let read = |address: u64| ram.read_obj::<u64>(GuestAddress(address)).unwrap();
            assert_eq!(ram.read_obj::<[u8; 16]>(GuestAddress(layout::GENERATION_ID)).unwrap(), id);
            let clock = layout::VMCLOCK;
            assert_eq!(read(clock), 0x1000_4b4c_4356, "size and magic");
            assert_eq!(read(clock + 8) & 0xffff_ffff, 0x00ff_0001, "version 1, no counter, UTC");
            let sequence = ram.read_obj::<u32>(GuestAddress(clock + 12)).unwrap();
            assert_eq!((sequence % 2, sequence), (0, count.wrapping_mul(2)));
            assert_eq!((read(clock + 16), read(clock + 104)), (count.into(), count.into()));
            assert_eq!(read(clock + 24), 0x300);
            for offset in (32..104).step_by(8) {
                assert_eq!(read(clock + offset), 0, "nothing is said of the time");
            }
        }
    }

    #[test]
    fn they_are_where_a_guest_may_map_them_and_nothing_else_is() {
        const { assert!(layout::GENERATION_ID.is_multiple_of(8)) };
        const { assert!(layout::VMCLOCK.is_multiple_of(0x1000) && layout::VMCLOCK >= layout::EBDA_START) };
        const { assert!(layout::VMCLOCK + layout::VMCLOCK_SIZE <= layout::GENERATION_ID) };
        const { assert!(layout::GENERATION_ID + 16 <= layout::ACPI_START) };
        let small = GuestRam::from_ranges(&[(GuestAddress(0), 0xc_0000)]).unwrap();
        assert!(write(&small, &Generation::default()).is_err());
    }
}
