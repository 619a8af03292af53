// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! An ELF kernel of 16 MiB comes into fresh guest memory, page faults included.

use std::fs::File;
use std::io::Write;

use arch::{BootProtocol, layout};
use boot::{Kernel, Request};
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use devices::virtio::mock::ram;
use vm_memory::GuestAddress;

const SIZE: u64 = 16 << 20;
/// Where Linux is linked to run.
const BASE: u64 = 16 << 20;
const RAM: usize = 64 << 20;

/// An ELF with one segment of [`SIZE`] in a file in memory.
fn kernel() -> File {
    const CODE_AT: u64 = 0x1000;
    let mut elf = vec![0x7f, b'E', b'L', b'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    elf.extend([2u16, 62].iter().flat_map(|half| half.to_le_bytes())); // ET_EXEC, EM_X86_64
    elf.extend(1u32.to_le_bytes());
    elf.extend([BASE, 64, 0].iter().flat_map(|word| word.to_le_bytes()));
    elf.extend(0u32.to_le_bytes());
    elf.extend([64u16, 56, 1, 0, 0, 0].iter().flat_map(|half| half.to_le_bytes()));
    elf.extend([1u32, 7].iter().flat_map(|word| word.to_le_bytes())); // PT_LOAD, readable, writable, executable
    elf.extend([CODE_AT, BASE, BASE, SIZE, SIZE, CODE_AT].iter().flat_map(|word| word.to_le_bytes()));
    elf.resize((CODE_AT + SIZE) as usize, 0x90);
    let mut file = tempfile::tempfile_in("/dev/shm").expect("/dev/shm is there");
    file.write_all(&elf).expect("there is memory");
    file
}

fn load(criterion: &mut Criterion) {
    let file = kernel();
    let mut group = criterion.benchmark_group("kernel: load an ELF of 16 MiB");
    group.throughput(Throughput::Bytes(SIZE)).sample_size(20);
    group.bench_function("64-bit entry", |bencher| {
        bencher.iter_batched(
            || (ram(RAM), file.try_clone().expect("there are descriptors")),
            |(ram, file)| {
                let mut kernel = Kernel::open(file).expect("it is a kernel");
                let request = Request {
                    kernel: &mut kernel,
                    initrd: None,
                    cmdline: b"console=ttyS0 quiet",
                    protocol: Some(BootProtocol::Linux64),
                    rsdp: GuestAddress(layout::ACPI_RSDP),
                };
                let entry = boot::load(&ram, request).expect("it fits");
                // Handed back, so that unmapping isn't timed.
                (ram, entry)
            },
            BatchSize::PerIteration,
        );
    });
    group.finish();
}

criterion_group!(benches, load);
criterion_main!(benches);
