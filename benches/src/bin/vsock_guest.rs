// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Measures sockets of a Linux guest under VMMs, in turn, and prints a table. `cargo xtask bench --vsock` runs it.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;
use vmm_benches::boot::Linux;
use vmm_benches::monitor::Monitor;
use vmm_benches::vsock::{self, Plan};

/// Measures sockets of a Linux guest under VMMs, in turn, and prints a Markdown table
///
/// 256 MiB, one vCPU, and a socket device on a Unix socket.
#[derive(Debug, Parser)]
struct Arguments {
    /// Our own VMM; it is measured on each transport
    #[arg(long, value_name = "PATH")]
    vmm: PathBuf,
    /// The transport that 'vmm run' is told; both in turn without this
    #[arg(long, value_name = "mmio|pci")]
    transport: Option<String>,
    /// Another VMM; may be repeated. The name tells how it is started (firecracker, cloud-hypervisor, or vmm for another
    /// build of ours), and may go on with a dash: firecracker-1.12=/tmp/firecracker
    #[arg(long, value_name = "NAME=PATH")]
    peer: Vec<Monitor>,
    /// What uses the sockets in the host; the guest has its own
    #[arg(long, value_name = "PATH")]
    agent: PathBuf,
    /// ELF kernel of the guest
    #[arg(long, value_name = "FILE")]
    kernel: PathBuf,
    /// Initial RAM disk of the guest
    #[arg(long, value_name = "FILE")]
    initrd: PathBuf,
    /// Root file system of the guest, which is not written to
    #[arg(long, value_name = "FILE")]
    rootfs: PathBuf,
    /// MiB that pass in each direction, in each turn
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u64).range(1..=1 << 20))]
    mib: u64,
    /// Round trips of each turn
    #[arg(long, value_name = "N", default_value_t = 500, value_parser = clap::value_parser!(u64).range(1..))]
    round_trips: u64,
    /// How many turns each VMM has in each case
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..))]
    runs: u32,
}

fn main() -> ExitCode {
    match run(Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("vsock-guest: error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: Arguments) -> Result<()> {
    let Arguments { vmm, transport, peer, agent, kernel, initrd, rootfs, mib, round_trips, runs } = arguments;
    let transports = transport.map_or_else(|| vec!["mmio".to_owned(), "pci".to_owned()], |transport| vec![transport]);
    let mut monitors = Monitor::ours(vmm).with_each(&transports, Monitor::on_transport);
    let count = monitors.len();
    monitors.extend(peer);
    let linux = Linux { kernel, initrd: Some(initrd), rootfs: Some(rootfs) };
    let plan = Plan { linux, agent, bytes: mib << 20, round_trips, runs };
    print!("{}", vsock::measure(&monitors, &plan)?.markdown(count, "CPU"));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        use clap::CommandFactory;
        Arguments::command().debug_assert();
    }
}
