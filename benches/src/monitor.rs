// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The VMMs, and how each is told what to run.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::str::FromStr;

use anyhow::{Context, Result};
use serde_json::json;

/// MiB of guest RAM.
pub const MEMORY: u32 = 256;

/// A machine of one vCPU with [`MEMORY`] and a serial port.
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
}

/// A kind of VMM. Another one takes a name here and a function that makes its command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Vmm,
    Firecracker,
}

const KINDS: [(&str, Kind); 2] = [("vmm", Kind::Vmm), ("firecracker", Kind::Firecracker)];

/// A VMM to measure.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Monitor {
    /// What it is called in the table.
    pub name: String,
    /// The program.
    pub program: PathBuf,
    kind: Kind,
}

impl Monitor {
    /// The VMM of this workspace.
    pub fn ours(program: PathBuf) -> Self {
        Self { name: "vmm".to_owned(), program, kind: Kind::Vmm }
    }

    /// The command that runs the machine. Files that it needs go to `scratch`.
    pub fn command(&self, machine: &Machine, scratch: &Path) -> Result<Command> {
        match self.kind {
            Kind::Vmm => Ok(vmm(&self.program, machine)),
            Kind::Firecracker => firecracker(&self.program, machine, scratch),
        }
    }
}

impl FromStr for Monitor {
    type Err = String;

    /// `NAME=PATH`: the name begins with that of a kind, which may be followed by `-` and anything.
    fn from_str(text: &str) -> Result<Self, String> {
        let (name, path) = text.split_once('=').ok_or("write it as NAME=PATH")?;
        let base = name.split('-').next().unwrap_or(name);
        let names = KINDS.map(|(name, _)| name).join(", ");
        let (_, kind) = KINDS.into_iter().find(|(known, _)| *known == base).ok_or_else(|| {
            format!("{name:?} is none of the programs that are known here: {names}; -ANYTHING may follow the name")
        })?;
        if path.is_empty() {
            return Err("there is no path".to_owned());
        }
        Ok(Self { name: name.to_owned(), program: path.into(), kind })
    }
}

fn vmm(program: &Path, machine: &Machine) -> Command {
    let mut command = Command::new(program);
    command.arg("run").arg("--kernel").arg(&machine.kernel);
    command.args(["--memory", &format!("{MEMORY}M"), "--cpus", "1", "--cmdline", &machine.cmdline]);
    if let Some(initrd) = &machine.initrd {
        command.arg("--initrd").arg(initrd);
    }
    if let Some(disk) = &machine.disk {
        let mut value = std::ffi::OsString::from("path=");
        value.push(disk);
        value.push(",readonly=on");
        command.arg("--disk").arg(value);
    }
    command
}

/// As its documentation has it for a start without its API server (docs/getting-started.md). It adds to the command line
/// where its virtio-mmio devices are, and that there is no PCI.
fn firecracker(program: &Path, machine: &Machine, scratch: &Path) -> Result<Command> {
    let mut boot_source = json!({ "kernel_image_path": machine.kernel, "boot_args": machine.cmdline });
    if let Some(initrd) = &machine.initrd {
        boot_source["initrd_path"] = json!(initrd);
    }
    let disk = machine
        .disk
        .iter()
        .map(|disk| json!({ "drive_id": "disk", "path_on_host": disk, "is_root_device": false, "is_read_only": true }));
    let config = json!({
        "boot-source": boot_source,
        "drives": disk.collect::<Vec<_>>(),
        "machine-config": { "vcpu_count": 1, "mem_size_mib": MEMORY },
    });
    let path = scratch.join("firecracker.json");
    fs::write(&path, config.to_string()).with_context(|| format!("can't write {}", path.display()))?;
    let mut command = Command::new(program);
    // Its log goes to standard output.
    command.args(["--no-api", "--level", "Error", "--config-file"]).arg(path);
    Ok(command)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine() -> Machine {
        Machine {
            kernel: "/g/vmlinux".into(),
            cmdline: "console=ttyS0 quiet".to_owned(),
            initrd: Some("/g/initrd".into()),
            disk: Some("/g/rootfs.ext4".into()),
        }
    }

    fn words(command: &Command) -> Vec<String> {
        command.get_args().map(|word| word.to_string_lossy().into_owned()).collect()
    }

    #[test]
    fn peers_are_named_after_what_they_are() {
        let peer: Monitor = "firecracker-1.12=/p/fire=cracker".parse().unwrap();
        assert_eq!((peer.name.as_str(), peer.kind), ("firecracker-1.12", Kind::Firecracker));
        assert_eq!(peer.program, Path::new("/p/fire=cracker"));
        assert_eq!("vmm-before=/p/vmm".parse::<Monitor>().unwrap().kind, Kind::Vmm);
        for text in ["", "firecracker", "firecracker=", "=/p", "qemu=/p", "firecrackers=/p"] {
            assert!(text.parse::<Monitor>().is_err(), "{text}");
        }
    }

    #[test]
    fn our_own_command_line_is_one_of_vmm_run() {
        let command = Monitor::ours("vmm".into()).command(&machine(), Path::new("/nowhere")).unwrap();
        let expected = [
            "run",
            "--kernel",
            "/g/vmlinux",
            "--memory",
            "256M",
            "--cpus",
            "1",
            "--cmdline",
            "console=ttyS0 quiet",
            "--initrd",
            "/g/initrd",
            "--disk",
            "path=/g/rootfs.ext4,readonly=on",
        ];
        assert_eq!(words(&command), expected);
    }

    #[test]
    fn firecracker_gets_the_same_machine_in_a_file() {
        let scratch = tempfile::tempdir().unwrap();
        let peer: Monitor = "firecracker=fc".parse().unwrap();
        let path = words(&peer.command(&machine(), scratch.path()).unwrap()).pop().unwrap();
        let config: serde_json::Value = serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap();
        assert_eq!(config["boot-source"]["boot_args"], "console=ttyS0 quiet");
        assert_eq!(config["boot-source"]["initrd_path"], "/g/initrd");
        assert_eq!(config["drives"][0]["is_read_only"], true);
        assert_eq!(config["machine-config"]["mem_size_mib"], 256);
        let bare = Machine { initrd: None, disk: None, ..machine() };
        let path = words(&peer.command(&bare, scratch.path()).unwrap()).pop().unwrap();
        let config: serde_json::Value = serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap();
        assert_eq!(config["drives"], json!([]));
        assert!(config["boot-source"].get("initrd_path").is_none());
    }
}
