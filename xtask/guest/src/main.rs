// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Process 1 of everything that this project boots: one static program that plays three parts, told by its path.
//!
//! | path | part |
//! |---|---|
//! | `/init` | the initial RAM disk: loads the drivers, waits for `root=`, mounts it, hands over to its `init` |
//! | `/sbin/init` | the test system: says hello, does what `vmm.run=`, `vmm.show` and `vmm.then=` ask for, ends |
//! | `/sbin/testbed-init` | the emulated KVM host: gets `/dev/kvm` ready, runs one job, reports how it ended |
//!
//! It links nothing but libc and starts no shell of its own accord, so that a boot shows what the VMM costs and not what
//! user space costs.

mod button;
mod cmdline;
mod hello;
mod initrd;
mod job;
mod modules;
mod power;
mod show;
mod sys;
mod system;
mod testbed;

use std::fmt::Display;

/// Says what went wrong on the console, where a person looks for it.
fn complain(what: impl Display) {
    eprintln!("guest-init: error: {what}");
}

fn main() {
    let path = std::env::args().next().unwrap_or_default();
    if std::process::id() != 1 {
        complain(format_args!(
            "{path} is process {}, but works as process 1 only: boot it with init={path}",
            std::process::id()
        ));
        std::process::exit(2);
    }
    let outcome = match path.as_str() {
        "/init" => initrd::main(),
        "/sbin/testbed-init" => testbed::main(),
        _ => system::main(),
    };
    // Process 1 is not allowed to return. When it does, the kernel panics and `panic=` decides what happens, as it does
    // where a distribution's init fails.
    if let Err(error) = outcome {
        complain(error);
    }
    sys::sync();
    std::process::exit(1);
}
