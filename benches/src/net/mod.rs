// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! A network as a Linux guest sees it: each VMM boots the same guest with a card on a tap, and `netload` in the host and in the
//! guest load it in the same ways.
//!
//! As with disks, they take turns, a second or so each, and all others are stopped meanwhile. Each round begins with another
//! one, so that whatever comes and goes with the rounds favours nobody.

pub mod load;
pub mod traffic;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::boot::{Linux, PATIENCE, STANDS_STILL};
use crate::comparison::{Comparison, short};
use crate::cpu::ProcessorTime;
use crate::monitor::{Card, Machine, Monitor};
use crate::namespace::Tap;
use crate::process::{self, Running};
use load::{Case, Done, PORT, Said};
use traffic::Traffic;

/// What the table's rows of processor time are called.
pub const CPU: &str = "CPU";

/// What is measured, and where.
#[derive(Clone, Debug)]
pub struct Plan {
    /// What the guest boots from.
    pub linux: Linux,
    /// The program that loads the network in the host.
    pub netload: PathBuf,
    /// How it is loaded.
    pub cases: Vec<Case>,
    /// For each case.
    pub time: Duration,
    /// How often each VMM has its turn, in each case.
    pub runs: u32,
}

/// Where a guest is.
#[derive(Clone, Debug)]
pub struct Place {
    /// Its card.
    pub card: Card,
    /// Its address, of a network of four.
    pub address: String,
}

/// Gives the namespace of this thread the settings that guests have.
pub fn set_up() -> Result<()> {
    for (name, value) in load::SETTINGS {
        let path = format!("/proc/sys/net/ipv4/{name}");
        fs::write(&path, value).with_context(|| format!("can't set {path}"))?;
    }
    Ok(())
}

/// Makes the taps of VMMs in the namespace of this thread: each in a network of its own, all of it for documentation (RFC 5737).
pub fn make_taps(monitors: &[Monitor], queues: u32) -> Result<(Vec<Tap>, Vec<Place>)> {
    let (mut taps, mut places) = (Vec::new(), Vec::new());
    for (index, monitor) in monitors.iter().enumerate() {
        let number = u8::try_from(index).ok().filter(|number| *number < 64).context("64 VMMs are the most")?;
        let queues = monitor.queues_of(queues);
        let tap = Tap::make(&format!("tap{index}"), queues > 1, &format!("192.0.2.{}/30", 4 * number + 1))?;
        let card = Card { tap: tap.name.clone(), mac: format!("52:54:00:00:00:{:02x}", number + 1), queues };
        taps.push(tap);
        places.push(Place { card, address: format!("192.0.2.{}", 4 * number + 2) });
    }
    Ok((taps, places))
}

/// A VMM with a guest that serves.
struct Loaded<'a> {
    running: Running,
    place: &'a Place,
}

/// Measures all VMMs, each at its place, with so many vCPUs. Each turn's results are told as they come, since a host may not live
/// long enough for the last one.
pub fn measure(monitors: &[Monitor], places: &[Place], cpus: u32, plan: &Plan) -> Result<Comparison> {
    let scratch = tempfile::tempdir().context("can't make a temporary folder")?;
    let mut loaded = Vec::new();
    for (monitor, place) in monitors.iter().zip(places) {
        let started = Loaded::start(monitor, place, cpus, plan, scratch.path());
        loaded.push(started.with_context(|| monitor.name.clone())?);
    }
    // Who has less than the others says so.
    let most = places.iter().map(|place| place.card.queues).max().unwrap_or(1);
    let names = monitors.iter().zip(places).map(|(monitor, place)| match place.card.queues {
        queues if queues < most => format!("{}, queues: {queues}", monitor.name),
        _ => monitor.name.clone(),
    });
    let names: Vec<_> = names.collect();
    let columns = plan.cases.iter().flat_map(Case::columns).collect();
    let mut results = Comparison::new(columns, names.iter().cloned());
    for run in 0..plan.runs {
        let mut first_column = 0;
        for case in &plan.cases {
            for turn in 0..loaded.len() {
                let monitor = (run as usize + turn) % loaded.len();
                let context = || format!("{}, {}, run {}", names[monitor], case.what, run + 1);
                let done = loaded[monitor].turn(case, plan).with_context(context)?;
                eprintln!("{}: {}", context(), in_one_line(case, &done));
                for (index, value) in done.values(case.kind).into_iter().enumerate() {
                    results.push(monitor, first_column + index, value);
                }
                results.push_cpu(monitor, first_column, done.cpu, |time| done.cpu_each(case.kind, time));
            }
            first_column += case.columns().len();
        }
    }
    Ok(results)
}

impl<'a> Loaded<'a> {
    /// Boots the guest, and lets it stand still once it serves.
    fn start(monitor: &Monitor, place: &'a Place, cpus: u32, plan: &Plan, scratch: &Path) -> Result<Self> {
        let Linux { kernel, initrd, rootfs } = plan.linux.clone();
        let Place { card, address } = place;
        let cmdline = format!("{STANDS_STILL} vmm.run=\"{}\"", load::command(&format!("{address}/30")));
        let machine =
            Machine { kernel, cmdline, initrd, disk: rootfs, data: None, cpus, card: Some(card.clone()), vsock: None };
        let mut command = monitor.command(&machine, scratch)?;
        process::end_with_us(&mut command);
        let mut running = Running::start(&mut command)?;
        let mut listen = || Said::parse(&running.next_line(&load::BEGINNINGS)?);
        match listen()? {
            Said::Queues(queues) if queues == card.queues => (),
            Said::Queues(queues) => bail!("the guest's card was to have {} queues, and has {queues}", card.queues),
            other => bail!("the guest was to count its queues, and said {other:?}"),
        }
        match listen()? {
            Said::Ready => (),
            other => bail!("the guest was to be ready, and said {other:?}"),
        }
        running.pause()?;
        Ok(Self { running, place })
    }

    /// Runs one case, while all others stand still.
    fn turn(&mut self, case: &Case, plan: &Plan) -> Result<Done> {
        self.running.go_on()?;
        let mut command = Command::new(&plan.netload);
        let (address, seconds) = (format!("{}:{PORT}", self.place.address), plan.time.as_secs_f64().to_string());
        command.args(["measure", &address, case.word, &seconds]);
        process::end_with_us(&mut command);
        let mut netload = Running::start(&mut command)?;
        netload.allow(plan.time * 2 + PATIENCE);
        let vmm = self.running.id()?;
        let mut listen = || -> Result<_> {
            let said = Said::parse(&netload.next_line(&load::BEGINNINGS)?)?;
            Ok((said, Instant::now(), ProcessorTime::of(vmm)?, Traffic::of(&self.place.card.tap)))
        };
        let (Said::Begin { word: began }, started, before, passed) = listen()? else {
            bail!("it ended before it began")
        };
        let (Said::End { word, count, time, latency }, now, after, passed_now) = listen()? else {
            bail!("it began and didn't end")
        };
        if began != case.word || word != case.word {
            bail!("{} was to be run, and {began} was", case.word);
        }
        netload.wait()?;
        self.running.pause()?;
        let seen = now - started;
        if seen.abs_diff(time) > seen / 4 {
            // Its rate is right where only we were late to hear of it; the processor time is not.
            eprintln!("{time:.2?} were counted where this side saw {seen:.2?}: mistrust the next line");
        }
        let cpu = after.since(before).context("a thread of its lost time that it had taken")?;
        let traffic = passed_now.zip(passed).and_then(|(now, before)| now.since(before));
        Ok(Done { count, time, latency, cpu, traffic })
    }
}

/// What one turn of a VMM gave.
fn in_one_line(case: &Case, done: &Done) -> String {
    let columns = case.columns();
    let values: Vec<_> =
        done.values(case.kind).iter().zip(&columns).map(|(value, column)| column.unit.show(*value)).collect();
    let cpu = |time| short(done.cpu_each(case.kind, time));
    let unit = columns.first().map_or("", |column| column.cpu);
    let traffic = done.traffic.as_ref().map_or_else(String::new, |traffic| format!("; {traffic}"));
    let (all, others) = (cpu(done.cpu.total()), cpu(done.cpu.others));
    format!("{} ({all} {unit} of CPU, {others} outside vCPUs{traffic})", values.join(", "))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn program(folder: &Path, name: &str, script: &str) -> PathBuf {
        let program = folder.join(name);
        fs::write(&program, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        program
    }

    /// A program that a `vmm` can be played by: it says what a guest would, and stays.
    fn player(folder: &Path, lines: &str) -> Monitor {
        Monitor::ours(program(folder, "player", &format!("cat <<'EOF'\nLinux\n{lines}EOF\nexec sleep 1000")))
    }

    fn plan(folder: &Path, netload: &str, runs: u32) -> Plan {
        let linux = Linux { kernel: "k".into(), initrd: None, rootfs: None };
        let netload = program(folder, "netload", netload);
        Plan { linux, netload, cases: load::CASES.into(), time: Duration::from_millis(1), runs }
    }

    fn place(queues: u32) -> Place {
        let card = Card { tap: "tap0".to_owned(), mac: "52:54:00:00:00:01".to_owned(), queues };
        Place { card, address: "192.0.2.2".to_owned() }
    }

    const NETLOAD: &str = "echo netload: begin $3\n\
        echo netload: end $3 count=1000 ns=1000000 cpu_ns=10 mean_ns=1000 median_ns=2000 p99_ns=3000";

    #[test]
    fn every_case_of_every_run_is_in_the_results() {
        let folder = tempfile::tempdir().unwrap();
        let monitor = player(folder.path(), "netload: queues 2\nnetload: ready\n");
        let plan = plan(folder.path(), NETLOAD, 2);
        let monitors = [monitor.clone(), monitor];
        let results = measure(&monitors, &[place(2), place(2)], 2, &plan).unwrap();
        let table = results.markdown(1, CPU);
        assert_eq!(table.matches("1,000,000 /s").count(), 2 * 2, "{table}");
        assert_eq!(table.matches("0.01 Gbit/s").count(), 2 * 4, "{table}");
        assert_eq!(table.matches(" 1 µs | 2 µs | 3 µs |").count(), 2, "{table}");
        assert!(table.contains("| vmm / best peer | 1.00 |"), "{table}");
    }

    #[test]
    fn who_has_fewer_queues_says_so() {
        let folder = tempfile::tempdir().unwrap();
        let one = player(folder.path(), "netload: queues 1\nnetload: ready\n");
        let other = tempfile::tempdir().unwrap();
        let two = player(other.path(), "netload: queues 2\nnetload: ready\n");
        let plan = plan(folder.path(), NETLOAD, 1);
        let table = measure(&[two, one], &[place(2), place(1)], 2, &plan).unwrap().markdown(1, CPU);
        assert!(table.contains("\n| vmm |") && table.contains("\n| vmm, queues: 1 |"), "{table}");
    }

    #[test]
    fn what_goes_wrong_is_told() {
        let ready = "netload: queues 1\nnetload: ready\n";
        for (said, netload, expected) in [
            ("netload: queues 2\n", "", "was to have 1 queues, and has 2"),
            ("netload: ready\n", "", "was to count its queues"),
            ("netload: queues 1\nvmm.run: exit status 1\n", "", "exit status 1"),
            (ready, "echo netload: error: refused >&2; exit 1", "netload: error: refused"),
            (ready, "echo netload: begin x; echo netload: end x count=1 ns=1", "was to be run"),
            (ready, "echo netload: begin $3; echo netload: begin $3", "didn't end"),
            (ready, "echo netload: end $3 count=1 ns=1", "before it began"),
        ] {
            let folder = tempfile::tempdir().unwrap();
            let monitor = player(folder.path(), said);
            let plan = plan(folder.path(), netload, 1);
            let error = measure(&[monitor], &[place(1)], 1, &plan).map(drop).unwrap_err();
            assert!(format!("{error:#}").contains(expected), "{error:#}");
        }
    }
}
