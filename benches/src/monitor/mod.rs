// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The VMMs, and what they are to run.

mod command;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::str::FromStr;

use anyhow::Result;

/// MiB of guest RAM.
pub const MEMORY: u32 = 256;

/// A machine with [`MEMORY`] and a serial port.
#[derive(Clone, Debug)]
pub struct Machine {
    /// An ELF kernel.
    pub kernel: PathBuf,
    /// The kernel's command line.
    pub cmdline: String,
    /// The initial RAM disk.
    pub initrd: Option<PathBuf>,
    /// A disk that the guest can only read, so that all find it the same.
    pub disk: Option<PathBuf>,
    /// A disk behind it, that the guest can write to.
    pub data: Option<PathBuf>,
    /// Its vCPUs.
    pub cpus: u32,
    /// A network card.
    pub card: Option<Card>,
    /// A socket device on a Unix socket at this path.
    pub vsock: Option<PathBuf>,
}

/// A network card on a tap that is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Card {
    /// The tap.
    pub tap: String,
    /// Its address.
    pub mac: String,
    /// Its queue pairs.
    pub queues: u32,
}

/// A kind of VMM. Another one takes a name here and a function that makes its command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Vmm,
    Firecracker,
    CloudHypervisor,
}

const KINDS: [(&str, Kind); 3] =
    [("vmm", Kind::Vmm), ("firecracker", Kind::Firecracker), ("cloud-hypervisor", Kind::CloudHypervisor)];

/// A VMM to measure.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Monitor {
    /// What it is called in the table.
    pub name: String,
    /// The program.
    pub program: PathBuf,
    kind: Kind,
    /// How it serves [`Machine::data`], where it is not as it does by itself: disk keys of ours, Firecracker's
    /// `io_engine`.
    data_as: Option<String>,
    /// Net keys of ours for [`Machine::card`].
    card_as: Option<String>,
    /// For all devices; only ours has more than one.
    transport: Option<String>,
}

impl Monitor {
    /// The VMM of this workspace.
    pub fn ours(program: PathBuf) -> Self {
        Self { name: "vmm".to_owned(), program, kind: Kind::Vmm, data_as: None, card_as: None, transport: None }
    }

    /// The same one, with all of its devices on a transport.
    #[must_use]
    pub fn on_transport(self, transport: &str) -> Self {
        Self { name: format!("{}, {transport}", self.name), transport: Some(transport.to_owned()), ..self }
    }

    /// The same one, with more disk keys for [`Machine::data`].
    #[must_use]
    pub fn with_disk_keys(self, keys: &str) -> Self {
        Self { name: format!("{}, {keys}", self.name), data_as: Some(keys.to_owned()), ..self }
    }

    /// The same one, with more net keys for [`Machine::card`].
    #[must_use]
    pub fn with_net_keys(self, keys: &str) -> Self {
        Self { name: format!("{}, {keys}", self.name), card_as: Some(keys.to_owned()), ..self }
    }

    /// This one, once with each of the keys, as `with` adds them. Empty keys leave it as it is.
    pub fn with_each(self, keys: &[String], with: impl Fn(Self, &str) -> Self) -> Vec<Self> {
        let variant = |keys: &String| if keys.is_empty() { self.clone() } else { with(self.clone(), keys) };
        if keys.is_empty() { vec![self] } else { keys.iter().map(variant).collect() }
    }

    /// So many of the queue pairs as its cards can have.
    pub fn queues_of(&self, wanted: u32) -> u32 {
        // Firecracker's have one (`src/vmm/src/devices/virtio/net/mod.rs`, `NET_NUM_QUEUES`).
        if self.kind == Kind::Firecracker { 1 } else { wanted }
    }

    /// One for each way in which it does the I/O of a disk, as far as that is for its user to choose: Firecracker has two,
    /// and takes the slower one by itself.
    pub fn engines(self) -> Vec<Self> {
        match self.kind {
            Kind::Vmm | Kind::CloudHypervisor => vec![self],
            Kind::Firecracker => ["Sync", "Async"]
                .map(|engine| Self {
                    name: format!("{}, {engine}", self.name),
                    data_as: Some(engine.to_owned()),
                    ..self.clone()
                })
                .into(),
        }
    }

    /// Whether it runs a kernel that has no PVH note, and ends when its guest pulls the reset line. Without that, there is
    /// no way to tell what its start costs.
    pub fn ends_at_reset(&self) -> bool {
        // Cloud Hypervisor enters by PVH alone, and answers a reset by another boot (`vm_reboot` in its `vmm/src/lib.rs`).
        self.kind != Kind::CloudHypervisor
    }

    /// The command that runs the machine. Files that it needs go to `scratch`.
    pub fn command(&self, machine: &Machine, scratch: &Path) -> Result<Command> {
        match self.kind {
            Kind::Vmm => Ok(command::vmm(self, machine)),
            Kind::Firecracker => command::firecracker(self, machine, scratch),
            Kind::CloudHypervisor => Ok(command::cloud_hypervisor(self, machine)),
        }
    }
}

impl FromStr for Monitor {
    type Err = String;

    /// `NAME=PATH`: the name begins with that of a kind, which may be followed by `-` and anything.
    fn from_str(text: &str) -> Result<Self, String> {
        let (name, path) = text.split_once('=').ok_or("write it as NAME=PATH")?;
        let is_of = |known: &str| name.strip_prefix(known).is_some_and(|rest| rest.is_empty() || rest.starts_with('-'));
        let names = KINDS.map(|(name, _)| name).join(", ");
        let (_, kind) = KINDS.into_iter().find(|(known, _)| is_of(known)).ok_or_else(|| {
            format!("{name:?} is none of the programs that are known here: {names}; -ANYTHING may follow the name")
        })?;
        if path.is_empty() {
            return Err("there is no path".to_owned());
        }
        let program = path.into();
        Ok(Self { name: name.to_owned(), program, kind, data_as: None, card_as: None, transport: None })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peers_are_named_after_what_they_are() {
        let peer: Monitor = "firecracker-1.12=/p/fire=cracker".parse().unwrap();
        assert_eq!((peer.name.as_str(), peer.kind), ("firecracker-1.12", Kind::Firecracker));
        assert_eq!(peer.program, Path::new("/p/fire=cracker"));
        for (text, kind) in [
            ("vmm-before=/p/vmm", Kind::Vmm),
            ("cloud-hypervisor=/p/ch", Kind::CloudHypervisor),
            ("cloud-hypervisor-54=/p/ch", Kind::CloudHypervisor),
        ] {
            assert_eq!(text.parse::<Monitor>().unwrap().kind, kind, "{text}");
        }
        for text in ["", "firecracker", "firecracker=", "=/p", "qemu=/p", "firecrackers=/p", "cloud=/p"] {
            assert!(text.parse::<Monitor>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_card_has_no_more_queues_than_its_monitor_can_give_it() {
        assert_eq!(Monitor::ours("vmm".into()).queues_of(2), 2);
        assert_eq!("cloud-hypervisor=ch".parse::<Monitor>().unwrap().queues_of(2), 2);
        assert_eq!("firecracker=fc".parse::<Monitor>().unwrap().queues_of(2), 1);
    }

    #[test]
    fn what_differs_from_the_usual_is_in_the_name() {
        let ours = Monitor::ours("vmm".into());
        assert_eq!(ours.clone().on_transport("pci").with_disk_keys("queues=2").name, "vmm, pci, queues=2");
        assert_eq!(ours.clone().with_net_keys("transport=pci").name, "vmm, transport=pci");
        let keys = [String::new(), "a=b".to_owned()];
        let variants = |keys: &[String]| ours.clone().on_transport("pci").with_each(keys, Monitor::with_net_keys);
        let names = |monitors: Vec<Monitor>| monitors.into_iter().map(|monitor| monitor.name).collect::<Vec<_>>();
        assert_eq!(names(variants(&keys)), ["vmm, pci", "vmm, pci, a=b"]);
        assert_eq!(names(variants(&[])), ["vmm, pci"]);
        let names = |monitor: Monitor| monitor.engines().into_iter().map(|engine| engine.name).collect::<Vec<_>>();
        assert_eq!(names(ours), ["vmm"]);
        assert_eq!(names("firecracker=fc".parse().unwrap()), ["firecracker, Sync", "firecracker, Async"]);
        assert_eq!(names("cloud-hypervisor=ch".parse().unwrap()), ["cloud-hypervisor"]);
    }
}
