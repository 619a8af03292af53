// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! `cargo xtask bench`: what it costs to start a guest, or how fast its disk, its network or its sockets are, our VMM and others
//! measured in turn.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::packages::{self, IP, STRIP};
use crate::progress::note;
use crate::testbed::{self, Request};
use crate::workspace::Workspace;
use crate::{guest, host, pass_on, process, static_build};

/// More than hundreds of runs take.
const TIMEOUT: Duration = Duration::from_secs(2 * 60 * 60);

/// Another VMM's program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Peer {
    name: String,
    path: PathBuf,
}

/// `NAME=PATH`; which names there are is for the harness to say.
pub(crate) fn parse_peer(text: &str) -> Result<Peer, String> {
    match text.split_once('=') {
        Some((name, path)) if !name.is_empty() && !name.contains('/') && !path.is_empty() => {
            Ok(Peer { name: name.to_owned(), path: path.into() })
        }
        _ => Err("write it as NAME=PATH".to_owned()),
    }
}

/// What is to be measured.
#[derive(Debug)]
pub(crate) struct Wish {
    pub(crate) peers: Vec<Peer>,
    /// How often.
    pub(crate) runs: u32,
    pub(crate) what: What,
    /// For each case and run; the harness knows what is usual.
    pub(crate) seconds: Option<u64>,
    /// Of `vmm run`.
    pub(crate) transport: Option<String>,
}

/// What is measured.
#[derive(Debug)]
pub(crate) enum What {
    /// The start.
    Start,
    /// A guest's disk.
    Block {
        /// Of `vmm run`.
        disk_keys: Vec<String>,
    },
    /// A guest's network.
    Net(Net),
    /// A guest's sockets.
    Vsock,
}

/// How the network is measured.
#[derive(Debug)]
pub(crate) struct Net {
    /// Of `vmm run`.
    pub(crate) net_keys: Vec<String>,
    /// Queue pairs, and vCPUs, of each table; the harness knows what is usual.
    pub(crate) queues: Vec<u32>,
    /// A part of the cases.
    pub(crate) only: Option<String>,
    /// Processors of a testbed.
    pub(crate) testbed_cpus: u32,
}

impl What {
    /// The program that measures it.
    fn harness(&self) -> &'static str {
        match self {
            Self::Start => "startup",
            Self::Block { .. } => "block-guest",
            Self::Net(_) => "net-guest",
            Self::Vsock => "vsock-guest",
        }
    }

    /// What two emulated processors do at the same time depends on what else this machine does, and hosts with two of them stand
    /// still more often. So there is one, unless somebody wants more.
    fn testbed_cpus(&self) -> u32 {
        match self {
            Self::Net(net) => net.testbed_cpus,
            _ => 1,
        }
    }
}

/// Runs the harness; its exit status is that of the harness.
pub(crate) fn main(workspace: &Workspace, wish: &Wish) -> Result<i32> {
    packages::ensure(if matches!(wish.what, What::Net(_)) { &[STRIP, IP] } else { &[STRIP] })?;
    let name = wish.what.harness();
    let harness = static_build::executable(workspace, &["build", "--package", "vmm-benches", "--bin", name], name)?;
    let vmm = static_build::executable(workspace, &["build", "--package", "vmm", "--bin", "vmm"], "vmm")?;
    let guest = guest::ensure(workspace)?;
    let share = tempfile::tempdir()?;
    let programs = share.path();
    fs::copy(&harness, programs.join(name)).with_context(|| format!("can't copy {}", harness.display()))?;
    fs::copy(&guest.netload, programs.join("netload"))
        .with_context(|| format!("can't copy {}", guest.netload.display()))?;
    fs::copy(&guest.agent, programs.join("agent")).with_context(|| format!("can't copy {}", guest.agent.display()))?;
    // Measured as they would be shipped; and there is no strip in the testbed.
    strip(&vmm, &programs.join("vmm"))?;
    for (index, peer) in wish.peers.iter().enumerate() {
        strip(&peer.path, &programs.join(file_name(index)))?;
    }
    if host::runs_unmodified_kernels(&vmm) {
        let mut command = Command::new(programs.join(name));
        command.args(arguments(programs, &guest.vmlinux, &guest.initrd, &guest.rootfs, wish));
        let status = command.status().with_context(|| format!("can't run {}", harness.display()))?;
        return Ok(status.code().unwrap_or(1));
    }
    note("this machine's KVM doesn't run unmodified kernels: measuring in the testbed, where only ratios count");
    let in_guest = |name: &str| Path::new("/guest").join(name);
    let (kernel, initrd, rootfs) = (in_guest("vmlinux"), in_guest("initrd"), in_guest("rootfs.ext4"));
    let mut command = vec![format!("/share/{name}")];
    command.extend(arguments(Path::new("/share"), &kernel, &initrd, &rootfs, wish));
    let (share, cpus) = (Some(programs.to_owned()), wish.what.testbed_cpus());
    let request = Request { share, timeout: Some(TIMEOUT), cpus, ..Request::new(command) };
    testbed::run(workspace, &request, &mut pass_on)
}

fn strip(from: &Path, to: &Path) -> Result<()> {
    process::output(Command::new("strip").arg("-o").arg(to).arg(from)).map(drop)
}

fn file_name(index: usize) -> String {
    format!("peer{index}")
}

fn arguments(programs: &Path, kernel: &Path, initrd: &Path, rootfs: &Path, wish: &Wish) -> Vec<String> {
    let shown = |path: &Path| path.display().to_string();
    let mut arguments = vec!["--runs".to_owned(), wish.runs.to_string()];
    let mut add = |flag: &str, value: String| arguments.extend([flag.to_owned(), value]);
    for (flag, path) in
        [("--vmm", programs.join("vmm").as_path()), ("--kernel", kernel), ("--initrd", initrd), ("--rootfs", rootfs)]
    {
        add(flag, shown(path));
    }
    for (index, peer) in wish.peers.iter().enumerate() {
        let path = programs.join(file_name(index));
        add("--peer", format!("{}={}", peer.name, shown(&path)));
    }
    if let Some(seconds) = wish.seconds {
        add("--seconds", seconds.to_string());
    }
    if let Some(transport) = &wish.transport {
        add("--transport", transport.clone());
    }
    match &wish.what {
        What::Start => (),
        What::Vsock => add("--agent", shown(&programs.join("agent"))),
        What::Block { disk_keys } => disk_keys.iter().for_each(|keys| add("--disk-keys", keys.clone())),
        What::Net(Net { net_keys, queues, only, testbed_cpus: _ }) => {
            add("--netload", shown(&programs.join("netload")));
            net_keys.iter().for_each(|keys| add("--net-keys", keys.clone()));
            queues.iter().for_each(|queues| add("--queues", queues.to_string()));
            only.iter().for_each(|only| add("--only", only.clone()));
        }
    }
    arguments
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_has_a_name_and_a_path() {
        let peer = parse_peer("firecracker-1.12=/p/a=b").unwrap();
        assert_eq!((peer.name.as_str(), peer.path.as_path()), ("firecracker-1.12", Path::new("/p/a=b")));
        for text in ["", "firecracker", "=/p", "firecracker=", "/tmp/x=y"] {
            assert!(parse_peer(text).is_err(), "{text}");
        }
    }

    #[test]
    fn the_harness_is_told_where_everything_is() {
        let peers = vec![parse_peer("firecracker=/elsewhere/fc").unwrap()];
        let mut wish = Wish { peers, runs: 3, what: What::Start, seconds: None, transport: None };
        let [s, k, i, r] = ["/s", "/g/k", "/g/i", "/g/r"].map(Path::new);
        let start = "--runs 3 --vmm /s/vmm --kernel /g/k --initrd /g/i --rootfs /g/r --peer firecracker=/s/peer0";
        assert_eq!(arguments(s, k, i, r, &wish).join(" "), start);
        (wish.seconds, wish.transport) = (Some(2), Some("pci".to_owned()));
        wish.what = What::Block { disk_keys: vec![String::new(), "engine=sync".to_owned()] };
        let expected = format!("{start} --seconds 2 --transport pci --disk-keys  --disk-keys engine=sync");
        assert_eq!(arguments(s, k, i, r, &wish).join(" "), expected);
        let net_keys = vec!["transport=pci".to_owned()];
        wish.what = What::Net(Net { net_keys, queues: vec![1, 2], only: Some("UDP".to_owned()), testbed_cpus: 2 });
        let expected = format!(
            "{start} --seconds 2 --transport pci --netload /s/netload --net-keys transport=pci --queues 1 --queues 2 --only UDP"
        );
        assert_eq!(arguments(s, k, i, r, &wish).join(" "), expected);
    }

    #[test]
    fn a_testbed_has_one_processor_unless_more_are_asked_for() {
        let net = |testbed_cpus| What::Net(Net { net_keys: Vec::new(), queues: Vec::new(), only: None, testbed_cpus });
        let cpus = [What::Start, What::Block { disk_keys: Vec::new() }, net(1), net(2)].map(|what| what.testbed_cpus());
        assert_eq!(cpus, [1, 1, 1, 2]);
    }
}
