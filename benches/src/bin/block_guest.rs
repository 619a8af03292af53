// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Measures the disk of a Linux guest under VMMs, in turn, and prints a table. `cargo xtask bench --block` runs it.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use clap::Parser;
use vmm_benches::block::{self, Plan, table};
use vmm_benches::boot::Linux;
use vmm_benches::monitor::Monitor;

/// Measures the disk of a Linux guest under VMMs, in turn, and prints a Markdown table
///
/// One vCPU and 256 MiB; the disk is a raw file of 64 MiB in the host's page cache, which the guest reads and writes past
/// its own.
#[derive(Debug, Parser)]
struct Arguments {
    /// Our own VMM
    #[arg(long, value_name = "PATH")]
    vmm: PathBuf,
    /// Disk keys of 'vmm run' for the disk that is measured; may be repeated, and ours is then measured with each of them.
    /// Nothing between quotes is for without any
    #[arg(long, value_name = "KEY=VALUE[,...]")]
    disk_keys: Vec<String>,
    /// The transport that 'vmm run' is told
    #[arg(long, value_name = "mmio|pci")]
    transport: Option<String>,
    /// Another VMM; may be repeated. The name tells how it is started (firecracker, cloud-hypervisor, or vmm for another
    /// build of ours), and may go on with a dash: firecracker-1.12=/tmp/firecracker
    #[arg(long, value_name = "NAME=PATH")]
    peer: Vec<Monitor>,
    /// ELF kernel of the guest
    #[arg(long, value_name = "FILE")]
    kernel: PathBuf,
    /// Initial RAM disk of the guest
    #[arg(long, value_name = "FILE")]
    initrd: PathBuf,
    /// Root file system of the guest, which is not written to
    #[arg(long, value_name = "FILE")]
    rootfs: PathBuf,
    /// Where the disk that is measured is put: a folder on a real file system
    #[arg(long, value_name = "DIR", default_value = "/var/tmp")]
    folder: PathBuf,
    /// How long a turn is
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=600))]
    seconds: u64,
    /// How many turns each VMM has in each case
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..))]
    runs: u32,
}

fn main() -> ExitCode {
    match run(Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("block-guest: error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: Arguments) -> Result<()> {
    let Arguments { vmm, disk_keys, transport, peer, kernel, initrd, rootfs, folder, seconds, runs } = arguments;
    let mut monitors = ours(Monitor::ours(vmm), transport.as_deref(), &disk_keys);
    let count = monitors.len();
    monitors.extend(peer.into_iter().flat_map(Monitor::engines));
    let linux = Linux { kernel, initrd: Some(initrd), rootfs: Some(rootfs) };
    let results = block::measure(&monitors, &Plan { linux, folder, time: Duration::from_secs(seconds), runs })?;
    print!("{}", results.markdown(count, table::CPU));
    Ok(())
}

/// Ours, once with each of the keys.
fn ours(plain: Monitor, transport: Option<&str>, disk_keys: &[String]) -> Vec<Monitor> {
    let base = match transport {
        Some(transport) => plain.on_transport(transport),
        None => plain,
    };
    base.with_each(disk_keys, Monitor::with_disk_keys)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        use clap::CommandFactory;
        Arguments::command().debug_assert();
    }

    #[test]
    fn ours_is_measured_with_each_of_the_disk_keys() {
        let names = |transport, keys: &[&str]| -> Vec<String> {
            let keys: Vec<_> = keys.iter().map(|keys| (*keys).to_owned()).collect();
            ours(Monitor::ours("vmm".into()), transport, &keys).into_iter().map(|monitor| monitor.name).collect()
        };
        assert_eq!(names(None, &[]), ["vmm"]);
        assert_eq!(names(None, &["", "engine=sync"]), ["vmm", "vmm, engine=sync"]);
        assert_eq!(names(Some("pci"), &["queues=1,engine=sync"]), ["vmm, pci, queues=1,engine=sync"]);
    }
}
