// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! A disk as a configuration has it, and as people write it: `path=FILE,key=value,…`.

use std::num::NonZeroU16;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use devices::virtio::block::MAX_QUEUE_SIZE;
use serde::{Deserialize, Serialize};

use super::ConfigError;
use super::key_values::{Grammar, KeyValues};
use super::rate::{self, RateLimit};
use super::transport::{self, Transport};

/// A disk.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
#[non_exhaustive]
pub struct Disk {
    /// An image, or a block device.
    pub path: PathBuf,
    /// Whether the guest may only read it.
    #[serde(default)]
    pub readonly: bool,
    /// What the image's bytes mean. Never guessed: a guest could write any header into a raw image.
    #[serde(default)]
    pub format: DiskFormat,
    /// The files that a qcow2 image may have behind it (a backing file, an external data file), or the folders that they are
    /// directly in. They are only read; so an image with an external data file has to be `readonly`.
    #[serde(default)]
    pub backing: Vec<PathBuf>,
    /// How the host does the I/O; the best that it has when nothing is said.
    #[serde(default)]
    pub engine: Option<DiskEngine>,
    /// Whether the host's page cache is left out (`O_DIRECT`).
    #[serde(default)]
    pub direct: bool,
    /// How many queues the guest can use; one for each vCPU when nothing is said.
    #[serde(default)]
    pub queues: Option<NonZeroU16>,
    /// Descriptors of each queue: a power of two.
    #[serde(default = "default_queue_size")]
    pub queue_size: u16,
    /// What the guest finds in `/sys/block/vdX/serial`: at most 20 bytes.
    #[serde(default)]
    pub serial: Option<String>,
    /// When a write is durable.
    #[serde(default)]
    pub cache: DiskCache,
    /// Whether the guest can give space back.
    #[serde(default = "default_discard")]
    pub discard: bool,
    /// How many bytes the guest may move a second.
    #[serde(default)]
    pub bw: Option<RateLimit>,
    /// How many requests the guest may make a second.
    #[serde(default)]
    pub ops: Option<RateLimit>,
    /// Disks in one group share `bw` and `ops`.
    #[serde(default)]
    pub group: Option<String>,
    /// What happens when the host has no space left.
    #[serde(default)]
    pub on_error: OnError,
    /// How the guest finds it; the VM's way when nothing is said.
    #[serde(default)]
    pub transport: Option<Transport>,
}

const fn default_queue_size() -> u16 {
    256
}

const fn default_discard() -> bool {
    true
}

/// What an image's bytes mean.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum DiskFormat {
    /// They are the disk's.
    #[default]
    Raw,
    /// QEMU's copy-on-write format, version 2 or 3.
    Qcow2,
}

/// How the host does a disk's I/O.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum DiskEngine {
    /// Many requests at a time, through a ring shared with the kernel.
    IoUring,
    /// One request of a queue after the other.
    Sync,
}

/// When a write is durable.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DiskCache {
    /// When the guest flushes.
    #[default]
    Writeback,
    /// When it completes.
    Writethrough,
}

/// What happens to a request for which the host has no space.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnError {
    /// It fails.
    #[default]
    Report,
    /// It waits until somebody has made space and resumes the disk, while others go on.
    Stop,
}

/// All keys, as the messages name them.
const KEYS: [&str; 16] = [
    "path",
    "readonly",
    "format",
    "backing",
    "engine",
    "direct",
    "queues",
    "queue-size",
    "serial",
    "cache",
    "discard",
    "bw",
    "ops",
    "group",
    "on-error",
    "transport",
];

/// What of them is more than KEY=VALUE.
const GRAMMAR: Grammar = Grammar { with_burst: &["bw", "ops"], repeated: &[], lists: &[] };

/// Bytes of a serial number (virtio 1.3 §5.2.6, VIRTIO_BLK_T_GET_ID).
const SERIAL_MAX: usize = 20;

impl Disk {
    /// A raw image that the guest may write, with the defaults of everything else.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), queue_size: default_queue_size(), discard: default_discard(), ..Self::default() }
    }

    /// The disk that `--rootfs` means: a path, behind which may stand `,ro` and keys.
    ///
    /// # Errors
    ///
    /// [`ConfigError::Disk`] as for [`str::parse`].
    pub fn root(text: &str) -> Result<Self, ConfigError> {
        if text.starts_with("path=") {
            return text.parse();
        }
        // A path may have commas in it: the keys are what can only be keys, at the end.
        let (mut path, mut keys, mut readonly) = (text, Vec::new(), false);
        while let Some((before, last)) = path.rsplit_once(',') {
            let is_key = last.split_once('=').is_some_and(|(key, _)| KEYS.contains(&key));
            // The burst of a rate.
            let belongs =
                before.rsplit(',').next().is_some_and(|key| key.starts_with("bw=") || key.starts_with("ops="));
            match last {
                "ro" => readonly = true,
                _ if is_key || belongs => keys.push(last),
                _ => break,
            }
            path = before;
        }
        keys.reverse();
        let error = |problem: String| ConfigError::Disk { text: text.to_owned(), problem };
        if path.is_empty() {
            return Err(error("there is no path".to_owned()));
        }
        let mut disk = Self::keys(&keys.join(","), Some(path)).map_err(error)?;
        disk.readonly |= readonly;
        Ok(disk)
    }

    fn keys(text: &str, path: Option<&str>) -> Result<Self, String> {
        let mut values = KeyValues::parse(text, &GRAMMAR)?;
        let path = match (path, values.take("path")) {
            (None, None) => return Err("there is no path=FILE".to_owned()),
            (Some(_), Some(_)) => return Err("path is given twice".to_owned()),
            (Some(path), None) | (None, Some(path)) => path,
        };
        let plain = Self::new(path);
        let formats = [("raw", DiskFormat::Raw), ("qcow2", DiskFormat::Qcow2)];
        let engines = [("io_uring", DiskEngine::IoUring), ("sync", DiskEngine::Sync)];
        let caches = [("writeback", DiskCache::Writeback), ("writethrough", DiskCache::Writethrough)];
        let errors = [("report", OnError::Report), ("stop", OnError::Stop)];
        let disk = Self {
            readonly: values.take_switch("readonly")?.unwrap_or(plain.readonly),
            format: values.take_one_of("format", &formats, "raw or qcow2")?.unwrap_or(plain.format),
            backing: match values.take("backing") {
                None | Some("off" | "false") => plain.backing,
                Some("on" | "true") => vec![folder(&plain.path)],
                Some(permitted) => vec![permitted.into()],
            },
            engine: values.take_one_of("engine", &engines, "io_uring or sync")?,
            direct: values.take_switch("direct")?.unwrap_or(plain.direct),
            queues: values.take_number("queues", "a number of queues from 1 on")?,
            queue_size: values.take_number("queue-size", "a power of two from 4 to 1024")?.unwrap_or(plain.queue_size),
            serial: values.take("serial").map(str::to_owned),
            cache: values.take_one_of("cache", &caches, "writeback or writethrough")?.unwrap_or(plain.cache),
            discard: values.take_switch("discard")?.unwrap_or(plain.discard),
            bw: rate::take(&mut values, "bw")?,
            ops: rate::take(&mut values, "ops")?,
            group: values.take("group").map(str::to_owned),
            on_error: values.take_one_of("on-error", &errors, "report or stop")?.unwrap_or(plain.on_error),
            transport: values.take_one_of("transport", &transport::NAMES, transport::CHOICE)?,
            path: plain.path,
        };
        values.finish(&KEYS)?;
        disk.check()?;
        Ok(disk)
    }

    /// The files and folders of `backing`, where the image's own folder is that of the file which a link leads to.
    pub(crate) fn permitted(&self) -> Vec<PathBuf> {
        let own = folder(&self.path);
        let real = std::fs::canonicalize(&self.path).map_or(own.clone(), |path| folder(&path));
        self.backing.iter().map(|path| if *path == own { real.clone() } else { path.clone() }).collect()
    }

    /// What can be judged without the host.
    pub(crate) fn check(&self) -> Result<(), String> {
        if !self.queue_size.is_power_of_two() || self.queue_size > MAX_QUEUE_SIZE || self.queue_size < 4 {
            return Err(format!("queue-size={}: give a power of two from 4 to {MAX_QUEUE_SIZE}", self.queue_size));
        }
        if let Some(serial) = self.serial.as_ref().filter(|serial| serial.len() > SERIAL_MAX || !serial.is_ascii()) {
            return Err(format!("serial={serial}: give at most {SERIAL_MAX} ASCII characters"));
        }
        if !self.backing.is_empty() && self.format != DiskFormat::Qcow2 {
            return Err("backing: only a qcow2 image has a backing file".to_owned());
        }
        if self.format == DiskFormat::Qcow2 && self.direct {
            return Err("direct=on: a qcow2 image goes through the host's page cache".to_owned());
        }
        if self.format == DiskFormat::Qcow2 && self.engine == Some(DiskEngine::IoUring) {
            return Err("engine=io_uring: a qcow2 image is served by engine=sync".to_owned());
        }
        Ok(())
    }
}

/// The folder that a file is in.
fn folder(path: &Path) -> PathBuf {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => ".".into(),
    }
}

/// `path=FILE,key=value,…`
impl FromStr for Disk {
    type Err = ConfigError;

    fn from_str(text: &str) -> Result<Self, ConfigError> {
        if let Some(path) = text.split(',').next().filter(|path| !path.is_empty() && !path.contains('=')) {
            let problem = format!("'{path}' is not KEY=VALUE: write path={path}");
            return Err(ConfigError::Disk { text: text.to_owned(), problem });
        }
        Self::keys(text, None).map_err(|problem| ConfigError::Disk { text: text.to_owned(), problem })
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU64;

    use super::*;

    fn problem(text: &str) -> String {
        match text.parse::<Disk>() {
            Err(ConfigError::Disk { problem, .. }) => problem,
            other => panic!("{text}: {other:?}"),
        }
    }

    #[test]
    fn disks_are_read_as_people_write_them() {
        let plain = Disk::new("a.img");
        let readonly = Disk { readonly: true, ..plain.clone() };
        assert_eq!("path=a.img".parse(), Ok(plain.clone()));
        assert_eq!("readonly=on,path=a.img".parse(), Ok(readonly.clone()));
        assert_eq!("path=a.img,readonly=off".parse(), Ok(plain.clone()));
        assert_eq!(Disk::root("a.img"), Ok(plain.clone()));
        assert_eq!(Disk::root("a.img,ro"), Ok(readonly.clone()));
        assert_eq!(Disk::root("a,b.img"), Ok(Disk::new("a,b.img")));
        assert_eq!(Disk::root("a,b.img,ro"), Ok(Disk { readonly: true, ..Disk::new("a,b.img") }));
        assert_eq!(Disk::root("path=a.img,readonly=on"), Ok(readonly));
        let fast = Disk { direct: true, queues: NonZeroU16::new(4), ..plain };
        assert_eq!(Disk::root("a.img,direct=on,queues=4"), Ok(fast));
    }

    #[test]
    fn every_key_is_understood() {
        let text = "path=d,readonly=on,format=qcow2,backing=on,engine=sync,direct=off,queues=2,queue-size=128,serial=S1,\
                    cache=writethrough,discard=off,bw=100M/s,200M,ops=1000,group=g,on-error=stop,transport=pci";
        let disk: Disk = text.parse().unwrap();
        let rate = |per_second, burst| Some(RateLimit { per_second: NonZeroU64::new(per_second).unwrap(), burst });
        let expected = Disk {
            path: "d".into(),
            readonly: true,
            format: DiskFormat::Qcow2,
            backing: vec![".".into()],
            engine: Some(DiskEngine::Sync),
            direct: false,
            queues: NonZeroU16::new(2),
            queue_size: 128,
            serial: Some("S1".into()),
            cache: DiskCache::Writethrough,
            discard: false,
            bw: rate(100 << 20, NonZeroU64::new(200 << 20)),
            ops: rate(1000, None),
            group: Some("g".into()),
            on_error: OnError::Stop,
            transport: Some(Transport::Pci),
        };
        assert_eq!(disk, expected);
        assert_eq!(Disk::root(&text.replace("path=d", "d")), Ok(expected.clone()));
        let json = serde_json::to_string(&expected).unwrap();
        assert_eq!(serde_json::from_str::<Disk>(&json).unwrap(), expected);
        assert_eq!(serde_json::from_str::<Disk>(r#"{"path":"d"}"#).unwrap(), Disk::new("d"));
    }

    #[test]
    fn what_is_wrong_with_a_disk_is_named_with_its_cure() {
        for (text, said) in [
            ("", "there is no path=FILE"),
            ("a.img", "'a.img' is not KEY=VALUE: write path=a.img"),
            ("path=a.img,ro", "'ro' is not KEY=VALUE: write readonly=on"),
            ("path=a,readonly=maybe", "readonly=maybe: give on or off"),
            ("path=a,readonly=", "readonly has no value"),
            ("path=a,path=b", "path is given twice"),
            (
                "path=a,size=3",
                "there is no key 'size': there are path, readonly, format, backing, engine, direct, queues, \
                               queue-size, serial, cache, discard, bw, ops, group, on-error, transport",
            ),
            ("path=a,format=vmdk", "format=vmdk: give raw or qcow2"),
            ("path=a,engine=aio", "engine=aio: give io_uring or sync"),
            ("path=a,queues=0", "queues=0: give a number of queues from 1 on"),
            ("path=a,queue-size=100", "queue-size=100: give a power of two from 4 to 1024"),
            ("path=a,queue-size=2", "queue-size=2: give a power of two from 4 to 1024"),
            ("path=a,queue-size=65536", "queue-size=65536: give a power of two from 4 to 1024"),
            ("path=a,serial=123456789012345678901", "serial=123456789012345678901: give at most 20 ASCII characters"),
            ("path=a,cache=none", "cache=none: give writeback or writethrough"),
            ("path=a,bw=0", "bw=0: give a number from 1 on, with K, M or G behind it if you like"),
            ("path=a,ops=5,x", "ops=x: give a number from 1 on, with K, M or G behind it if you like"),
            ("path=a,ops=5,6,7", "'7' is not KEY=VALUE"),
            ("path=a,backing=on", "backing: only a qcow2 image has a backing file"),
            ("path=a,format=qcow2,direct=on", "direct=on: a qcow2 image goes through the host's page cache"),
            ("path=a,format=qcow2,engine=io_uring", "engine=io_uring: a qcow2 image is served by engine=sync"),
            ("path=a,transport=ccw", "transport=ccw: give mmio or pci"),
        ] {
            assert_eq!(problem(text), said, "{text}");
        }
        for text in [",ro", "", "ro,ro"] {
            assert!(Disk::root(text).is_err() || text == "ro,ro", "{text}");
        }
    }
}
