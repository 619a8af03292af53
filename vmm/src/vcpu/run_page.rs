// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The `kvm_run` page of a vCPU, mapped once more: for what its owner's mapping can't be used for.
//!
//! A signal interrupts `KVM_RUN`, but one that arrives just before it is lost. So whoever wants a vCPU out of the guest
//! sets `immediate_exit` first, which `KVM_RUN` looks at after it has started to notice signals (Linux
//! Documentation/virt/kvm/api.rst, "kvm_run").

#![expect(unsafe_code, reason = "the page is shared with KVM")]

use std::io;
use std::os::fd::AsRawFd;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU8, Ordering};

use kvm_bindings::kvm_run;
use kvm_ioctls::VcpuFd;

/// The mapping.
#[derive(Debug)]
pub(super) struct RunPage {
    page: NonNull<kvm_run>,
}

// SAFETY: the mapping belongs to this value alone, and all access to it is volatile or atomic.
unsafe impl Send for RunPage {}
// SAFETY: as above.
unsafe impl Sync for RunPage {}

impl RunPage {
    pub(super) fn map(vcpu: &VcpuFd) -> io::Result<Self> {
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let (len, fd) = (size_of::<kvm_run>(), vcpu.as_raw_fd());
        // SAFETY: a new mapping at an address that the kernel chooses; the result is checked below.
        let page = unsafe { libc::mmap(std::ptr::null_mut(), len, protection, libc::MAP_SHARED, fd, 0) };
        if page == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        NonNull::new(page.cast()).map(|page| Self { page }).ok_or_else(|| io::ErrorKind::AddrNotAvailable.into())
    }

    /// Makes the `KVM_RUN` that is entered next return at once. From any thread.
    pub(super) fn request_exit(&self) {
        // SAFETY: the page is mapped for as long as this value lives, and the field is inside of it.
        let field = unsafe { &raw mut (*self.page.as_ptr()).immediate_exit };
        // SAFETY: a valid byte, whose other side is the kernel; nobody of ours writes it in another way.
        unsafe { AtomicU8::from_ptr(field) }.store(1, Ordering::Release);
    }

    /// The width of one access of the port exit that the vCPU is at. For the vCPU's own thread.
    pub(super) fn port_width(&self) -> usize {
        // SAFETY: the page is mapped for as long as this value lives, and the field is inside of it.
        let field = unsafe { &raw const (*self.page.as_ptr()).__bindgen_anon_1.io.size };
        // SAFETY: a valid byte. KVM writes it before `KVM_RUN` returns, which happened before on this thread.
        usize::from(unsafe { field.read_volatile() })
    }
}

impl Drop for RunPage {
    fn drop(&mut self) {
        // SAFETY: mapped by `map` with this length, and not used after this.
        unsafe { libc::munmap(self.page.as_ptr().cast(), size_of::<kvm_run>()) };
    }
}
