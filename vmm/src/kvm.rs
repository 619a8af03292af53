// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! `/dev/kvm`: open it, see that it can do what every VM needs, and make a VM with memory.

use std::fs::File;
use std::io;
use std::os::fd::FromRawFd;
use std::sync::Arc;

use kvm_bindings::{CpuId, KVM_API_VERSION, KVM_MAX_CPUID_ENTRIES, kvm_enable_cap, kvm_userspace_memory_region};
use kvm_ioctls::{Cap, Kvm, VmFd};
use vm_memory::mmap::MmapRegionError;
use vm_memory::{FileOffset, GuestAddress, GuestMemoryBackend, GuestMemoryRegion, GuestRegionMmap, MmapRegion};

use arch::memory::RamRange;
use arch::{GuestRam, layout};

use crate::build::{BuildError, KvmError, refused};
use crate::config::Memory;

/// What a VM can't do without.
pub(crate) const NEEDED: [(Cap, &str); 9] = [
    (Cap::UserMemory, "KVM_CAP_USER_MEMORY"),
    (Cap::Irqchip, "KVM_CAP_IRQCHIP"),
    (Cap::Irqfd, "KVM_CAP_IRQFD"),
    (Cap::Ioeventfd, "KVM_CAP_IOEVENTFD"),
    (Cap::ExtCpuid, "KVM_CAP_EXT_CPUID"),
    (Cap::SetTssAddr, "KVM_CAP_SET_TSS_ADDR"),
    (Cap::SetIdentityMapAddr, "KVM_CAP_SET_IDENTITY_MAP_ADDR"),
    (Cap::MpState, "KVM_CAP_MP_STATE"),
    (Cap::ImmediateExit, "KVM_CAP_IMMEDIATE_EXIT"),
];

/// vCPU identifiers from here on need the LAPIC's 32-bit mode: 255 is the xAPIC's broadcast.
const FIRST_X2APIC_ID: u32 = 255;

/// The most that one memory slot of ours holds: KVM takes just under 8 TiB (`KVM_MEM_MAX_NR_PAGES`).
const MAX_SLOT: usize = 1 << 42;

/// Opens `/dev/kvm` and checks it.
pub(crate) fn open() -> Result<Kvm, KvmError> {
    let kvm = Kvm::new().map_err(|error| KvmError::from_errno(error.errno()))?;
    let version = kvm.get_api_version();
    if version != KVM_API_VERSION.cast_signed() {
        return Err(KvmError::ApiVersion(version));
    }
    let missing: Vec<_> = NEEDED.iter().filter(|(cap, _)| !kvm.check_extension(*cap)).map(|(_, name)| *name).collect();
    if missing.is_empty() { Ok(kvm) } else { Err(KvmError::Capabilities(missing.join(", "))) }
}

/// How many vCPUs this host's KVM allows in a VM.
pub(crate) fn max_vcpus(kvm: &Kvm) -> u32 {
    u32::try_from(kvm.get_max_vcpus().min(kvm.get_max_vcpu_id())).unwrap_or(u32::MAX)
}

/// The CPUID leaves that KVM can give a guest.
pub(crate) fn supported_cpuid(kvm: &Kvm) -> Result<CpuId, BuildError> {
    kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES).map_err(refused("tell the CPUID leaves it supports"))
}

/// A VM that has nothing yet.
pub(crate) fn new_vm(kvm: &Kvm) -> Result<VmFd, KvmError> {
    loop {
        match kvm.create_vm() {
            Ok(vm) => return Ok(vm),
            // A signal that comes in while KVM starts its per-VM threads.
            Err(error) if error.errno() == libc::EINTR => (),
            Err(error) if error.errno() == libc::EBUSY => return Err(KvmError::Busy),
            Err(error) => return Err(KvmError::CreateVm(error)),
        }
    }
}

/// A VM with guest RAM and its interrupt controllers, before it has vCPUs.
pub(crate) fn create_vm(kvm: &Kvm, ram: &GuestRam, vcpus: u32) -> Result<VmFd, BuildError> {
    let vm = new_vm(kvm)?;
    // Before the interrupt controllers: KVM waits for all readers of its memory map to be gone, which takes milliseconds
    // when devices of its own have just been put on a bus of the VM's.
    map(&vm, ram)?;
    vm.set_identity_map_address(layout::KVM_IDENTITY_MAP).map_err(refused("place its identity map"))?;
    let tss = usize::try_from(layout::KVM_TSS).unwrap_or(usize::MAX);
    vm.set_tss_address(tss).map_err(refused("place its TSS pages"))?;
    vm.create_irq_chip().map_err(refused("create the interrupt controllers"))?;
    if vcpus > FIRST_X2APIC_ID {
        // KVM_X2APIC_API_USE_32BIT_IDS and KVM_X2APIC_API_DISABLE_BROADCAST_QUIRK.
        let cap = kvm_enable_cap { cap: Cap::X2ApicApi as u32, args: [3, 0, 0, 0], ..Default::default() };
        vm.enable_cap(&cap).map_err(refused("number more than 255 vCPUs"))?;
    }
    Ok(vm)
}

/// Guest RAM: address space of ours, which the host fills page by page as the guest touches it. Shared, it is a file in memory
/// that other processes can be given.
pub(crate) fn allocate(memory: Memory, address_bits: u8) -> Result<GuestRam, BuildError> {
    let size = memory.size;
    let ranges = arch::memory::ram_ranges(size.bytes());
    let end = ranges.last().map_or(0, RamRange::end);
    let limit = 1u64.checked_shl(address_bits.into()).unwrap_or(u64::MAX);
    if end > limit {
        let hole = layout::MMIO_HOLE_END - layout::MMIO_HOLE_START;
        let max = format!("{}G", limit.saturating_sub(hole) >> 30);
        return Err(BuildError::MemoryBeyondAddressBits { asked: size.to_string(), max, bits: address_bits });
    }
    let cant =
        |source: Box<dyn std::error::Error + Send + Sync>| BuildError::Memory { asked: size.to_string(), source };
    let file = memory.shared.then(|| memory_file(size.bytes())).transpose().map_err(|error| cant(error.into()))?;
    let mut at = 0;
    let region = |range: &RamRange| {
        let size = usize::try_from(range.size.get()).map_err(|error| cant(error.into()))?;
        let part = file.as_ref().map(|file| FileOffset::from_arc(file.clone(), at));
        at += range.size.get();
        let region = map_aligned(size, part.as_ref()).map_err(|error| cant(error.into()))?;
        GuestRegionMmap::new(region, range.start).ok_or_else(|| cant("it wraps around".into()))
    };
    let regions = ranges.iter().map(region).collect::<Result<Vec<_>, BuildError>>()?;
    let ram = GuestRam::from_regions(regions).map_err(|error| cant(error.into()))?;
    scatter_low_memory(&ram);
    Ok(ram)
}

/// A file in memory with so many bytes, as `/proc/PID/maps` shows it by its name. Who is given it can't change its size.
#[expect(unsafe_code, reason = "a file in memory is made by a system call")]
fn memory_file(bytes: u64) -> io::Result<Arc<File>> {
    let create = |flags| {
        // SAFETY: takes a name that ends in 0 and numbers, and gives a number.
        let fd = unsafe { libc::memfd_create(c"guest-ram".as_ptr(), libc::MFD_CLOEXEC | flags) };
        if fd < 0 { Err(io::Error::last_os_error()) } else { Ok(fd) }
    };
    // A kernel may want to hear that no program is to be run from it (sysctl vm.memfd_noexec); one before 6.3 has no such flag.
    let fd = create(libc::MFD_NOEXEC_SEAL).or_else(|error| match error.raw_os_error() {
        Some(libc::EINVAL) => create(libc::MFD_ALLOW_SEALING),
        _ => Err(error),
    })?;
    // SAFETY: the kernel has just made this descriptor, and nobody else knows of it.
    let file = unsafe { File::from_raw_fd(fd) };
    file.set_len(bytes)?;
    let seals = libc::F_SEAL_SHRINK | libc::F_SEAL_GROW | libc::F_SEAL_SEAL;
    // SAFETY: takes numbers. A page that nobody can take away is one that no access of ours fails at.
    if unsafe { libc::fcntl(fd, libc::F_ADD_SEALS, seals) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(Arc::new(file))
}

/// Bytes of a huge page.
const HUGE_PAGE: usize = 2 << 20;

/// Maps memory where a huge page of ours can be one of the guest's: KVM needs both addresses to have the same offset into it.
/// Linux does so by itself since 6.7. Before, it puts a mapping right below the last one; so one that takes up what is too
/// much comes first. Where that doesn't help, nothing is lost.
fn map_aligned(size: usize, part: Option<&FileOffset>) -> Result<MmapRegion, MmapRegionError> {
    let map = || match part {
        Some(part) => MmapRegion::from_file(part.clone(), size),
        None => MmapRegion::new(size),
    };
    let region = map()?;
    let excess = region.as_ptr() as usize % HUGE_PAGE;
    if excess == 0 || size < HUGE_PAGE {
        return Ok(region);
    }
    drop(region);
    let filler = MmapRegion::<()>::new(excess)?;
    let region = map();
    drop(filler);
    region
}

/// Bytes from address 0 on that get no huge page: what the largest one of them would cover.
const SCATTERED: usize = HUGE_PAGE;

/// Keeps huge pages from where the boot structures are. They are a dozen pages, and zeroing 2 MiB for them costs more than
/// all else that is done with guest memory before the guest runs.
#[expect(unsafe_code, reason = "advice on a mapping is a system call on its address")]
fn scatter_low_memory(ram: &GuestRam) {
    let Some(low) = ram.find_region(GuestAddress(0)) else { return };
    let len = usize::try_from(low.len()).unwrap_or(usize::MAX).min(SCATTERED);
    // SAFETY: the range is inside of a mapping that `ram` keeps; the advice changes which pages back it, not its content.
    // A kernel without huge pages refuses, and needs no such advice.
    unsafe { libc::madvise(low.as_ptr().cast(), len, libc::MADV_NOHUGEPAGE) };
}

/// Makes guest RAM what it was at first: zeros, none of which takes memory of the host's.
#[expect(unsafe_code, reason = "advice on a mapping is a system call on its address")]
pub(crate) fn empty(ram: &GuestRam) -> Result<(), BuildError> {
    for region in ram.iter() {
        let advice = if region.file_offset().is_some() { libc::MADV_REMOVE } else { libc::MADV_DONTNEED };
        let len = usize::try_from(region.len()).unwrap_or(usize::MAX);
        // SAFETY: the range is a mapping of ours as a whole, which `ram` keeps. What was in its pages is lost, and guest memory may
        // change at any time; nobody has a reference into it.
        if unsafe { libc::madvise(region.as_ptr().cast(), len, advice) } < 0 {
            let source = io::Error::last_os_error();
            return Err(BuildError::Host { what: "the guest's memory anew", source });
        }
    }
    Ok(())
}

/// Tells KVM where guest RAM is.
#[expect(unsafe_code, reason = "KVM writes to the memory that it is given")]
fn map(vm: &VmFd, ram: &GuestRam) -> Result<(), BuildError> {
    let parts = ram.iter().flat_map(|region| {
        let (start, len, host) = (region.start_addr().0, region.len(), region.as_ptr() as u64);
        (0..len).step_by(MAX_SLOT).map(move |at| (start + at, (len - at).min(MAX_SLOT as u64), host + at))
    });
    for (slot, (guest_phys_addr, memory_size, userspace_addr)) in (0..).zip(parts) {
        let slot = kvm_userspace_memory_region { slot, flags: 0, guest_phys_addr, memory_size, userspace_addr };
        // SAFETY: the region is mapped, of that length, and stays so while `ram` or a clone of it lives; `Vm` keeps one
        // until its vCPUs have ended, in which way soever (`Running` in `vm.rs`). Guest RAM is only touched by volatile and atomic access.
        unsafe { vm.set_user_memory_region(slot) }.map_err(refused("map the guest's memory"))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd;

    use vm_memory::Bytes;

    use super::*;
    use crate::config::MemorySize;

    fn mib(mib: u64) -> Memory {
        MemorySize::mib(mib).unwrap().into()
    }

    #[test]
    fn shared_memory_is_one_file_that_keeps_its_size_and_private_memory_is_none() {
        assert!(allocate(mib(5120), 48).unwrap().iter().all(|region| region.file_offset().is_none()));
        let ram = allocate(Memory { shared: true, ..mib(5120) }, 48).unwrap();
        let mut end = 0;
        for region in ram.iter() {
            let part = region.file_offset().unwrap();
            assert_eq!(part.start(), end);
            end += region.len();
            assert_eq!(part.file().metadata().unwrap().len(), 5120 << 20);
            assert!(part.file().set_len(4096).is_err(), "who is given it could take pages away");
            // Another mapping of it shows what the guest has written.
            ram.write_obj(0x1234_5678u32, region.start_addr()).unwrap();
            let other = MmapRegion::<()>::from_file(part.clone(), 4096).unwrap();
            let other = GuestRam::from_regions(vec![GuestRegionMmap::new(other, GuestAddress(0)).unwrap()]).unwrap();
            assert_eq!(other.read_obj::<u32>(GuestAddress(0)).unwrap(), 0x1234_5678);
            let name = std::fs::read_link(format!("/proc/self/fd/{}", part.file().as_raw_fd())).unwrap();
            assert!(name.to_str().unwrap().starts_with("/memfd:guest-ram"), "{name:?}");
        }
        assert_eq!(end, 5120 << 20);
    }

    #[test]
    fn emptied_memory_is_all_zeros_and_gives_the_host_its_pages_back() {
        for shared in [false, true] {
            let ram = allocate(Memory { shared, ..mib(64) }, 48).unwrap();
            for address in [0, 4095, 32 << 20, (64 << 20) - 1] {
                ram.write_obj(0xa5u8, GuestAddress(address)).unwrap();
            }
            empty(&ram).unwrap();
            for address in [0, 4095, 32 << 20, (64 << 20) - 1] {
                assert_eq!(ram.read_obj::<u8>(GuestAddress(address)).unwrap(), 0, "{address:#x}, shared: {shared}");
            }
            if let Some(part) = ram.iter().next().unwrap().file_offset() {
                use std::os::unix::fs::MetadataExt;
                // Those that were just read.
                assert!(part.file().metadata().unwrap().blocks() * 512 <= 2 * HUGE_PAGE as u64);
            }
        }
    }

    #[test]
    fn memory_that_the_address_bits_do_not_reach_is_refused() {
        let refused = allocate(mib(64 << 10), 36).unwrap_err().to_string();
        assert_eq!(refused, "64G of memory are too much: with the guest's 36 address bits, 63G is the most");
        assert!(allocate(mib(63 << 10), 36).is_ok());
    }

    #[test]
    fn memory_lies_where_huge_pages_can() {
        for (size, shared) in [(32, false), (512, false), (5120, false), (512, true), (5120, true)] {
            for region in allocate(Memory { shared, ..mib(size) }, 48).unwrap().iter() {
                assert_eq!(region.as_ptr() as usize % HUGE_PAGE, 0, "{size} MiB, shared: {shared}");
            }
        }
    }

    #[test]
    fn memory_that_no_host_has_is_refused_with_its_cure() {
        let refused = allocate(mib(1 << 38), 64).unwrap_err().to_string();
        assert!(refused.ends_with("can't be had from this host: give less with --memory"), "{refused}");
    }
}
