// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! From bytes to an entry point: recognise a kernel by its content, check it, and put it into guest memory together with
//! an initrd, a command line and the structure that tells the kernel of them.
//!
//! All three are hostile input. A file's headers are copied out once and checked in full; where everything goes is
//! settled, and only then is the first byte of guest memory written. What a hostile file controls here is where in RAM
//! between 1 MiB and the device hole its own bytes land, and where in there the guest starts to execute. It controls
//! nothing else: no allocation grows with a file, and no address of the host is ever derived from one.

#![forbid(unsafe_code)]
#![cfg_attr(
    not(test),
    deny(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::indexing_slicing,
        clippy::unreachable,
        clippy::arithmetic_side_effects
    )
)]

pub mod bzimage;
pub mod cmdline;
pub mod elf;
pub mod identify;
pub mod initrd;
pub mod kernel;
mod memory_map;
mod notes;
mod part;
mod pvh;
mod source;
pub mod uki;
mod zero_page;

#[cfg(test)]
mod tests;

use std::fs::File;

use arch::{BootProtocol, EntryPoint, GuestRam, layout};
use vm_memory::{Bytes, GuestAddress, GuestMemoryError};

pub use initrd::Initrd;
pub use kernel::Kernel;
pub use part::Part;
pub use source::{Error as SourceError, Source};
pub use uki::Uki;

use memory_map::MemoryMap;

/// Why a kernel could not be loaded. The first three are about one input each, so that a caller can name its file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The kernel.
    #[error(transparent)]
    Kernel(#[from] kernel::Error),
    /// The initrd.
    #[error(transparent)]
    Initrd(#[from] initrd::Error),
    /// The command line.
    #[error(transparent)]
    Cmdline(#[from] cmdline::Error),
    /// Guest RAM doesn't reach to where a boot structure belongs.
    #[error("the {what} can't be written at {address:#x}: {source}")]
    Write {
        /// Which structure.
        what: &'static str,
        /// Where it belongs.
        address: u64,
        /// What guest memory says.
        source: GuestMemoryError,
    },
}

/// What to load.
#[derive(Debug)]
pub struct Request<'a, S = File> {
    /// The kernel.
    pub kernel: &'a mut Kernel<S>,
    /// The initial RAM disk.
    pub initrd: Option<&'a mut Initrd<S>>,
    /// The command line, without a NUL.
    pub cmdline: &'a [u8],
    /// How to enter the kernel; `None` leaves it to the kernel.
    pub protocol: Option<BootProtocol>,
    /// Where the ACPI tables' root is.
    pub rsdp: GuestAddress,
}

/// Puts everything into guest memory, and says where the boot vCPU starts.
///
/// RAM must be fresh, that is zero: nothing clears a kernel's zero-initialised data. The GDT and the page tables are
/// `arch::tables`' to write, for the protocol of the entry point that is returned.
///
/// # Errors
///
/// [`Error`] when an input is malformed or doesn't fit. Nothing has been written then, unless a file could not be read
/// to its end.
pub fn load<S: Source>(ram: &GuestRam, request: Request<'_, S>) -> Result<EntryPoint, Error> {
    let Request { kernel, initrd, cmdline, protocol, rsdp } = request;
    let memory = MemoryMap::of(ram);
    let protocol = kernel.protocol(protocol)?;
    let placement = kernel.place(protocol, memory.low_end())?;
    cmdline::check(cmdline, kernel.cmdline_limit())?;
    let limit = kernel.initrd_limit().min(memory.low_end());
    let initrd = initrd.map(|initrd| initrd.place(placement.end, limit).map(|range| (initrd, range))).transpose()?;

    kernel.load(ram)?;
    let mut ramdisk = None;
    if let Some((initrd, range)) = initrd {
        initrd.load(ram, range)?;
        ramdisk = Some(range);
    }
    write(ram, "command line", layout::CMDLINE, cmdline)?;
    // The NUL that ends it needn't be there yet: RAM is only assumed to be zero where a kernel assumes it.
    write(ram, "command line", layout::CMDLINE.saturating_add(cmdline.len() as u64), &[0])?;

    let machine = Machine { memory: &memory, ramdisk, rsdp };
    let params = match protocol {
        BootProtocol::Linux64 => zero_page::write(ram, kernel.setup_header(), &machine)?,
        BootProtocol::Pvh => pvh::write(ram, &machine)?,
    };
    Ok(EntryPoint { protocol, address: GuestAddress(placement.entry), params })
}

/// What the structure that a kernel is handed tells it.
struct Machine<'a> {
    memory: &'a MemoryMap,
    ramdisk: Option<initrd::Range>,
    rsdp: GuestAddress,
}

/// Writes a boot structure.
fn write(ram: &GuestRam, what: &'static str, address: u64, bytes: &[u8]) -> Result<(), Error> {
    ram.write_slice(bytes, GuestAddress(address)).map_err(|source| Error::Write { what, address, source })
}
