// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The x86-64 machine.

pub mod acpi;
pub mod cpuid;
mod gdt;
pub mod generation;
pub mod layout;
pub mod pci;
pub mod registers;
pub mod smbios;
pub mod tables;
