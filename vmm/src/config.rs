// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What a machine has, as the command line, a file or an embedder says it: plain data, not yet looked at.
//!
//! Values that can be wrong by themselves are parsed by the `FromStr` of their type; what needs the host to be judged
//! (does the file exist, how many vCPUs does KVM allow) is judged by [`Vm::build`](crate::Vm::build).

use std::fmt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

pub use arch::BootProtocol;
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// The command line that a kernel gets when none is given.
///
/// `console` shows the boot; `reboot=k` and `panic=-1` end the VM at once when the guest reboots or panics. The others
/// save time: no probing for a keyboard controller and for more serial ports than there are, no self-tests
/// of ciphers that nobody uses before the root file system is there.
pub const DEFAULT_CMDLINE: &str =
    "console=ttyS0 reboot=k panic=-1 i8042.noaux i8042.nokbd 8250.nr_uarts=1 cryptomgr.notests";

/// The least RAM that a machine may have.
pub const MIN_MEMORY: u64 = 32 << 20;

/// A machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// What the VM is called in log lines.
    #[serde(default = "default_name")]
    pub name: String,
    /// The kernel: an ELF vmlinux or a bzImage.
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
    /// How many vCPUs there are.
    #[serde(default = "default_cpus")]
    pub cpus: u32,
    /// How much RAM there is.
    #[serde(default)]
    pub memory: MemorySize,
    /// Where the serial port goes.
    #[serde(default)]
    pub serial: SerialConfig,
}

/// Whether both paths lead to one file.
pub(crate) fn same_file(one: &Path, other: &Path) -> bool {
    let identity = |path: &Path| std::fs::metadata(path).map(|found| (found.dev(), found.ino()));
    matches!((identity(one), identity(other)), (Ok(one), Ok(other)) if one == other)
}

fn default_name() -> String {
    "vm".to_owned()
}

const fn default_cpus() -> u32 {
    1
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
            cpus: default_cpus(),
            memory: MemorySize::default(),
            serial: SerialConfig::default(),
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
        let inputs = std::iter::once(self.kernel.as_path()).chain(self.initrd.as_deref()).chain(images);
        inputs.into_iter().any(|input| same_file(input, path))
    }

    /// The command line that the kernel gets: what was given or the default, with `root=` added for the root file system
    /// unless there is one already.
    pub fn full_cmdline(&self) -> String {
        let cmdline = self.cmdline.as_deref().unwrap_or(DEFAULT_CMDLINE);
        match &self.rootfs {
            // In front: what is behind `--` is for init, and a `ro` or `rw` that was given overrides this one.
            Some(rootfs) if !boot::cmdline::has_parameter(cmdline, "root") => {
                let mode = if rootfs.readonly { "ro" } else { "rw" };
                format!("root=/dev/vda {mode} {cmdline}").trim_end().to_owned()
            }
            _ => cmdline.to_owned(),
        }
    }
}

/// A disk image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Disk {
    /// A raw image, or a block device.
    pub path: PathBuf,
    /// Whether the guest may only read it.
    #[serde(default)]
    pub readonly: bool,
}

impl Disk {
    /// An image that the guest may write.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), readonly: false }
    }
}

/// Where the serial port goes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SerialConfig {
    /// Standard input and output.
    #[default]
    Stdio,
    /// Nowhere: output is dropped, and there is no input.
    Null,
    /// Output goes to a file, which is created or emptied.
    File(PathBuf),
    /// A Unix socket that one client at a time can connect to.
    Socket(PathBuf),
}

impl FromStr for SerialConfig {
    type Err = ConfigError;

    fn from_str(text: &str) -> Result<Self, ConfigError> {
        match text.split_once('=') {
            None if text == "stdio" => Ok(Self::Stdio),
            None if text == "null" => Ok(Self::Null),
            Some(("file", path)) if !path.is_empty() => Ok(Self::File(path.into())),
            Some(("socket", path)) if !path.is_empty() => Ok(Self::Socket(path.into())),
            _ => Err(ConfigError::Serial(text.to_owned())),
        }
    }
}

/// An amount of RAM in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct MemorySize(u64);

impl MemorySize {
    /// `bytes` of RAM: at least [`MIN_MEMORY`], and whole pages.
    pub fn new(bytes: u64) -> Result<Self, ConfigError> {
        if bytes < MIN_MEMORY {
            return Err(ConfigError::MemoryTooSmall(bytes));
        }
        if !bytes.is_multiple_of(4096) {
            return Err(ConfigError::MemoryNotPages(bytes));
        }
        Ok(Self(bytes))
    }

    /// `mib` MiB of RAM.
    pub fn mib(mib: u64) -> Result<Self, ConfigError> {
        Self::new(mib.checked_mul(1 << 20).ok_or_else(|| ConfigError::MemorySize(format!("{mib}M")))?)
    }

    /// Bytes.
    pub const fn bytes(self) -> u64 {
        self.0
    }
}

impl Default for MemorySize {
    fn default() -> Self {
        Self(512 << 20)
    }
}

/// `512M`, `4G`; a bare number is MiB.
impl FromStr for MemorySize {
    type Err = ConfigError;

    fn from_str(text: &str) -> Result<Self, ConfigError> {
        let bad = || ConfigError::MemorySize(text.to_owned());
        let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
        let shift = match text.strip_prefix(digits).unwrap_or_default() {
            "K" | "k" => 10,
            "" | "M" | "m" => 20,
            "G" | "g" => 30,
            "T" | "t" => 40,
            _ => return Err(bad()),
        };
        let number: u64 = digits.parse().map_err(|_| bad())?;
        Self::new(number.checked_mul(1 << shift).ok_or_else(bad)?)
    }
}

impl fmt::Display for MemorySize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (shift, unit) in [(40, "T"), (30, "G"), (20, "M")] {
            if self.0.is_multiple_of(1 << shift) {
                return write!(f, "{}{unit}", self.0 >> shift);
            }
        }
        write!(f, "{}K", self.0 >> 10)
    }
}

impl TryFrom<String> for MemorySize {
    type Error = ConfigError;

    fn try_from(text: String) -> Result<Self, ConfigError> {
        text.parse()
    }
}

impl From<MemorySize> for String {
    fn from(size: MemorySize) -> Self {
        size.to_string()
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
    #[error("{} of memory are too little: a machine has at least 32M", human(*.0))]
    MemoryTooSmall(u64),
    /// Not whole pages.
    #[error("{0} bytes of memory are not whole pages of 4 KiB")]
    MemoryNotPages(u64),
    /// Not a place for the serial port.
    #[error("'{0}' is no place for the serial port: give stdio, null, file=PATH or socket=PATH")]
    Serial(String),
}

/// Bytes for a person.
fn human(bytes: u64) -> String {
    match bytes {
        b if b != 0 && b.is_multiple_of(1 << 20) => format!("{}M", b >> 20),
        b if b != 0 && b.is_multiple_of(1 << 10) => format!("{}K", b >> 10),
        b => format!("{b} bytes"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_sizes_are_read_as_people_write_them() {
        let mib = 1 << 20;
        for (text, bytes) in [
            ("512", 512 * mib),
            ("512M", 512 * mib),
            ("512m", 512 * mib),
            ("4G", 4096 * mib),
            ("32M", 32 * mib),
            ("65536K", 64 * mib),
            ("1T", 1 << 40),
        ] {
            assert_eq!(text.parse::<MemorySize>().unwrap().bytes(), bytes, "{text}");
        }
    }

    #[test]
    fn bad_memory_sizes_are_named() {
        for text in ["", "M", "4GB", "-1", "1.5G", "0x100", "99999999999999999999", "16777216T", "4 G", "G4"] {
            assert_eq!(text.parse::<MemorySize>(), Err(ConfigError::MemorySize(text.to_owned())));
        }
        assert_eq!("0".parse::<MemorySize>(), Err(ConfigError::MemoryTooSmall(0)));
        assert_eq!("31M".parse::<MemorySize>(), Err(ConfigError::MemoryTooSmall(31 << 20)));
        assert_eq!("32769K".parse::<MemorySize>(), Err(ConfigError::MemoryNotPages(32769 << 10)));
    }

    #[test]
    fn sizes_survive_being_written_and_read() {
        for text in ["32M", "512M", "4G", "2T", "33556K", "5000M"] {
            let size: MemorySize = text.parse().unwrap();
            assert_eq!(size.to_string().parse::<MemorySize>().unwrap(), size);
        }
    }

    #[test]
    fn the_serial_port_goes_where_it_is_told() {
        assert_eq!("stdio".parse(), Ok(SerialConfig::Stdio));
        assert_eq!("null".parse(), Ok(SerialConfig::Null));
        assert_eq!("file=a=b".parse(), Ok(SerialConfig::File("a=b".into())));
        assert_eq!("socket=s".parse(), Ok(SerialConfig::Socket("s".into())));
        for text in ["", "file", "file=", "socket=", "tty", "stdio=1"] {
            assert_eq!(text.parse::<SerialConfig>(), Err(ConfigError::Serial(text.to_owned())));
        }
    }

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
    fn a_configuration_survives_json() {
        let mut config = Config::new("vmlinux");
        config.disks.push(Disk { readonly: true, ..Disk::new("d") });
        config.serial = SerialConfig::File("log".into());
        let json = serde_json::to_string(&config).unwrap();
        assert_eq!(serde_json::from_str::<Config>(&json).unwrap(), config);
        assert_eq!(serde_json::from_str::<Config>(r#"{"kernel":"vmlinux"}"#).unwrap(), Config::new("vmlinux"));
        assert!(serde_json::from_str::<Config>(r#"{"kernel":"k","cpu":1}"#).is_err());
        assert!(serde_json::from_str::<Config>(r#"{"kernel":"k","memory":"1M"}"#).is_err());
    }
}
