// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! A KVM virtual machine monitor as a library.
//!
//! A [`Config`] says what the machine has. [`Vm::build`] opens everything, loads the kernel and finds every mistake,
//! before a thread exists; [`Vm::run`] runs the guest until it ends, and returns how. Nothing in here parses `argv`,
//! prints, exits the process or touches the terminal.
//!
//! ```no_run
//! use vmm::{Config, Disk, Exit, Vm};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let mut config = Config::new("vmlinux");
//! config.rootfs = Some(Disk::new("rootfs.ext4"));
//! let vm = Vm::build(&config, None)?;
//! let control = vm.control();
//! // control.power_button() and control.stop() work from any thread.
//! # drop(control);
//! match vm.run(Vec::new())? {
//!     Exit::PowerOff | Exit::Reset => println!("the guest has ended"),
//!     other => println!("{other}"),
//! }
//! # Ok(())
//! # }
//! ```

pub mod build;
pub mod config;
mod console;
pub mod doctor;
pub mod exit;
mod interrupts;
mod kvm;
mod loader;
mod machine;
mod net;
mod notify;
mod reset;
mod running;
mod serial;
mod storage;
mod unix_socket;
mod vcpu;
mod vhost_device;
mod vm;

pub use build::BuildError;
pub use config::{
    Balloon, Config, ConfigError, ConsoleConfig, ConsolePlace, Credential, Disk, MachineId, Memory, MemorySize, Net,
    NetBackend, OnCrash, OnReboot, Rng, SerialConfig, Transport, Vsock,
};
pub use console::{ConsoleControl, output_that_never_waits};
pub use exit::{
    BalloonControl, BalloonError, BlockError, Control, Crash, CrashReport, DiskControl, Exit, NetControl, RunError,
    Statistics, StopReason,
};
pub use serial::{Console, ConsoleInput, ConsoleOutput};
pub use vm::Vm;

/// What an embedder hands to [`Vm::run`] to have its own descriptors watched by the event loop.
pub type Subscriber = Box<dyn event_manager::MutEventSubscriber>;
pub use event_manager;
