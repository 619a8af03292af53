// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Measures how VMMs start, in turn, and prints a table. `cargo xtask bench` runs it.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;
use vmm_benches::boot::{self, Linux};
use vmm_benches::monitor::Monitor;
use vmm_benches::table;

/// Measures how VMMs start, in turn, and prints a Markdown table
///
/// One vCPU and 256 MiB. Without a kernel, only what needs none is measured: the way to the guest's first instruction.
#[derive(Debug, Parser)]
struct Arguments {
    /// Our own VMM
    #[arg(long, value_name = "PATH")]
    vmm: PathBuf,
    /// Another VMM; may be repeated. The name tells how it is started (firecracker, or vmm for another build of ours),
    /// and may go on with a dash: firecracker-1.12=/tmp/firecracker
    #[arg(long, value_name = "NAME=PATH")]
    peer: Vec<Monitor>,
    /// ELF kernel of the guest
    #[arg(long, value_name = "FILE")]
    kernel: Option<PathBuf>,
    /// Initial RAM disk of the guest
    #[arg(long, value_name = "FILE", requires = "kernel")]
    initrd: Option<PathBuf>,
    /// Root file system of the guest, which is not written to
    #[arg(long, value_name = "FILE", requires = "kernel")]
    rootfs: Option<PathBuf>,
    /// How often each is measured
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..))]
    runs: u32,
}

fn main() -> ExitCode {
    match run(Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("startup: error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: Arguments) -> Result<()> {
    let Arguments { vmm, peer, kernel, initrd, rootfs, runs } = arguments;
    let monitors: Vec<_> = std::iter::once(Monitor::ours(vmm)).chain(peer).collect();
    let linux = kernel.map(|kernel| Linux { kernel, initrd, rootfs });
    let rows = boot::measure(&monitors, linux.as_ref(), runs)?;
    let names: Vec<_> = monitors.iter().map(|monitor| monitor.name.as_str()).collect();
    print!("{}", table::markdown(&names, &rows));
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
