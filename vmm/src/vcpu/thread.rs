// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The thread of a vCPU.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::{self, JoinHandle};

use devices::bus::Bus;
use kvm_bindings::kvm_regs;
use kvm_ioctls::VcpuFd;
use vmm_sys_util::signal::{Killable, SIGRTMIN, register_signal_handler};

use super::exits::{self, Next};
use super::run_page::RunPage;
use crate::exit::{Ending, RunError};

/// Bytes of a vCPU thread's stack: many times what the deepest exit needs. The default of 2 MiB may get a huge page, all
/// of which is then resident.
const STACK: usize = 256 << 10;

/// What the guest can reach, and what ends it: shared by all vCPUs.
#[derive(Debug)]
pub(crate) struct Machinery {
    pub(crate) ports: Bus,
    pub(crate) mmio: Bus,
    pub(crate) ending: Arc<Ending>,
    pub(crate) stopping: AtomicBool,
}

/// A vCPU that runs.
#[derive(Debug)]
pub(crate) struct VcpuThread {
    index: u32,
    thread: JoinHandle<VcpuFd>,
    page: Arc<RunPage>,
}

extern "C" fn do_nothing(_: libc::c_int, _: *mut libc::siginfo_t, _: *mut libc::c_void) {}

/// Installs a handler that does nothing for the signal that interrupts `KVM_RUN`, once a process: without one the signal
/// would end the process.
fn install_handler() -> io::Result<()> {
    static INSTALLED: OnceLock<Result<(), i32>> = OnceLock::new();
    INSTALLED
        .get_or_init(|| register_signal_handler(SIGRTMIN(), do_nothing).map_err(|error| error.errno()))
        .map_err(io::Error::from_raw_os_error)
}

/// Starts the thread of a vCPU.
pub(crate) fn start(index: u32, vcpu: VcpuFd, machinery: Arc<Machinery>) -> Result<VcpuThread, RunError> {
    let cant = |source: io::Error| RunError::Thread { vcpu: index, source };
    install_handler().map_err(cant)?;
    let page = Arc::new(RunPage::map(&vcpu).map_err(cant)?);
    let shared = page.clone();
    let thread = thread::Builder::new()
        .name(format!("vcpu{index}"))
        .stack_size(STACK)
        .spawn(move || run(index, vcpu, &shared, &machinery))
        .map_err(cant)?;
    Ok(VcpuThread { index, thread, page })
}

impl VcpuThread {
    /// Brings the vCPU out of the guest; `Machinery::stopping` is set, so that it doesn't go back.
    pub(crate) fn kick(&self) {
        self.page.request_exit();
        // Fails only for a thread that is gone, which is as good.
        let _ = self.thread.kill(SIGRTMIN());
    }

    /// Waits for the thread, which has been kicked, and takes the vCPU off it.
    pub(crate) fn join(self) -> Result<VcpuFd, RunError> {
        self.thread.join().map_err(|_| RunError::Panicked { vcpu: self.index })
    }
}

fn run(index: u32, mut vcpu: VcpuFd, page: &RunPage, machinery: &Machinery) -> VcpuFd {
    let guard = PanicGuard { index, ending: &machinery.ending };
    while !machinery.stopping.load(Ordering::Acquire) {
        match exits::run_once(index, &mut vcpu, page, machinery) {
            Ok(Next::Go) => (),
            Ok(Next::End(exit)) => {
                machinery.ending.end(Ok(exit));
                break;
            }
            Err(error) => {
                machinery.ending.end(Err(error));
                break;
            }
        }
    }
    std::mem::forget(guard);
    vcpu
}

/// How often an exit may lead to another one, when nobody answers it.
const MOST_EXITS: usize = 64;

/// Has KVM complete what a vCPU has left the guest for: it keeps that in mind until it is entered again, whatever state it is
/// given meanwhile (Linux Documentation/virt/kvm/api.rst, "KVM_RUN"). Doesn't enter the guest.
///
/// For a vCPU whose registers don't matter any more: a string instruction that would go on is brought to its end.
pub(crate) fn settle(vcpu: &mut VcpuFd) {
    vcpu.set_kvm_immediate_exit(1);
    for _ in 0..MOST_EXITS {
        // Fails when there is nothing left to complete.
        if vcpu.run().is_err() {
            break;
        }
        if let Ok(regs) = vcpu.get_regs() {
            let _ = vcpu.set_regs(&kvm_regs { rcx: 0, ..regs });
        }
    }
    vcpu.set_kvm_immediate_exit(0);
}

/// Ends the VM when the thread ends by a panic: nobody else would notice.
struct PanicGuard<'a> {
    index: u32,
    ending: &'a Ending,
}

impl Drop for PanicGuard<'_> {
    fn drop(&mut self) {
        self.ending.end(Err(RunError::Panicked { vcpu: self.index }));
    }
}
