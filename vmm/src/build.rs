// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Everything that can be wrong with a machine before it runs.

use std::io;
use std::path::PathBuf;

use thiserror::Error;

use crate::config::Config;

/// Why a VM can't be built. Nothing that was there before has changed, and nothing new is left behind.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum BuildError {
    /// `/dev/kvm` can't be opened, or can't do what is needed.
    #[error(transparent)]
    Kvm(#[from] KvmError),
    /// A step of setting the VM up that KVM refused.
    #[error("KVM refused to {step}")]
    Refused {
        /// What was asked for.
        step: &'static str,
        /// What KVM said.
        #[source]
        source: kvm_ioctls::Error,
    },
    /// Too few or too many vCPUs.
    #[error("{asked} vCPUs are not possible: this host's KVM allows 1 to {max}")]
    Cpus {
        /// What was asked for.
        asked: u32,
        /// KVM's limit.
        max: u32,
    },
    /// More RAM than the processor can address.
    #[error("{asked} of memory are too much: with the guest's {bits} address bits, {max} is the most")]
    MemoryBeyondAddressBits {
        /// What was asked for.
        asked: String,
        /// The most there could be.
        max: String,
        /// The guest's physical address bits.
        bits: u8,
    },
    /// The host won't give that much.
    #[error("{asked} of memory can't be had from this host: give less with --memory")]
    Memory {
        /// What was asked for.
        asked: String,
        /// What the host said.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A file can't be opened.
    #[error("{what} {}: {problem}", path.display())]
    File {
        /// What the file is for.
        what: &'static str,
        /// Its path.
        path: PathBuf,
        /// What is wrong with it, and the cure where there is one.
        problem: String,
    },
    /// A network card can't be connected.
    #[error("net {what}: {problem}")]
    Net {
        /// What it was to be connected to.
        what: String,
        /// What is wrong with that, and the cure where there is one.
        problem: String,
    },
    /// Something that the guest is to be told by SMBIOS can't be.
    #[error("{what}: {problem}")]
    Identity {
        /// Which string or credential.
        what: String,
        /// What is wrong with it, and the cure where there is one.
        problem: String,
    },
    /// The socket device can't be had.
    #[error("vsock: {problem}")]
    Vsock {
        /// What is wrong with it, and the cure where there is one.
        problem: String,
    },
    /// The entropy device can't be had.
    #[error("rng: {problem}")]
    Rng {
        /// What is wrong, and the cure where there is one.
        problem: String,
    },
    /// The balloon can't be had.
    #[error("balloon: {problem}")]
    Balloon {
        /// What is wrong, and the cure where there is one.
        problem: String,
    },
    /// A port of the virtio console can't be had.
    #[error("console: {problem}")]
    Console {
        /// What is wrong with it, and the cure where there is one.
        problem: String,
    },
    /// What is to be booted can't be.
    #[error("{what}: {source}")]
    Boot {
        /// The kernel, the initrd or the command line.
        what: String,
        /// What is wrong with it.
        source: boot::Error,
    },
    /// A table can't be built.
    #[error("the guest's {what} can't be built: {problem}")]
    Table {
        /// Which table.
        what: &'static str,
        /// What is wrong.
        problem: String,
    },
    /// More devices than there are places for.
    #[error("there are more than {max} devices on {transport}, which has room for no more")]
    Devices {
        /// Where there is no room.
        transport: &'static str,
        /// The most there can be.
        max: usize,
    },
    /// The devices have more message-signalled interrupts than KVM has routes for.
    #[error("the devices need more than the {max} interrupt vectors that KVM has: use fewer disks or queues")]
    Vectors {
        /// The most there can be.
        max: u32,
    },
    /// The host lacks a resource.
    #[error("the host can't give {what}")]
    Host {
        /// What is missing.
        what: &'static str,
        /// What the host said.
        #[source]
        source: io::Error,
    },
}

/// What is wrong with `/dev/kvm`.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum KvmError {
    /// There is none.
    #[error("/dev/kvm is not there: load the module kvm_intel or kvm_amd, or give this machine nested virtualization")]
    Absent,
    /// This user may not use it.
    #[error(
        "/dev/kvm may not be opened by this user: add this user to the kvm group ('usermod -aG kvm USER') and log in again"
    )]
    Forbidden,
    /// Another hypervisor holds the processor.
    #[error("/dev/kvm is busy: another hypervisor uses the processor's virtualization")]
    Busy,
    /// Anything else.
    #[error("/dev/kvm can't be opened")]
    Open(#[source] io::Error),
    /// Not the one stable version.
    #[error("/dev/kvm has API version {0}, but 12 is the only one that was ever stable")]
    ApiVersion(i32),
    /// Capabilities are missing.
    #[error("this host's KVM lacks {0}, which every VM needs: a newer kernel has that")]
    Capabilities(String),
    /// No VM can be created.
    #[error("KVM can't create a VM")]
    CreateVm(#[source] kvm_ioctls::Error),
}

impl KvmError {
    /// Says what is behind an errno of opening `/dev/kvm` or creating a VM.
    pub(crate) fn from_errno(errno: i32) -> Self {
        match errno {
            libc::ENOENT | libc::ENXIO | libc::ENODEV => Self::Absent,
            libc::EACCES | libc::EPERM => Self::Forbidden,
            libc::EBUSY => Self::Busy,
            other => Self::Open(io::Error::from_raw_os_error(other)),
        }
    }
}

impl BuildError {
    /// Says which of the inputs `source` is about.
    pub(crate) fn boot(source: impl Into<boot::Error>, config: &Config) -> Self {
        let source = source.into();
        let what = match &source {
            boot::Error::Kernel(_) => format!("kernel {}", config.kernel.display()),
            boot::Error::Initrd(_) => match &config.initrd {
                Some(path) => format!("initrd {}", path.display()),
                None => "initrd".to_owned(),
            },
            boot::Error::Cmdline(_) => "command line".to_owned(),
            _ => "boot".to_owned(),
        };
        Self::Boot { what, source }
    }
}

/// Puts a step's name before what KVM said.
pub(crate) fn refused(step: &'static str) -> impl Fn(kvm_ioctls::Error) -> BuildError {
    move |source| BuildError::Refused { step, source }
}

/// Puts the missing resource before what the host said.
pub(crate) fn no(what: &'static str) -> impl Fn(io::Error) -> BuildError {
    move |source| BuildError::Host { what, source }
}
