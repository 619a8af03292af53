// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What can be said on the command line, and the help that tells of it.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::error::ErrorKind;
use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum};
use vmm::{
    Balloon, ConfigError, ConsoleConfig, Credential, Disk, MachineId, Memory, Net, OnCrash, OnReboot, Rng,
    SerialConfig, Transport, Vsock,
};

use crate::STATUS_USAGE;

/// A virtual machine monitor for KVM.
#[derive(Debug, Parser)]
#[command(name = "vmm", version, max_term_width = 100, disable_help_subcommand = true)]
#[command(after_help = "Examples:
  vmm run --kernel vmlinux --rootfs rootfs.ext4
  vmm doctor")]
pub(crate) struct Arguments {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run a virtual machine until its guest powers off
    Run(Box<RunArguments>),
    /// Attach this terminal to a console's socket of a running virtual machine
    #[command(after_help = "Keys, while standard input is a terminal:
  Ctrl-a d       leave; the VM runs on
  Ctrl-a h       show these keys
  Ctrl-a Ctrl-a  send a Ctrl-a to the guest

Exit status: 0 left, or the console has ended; 1 the terminal failed; 2 there is no such socket.

Example:
  vmm console vm.console")]
    Console(ConsoleArguments),
    /// Tell what of this host is ready for virtual machines, and what to do about the rest
    #[command(after_help = "Exit status: 0 a VM can run; 1 it can't.

Example:
  vmm doctor --json")]
    Doctor(DoctorArguments),
}

#[derive(Debug, Args)]
pub(crate) struct DoctorArguments {
    /// Print one JSON object instead of lines
    #[arg(long)]
    pub(crate) json: bool,
}

/// Something that is there or isn't.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Switch {
    On,
    Off,
}

#[derive(Debug, Args)]
pub(crate) struct ConsoleArguments {
    /// The socket of 'vmm run --console socket=PATH', or of '--serial socket=PATH'
    #[arg(value_name = "SOCKET")]
    pub(crate) socket: PathBuf,
}

#[derive(Clone, Debug, Args)]
#[command(after_help = "Disk keys:
  path=FILE                     an image, or a block device
  readonly=on|off               the guest may only read it (off)
  format=raw|qcow2              what the image's bytes mean (raw)
  backing=on|off|PATH           files that may lie behind a qcow2 image: those
                                in its own folder, a file, or those in a folder;
                                they are only read (off)
  engine=io_uring|sync          how the host does the I/O (what the host has)
  direct=on|off                 leave out the host's page cache (off)
  queues=N                      queues, a thread each (one for each vCPU)
  queue-size=N                  descriptors of a queue: 4, 8, … 1024 (256)
  serial=STR                    serial number, at most 20 characters
  cache=writeback|writethrough  writes are durable at a flush, or at once
                                (writeback)
  discard=on|off                the guest can give space back (on)
  bw=BYTES[,BURST]              bytes a second, and how many at once after a
                                pause; K, M and G may follow
  ops=N[,BURST]                 requests a second, and how many at once
  group=NAME                    disks of one group share one bw and ops
  on-error=report|stop          a request that finds no space on the host
                                fails, or waits (report)
  transport=mmio|pci            how the guest finds it (that of --transport)

Network keys; one of the first five says what the card is connected to:
  tap=NAME                      a tap, opened with the flags that it was made
                                with; made for the VM if it isn't there
  fd=N or fd=[N,N]              open taps or macvtaps, a queue pair each
  passt=SOCKET                  a passt that runs
  vhost-user=SOCKET             a vhost-user-net backend that runs: without bw-,
                                ops- and antispoof. Needs --memory SIZE,shared=on
  user                          a passt of its own: needs no root. The first
                                word, without a value
  hostfwd=PROTO:[ADDR:]PORT-:PORT
                                a port of the host's that leads to the guest's,
                                with user: tcp:127.0.0.1:8080-:80; repeat it
                                for more; an IPv6 address is in brackets
  dns=ADDR                      a name server for the guest, with user (those of
                                the host); repeat it for more
  loopback=on|off               the guest reaches what listens at the host's
                                loopback, by its router's address, with user
                                (off)
  mac=MAC                       its address (from --name and the card's index)
  mtu=N                         the largest packet, in bytes (of a tap: its own;
                                else not said)
  queues=N                      queue pairs, a thread each: 1 to 64, with passt
                                and user 1 (1; with fd, one for each)
  queue-size=N                  descriptors of a queue: 4, 8, … 1024 (256)
  bw-rx=BYTES[,BURST]           bytes a second to the guest, and how many at
                                once after a pause; K, M and G may follow
  bw-tx=BYTES[,BURST]           the same from the guest
  ops-rx=N[,BURST]              frames a second to the guest
  ops-tx=N[,BURST]              frames a second from the guest
  antispoof=on|off              the guest sends from the card's address only (off)
  ip=ADDR                       with antispoof=on, from this address only; repeat
                                it for more
  vhost=on|off                  with tap and fd, the kernel moves the frames, by
                                /dev/vhost-net: answers come sooner; there is no
                                bw-, ops- and antispoof (off)
  transport=mmio|pci            how the guest finds it (that of --transport)

Socket keys:
  cid=N                         the guest's context ID, from 3 on
  socket=PATH                   a Unix socket: who connects to it and says
                                'CONNECT <port>' reaches the guest, after the
                                answer 'OK <port>'; who listens at PATH_<port>
                                is reached by the guest as port <port> of CID 2
  vhost=on|off                  programs of the host reach the guest by AF_VSOCK,
                                which the kernel makes by /dev/vhost-vsock (off)
  transport=mmio|pci            how the guest finds it (that of --transport)

Balloon keys:
  size=BYTES                    how much the guest is to give back at first; K, M
                                and G may follow (0)
  deflate-on-oom=on|off         a guest that is short of memory takes some out
                                of the balloon by itself (off)
  free-page-reporting=on|off    the guest gives back what it doesn't use, as long
                                as it doesn't (off)
  free-page-hinting=on|off      a program that embeds the library can ask the guest
                                what it doesn't use (off)
  stats=SECONDS                 how often the guest is asked for its statistics
                                (never)

Entropy keys:
  bw=BYTES[,BURST]              bytes a second, and how many at once after a
                                pause; K, M and G may follow (no limit)

Console places and keys; the first port is hvc0 in the guest, further ones are
/dev/virtio-ports/NAME:
  stdio                         standard input and output; --serial is null then,
                                and the default command line has console=hvc0
  file=PATH                     output goes to a file, created or emptied
  socket=PATH                   whoever connects, such as 'vmm console PATH', is
                                shown the last 64 KiB; who comes next takes the
                                place. PATH.size hears how large the terminal is
  pty                           a pseudo-terminal, whose path is printed
  name=NAME                     what the guest calls it; a must for further ones
  log=PATH                      output is added to a file too, up to 64 MiB

Keys, with --serial stdio or --console stdio while standard input is a terminal:
  Ctrl-a x       end the VM at once
  Ctrl-a p       press the power button
  Ctrl-a h       show these keys
  Ctrl-a Ctrl-a  send a Ctrl-a to the guest

Signals:
  SIGTERM, SIGINT, SIGHUP and SIGQUIT press the ACPI power button; after the grace the VM is stopped.
  A second signal stops it at once.

Exit status:
  0  the guest powered off or rebooted
  1  the host failed while the VM ran
  2  bad usage or configuration; nothing was started or changed
  3  the guest crashed: its kernel panicked, triple fault, or KVM could not go on with it; or its
     watchdog expired
  4  the VM had to be stopped

Examples:
  vmm run --kernel vmlinux --rootfs rootfs.ext4
  vmm run --kernel vmlinuz --initrd initrd --rootfs disk.img,ro --cpus 2 --memory 4G
  vmm run --kernel vmlinux --serial file=boot.log --disk path=data.img,readonly=on
  vmm run --kernel vmlinux --rootfs disk.img,direct=on --disk path=logs.img,bw=20M,ops=500
  vmm run --kernel vmlinux --rootfs disk.img --net user,hostfwd=tcp:127.0.0.1:8080-:80")]
pub(crate) struct RunArguments {
    /// Kernel: an ELF vmlinux, a bzImage, or a unified kernel image (UKI) with an initrd and a command line of its own; told apart
    /// by content
    #[arg(long, value_name = "FILE", help_heading = "Boot")]
    pub(crate) kernel: PathBuf,

    /// Initial RAM disk
    #[arg(long, value_name = "FILE", help_heading = "Boot")]
    pub(crate) initrd: Option<PathBuf>,

    /// Kernel command line, in place of a UKI's, or of the default:
    /// 'console=ttyS0 reboot=k panic=-1 i8042.noaux i8042.nokbd 8250.nr_uarts=1 cryptomgr.notests'.
    /// 'root=/dev/vda' is put in front for --rootfs, unless there is a 'root=' already
    #[arg(long, value_name = "STR", help_heading = "Boot", allow_hyphen_values = true)]
    pub(crate) cmdline: Option<String>,

    /// Enter an ELF kernel through its PVH note instead of its 64-bit entry
    #[arg(long, help_heading = "Boot")]
    pub(crate) pvh: bool,

    /// Disk with the root file system: the first one, /dev/vda. ',ro' lets the guest only read it; disk keys, see below,
    /// may follow
    #[arg(long, value_name = "PATH[,ro][,KEY=VALUE]...", help_heading = "Disks", value_parser = |text: &str| Disk::root(text).map_err(what_is_wrong))]
    pub(crate) rootfs: Option<Disk>,

    /// Further disk, with disk keys, see below; may be given many times, and the guest sees them in that order
    #[arg(long, value_name = "path=FILE[,KEY=VALUE]...", help_heading = "Disks", value_parser = |text: &str| text.parse::<Disk>().map_err(what_is_wrong))]
    pub(crate) disk: Vec<Disk>,

    /// Network card, with network keys, see below; may be given many times, and the guest sees them in that order
    #[arg(long, value_name = "WHERE[,KEY=VALUE]...", help_heading = "Networks", value_parser = |text: &str| text.parse::<Net>().map_err(what_is_wrong))]
    pub(crate) net: Vec<Net>,

    /// Sockets between programs of the guest and of the host (AF_VSOCK in the guest), with socket keys, see below
    #[arg(long, value_name = "cid=N[,KEY=VALUE]...", help_heading = "Sockets", value_parser = |text: &str| text.parse::<Vsock>().map_err(what_is_wrong))]
    pub(crate) vsock: Option<Vsock>,

    /// Tell the service manager that this runs under (NOTIFY_SOCKET, as with systemd's Type=notify) when the guest's says that
    /// it is ready, and what its status is. The guest finds the way by the credential vmm.notify_socket, as systemd does from
    /// version 254 on
    #[arg(long, help_heading = "Sockets")]
    pub(crate) notify: bool,

    /// Balloon: the guest gives memory back to the host while it runs; with balloon keys, see below
    #[arg(long, value_name = "KEY=VALUE", help_heading = "Machine", value_parser = |text: &str| text.parse::<Balloon>().map_err(what_is_wrong))]
    pub(crate) balloon: Option<Balloon>,

    /// Entropy device, with entropy keys, see below. Without it, there is one without a limit
    #[arg(long, value_name = "KEY=VALUE", help_heading = "Machine", value_parser = |text: &str| text.parse::<Rng>().map_err(what_is_wrong))]
    pub(crate) rng: Option<Rng>,

    /// Have no entropy device
    #[arg(long, help_heading = "Machine", conflicts_with = "rng")]
    pub(crate) no_rng: bool,

    /// Virtual CPUs: 1 to what the host's KVM allows. Linux guests use the first 255 of them
    #[arg(long, value_name = "N", help_heading = "Machine", default_value = "1", value_parser = cpus)]
    pub(crate) cpus: u32,

    /// Memory: a number of MiB, or one with K, M, G or T behind it; at least 32M. ',shared=on' makes it a file in memory,
    /// which a vhost-user backend can be given
    #[arg(long, value_name = "SIZE[,shared=on|off]", help_heading = "Machine", default_value_t, value_parser = |text: &str| text.parse::<Memory>().map_err(what_is_wrong))]
    pub(crate) memory: Memory,

    /// How the guest finds its virtio devices: by windows of registers that ACPI names, or on a PCI bus. Without it, mmio,
    /// or pci for all when a device has more than one queue (pair)
    #[arg(long, value_name = "mmio|pci", help_heading = "Machine")]
    pub(crate) transport: Option<Transport>,

    /// UUID of the machine, which the guest reads in /sys/class/dmi/id/product_uuid, and systemd makes its machine ID of where
    /// there is none. Without it, there is no UUID
    #[arg(long, value_name = "UUID", help_heading = "Identity", value_parser = |text: &str| text.parse::<MachineId>().map_err(what_is_wrong))]
    pub(crate) machine_id: Option<MachineId>,

    /// Credential for systemd in the guest, with the file's bytes; may be given many times. Neither the command lines nor
    /// the log show them. All of them and the OEM strings may have 63 KiB, as Base64
    #[arg(long, value_name = "NAME=FILE", help_heading = "Identity", value_parser = |text: &str| text.parse::<Credential>().map_err(what_is_wrong))]
    pub(crate) credential: Vec<Credential>,

    /// OEM string that the guest finds in SMBIOS (type 11); may be given many times
    #[arg(long, value_name = "STR", help_heading = "Identity", allow_hyphen_values = true)]
    pub(crate) oem_string: Vec<String>,

    /// A device by which the guest's kernel says that it has panicked (pvpanic): the VM ends with status 3
    #[arg(long, value_name = "on|off", help_heading = "Machine", default_value = "on", hide_possible_values = true)]
    pub(crate) pvpanic: Switch,

    /// Where the serial port (ttyS0 in the guest) goes: 'stdio', which it does without this; 'null'; 'file=PATH', which is
    /// created or emptied; 'socket=PATH', a Unix socket that one client at a time can use
    #[arg(long, value_name = "WHERE", help_heading = "Console")]
    pub(crate) serial: Option<SerialConfig>,

    /// Port of a virtio console, with console keys, see below; may be given many times
    #[arg(long, value_name = "WHERE[,KEY=VALUE]...", help_heading = "Console", value_parser = |text: &str| text.parse::<ConsoleConfig>().map_err(what_is_wrong))]
    pub(crate) console: Vec<ConsoleConfig>,

    /// What becomes of the VM when its guest reboots: it ends ('exit'), or the machine is reset in place and boots again
    #[arg(long, value_name = "exit|reset", help_heading = "Operation", default_value = "exit")]
    pub(crate) on_reboot: OnReboot,

    /// What becomes of it when its guest crashes: it ends, is reset, or stands still with its memory as it is ('pause') until
    /// a signal ends it, with status 3
    #[arg(long, value_name = "exit|reset|pause", help_heading = "Operation", default_value = "exit")]
    pub(crate) on_crash: OnCrash,

    /// A watchdog, Intel's i6300esb on the PCI bus: a guest that turns it on and then does nothing for longer than it had said
    /// is ended, or what --on-watchdog says
    #[arg(long, help_heading = "Machine")]
    pub(crate) watchdog: bool,

    /// What becomes of it when its guest's watchdog expires; with --watchdog
    #[arg(
        long,
        value_name = "exit|reset|pause",
        help_heading = "Operation",
        default_value = "exit",
        requires = "watchdog"
    )]
    pub(crate) on_watchdog: OnCrash,

    /// How long a guest has after one of the signals below to power off by itself: a number of seconds, or one with
    /// ms, s or m behind it
    #[arg(long, value_name = "TIME", help_heading = "Operation", default_value = "10s", value_parser = time)]
    pub(crate) grace: Duration,

    /// What the VM is called in log lines
    #[arg(long, value_name = "NAME", help_heading = "Operation", default_value = "vm")]
    pub(crate) name: String,

    /// How much is logged: error, warn, info, debug or trace
    #[arg(long, value_name = "LEVEL", help_heading = "Operation", default_value = "warn", value_parser = level)]
    pub(crate) log_level: tracing::Level,

    /// Where log lines go, in place of standard error; lines are added to what the file holds
    #[arg(long, value_name = "FILE", help_heading = "Operation")]
    pub(crate) log_file: Option<PathBuf>,
}

/// Prints help to standard output with status 0, and everything else as an error in one line.
pub(crate) fn usage(error: &clap::Error) -> ExitCode {
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            let shown = error.print();
            let asked_for = matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion);
            ExitCode::from(if shown.is_ok() && asked_for { 0 } else { STATUS_USAGE })
        }
        _ => {
            // The first paragraph says what is wrong; usage and pointers to the help follow it.
            let text = error.to_string();
            let first = text.split("\n\n").next().unwrap_or(&text).replace('\n', " ");
            let line = first.split_whitespace().collect::<Vec<_>>().join(" ");
            let command = std::env::args_os().nth(1).and_then(|name| name.into_string().ok());
            let command = command.filter(|name| Arguments::command().find_subcommand(name).is_some());
            let help = command.map_or("vmm --help".to_owned(), |name| format!("vmm {name} --help"));
            eprintln!("vmm: {line} (see '{help}')");
            ExitCode::from(STATUS_USAGE)
        }
    }
}

/// The message says which argument it is about, so the error needn't.
fn what_is_wrong(error: ConfigError) -> String {
    match error {
        ConfigError::Disk { problem, .. }
        | ConfigError::Net { problem, .. }
        | ConfigError::Vsock { problem, .. }
        | ConfigError::Rng { problem, .. }
        | ConfigError::Balloon { problem, .. }
        | ConfigError::Console { problem, .. }
        | ConfigError::Memory { problem, .. } => problem,
        ConfigError::Credential { problem, .. } => problem,
        ConfigError::MachineId { problem, .. } => problem.to_owned(),
        other => other.to_string(),
    }
}

fn time(text: &str) -> Result<Duration, String> {
    let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
    let number: u64 = digits.parse().map_err(|_| "not a time: give one such as 10s, 500ms or 2m".to_owned())?;
    match text.strip_prefix(digits).unwrap_or_default() {
        "" | "s" => Ok(Duration::from_secs(number)),
        "ms" => Ok(Duration::from_millis(number)),
        "m" => Ok(Duration::from_secs(number.saturating_mul(60))),
        unit => Err(format!("'{unit}' is no unit of time: there are ms, s and m")),
    }
}

fn cpus(text: &str) -> Result<u32, String> {
    text.parse().map_err(|_| "not a whole number".to_owned())
}

fn level(text: &str) -> Result<tracing::Level, String> {
    text.parse().map_err(|_| "there are error, warn, info, debug and trace".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn the_default_command_line_in_the_help_is_the_real_one() {
        let help = Arguments::command().find_subcommand_mut("run").unwrap().render_long_help().to_string();
        let words = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(words(&help).contains(vmm::config::DEFAULT_CMDLINE), "{help}");
    }

    #[test]
    fn times_have_units() {
        assert_eq!(time("10"), Ok(Duration::from_secs(10)));
        assert_eq!(time("10s"), Ok(Duration::from_secs(10)));
        assert_eq!(time("0"), Ok(Duration::ZERO));
        assert_eq!(time("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(time("2m"), Ok(Duration::from_secs(120)));
        for text in ["", "s", "10h", "-1s", "1.5s", "10 s"] {
            assert!(time(text).is_err(), "{text}");
        }
    }
}
