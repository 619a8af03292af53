// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The programs: assembled with the test, loaded at 1 MiB, entered in 64-bit mode with the low 4 GiB mapped one to one
//! (`PVH`: in 32-bit mode without paging). They must run wherever they lie, so all their addresses are relative.
//! Labels have digits above 1: `10b` would be a binary number.
//!
//! Numbers: serial port 0x3f8, power management 0x600 (sleep control, 0x34 is S5 with its enable bit), virtio-mmio from
//! 0xc1000000, LAPIC 0xfee00000, IOAPIC 0xfec00000, lines 4 (serial), 5 (events), 6 (first disk). See `arch::layout`.

#![expect(unsafe_code, reason = "the bytes between two symbols of the assembler are made a slice")]

/// Declares a program: its name, and its instructions.
macro_rules! program {
    ($name:ident, $start:ident, $end:ident, $mode:literal, $($line:expr),+ $(,)?) => {
        std::arch::global_asm!(
            ".pushsection .rodata.micro_guest, \"a\"",
            concat!(".globl ", stringify!($start)),
            concat!(".globl ", stringify!($end)),
            $mode,
            concat!(stringify!($start), ":"),
            $($line,)+
            concat!(stringify!($end), ":"),
            ".code64",
            ".popsection",
        );
        #[expect(non_snake_case, reason = "a program is a constant, but the linker only knows its address at run time")]
        pub(crate) fn $name() -> &'static [u8] {
            // SAFETY: `global_asm!` above defines both symbols; only their addresses are taken.
            unsafe extern "C" {
                static $start: u8;
                static $end: u8;
            }
            let (start, end) = (&raw const $start, &raw const $end);
            // SAFETY: both symbols are in one read-only section of this program, the second one behind the first, with
            // nothing but initialized bytes between them.
            unsafe { std::slice::from_raw_parts(start, end.addr() - start.addr()) }
        }
    };
}

program!(
    HELLO,
    hello_start,
    hello_end,
    ".code64",
    "lea rsi, [rip + 40f]",
    "mov edx, 0x3f8",
    "21: lodsb",
    "test al, al",
    "jz 22f",
    "out dx, al",
    "jmp 21b",
    // The same with a repeat prefix: one exit may carry all of it.
    "22: mov ecx, 6",
    "rep outsb",
    "mov edx, 0x600",
    "mov al, 0x34",
    "out dx, al",
    "23: jmp 23b",
    "40: .asciz \"hello, \"",
    ".ascii \"string\"",
);

program!(RESET, reset_start, reset_end, ".code64", "mov al, 0xfe", "out 0x64, al", "21: jmp 21b",);

program!(
    ACPI_RESET,
    acpi_reset_start,
    acpi_reset_end,
    ".code64",
    "mov edx, 0x602",
    "mov al, 1",
    "out dx, al",
    "21: jmp 21b",
);

// Says R where its memory is new, and resets the machine.
program!(
    AGAIN,
    again_start,
    again_end,
    ".code64",
    "mov edi, 0x50000",
    "cmp byte ptr [rdi], 0",
    "jne 23f",
    "mov byte ptr [rdi], 1",
    "mov edx, 0x3f8",
    "mov al, 0x52",
    "out dx, al",
    "mov edx, 0x602",
    "mov al, 1",
    "out dx, al",
    "22: jmp 22b",
    "23: mov edx, 0x600",
    "mov al, 0x34",
    "out dx, al",
    "24: jmp 24b",
);

// Resets the machine by a string instruction that never comes to its end.
program!(
    ENDLESS_RESET,
    endless_reset_start,
    endless_reset_end,
    ".code64",
    "mov edx, 0x3f8",
    "mov al, 0x52",
    "out dx, al",
    "lea rsi, [rip + 40f]",
    "mov edx, 0x602",
    "mov rcx, -1",
    "rep outsb",
    "22: jmp 22b",
    "40: .fill 4096, 1, 1",
);

program!(
    PVH,
    pvh_start,
    pvh_end,
    ".code32",
    "cmp dword ptr [ebx], 0x336ec578",
    "jne 21f",
    "mov edx, 0x3f8",
    "mov al, 0x70",
    "out dx, al",
    "mov al, 0x76",
    "out dx, al",
    "mov al, 0x68",
    "out dx, al",
    "21: mov edx, 0x600",
    "mov al, 0x34",
    "out dx, al",
    "22: jmp 22b",
);

program!(
    MMIO,
    mmio_start,
    mmio_end,
    ".code64",
    "mov edi, 0xc1000000",
    "mov edx, 0x3f8",
    // The magic number, byte by byte.
    "mov eax, [rdi]",
    "mov ecx, 4",
    "21: out dx, al",
    "shr eax, 8",
    "loop 21b",
    // ACKNOWLEDGE is kept; a write where no device is goes nowhere, and reads give all ones.
    "mov dword ptr [rdi + 0x70], 1",
    "mov eax, [rdi + 0x70]",
    "cmp eax, 1",
    "jne 23f",
    "mov edi, 0xcf000000",
    "mov dword ptr [rdi], 5",
    "mov eax, [rdi]",
    "cmp eax, -1",
    "jne 23f",
    "mov al, 0x46",
    "out dx, al",
    // The same on ports.
    "mov edx, 0xabc",
    "out dx, eax",
    "in eax, dx",
    "cmp eax, -1",
    "jne 23f",
    "mov edx, 0x3f8",
    "mov al, 0x46",
    "out dx, al",
    "23: mov edx, 0x600",
    "mov al, 0x34",
    "out dx, al",
    "24: jmp 24b",
);

/// Sets up interrupts: the 8259s, which see the same lines, are masked; IDT at 0x30000 with one gate, vector 0x40, for the handler at label 50; the LAPIC is enabled and
/// the IOAPIC's line in EBX goes to that vector.
macro_rules! interrupt_setup {
    () => {
        "mov al, 0xff
         out 0x21, al
         out 0xa1, al
         lea rax, [rip + 50f]
         mov edi, 0x30400
         mov [rdi], ax
         mov word ptr [rdi + 2], 0x10
         mov word ptr [rdi + 4], 0x8e00
         shr rax, 16
         mov [rdi + 6], ax
         shr rax, 16
         mov [rdi + 8], eax
         mov dword ptr [rdi + 12], 0
         mov edi, 0x31000
         mov word ptr [rdi], 0x0fff
         mov qword ptr [rdi + 2], 0x30000
         lidt [rdi]
         mov edi, 0xfee00000
         mov dword ptr [rdi + 0xf0], 0x1ff
         mov edi, 0xfec00000
         lea eax, [ebx * 2 + 0x11]
         mov [rdi], eax
         mov dword ptr [rdi + 0x10], 0
         dec eax
         mov [rdi], eax
         mov dword ptr [rdi + 0x10], 0x40"
    };
}

program!(
    INTERRUPT,
    interrupt_start,
    interrupt_end,
    ".code64",
    "mov ebx, 4",
    interrupt_setup!(),
    "sti",
    // Interrupts when the transmitter is empty, which it is.
    "mov edx, 0x3f9",
    "mov al, 2",
    "out dx, al",
    "21: hlt",
    "jmp 21b",
    "50: mov edx, 0x3f8",
    "mov al, 0x49",
    "out dx, al",
    "mov edx, 0x600",
    "mov al, 0x34",
    "out dx, al",
    "22: jmp 22b",
);

program!(
    POWER_BUTTON,
    power_button_start,
    power_button_end,
    ".code64",
    "mov ebx, 5",
    interrupt_setup!(),
    "mov edx, 0x3f8",
    "mov al, 0x52",
    "out dx, al",
    "sti",
    "21: hlt",
    "jmp 21b",
    // The event register tells of the power button.
    "50: mov edx, 0x604",
    "in al, dx",
    "cmp al, 1",
    "jne 22f",
    "mov edx, 0x3f8",
    "mov al, 0x50",
    "out dx, al",
    "mov edx, 0x600",
    "mov al, 0x34",
    "out dx, al",
    "22: jmp 22b",
);

program!(
    ECHO,
    echo_start,
    echo_end,
    ".code64",
    "mov ebx, 4",
    interrupt_setup!(),
    "mov edx, 0x3f9",
    "mov al, 1",
    "out dx, al",
    "sti",
    "21: hlt",
    "jmp 21b",
    "50: mov edx, 0x3fd",
    "in al, dx",
    "test al, 1",
    "jz 24f",
    "mov edx, 0x3f8",
    "in al, dx",
    "cmp al, 0x71",
    "je 23f",
    "out dx, al",
    "jmp 50b",
    "23: mov edx, 0x600",
    "mov al, 0x34",
    "out dx, al",
    "25: jmp 25b",
    "24: mov edi, 0xfee00000",
    "mov dword ptr [rdi + 0xb0], 0",
    "iretq",
);

// Virtio-blk from scratch: descriptors at 0x40000, avail ring at 0x41000, used ring at 0x42000, header at 0x43000,
// status byte at 0x43100, data at 0x44000. All of it is zero before.
program!(
    DISK,
    disk_start,
    disk_end,
    ".code64",
    "mov ebx, 6",
    interrupt_setup!(),
    "mov edi, 0xc1000000",
    "mov dword ptr [rdi + 0x70], 1",
    "mov dword ptr [rdi + 0x70], 3",
    // VERSION_1 is all that is accepted.
    "mov dword ptr [rdi + 0x24], 1",
    "mov dword ptr [rdi + 0x20], 1",
    "mov dword ptr [rdi + 0x70], 11",
    "mov dword ptr [rdi + 0x30], 0",
    "mov dword ptr [rdi + 0x38], 8",
    "mov dword ptr [rdi + 0x80], 0x40000",
    "mov dword ptr [rdi + 0x90], 0x41000",
    "mov dword ptr [rdi + 0xa0], 0x42000",
    "mov dword ptr [rdi + 0x44], 1",
    "mov dword ptr [rdi + 0x70], 15",
    // Header (readable), data and status (writable).
    "mov esi, 0x40000",
    "mov dword ptr [rsi], 0x43000",
    "mov dword ptr [rsi + 8], 16",
    "mov dword ptr [rsi + 12], 0x00010001",
    "mov dword ptr [rsi + 16], 0x44000",
    "mov dword ptr [rsi + 24], 512",
    "mov dword ptr [rsi + 28], 0x00020003",
    "mov dword ptr [rsi + 32], 0x43100",
    "mov dword ptr [rsi + 40], 1",
    "mov dword ptr [rsi + 44], 0x00000002",
    "mov byte ptr [0x43100], 0xff",
    "mov word ptr [0x41002], 1",
    "sti",
    "mov dword ptr [rdi + 0x50], 0",
    "21: hlt",
    "jmp 21b",
    // Used index 1, status 0: the sector's text goes to the serial port.
    "50: cmp word ptr [0x42002], 1",
    "jne 23f",
    "cmp byte ptr [0x43100], 0",
    "jne 23f",
    "mov esi, 0x44000",
    "mov edx, 0x3f8",
    "22: lodsb",
    "test al, al",
    "jz 23f",
    "out dx, al",
    "jmp 22b",
    "23: mov edx, 0x600",
    "mov al, 0x34",
    "out dx, al",
    "24: jmp 24b",
);

program!(
    HALT,
    halt_start,
    halt_end,
    ".code64",
    "mov edx, 0x3f8",
    "mov al, 0x52",
    "out dx, al",
    "cli",
    "21: hlt",
    "jmp 21b",
);

program!(SPIN, spin_start, spin_end, ".code64", "mov edx, 0x3f8", "mov al, 0x52", "out dx, al", "21: jmp 21b",);

program!(FLOOD, flood_start, flood_end, ".code64", "mov edx, 0x3f8", "21: out dx, al", "jmp 21b",);

program!(
    TRIPLE_FAULT,
    triple_fault_start,
    triple_fault_end,
    ".code64",
    // An IDT without a gate.
    "mov qword ptr [0x31000], 0",
    "mov qword ptr [0x31008], 0",
    "lidt [0x31000]",
    "ud2",
    "21: jmp 21b",
);

program!(
    SAY_AND_CRASH,
    say_and_crash_start,
    say_and_crash_end,
    ".code64",
    "mov edx, 0x3f8",
    "mov al, 0x52",
    "out dx, al",
    "mov qword ptr [0x31000], 0",
    "mov qword ptr [0x31008], 0",
    "lidt [0x31000]",
    "ud2",
    "21: jmp 21b",
);

program!(RUN_FROM_MMIO, run_from_mmio_start, run_from_mmio_end, ".code64", "mov eax, 0xc1000000", "jmp rax",);

// The second vCPU starts in real mode at 0x8000, says A and sets a byte at 0x9000 of its segment.
program!(
    TWO_VCPUS,
    two_vcpus_start,
    two_vcpus_end,
    ".code64",
    "lea rsi, [rip + 60f]",
    "mov edi, 0x80000",
    "mov ecx, 64",
    "rep movsb",
    "mov edi, 0xfee00000",
    "mov dword ptr [rdi + 0xf0], 0x1ff",
    // INIT, then the start-up interrupt with page 0x80, to APIC ID 1.
    "mov dword ptr [rdi + 0x310], 0x01000000",
    "mov dword ptr [rdi + 0x300], 0x00004500",
    "mov dword ptr [rdi + 0x310], 0x01000000",
    "mov dword ptr [rdi + 0x300], 0x00004680",
    "21: pause",
    "cmp byte ptr [0x80800], 1",
    "jne 21b",
    "mov edx, 0x3f8",
    "mov al, 0x42",
    "out dx, al",
    "mov edx, 0x600",
    "mov al, 0x34",
    "out dx, al",
    "22: jmp 22b",
    ".code16",
    "60: mov dx, 0x3f8",
    "mov al, 0x41",
    "out dx, al",
    "mov ax, cs",
    "mov ds, ax",
    "mov byte ptr [0x800], 1",
    "62: hlt",
    "jmp 62b",
    ".fill 64",
);
