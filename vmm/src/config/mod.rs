// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What a machine has, as the command line, a file or an embedder says it: plain data, not yet looked at.
//!
//! Values that can be wrong by themselves are parsed by the `FromStr` of their type; what needs the host to be judged
//! (does the file exist, how many vCPUs does KVM allow) is judged by [`Vm::build`](crate::Vm::build).

mod balloon;
mod console;
mod disk;
mod ends;
mod forward;
mod identity;
mod key_values;
mod memory;
mod net;
mod rate;
mod rng;
mod serial;
mod text;
mod transport;
mod vsock;

use std::borrow::Cow;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

pub use arch::BootProtocol;
pub use devices::virtio::net::MacAddress;
use serde::{Deserialize, Serialize};
use thiserror::Error;

pub use balloon::Balloon;
pub use console::{ConsoleConfig, ConsolePlace, SIZE_SUFFIX};
pub use disk::{Disk, DiskCache, DiskEngine, DiskFormat, OnError};
pub use ends::{OnCrash, OnReboot};
pub use forward::{Forward, Protocol};
pub use identity::{Credential, CredentialContent, MachineId};
pub use memory::{Memory, MemorySize};
pub use net::{Net, NetBackend, UserNet, default_mac};
pub use rate::RateLimit;
pub use rng::Rng;
pub use serial::SerialConfig;
pub use transport::Transport;
pub use vsock::Vsock;

/// The command line that a kernel gets when none is given.
///
/// `console` shows the boot; `reboot=k` and `panic=-1` end the VM at once when the guest reboots or panics. The others
/// save time: no probing for a keyboard controller and for more serial ports than there are, no self-tests
/// of ciphers that nobody uses before the root file system is there.
pub const DEFAULT_CMDLINE: &str =
    "console=ttyS0 reboot=k panic=-1 i8042.noaux i8042.nokbd 8250.nr_uarts=1 cryptomgr.notests";

/// The least RAM that a machine may have, in bytes.
pub const MIN_MEMORY: u64 = 32 << 20;

/// A machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// What the VM is called in log lines.
    #[serde(default = "default_name")]
    pub name: String,
    /// The kernel: an ELF vmlinux, a bzImage, or a unified kernel image, whose own initrd and command line serve where none is
    /// given here.
    pub kernel: PathBuf,
    /// Whether the kernel is entered through PVH. Otherwise that is chosen by what the kernel offers.
    #[serde(default)]
    pub pvh: bool,
    /// The initial RAM disk.
    #[serde(default)]
    pub initrd: Option<PathBuf>,
    /// The kernel's command line; [`DEFAULT_CMDLINE`] when it is not given.
    #[serde(default)]
    pub cmdline: Option<String>,
    /// The disk that holds the root file system: the first one, `/dev/vda`.
    #[serde(default)]
    pub rootfs: Option<Disk>,
    /// Further disks, in order.
    #[serde(default)]
    pub disks: Vec<Disk>,
    /// Network cards, in order.
    #[serde(default)]
    pub nets: Vec<Net>,
    /// Sockets between programs of the guest and of the host.
    #[serde(default)]
    pub vsock: Option<Vsock>,
    /// The socket of a service manager (sd_notify(3)) that is told when the guest's says that it is ready, and its status: a path,
    /// or an abstract name behind `@`. The guest finds the way as the credential `vmm.notify_socket`, and gets a socket device
    /// of its own for that if it has none.
    #[serde(default)]
    pub notify_socket: Option<PathBuf>,
    /// Random numbers of the host's for the guest; there unless it is `None`, which is `null` in a file.
    #[serde(default = "default_rng")]
    pub rng: Option<Rng>,
    /// Memory that the guest gives back while it runs.
    #[serde(default)]
    pub balloon: Option<Balloon>,
    /// Ports of the virtio console: `hvc0`, and plain ones with names.
    #[serde(default)]
    pub consoles: Vec<ConsoleConfig>,
    /// How many vCPUs there are.
    #[serde(default = "default_cpus")]
    pub cpus: u32,
    /// How much RAM there is, and what it is made of.
    #[serde(default)]
    pub memory: Memory,
    /// Where the serial port goes.
    #[serde(default)]
    pub serial: SerialConfig,
    /// How the guest finds its virtio devices, unless a device says otherwise.
    #[serde(default)]
    pub transport: Option<Transport>,
    /// The UUID that the guest finds in SMBIOS; without one it finds none.
    #[serde(default)]
    pub machine_id: Option<MachineId>,
    /// OEM strings that the guest finds in SMBIOS.
    #[serde(default)]
    pub oem_strings: Vec<String>,
    /// What systemd in the guest finds as credentials.
    #[serde(default)]
    pub credentials: Vec<Credential>,
    /// Whether there is a device by which the guest's kernel says that it has panicked.
    #[serde(default = "default_pvpanic")]
    pub pvpanic: bool,
    /// What becomes of the VM when its guest reboots.
    #[serde(default)]
    pub on_reboot: OnReboot,
    /// What becomes of it when its guest crashes.
    #[serde(default)]
    pub on_crash: OnCrash,
    /// Whether there is a watchdog, Intel's i6300esb, on the PCI bus.
    #[serde(default)]
    pub watchdog: bool,
    /// What becomes of it when its guest hangs, as its watchdog says.
    #[serde(default)]
    pub on_watchdog: OnCrash,
}

/// Whether both paths lead to one file.
pub(crate) fn same_file(one: &Path, other: &Path) -> bool {
    // A device may have many names with an inode each.
    let identity = |path: &Path| {
        let found = std::fs::metadata(path)?;
        let device = found.file_type().is_block_device();
        std::io::Result::Ok(if device { (device, found.rdev(), 0) } else { (device, found.dev(), found.ino()) })
    };
    matches!((identity(one), identity(other)), (Ok(one), Ok(other)) if one == other)
}

fn default_name() -> String {
    "vm".to_owned()
}

#[expect(clippy::unnecessary_wraps, reason = "the default of a field that may be absent")]
fn default_rng() -> Option<Rng> {
    Some(Rng::default())
}

const fn default_cpus() -> u32 {
    1
}

const fn default_pvpanic() -> bool {
    true
}

impl Config {
    /// A machine that has a kernel, and the defaults of everything else.
    pub fn new(kernel: impl Into<PathBuf>) -> Self {
        Self {
            name: default_name(),
            kernel: kernel.into(),
            pvh: false,
            initrd: None,
            cmdline: None,
            rootfs: None,
            disks: Vec::new(),
            nets: Vec::new(),
            vsock: None,
            notify_socket: None,
            rng: default_rng(),
            balloon: None,
            consoles: Vec::new(),
            cpus: default_cpus(),
            memory: Memory::default(),
            serial: SerialConfig::default(),
            transport: None,
            machine_id: None,
            oem_strings: Vec::new(),
            credentials: Vec::new(),
            pvpanic: default_pvpanic(),
            on_reboot: OnReboot::default(),
            on_crash: OnCrash::default(),
            watchdog: false,
            on_watchdog: OnCrash::default(),
        }
    }

    /// All disks, the root file system first, each with what it is called in error messages.
    pub(crate) fn all_disks(&self) -> impl Iterator<Item = (&'static str, &Disk)> {
        let rootfs = self.rootfs.iter().map(|disk| ("rootfs", disk));
        rootfs.chain(self.disks.iter().map(|disk| ("disk", disk)))
    }

    /// Whether `path` is one of the files that the machine is made of, by whatever name: then nothing else may write there.
    pub fn uses_file(&self, path: &Path) -> bool {
        let images = self.all_disks().map(|(_, disk)| disk.path.as_path());
        let credentials = self.credentials.iter().filter_map(|credential| match &credential.content {
            CredentialContent::File(path) => Some(path.as_path()),
            CredentialContent::Value(_) => None,
        });
        let inputs =
            std::iter::once(self.kernel.as_path()).chain(self.initrd.as_deref()).chain(images).chain(credentials);
        inputs.into_iter().any(|input| same_file(input, path))
    }

    /// The command line that was given, or the default: with `hvc0` too when that is on standard input and output.
    fn plain_cmdline(&self) -> Cow<'_, str> {
        match (&self.cmdline, self.consoles.first().map(|port| &port.place)) {
            (Some(cmdline), _) => cmdline.into(),
            (None, Some(ConsolePlace::Stdio)) => {
                DEFAULT_CMDLINE.replacen("console=ttyS0", "console=ttyS0 console=hvc0", 1).into()
            }
            (None, _) => DEFAULT_CMDLINE.into(),
        }
    }

    /// Whether `root=/dev/vda` is added to the command line.
    pub(crate) fn adds_root(&self) -> bool {
        self.rootfs.is_some() && !boot::cmdline::has_parameter(&*self.plain_cmdline(), "root")
    }

    /// The command line that the kernel gets: what was given or the default, with `root=` added for the root file system
    /// unless there is one already.
    pub fn full_cmdline(&self) -> String {
        let cmdline = self.plain_cmdline();
        match &self.rootfs {
            // In front: what is behind `--` is for init, and a `ro` or `rw` that was given overrides this one.
            Some(rootfs) if self.adds_root() => {
                let mode = if rootfs.readonly { "ro" } else { "rw" };
                format!("root=/dev/vda {mode} {cmdline}").trim_end().to_owned()
            }
            _ => cmdline.into_owned(),
        }
    }
}

/// A value that can't be right on any host.
#[derive(Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum ConfigError {
    /// Not an amount of memory.
    #[error("'{0}' is not an amount of memory: give a number of MiB, or one with K, M, G or T behind it, such as 512M")]
    MemorySize(String),
    /// No kernel boots in it.
    #[error("{} of memory are too little: a machine has at least 32M", memory::human(*.0))]
    MemoryTooSmall(u64),
    /// Not whole pages.
    #[error("{0} bytes of memory are not whole pages of 4 KiB")]
    MemoryNotPages(u64),
    /// Not memory.
    #[error("'{text}' is no memory: {problem}")]
    Memory {
        /// What was given.
        text: String,
        /// What is wrong with it, and the cure.
        problem: String,
    },
    /// Not a disk.
    #[error("'{text}' is no disk: {problem}")]
    Disk {
        /// What was given.
        text: String,
        /// What is wrong with it, and the cure.
        problem: String,
    },
    /// Not a network card.
    #[error("'{text}' is no network card: {problem}")]
    Net {
        /// What was given.
        text: String,
        /// What is wrong with it, and the cure.
        problem: String,
    },
    /// Not a UUID for a machine.
    #[error("'{text}' is no machine ID: {problem}")]
    MachineId {
        /// What was given.
        text: String,
        /// What is wrong with it, and the cure.
        problem: &'static str,
    },
    /// Not a credential.
    #[error("'{text}' is no credential: {problem}")]
    Credential {
        /// What was given.
        text: String,
        /// What is wrong with it, and the cure.
        problem: String,
    },
    /// Not a socket device.
    #[error("'{text}' is no socket device: {problem}")]
    Vsock {
        /// What was given.
        text: String,
        /// What is wrong with it, and the cure.
        problem: String,
    },
    /// Not something that can be done about an end.
    #[error("'{text}' is nothing that can be done then: give {choice}")]
    Policy {
        /// What was given.
        text: String,
        /// What there is.
        choice: &'static str,
    },
    /// Not an entropy device.
    #[error("'{text}' is no entropy device: {problem}")]
    Rng {
        /// What was given.
        text: String,
        /// What is wrong with it, and the cure.
        problem: String,
    },
    /// Not a balloon.
    #[error("'{text}' is no balloon: {problem}")]
    Balloon {
        /// What was given.
        text: String,
        /// What is wrong with it, and the cure.
        problem: String,
    },
    /// Not a console's port.
    #[error("'{text}' is no console: {problem}")]
    Console {
        /// What was given.
        text: String,
        /// What is wrong with it, and the cure.
        problem: String,
    },
    /// Not a transport.
    #[error("'{0}' is no transport: give {choice}", choice = transport::CHOICE)]
    Transport(String),
    /// Not a place for the serial port.
    #[error("'{0}' is no place for the serial port: give stdio, null, file=PATH or socket=PATH")]
    Serial(String),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_is_added_for_the_root_file_system_unless_it_is_there() {
        let mut config = Config::new("k");
        assert_eq!(config.full_cmdline(), DEFAULT_CMDLINE);
        config.cmdline = Some("quiet".into());
        assert_eq!(config.full_cmdline(), "quiet");
        config.rootfs = Some(Disk::new("r"));
        assert_eq!(config.full_cmdline(), "root=/dev/vda rw quiet");
        config.rootfs = Some(Disk { readonly: true, ..Disk::new("r") });
        assert_eq!(config.full_cmdline(), "root=/dev/vda ro quiet");
        config.cmdline = Some("root=/dev/vdb1 quiet".into());
        assert_eq!(config.full_cmdline(), "root=/dev/vdb1 quiet");
    }

    #[test]
    fn a_console_on_standard_input_is_told_to_the_kernel_unless_a_command_line_was_given() {
        let mut config = Config::new("k");
        config.consoles = vec!["stdio".parse().unwrap()];
        assert!(config.full_cmdline().starts_with("console=ttyS0 console=hvc0 reboot=k"), "{}", config.full_cmdline());
        config.cmdline = Some("quiet".into());
        assert_eq!(config.full_cmdline(), "quiet");
        config.cmdline = None;
        config.consoles = vec!["pty".parse().unwrap()];
        assert_eq!(config.full_cmdline(), DEFAULT_CMDLINE);
    }

    #[test]
    fn a_configuration_survives_json() {
        let mut config = Config::new("vmlinux");
        config.disks.push(Disk { readonly: true, ..Disk::new("d") });
        config.nets.push("user,hostfwd=tcp:8080-:80".parse().unwrap());
        config.vsock = Some("cid=3,socket=v".parse().unwrap());
        config.balloon = Some("size=64M,stats=1".parse().unwrap());
        config.consoles = vec!["socket=s,name=a,log=l".parse().unwrap(), "pty".parse().unwrap()];
        config.serial = SerialConfig::File("log".into());
        config.memory = "1G,shared=on".parse().unwrap();
        config.machine_id = Some("00112233-4455-6677-8899-aabbccddeeff".parse().unwrap());
        config.credentials = vec![Credential::file("a", "f"), Credential::value("b", [0, 255])];
        let json = serde_json::to_string(&config).unwrap();
        assert_eq!(serde_json::from_str::<Config>(&json).unwrap(), config);
        assert_eq!(serde_json::from_str::<Config>(r#"{"kernel":"vmlinux"}"#).unwrap(), Config::new("vmlinux"));
        let without: Config = serde_json::from_str(r#"{"kernel":"vmlinux","rng":null}"#).unwrap();
        assert_eq!(without, Config { rng: None, ..Config::new("vmlinux") });
        assert!(serde_json::from_str::<Config>(r#"{"kernel":"k","cpu":1}"#).is_err());
        assert!(serde_json::from_str::<Config>(r#"{"kernel":"k","memory":"1M"}"#).is_err());
    }
}
