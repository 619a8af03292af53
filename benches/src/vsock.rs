// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Sockets between the host and a Linux guest: each VMM boots the same guest with a socket device on a Unix socket, and `agent` in
//! the host and in the guest use it in the same ways.
//!
//! As with networks they take turns, all others are stopped meanwhile, and each round begins with another one.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::boot::{Linux, PATIENCE, STANDS_STILL};
use crate::comparison::{Column, Comparison, Unit};
use crate::cpu::ProcessorTime;
use crate::monitor::{Machine, Monitor};
use crate::process::{self, Running};

/// The guest's port.
const PORT: u32 = 5000;
/// What counts of what a guest or an agent says; a line of the console may begin with anything else.
const BEGINNINGS: [&str; 3] = ["agent: ", "vmm.run: exit", "guest-init: error"];

/// One way of using a stream.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    /// For people.
    what: &'static str,
    /// For `agent`, which runs in the host.
    word: &'static str,
}

/// All that is measured.
pub const CASES: [Case; 3] = [
    Case { what: "to the guest", word: "send" },
    Case { what: "from the guest", word: "receive" },
    Case { what: "round trip, mean", word: "echo" },
];

/// What is measured, and where.
#[derive(Clone, Debug)]
pub struct Plan {
    /// What the guest boots from.
    pub linux: Linux,
    /// The program that uses the streams in the host.
    pub agent: PathBuf,
    /// How many bytes pass in each direction, in each turn.
    pub bytes: u64,
    /// How many round trips there are in each turn.
    pub round_trips: u64,
    /// How often each VMM has its turn.
    pub runs: u32,
}

/// The table's columns.
fn columns() -> Vec<Column> {
    let column = |what, unit, cpu, aim| Column { what, unit, cpu, aim: Some(aim) };
    vec![
        column(CASES[0].what, Unit::Throughput, "ms/MiB", 1.5),
        column(CASES[1].what, Unit::Throughput, "ms/MiB", 1.5),
        column(CASES[2].what, Unit::Micros, "µs/round trip", 0.8),
        column("median", Unit::Micros, "", 0.8),
        column("99th percentile", Unit::Micros, "", 0.8),
    ]
}

/// A VMM with a guest that serves.
struct Served {
    running: Running,
    address: String,
}

/// Measures all VMMs. Each turn's results are told as they come.
pub fn measure(monitors: &[Monitor], plan: &Plan) -> Result<Comparison> {
    let mut served = Vec::new();
    let mut folders = Vec::new();
    for monitor in monitors {
        // Each has its socket in one, and Firecracker its configuration.
        let scratch = tempfile::tempdir().context("can't make a temporary folder")?;
        served.push(Served::start(monitor, plan, scratch.path()).with_context(|| monitor.name.clone())?);
        folders.push(scratch);
    }
    let mut results = Comparison::new(columns(), monitors.iter().map(|monitor| monitor.name.clone()));
    for run in 0..plan.runs {
        for (index, case) in CASES.iter().enumerate() {
            for turn in 0..served.len() {
                let monitor = (run as usize + turn) % served.len();
                let context = || format!("{}, {}, run {}", monitors[monitor].name, case.what, run + 1);
                let (values, cpu) = served[monitor].turn(case, plan).with_context(context)?;
                eprintln!("{}: {values:.1?}", context());
                let share =
                    if case.word == "echo" { plan.round_trips as f64 } else { plan.bytes as f64 / f64::from(1 << 20) };
                let scale = if case.word == "echo" { 1e6 } else { 1e3 };
                for (at, value) in values.iter().enumerate() {
                    results.push(monitor, index + at, *value);
                }
                results.push_cpu(monitor, index, cpu, |time| time.as_secs_f64() * scale / share);
            }
        }
    }
    Ok(results)
}

impl Served {
    /// Boots the guest, and lets it stand still once it serves.
    fn start(monitor: &Monitor, plan: &Plan, scratch: &Path) -> Result<Self> {
        let Linux { kernel, initrd, rootfs } = plan.linux.clone();
        let socket = scratch.join("v");
        let cmdline = format!("{STANDS_STILL} vmm.run=\"agent serve vsock:{PORT}\"");
        let vsock = Some(socket.clone());
        let machine = Machine { kernel, cmdline, initrd, disk: rootfs, data: None, cpus: 1, card: None, vsock };
        let mut command = monitor.command(&machine, scratch)?;
        process::end_with_us(&mut command);
        let mut running = Running::start(&mut command)?;
        let said = running.next_line(&BEGINNINGS)?;
        if said != "agent: ready" {
            bail!("the guest was to be ready, and said {said:?}");
        }
        running.pause()?;
        Ok(Self { running, address: format!("hybrid:{}:{PORT}", socket.display()) })
    }

    /// Runs one case, while all others stand still: the column's value, and what follows it.
    fn turn(&mut self, case: &Case, plan: &Plan) -> Result<(Vec<f64>, ProcessorTime)> {
        self.running.go_on()?;
        let count = if case.word == "echo" { plan.round_trips } else { plan.bytes };
        let mut command = Command::new(&plan.agent);
        command.args([case.word, &self.address, &count.to_string()]);
        process::end_with_us(&mut command);
        let before = ProcessorTime::of(self.running.id()?)?;
        let mut agent = Running::start(&mut command)?;
        agent.allow(PATIENCE);
        let line = agent.next_line(&BEGINNINGS)?;
        let after = ProcessorTime::of(self.running.id()?)?;
        agent.wait()?;
        self.running.pause()?;
        let cpu = after.since(before).context("a thread of its lost time that it had taken")?;
        let number = |name: &str| -> Result<f64> {
            let word = line.split(' ').find_map(|word| word.strip_prefix(name)?.strip_prefix('='));
            word.and_then(|word| word.parse().ok()).with_context(|| format!("{line:?} has no {name}"))
        };
        let values = match case.word {
            "echo" => ["mean_ns", "median_ns", "p99_ns"].map(|name| Ok(number(name)? / 1e3)).into_iter().collect(),
            _ => Ok(vec![count as f64 / f64::from(1 << 20) / (number("ns")? / 1e9)]),
        };
        values.map(|values: Vec<f64>| (values, cpu))
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn program(folder: &Path, name: &str, script: &str) -> PathBuf {
        let program = folder.join(name);
        fs::write(&program, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        program
    }

    fn run(vmm: &str, agent: &str) -> Result<String> {
        let folder = tempfile::tempdir().unwrap();
        let monitor = Monitor::ours(program(folder.path(), "vmm", &format!("{vmm}\nexec sleep 1000")));
        let linux = Linux { kernel: "k".into(), initrd: None, rootfs: None };
        let agent = program(folder.path(), "agent", agent);
        let plan = Plan { linux, agent, bytes: 1 << 20, round_trips: 2, runs: 2 };
        measure(&[monitor.clone(), monitor], &plan).map(|results| results.markdown(1, "CPU"))
    }

    const AGENT: &str = "echo agent: end $1 count=$3 ns=500000000 mean_ns=1000 median_ns=2000 p99_ns=3000";

    #[test]
    fn every_case_of_every_run_is_in_the_table() {
        let table = run("echo agent: ready", AGENT).unwrap();
        assert_eq!(table.matches("| 2 MiB/s | 2 MiB/s | 1 µs | 2 µs | 3 µs |").count(), 2, "{table}");
        assert!(table.contains("| vmm / best peer | 1.00"), "{table}");
    }

    #[test]
    fn what_goes_wrong_is_told() {
        let said = |vmm: &str, agent: &str| format!("{:#}", run(vmm, agent).unwrap_err());
        assert!(said("echo vmm.run: exit status 1", AGENT).contains("exit status 1"));
        assert!(said("echo agent: ready", "echo agent: error: refused >&2; exit 1").contains("agent: error: refused"));
        assert!(said("echo agent: ready", "echo agent: end send").contains("has no ns"));
    }
}
