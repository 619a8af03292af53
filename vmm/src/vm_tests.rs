// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

use kvm_bindings::{KVM_GUESTDBG_ENABLE, KVM_GUESTDBG_SINGLESTEP, kvm_guest_debug};

use super::*;

#[path = "../tests/micro_guest/elf.rs"]
mod elf;
#[path = "../tests/skip/mod.rs"]
mod skip;

#[test]
fn a_vm_can_be_sent_to_another_thread() {
    const fn send<T: Send>() {}
    const { send::<Vm>() };
    const { send::<Control>() };
}

#[test]
fn an_exit_that_nobody_handles_is_an_error_that_names_it() {
    if skip::without_kvm() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let kernel = dir.path().join("kernel");
    // nop; jmp to it: no exit comes from the program itself.
    std::fs::write(&kernel, elf::wrap(&[0x90, 0xeb, 0xfd], false)).unwrap();
    let vm = Vm::build(&Config { serial: SerialConfig::Null, ..Config::new(kernel) }, None).unwrap();
    // KVM leaves the guest behind every instruction then, for a debugger that isn't there.
    let control = KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_SINGLESTEP;
    vm.vcpus[0].set_guest_debug(&kvm_guest_debug { control, ..Default::default() }).unwrap();
    let error = vm.run(Vec::new()).unwrap_err().to_string();
    assert!(error.starts_with("vCPU 0 left the guest for a reason that nobody handles: Debug("), "{error}");
}
