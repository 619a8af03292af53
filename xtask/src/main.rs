// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The project's chores. `cargo xtask --help` lists them.

mod bench;
mod demo;
mod deny;
mod fmt;
mod guest;
mod guide;
mod host;
mod house;
mod packages;
mod process;
mod progress;
mod stamp;
mod static_build;
mod test;
mod testbed;
mod tools;
mod workspace;

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use clap::{Args, Parser, Subcommand};

use test::{Stage, Wish};
use testbed::{Request, Stream};
use workspace::Workspace;

/// The project's chores.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", disable_help_subcommand = true)]
struct Xtask {
    #[command(subcommand)]
    chore: Chore,
}

#[derive(Subcommand)]
enum Chore {
    /// Boot a Debian kernel under vmm: it says hello, shows its machine, and powers off
    ///
    /// Uses this machine's KVM where that runs unmodified kernels, else the testbed, and prints the command line, so that
    /// it can be repeated by hand. The exit status is that of vmm.
    Demo {
        /// End in a shell inside the guest, which powers off when the shell exits
        #[arg(long, short)]
        interactive: bool,
        /// Use the testbed even where this machine's KVM would do
        #[arg(long)]
        testbed: bool,
    },
    /// Run all tests: units and micro-guests, Linux guests, examples in the documentation
    ///
    /// Closes with the counts, and fails when a test failed. The Linux tests run on this machine's KVM where that runs
    /// unmodified kernels, else in the testbed; what they leave in /out there comes to target/linux-tests/.
    Test {
        /// Run only this part
        #[arg(long, value_name = "PART")]
        only: Option<Stage>,
        /// Linux tests that run at the same time: the emulated host has been seen to crash with more than one
        #[arg(long, value_name = "N", default_value_t = 1)]
        linux_threads: u32,
        /// Run only tests with this in their names
        filter: Option<String>,
    },
    /// Check the sources: rustfmt, clippy, house rules, rustdoc
    Fmt {
        /// Mend what can be mended
        #[arg(long)]
        fix: bool,
    },
    /// Check what comes in with the dependencies: advisories, licences, sources, with cargo-deny
    ///
    /// Installs cargo-deny into target/tools/ where it is missing, which takes minutes. The advisories are fetched.
    Deny {
        /// Only these
        #[arg(value_name = "CHECK", value_parser = ["advisories", "bans", "licenses", "sources"])]
        only: Vec<String>,
    },
    /// Measure what it costs to start a guest, or how fast its disk, network or sockets are, with vmm and other VMMs in turn
    ///
    /// Prints a Markdown table with medians, spread and ratios. Runs on this machine's KVM where that runs unmodified
    /// kernels, else in the testbed, where times mean nothing but their ratios do.
    #[command(after_help = "Examples:
  cargo xtask bench --peer firecracker=/tmp/firecracker --runs 20
  cargo xtask bench --block --peer cloud-hypervisor=/tmp/cloud-hypervisor --disk-keys engine=sync
  cargo xtask bench --net --peer firecracker=/tmp/firecracker --net-keys '' --net-keys transport=pci
  cargo xtask bench --vsock --peer firecracker=/tmp/firecracker")]
    Bench(BenchArguments),
    /// Build the book in Guide/ into target/guide/, and check the links of all pages
    Guide {
        /// Check the links and build nothing
        #[arg(long)]
        links: bool,
    },
    /// Get and build the files that a guest boots from, in target/guest/
    ///
    /// vmlinuz is Debian's stock cloud kernel, downloaded and unpacked, not installed; vmlinux is the ELF kernel inside
    /// it; initrd loads the virtio drivers and hands over to the root file system; rootfs.ext4 has busybox and an init
    /// that says hello. What is there and up to date stays as it is.
    Guest {
        /// Look for a newer Debian kernel
        #[arg(long)]
        update: bool,
    },
    /// Run a command in an emulated KVM host
    ///
    /// Works on any machine: QEMU emulates a processor with hardware virtualization, in which Debian's kernel with its
    /// KVM serves virtual machines as it does elsewhere, only slower. In there, `vmm` is on the path, the guest files
    /// are in /guest, the working folder is /share, and there is busybox with all its applets. Standard output and
    /// error stay apart; the exit status is the command's, 124 when the time was over. The kernel's log is kept in
    /// target/testbed/console.log.
    #[command(after_help = "Example:\n  cargo xtask testbed --share . -- sh -c 'ls -l /dev/kvm; vmm doctor'")]
    Testbed(TestbedArguments),
}

#[derive(Args)]
#[command(group = clap::ArgGroup::new("load").args(["block", "net", "vsock"]))]
struct BenchArguments {
    /// Another VMM's static program; may be repeated. The name tells how it is started: firecracker, cloud-hypervisor
    /// (not for the start), or vmm for another build of ours; it may go on with a dash, as in firecracker-1.12
    #[arg(long = "peer", value_name = "NAME=PATH", value_parser = bench::parse_peer)]
    peers: Vec<bench::Peer>,
    /// How often each is measured
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..))]
    runs: u32,
    /// Measure a disk as a Linux guest sees it, and not the start
    #[arg(long)]
    block: bool,
    /// Measure a network as a Linux guest sees it, and not the start
    #[arg(long, conflicts_with = "block")]
    net: bool,
    /// Measure sockets between the host and a Linux guest, and not the start
    #[arg(long, conflicts_with_all = ["block", "net", "seconds"])]
    vsock: bool,
    /// How long each way of loading the disk or the network is measured in each run: a second
    #[arg(long, value_name = "N", requires = "load", value_parser = clap::value_parser!(u64).range(1..=600))]
    seconds: Option<u64>,
    /// Disk keys of 'vmm run'; may be repeated, and vmm is then measured with each of them. '' is for without any
    #[arg(long, value_name = "KEY=VALUE[,...]", requires = "block", conflicts_with = "net")]
    disk_keys: Vec<String>,
    /// Net keys of 'vmm run'; may be repeated, and vmm is then measured with each of them. '' is for without any
    #[arg(long, value_name = "KEY=VALUE[,...]", requires = "net", conflicts_with = "block")]
    net_keys: Vec<String>,
    /// Queue pairs of a card, and vCPUs; may be repeated for a table each: 1 and 2
    #[arg(long, value_name = "N", requires = "net", conflicts_with = "block", value_parser = clap::value_parser!(u32).range(1..=8))]
    queues: Vec<u32>,
    /// Only ways of loading the network whose name holds this, as in 'UDP'
    #[arg(long, value_name = "TEXT", requires = "net", conflicts_with = "block")]
    only: Option<String>,
    /// Processors of a testbed, where one is used: two of them stand still more often
    #[arg(long, value_name = "N", requires = "net", conflicts_with = "block", default_value_t = 1)]
    testbed_cpus: u32,
    /// The transport that 'vmm run' is told
    #[arg(long, value_name = "mmio|pci", requires = "load")]
    transport: Option<String>,
}

impl BenchArguments {
    fn wish(self) -> bench::Wish {
        let Self {
            peers,
            runs,
            block,
            net,
            vsock,
            seconds,
            disk_keys,
            net_keys,
            queues,
            only,
            testbed_cpus,
            transport,
        } = self;
        let what = match (block, net) {
            (true, _) => bench::What::Block { disk_keys },
            (_, true) => bench::What::Net(bench::Net { net_keys, queues, only, testbed_cpus }),
            _ if vsock => bench::What::Vsock,
            _ => bench::What::Start,
        };
        bench::Wish { peers, runs, what, seconds, transport }
    }
}

#[derive(Args)]
struct TestbedArguments {
    /// Processors to emulate; more than this machine has makes it slower
    #[arg(long, value_name = "N", default_value_t = 2)]
    cpus: u32,
    /// Memory of the emulated machine, as 4G or 512M; a bare number is MiB
    #[arg(long, value_name = "SIZE", default_value = "4G", value_parser = parse_memory)]
    memory: u64,
    /// Folder to copy to /share
    #[arg(long, value_name = "DIR")]
    share: Option<PathBuf>,
    /// Folder that gets what the command leaves in /out
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Kill the testbed after so long
    #[arg(long, value_name = "SECS")]
    timeout: Option<u64>,
    /// Set a variable in the command's environment; may be repeated
    #[arg(long = "env", value_name = "NAME=VALUE", value_parser = parse_variable)]
    environment: Vec<String>,
    /// Give the command this terminal; Ctrl-] ends the testbed
    #[arg(long, short)]
    interactive: bool,
    /// The command and its arguments; for more than one, use sh -c '...'
    #[arg(last = true, required = true, value_name = "CMD")]
    command: Vec<String>,
}

/// MiB.
fn parse_memory(text: &str) -> Result<u64, String> {
    let (number, factor) = match text.trim_end_matches(|c: char| c.is_ascii_alphabetic()) {
        number if number.len() == text.len() => (number, 1),
        number => match &text[number.len()..] {
            "M" | "m" | "MiB" => (number, 1),
            "G" | "g" | "GiB" => (number, 1024),
            unit => return Err(format!("{unit:?} is none of M and G")),
        },
    };
    let number: u64 = number.parse().map_err(|_| "this is no size: write it as 4G or 512M".to_owned())?;
    number.checked_mul(factor).filter(|mib| *mib <= 1 << 24).ok_or_else(|| "this is too much".to_owned())
}

fn parse_variable(text: &str) -> Result<String, String> {
    match text.split_once('=') {
        Some((name, _)) if !name.is_empty() => Ok(text.to_owned()),
        _ => Err("write it as NAME=VALUE".to_owned()),
    }
}

impl TestbedArguments {
    fn request(self) -> Request {
        Request {
            cpus: self.cpus,
            memory: self.memory,
            share: self.share,
            out: self.out,
            timeout: self.timeout.map(Duration::from_secs),
            interactive: self.interactive,
            environment: self.environment,
            attempts: 2,
            command: self.command,
        }
    }
}

fn main() -> ExitCode {
    let xtask = Xtask::parse();
    match run(xtask.chore, &Workspace::locate()) {
        Ok(status) => ExitCode::from(u8::try_from(status).unwrap_or(1)),
        Err(error) => {
            eprintln!("xtask: error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(chore: Chore, workspace: &Workspace) -> Result<i32> {
    match chore {
        Chore::Demo { interactive, testbed } => demo::main(workspace, interactive, testbed),
        Chore::Test { only, linux_threads, filter } => test::main(workspace, &Wish { only, linux_threads, filter }),
        Chore::Fmt { fix } => fmt::main(workspace, fix),
        Chore::Deny { only } => deny::main(workspace, &only),
        Chore::Bench(arguments) => bench::main(workspace, &arguments.wish()),
        Chore::Guide { links } => guide::main(workspace, links),
        Chore::Guest { update } => guest::main(workspace, update).map(|()| 0),
        Chore::Testbed(arguments) => testbed::run(workspace, &arguments.request(), &mut pass_on),
    }
}

/// What comes out of a testbed goes out of here.
fn pass_on(stream: Stream, bytes: &[u8]) -> std::io::Result<()> {
    match stream {
        Stream::Output => {
            let mut output = std::io::stdout().lock();
            output.write_all(bytes)?;
            output.flush()
        }
        Stream::Errors => std::io::stderr().write_all(bytes),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        use clap::CommandFactory;
        Xtask::command().debug_assert();
    }

    #[test]
    fn what_belongs_to_another_benchmark_is_refused() {
        let bench = |words: &str| Xtask::try_parse_from(["xtask", "bench"].into_iter().chain(words.split(' ')));
        for words in ["--block --disk-keys a=b", "--net --net-keys a=b --queues 2 --only x", "--net --testbed-cpus 2"] {
            assert!(bench(words).is_ok(), "{words}");
        }
        for words in [
            "--block --net",
            "--seconds 2",
            "--net --disk-keys a=b",
            "--block --net-keys a=b",
            "--block --queues 1",
            "--block --only x",
            "--block --testbed-cpus 2",
            "--net-keys a=b",
        ] {
            assert!(bench(words).is_err(), "{words}");
        }
    }

    #[test]
    fn sizes_are_mib_unless_they_say_otherwise() {
        for (text, mib) in [("512", 512), ("512M", 512), ("4G", 4096), ("2g", 2048)] {
            assert_eq!(parse_memory(text), Ok(mib));
        }
        for text in ["", "G", "4T", "-1", "99999999999999G", "4 G"] {
            assert!(parse_memory(text).is_err(), "{text}");
        }
    }
}
