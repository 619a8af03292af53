// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! One entry into the guest, and what is done about the reason why it was left.
//!
//! The guest controls address, width and data of port and MMIO exits; the buses have an answer to each.

#![expect(unsafe_code, reason = "what KVM tells of an internal error is in a union")]

use kvm_bindings::{
    KVM_INTERNAL_ERROR_EMULATION, KVM_SYSTEM_EVENT_CRASH, KVM_SYSTEM_EVENT_RESET, KVM_SYSTEM_EVENT_SHUTDOWN, kvm_run,
};
use kvm_ioctls::{VcpuExit, VcpuFd};

use super::run_page::RunPage;
use super::thread::Machinery;
use crate::exit::{Crash, CrashReport, Exit, RunError};

/// Whether the vCPU goes back into the guest.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next {
    Go,
    End(Exit),
}

/// A crash whose details are read once the exit's borrow of the vCPU has ended.
#[derive(Clone, Copy)]
enum CrashKind {
    TripleFault,
    InternalError,
    Reported,
}

/// Enters the guest once.
pub(super) fn run_once(index: u32, vcpu: &mut VcpuFd, page: &RunPage, machinery: &Machinery) -> Result<Next, RunError> {
    let crash = match vcpu.run() {
        Ok(VcpuExit::IoIn(port, data)) => {
            // One exit may carry many accesses: a string instruction with a repeat prefix.
            data.chunks_mut(page.port_width().max(1)).for_each(|item| machinery.ports.read(port.into(), item));
            return Ok(Next::Go);
        }
        Ok(VcpuExit::IoOut(port, data)) => {
            data.chunks(page.port_width().max(1)).for_each(|item| machinery.ports.write(port.into(), item));
            return Ok(Next::Go);
        }
        Ok(VcpuExit::MmioRead(address, data)) => {
            machinery.mmio.read(address, data);
            return Ok(Next::Go);
        }
        Ok(VcpuExit::MmioWrite(address, data)) => {
            machinery.mmio.write(address, data);
            return Ok(Next::Go);
        }
        Ok(VcpuExit::Intr | VcpuExit::IrqWindowOpen) => return Ok(Next::Go),
        // A kick, or a vCPU that was woken before the guest had started it.
        Err(error) if matches!(error.errno(), libc::EINTR | libc::EAGAIN) => return Ok(Next::Go),
        Err(source) => return Err(RunError::Run { vcpu: index, source }),
        Ok(VcpuExit::SystemEvent(KVM_SYSTEM_EVENT_SHUTDOWN, _)) => return Ok(Next::End(Exit::PowerOff)),
        Ok(VcpuExit::SystemEvent(KVM_SYSTEM_EVENT_RESET, _)) => return Ok(Next::End(Exit::Reset)),
        Ok(VcpuExit::SystemEvent(KVM_SYSTEM_EVENT_CRASH, _)) => CrashKind::Reported,
        Ok(VcpuExit::Shutdown) => CrashKind::TripleFault,
        Ok(VcpuExit::InternalError) => CrashKind::InternalError,
        Ok(VcpuExit::FailEntry(reason, _)) => return Err(RunError::FailEntry { vcpu: index, reason }),
        Ok(other) => return Err(unhandled(index, &other)),
    };
    Ok(Next::End(Exit::Crashed(report(index, vcpu, crash))))
}

/// Names an exit that nobody handles.
fn unhandled(vcpu: u32, exit: &VcpuExit<'_>) -> RunError {
    RunError::UnhandledExit { vcpu, exit: format!("{exit:?}") }
}

fn report(index: u32, vcpu: &mut VcpuFd, kind: CrashKind) -> CrashReport {
    let crash = match kind {
        CrashKind::TripleFault => Crash::TripleFault,
        CrashKind::Reported => Crash::Reported,
        CrashKind::InternalError => internal_error(vcpu.get_kvm_run()),
    };
    // After a triple fault KVM on AMD has reset the registers: a RIP of the reset vector says nothing.
    let rip = match kind {
        CrashKind::TripleFault => None,
        _ => vcpu.get_regs().ok().map(|regs| regs.rip),
    };
    CrashReport { vcpu: Some(index), rip, crash }
}

fn internal_error(run: &kvm_run) -> Crash {
    // SAFETY: the exit reason was KVM_EXIT_INTERNAL_ERROR, so KVM filled in this member of the union.
    let error = unsafe { run.__bindgen_anon_1.internal };
    // SAFETY: the same bytes, spelled out for suberror 1; integers, for which any bytes are valid.
    let failure = unsafe { run.__bindgen_anon_1.emulation_failure };
    let mut instruction = Vec::new();
    /// `KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES`.
    const FLAG_INSTRUCTION_BYTES: u64 = 1;
    // Flags, then length and bytes: two words at least.
    if error.suberror == KVM_INTERNAL_ERROR_EMULATION && error.ndata >= 2 && failure.flags & FLAG_INSTRUCTION_BYTES != 0
    {
        // SAFETY: as above; this part of it is valid as its flag is set.
        let bytes = unsafe { failure.__bindgen_anon_1.__bindgen_anon_1 };
        let len = usize::from(bytes.insn_size).min(bytes.insn_bytes.len());
        instruction.extend(bytes.insn_bytes.iter().take(len));
    }
    Crash::InternalError { suberror: error.suberror, instruction }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_exit_that_nobody_handles_is_named() {
        let error = unhandled(3, &VcpuExit::IoapicEoi(7)).to_string();
        assert_eq!(error, "vCPU 3 left the guest for a reason that nobody handles: IoapicEoi(7)");
        let error = unhandled(0, &VcpuExit::Unsupported(99)).to_string();
        assert_eq!(error, "vCPU 0 left the guest for a reason that nobody handles: Unsupported(99)");
    }
}
