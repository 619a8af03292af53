// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What the machine looks like to its guest: where RAM and registers lie, what state a vCPU starts in, and the tables
//! that firmware would have left behind.
//!
//! Everything in here is a computation. No function opens a file, starts a thread or calls KVM: the types of
//! `kvm-bindings` are filled in and handed back, and the `vmm` crate gives them to the kernel. So all of it is tested
//! on machines without `/dev/kvm`.
//!
//! One module an ISA, behind the same names.

#![forbid(unsafe_code)]

pub mod memory;

#[cfg(target_arch = "x86_64")]
pub mod x86_64;
#[cfg(target_arch = "x86_64")]
pub use x86_64::{acpi, cpuid, generation, layout, pci, registers, smbios, tables};

use vm_memory::GuestAddress;

pub use memory::GuestRam;

/// How the first instruction of a kernel expects to be met.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BootProtocol {
    /// The 64-bit entry of the Linux boot protocol: long mode, paging on, RSI holds the address of `boot_params`
    /// (Linux Documentation/arch/x86/boot.rst, "64-bit Boot Protocol").
    Linux64,
    /// PVH: 32-bit protected mode, paging off, EBX holds the address of `hvm_start_info`
    /// (Xen docs/misc/pvh.pandoc).
    Pvh,
}

/// Where the boot vCPU starts, and what it is handed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EntryPoint {
    /// The state that the kernel expects.
    pub protocol: BootProtocol,
    /// The first instruction.
    pub address: GuestAddress,
    /// The structure that describes the machine: `boot_params` or `hvm_start_info`.
    pub params: GuestAddress,
}
