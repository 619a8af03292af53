// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Measures the network of a Linux guest under VMMs, in turn, and prints tables. `cargo xtask bench --net` runs it.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Result, ensure};
use clap::Parser;
use vmm_benches::boot::Linux;
use vmm_benches::monitor::Monitor;
use vmm_benches::namespace::Namespace;
use vmm_benches::net::load::CASES;
use vmm_benches::net::{self, Plan};

/// Measures the network of a Linux guest under VMMs, in turn, and prints Markdown tables
///
/// 256 MiB, and a card on a tap in a network namespace that goes with this program; it takes a user that may make one, or root.
/// There is a table for one queue pair and one vCPU, and one for two of each.
#[derive(Debug, Parser)]
struct Arguments {
    /// Our own VMM
    #[arg(long, value_name = "PATH")]
    vmm: PathBuf,
    /// Net keys of 'vmm run' for the card; may be repeated, and ours is then measured with each of them. Nothing between quotes
    /// is for without any
    #[arg(long, value_name = "KEY=VALUE[,...]")]
    net_keys: Vec<String>,
    /// The transport that 'vmm run' is told
    #[arg(long, value_name = "mmio|pci")]
    transport: Option<String>,
    /// Another VMM; may be repeated. The name tells how it is started (firecracker, cloud-hypervisor, or vmm for another
    /// build of ours), and may go on with a dash: firecracker-1.12=/tmp/firecracker
    #[arg(long, value_name = "NAME=PATH")]
    peer: Vec<Monitor>,
    /// What loads the network in the host; the guest has its own
    #[arg(long, value_name = "PATH")]
    netload: PathBuf,
    /// ELF kernel of the guest
    #[arg(long, value_name = "FILE")]
    kernel: PathBuf,
    /// Initial RAM disk of the guest
    #[arg(long, value_name = "FILE")]
    initrd: PathBuf,
    /// Root file system of the guest, which is not written to
    #[arg(long, value_name = "FILE")]
    rootfs: PathBuf,
    /// Queue pairs, and vCPUs; may be repeated for a table each
    #[arg(long, value_name = "N", default_values_t = [1, 2], value_parser = clap::value_parser!(u32).range(1..=8))]
    queues: Vec<u32>,
    /// Only cases whose name holds this
    #[arg(long, value_name = "TEXT", default_value = "")]
    only: String,
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
            eprintln!("net-guest: error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: Arguments) -> Result<()> {
    let Arguments { vmm, net_keys, transport, peer, netload, kernel, initrd, rootfs, queues, only, seconds, runs } =
        arguments;
    let ours = match transport {
        Some(transport) => Monitor::ours(vmm).on_transport(&transport),
        None => Monitor::ours(vmm),
    };
    let mut monitors = ours.with_each(&net_keys, Monitor::with_net_keys);
    let count = monitors.len();
    monitors.extend(peer);
    let cases: Vec<_> = CASES.into_iter().filter(|case| case.what.contains(&only)).collect();
    ensure!(!cases.is_empty(), "no case holds {only:?}: there are {}", CASES.map(|case| case.what).join("; "));
    let linux = Linux { kernel, initrd: Some(initrd), rootfs: Some(rootfs) };
    let plan = Plan { linux, netload, cases, time: Duration::from_secs(seconds), runs };
    let _namespace = Namespace::enter_new()?;
    net::set_up()?;
    for (index, queues) in queues.into_iter().enumerate() {
        let (_taps, places) = net::make_taps(&monitors, queues)?;
        let results = net::measure(&monitors, &places, queues, &plan)?;
        let blank = if index == 0 { "" } else { "\n" };
        print!("{blank}Queue pairs: {queues}. vCPUs: {queues}.\n\n{}", results.markdown(count, net::CPU));
    }
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

    #[test]
    fn one_and_two_queues_are_measured_unless_told_otherwise() {
        let parse = |more: &[&str]| {
            let needed = ["x", "--vmm=v", "--netload=n", "--kernel=k", "--initrd=i", "--rootfs=r"];
            Arguments::parse_from(needed.iter().chain(more)).queues
        };
        assert_eq!(parse(&[]), [1, 2]);
        assert_eq!(parse(&["--queues", "2"]), [2]);
    }
}
