// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The guest-physical address map, the port map and the interrupt lines.
//!
//! | from | to | is |
//! |---|---|---|
//! | `0x0000_0000` | `0x0009_fc00` | RAM; boot structures in its lower part |
//! | `0x0009_fc00` | `0x0010_0000` | reserved: EBDA, VGA, firmware; vmclock at `0xc_e000`, generation ID behind it; ACPI tables from `0xd_0000`, SMBIOS from `0xf_0000` |
//! | `0x0010_0000` | `0xc000_0000` | RAM, as far as there is any |
//! | `0xc000_0000` | `0x1_0000_0000` | the hole: devices, ECAM, IOAPIC, LAPIC, KVM's own pages |
//! | `0x1_0000_0000` | | RAM that didn't fit below the hole; behind it, PCI's high window |

/// Where conventional memory ends and the region of the extended BIOS data area starts.
pub const EBDA_START: u64 = 0x9_fc00;
/// Where extended memory starts: the lowest address that a kernel may be loaded at.
pub const HIGH_MEMORY_START: u64 = 0x10_0000;

/// The boot GDT (`tables`).
pub const BOOT_GDT: u64 = 0x500;
/// The boot IDT: empty, so that an early fault is a triple fault and not a jump to nowhere.
pub const BOOT_IDT: u64 = 0x600;
/// `hvm_start_info` of the PVH entry, followed by its module list and its memory map.
pub const PVH_START_INFO: u64 = 0x6000;
/// `boot_params` of the Linux entry (the "zero page").
pub const ZERO_PAGE: u64 = 0x7000;
/// The boot stack grows down from here.
pub const BOOT_STACK: u64 = 0x8ff0;
/// Boot page tables: a PML4, a PDPT and four page directories that map the low 4 GiB one to one.
pub const BOOT_PAGE_TABLES: u64 = 0x9000;
/// The kernel's command line.
pub const CMDLINE: u64 = 0x2_0000;
/// Bytes kept for the command line, its NUL included.
pub const CMDLINE_SPACE: u64 = 0x1_0000;

/// The vmclock: a page of its own, which a guest may map for its programs.
pub const VMCLOCK: u64 = 0xc_e000;
/// Bytes of that page.
pub const VMCLOCK_SIZE: u64 = 0x1000;
/// The generation ID: in a page that nothing else is in, and not at its start, where the signature of an option ROM would be.
pub const GENERATION_ID: u64 = 0xc_f028;

/// The ACPI tables: room for the MADT of 4096 vCPUs (64 KiB) and as much again for the rest.
pub const ACPI_START: u64 = 0xd_0000;
/// The RSDP, behind the tables: inside the area that Linux scans for an RSDP by itself, from `0xe_0000`.
pub const ACPI_RSDP: u64 = 0xe_ffc0;
/// Where the room for ACPI ends.
pub const ACPI_END: u64 = 0xf_0000;
/// The room for SMBIOS: where a guest scans for its anchor.
pub const SMBIOS_START: u64 = 0xf_0000;
/// Where a processor of old starts, and where Linux jumps to in real mode when it knows no other way to reboot.
pub const RESET_VECTOR: u64 = 0xf_fff0;

/// Where the hole below 4 GiB starts. Nothing in it is RAM.
pub const MMIO_HOLE_START: u64 = 0xc000_0000;
/// Where the hole ends.
pub const MMIO_HOLE_END: u64 = 0x1_0000_0000;
/// The register windows of virtio-mmio devices, one after the other.
pub const VIRTIO_MMIO_START: u64 = 0xc100_0000;
/// Bytes of one virtio-mmio window: a page, so that a doorbell can be told apart by its page.
pub const VIRTIO_MMIO_SIZE: u64 = 0x1000;
/// Where the room for virtio-mmio windows ends.
pub const VIRTIO_MMIO_END: u64 = 0xc200_0000;
/// PCI's window below 4 GiB: memory of its functions.
pub const PCI_WINDOW_START: u64 = VIRTIO_MMIO_END;
/// Where the window ends.
pub const PCI_WINDOW_END: u64 = PCI_ECAM_START;
/// PCI's configuration space (ECAM).
pub const PCI_ECAM_START: u64 = 0xe000_0000;
/// Bytes of configuration space: 4 KiB for each of the 256 functions of bus 0.
pub const PCI_ECAM_SIZE: u64 = 0x10_0000;
/// Bytes of PCI's window above 4 GiB, and what it is aligned to. It fits below 36 bits, the least that there is.
pub const PCI_HIGH_WINDOW_SIZE: u64 = 1 << 34;
/// The IOAPIC's registers.
pub const IOAPIC: u64 = 0xfec0_0000;
/// The LAPIC's registers.
pub const LAPIC: u64 = 0xfee0_0000;
/// KVM's identity-map page (Intel without unrestricted guest): below KVM's TSS pages.
pub const KVM_IDENTITY_MAP: u64 = 0xfffb_c000;
/// KVM's three TSS pages (Intel without unrestricted guest).
pub const KVM_TSS: u64 = 0xfffb_d000;

/// The first serial port, a 16550.
pub const SERIAL_PORT: u16 = 0x3f8;
/// Ports of a 16550.
pub const SERIAL_PORT_SIZE: u16 = 8;
/// The i8042's data port; its command and status port is four above.
pub const I8042_PORT: u16 = 0x60;
/// Ports from the i8042's data port to its command port.
pub const I8042_PORT_SIZE: u16 = 5;
/// The CMOS index port of the real-time clock; the data port follows it.
pub const RTC_PORT: u16 = 0x70;
/// Ports of the real-time clock.
pub const RTC_PORT_SIZE: u16 = 2;
/// PCI's configuration ports: an address and a data register (PCI Local Bus 3.0 §3.2.2.3.2).
pub const PCI_CONFIG_PORT: u16 = 0xcf8;
/// Ports of PCI configuration.
pub const PCI_CONFIG_PORT_SIZE: u16 = 8;
/// pvpanic's one port (QEMU docs/specs/pvpanic.rst).
pub const PVPANIC_PORT: u16 = 0x505;
/// The registers of power management: see the offsets below.
pub const PM_PORT: u16 = 0x600;
/// Ports of power management.
pub const PM_PORT_SIZE: u16 = 8;
/// Offset of the ACPI sleep control register (ACPI 6.5 §4.8.3.7).
pub const PM_SLEEP_CONTROL: u16 = 0;
/// Offset of the ACPI sleep status register.
pub const PM_SLEEP_STATUS: u16 = 1;
/// Offset of the reset register.
pub const PM_RESET: u16 = 2;
/// Offset of the event register that the generic event device reads: a bit an event, cleared by reading.
pub const PM_EVENTS: u16 = 4;
/// What a guest writes to the reset register.
pub const PM_RESET_VALUE: u8 = 1;
/// The sleep type of S5, "soft off".
pub const PM_SLEEP_TYPE_S5: u8 = 5;
/// Bit of the event register: the power button was pressed.
pub const PM_EVENT_POWER_BUTTON: u8 = 1 << 0;
/// Bit of the event register: there is another generation ID.
pub const PM_EVENT_GENERATION: u8 = 1 << 1;
/// Bit of the event register: the vmclock has changed.
pub const PM_EVENT_CLOCK: u8 = 1 << 2;

/// Interrupt lines of the IOAPIC.
pub const IOAPIC_PINS: u32 = 24;
/// The serial port's line.
pub const SERIAL_GSI: u32 = 4;
/// The generic event device's line.
pub const GED_GSI: u32 = 5;
/// The first line for virtio-mmio devices; when all are in use they are shared, which an edge-triggered virtio line can be.
pub const VIRTIO_GSI_START: u32 = 6;
