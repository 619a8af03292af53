// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The table of results, in Markdown: a row for each VMM, a column for each case.

use std::cmp::Ordering::Equal;
use std::fmt::Write;

use super::load::{CASES, Case, Done, Rate};
use crate::monitor::Monitor;
use crate::statistics::{Samples, Summary};

/// All that was measured.
#[derive(Clone, Debug)]
pub struct Results(Vec<OfMonitor>);

#[derive(Clone, Debug)]
struct OfMonitor {
    name: String,
    cases: [OfCase; CASES.len()],
}

#[derive(Clone, Debug, Default)]
struct OfCase {
    rate: Samples,
    /// Microseconds a request, of the whole process.
    cpu: Samples,
    /// Those of them that were not the vCPU's thread.
    others: Samples,
}

impl Results {
    /// Without numbers.
    pub fn new(monitors: &[Monitor]) -> Self {
        let empty = |monitor: &Monitor| OfMonitor { name: monitor.name.clone(), cases: Default::default() };
        Self(monitors.iter().map(empty).collect())
    }

    /// Adds one turn of a VMM in a case, both by their numbers.
    pub fn push(&mut self, monitor: usize, case: usize, done: &Done) {
        let of_case = &mut self.0[monitor].cases[case];
        of_case.rate.push(done.rate(CASES[case].rate));
        of_case.cpu.push(done.micros_a_request(done.cpu.total()));
        of_case.others.push(done.micros_a_request(done.cpu.others));
    }
}

/// The table. The first `ours` VMMs are ours, and each of them is compared with that of the others
/// that has the best median, case by case and turn by turn.
pub fn markdown(results: &Results, ours: usize) -> String {
    let (own, peers) = results.0.split_at(ours.min(results.0.len()));
    let mut lines = format!("| median (min–max) |{}", CASES.map(|case| format!(" {} |", case.what)).concat());
    lines.push_str(&format!("\n|---|{}\n", "---|".repeat(CASES.len())));
    let mut row = |what: &str, cell: &dyn Fn(usize) -> String| {
        let cells: String = (0..CASES.len()).map(|case| format!(" {} |", cell(case))).collect();
        // Writing to a string can't fail.
        let _ = writeln!(lines, "| {what} |{cells}");
    };
    for monitor in &results.0 {
        row(&monitor.name, &|case| rate_cell(CASES[case].rate, monitor.cases[case].rate.summary()));
    }
    let median = |monitor: &&OfMonitor, case: usize| monitor.cases[case].rate.summary().map(|summary| summary.median);
    let best = |case| {
        let by_median = |a: &&OfMonitor, b: &&OfMonitor| median(a, case).partial_cmp(&median(b, case)).unwrap_or(Equal);
        peers.iter().max_by(by_median)
    };
    if !peers.is_empty() {
        for monitor in own {
            row(&format!("{} / best peer", monitor.name), &|case| {
                let ratios = best(case).map(|best| monitor.cases[case].rate.ratios(&best.cases[case].rate));
                ratios.and_then(|ratios| ratios.summary()).map_or_else(String::new, ratio_cell)
            });
        }
    }
    for monitor in &results.0 {
        row(&format!("CPU a request: {}", monitor.name), &|case| cpu_cell(&monitor.cases[case]));
    }
    lines
}

/// What one turn of a VMM gave.
pub fn in_one_line(case: &Case, done: &Done) -> String {
    let busy = 100.0 * done.guest_cpu.as_secs_f64() / done.time.as_secs_f64();
    let (cpu, others) = (done.micros_a_request(done.cpu.total()), done.micros_a_request(done.cpu.others));
    let rate = with_unit(case.rate, &number(done.rate(case.rate)));
    format!("{rate} ({cpu:.0} µs of CPU a request, {others:.0} outside vCPUs; {busy:.0} % of the guest's in the load)")
}

fn with_unit(rate: Rate, number: &str) -> String {
    match rate {
        Rate::Iops => format!("{number} IOPS"),
        Rate::Throughput => format!("{number} MiB/s"),
    }
}

fn rate_cell(rate: Rate, summary: Option<Summary>) -> String {
    summary
        .map_or_else(String::new, |summary| format!("{}{}", with_unit(rate, &number(summary.median)), spread(summary)))
}

fn cpu_cell(case: &OfCase) -> String {
    let (Some(cpu), Some(others)) = (case.cpu.summary(), case.others.summary()) else { return String::new() };
    format!("{} µs{}, {} outside vCPUs", number(cpu.median), spread(cpu), number(others.median))
}

fn ratio_cell(Summary { median, min, max }: Summary) -> String {
    let spread = if min == max { String::new() } else { format!(" ({min:.2}–{max:.2})") };
    format!("{median:.2}{spread}")
}

fn spread(summary: Summary) -> String {
    let Summary { min, max, .. } = summary;
    if min == max { String::new() } else { format!(" ({}–{})", number(min), number(max)) }
}

/// Without a fraction, and with a comma at the thousands.
fn number(value: f64) -> String {
    let digits = format!("{value:.0}");
    let mut grouped = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::cpu::ProcessorTime;
    use super::*;

    fn done(requests: u64) -> Done {
        let cpu = ProcessorTime { vcpus: Duration::from_millis(600), others: Duration::from_millis(200) };
        let (time, guest_cpu) = (Duration::from_secs(1), Duration::from_millis(250));
        Done { requests, bytes: requests << 17, time, guest_cpu, cpu }
    }

    fn monitors() -> Vec<Monitor> {
        let others = ["firecracker=fc", "cloud-hypervisor=ch"].map(|peer| peer.parse().unwrap());
        std::iter::once(Monitor::ours("vmm".into())).chain(others).collect()
    }

    #[test]
    fn medians_spreads_and_the_ratio_to_the_best_peer_are_shown() {
        let mut results = Results::new(&monitors());
        for (monitor, requests) in [(0, 3000), (0, 1000), (1, 2000), (1, 1200), (2, 500)] {
            (0..CASES.len()).for_each(|case| results.push(monitor, case, &done(requests)));
        }
        let table = markdown(&results, 1);
        let cells: Vec<Vec<&str>> =
            table.lines().map(|line| line.trim_matches('|').split('|').map(str::trim).collect()).collect();
        assert!(cells.iter().all(|row| row.len() == 1 + CASES.len()), "{table}");
        assert_eq!(cells[0][..2], ["median (min–max)", "4 KiB read, depth 1"]);
        assert_eq!(cells[2][..2], ["vmm", "2,000 IOPS (1,000–3,000)"]);
        assert_eq!(cells[2][4], "250 MiB/s (125–375)");
        assert_eq!(cells[3][..2], ["firecracker", "1,600 IOPS (1,200–2,000)"]);
        assert_eq!(cells[5][..2], ["vmm / best peer", "1.17 (0.83–1.50)"]);
        assert_eq!(cells[6][..2], ["CPU a request: vmm", "533 µs (267–800), 133 outside vCPUs"]);
        assert_eq!(cells.len(), 9);
    }

    #[test]
    fn without_a_peer_there_is_no_ratio_and_without_numbers_no_number() {
        let table = markdown(&Results::new(&monitors()[..1]), 1);
        assert!(!table.contains("peer") && table.ends_with("| CPU a request: vmm |  |  |  |  |\n"), "{table}");
    }

    #[test]
    fn thousands_are_set_apart() {
        for (value, shown) in [(0.4, "0"), (999.0, "999"), (1000.0, "1,000"), (1_234_567.0, "1,234,567")] {
            assert_eq!(number(value), shown);
        }
    }

    #[test]
    fn one_turn_is_told_in_one_line() {
        let line = in_one_line(&CASES[3], &done(1000));
        assert_eq!(line, "125 MiB/s (800 µs of CPU a request, 200 outside vCPUs; 25 % of the guest's in the load)");
    }
}
