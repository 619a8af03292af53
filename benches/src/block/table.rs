// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What the turns give for the table of disks, and a line for each of them.

use super::load::{CASES, Case, Done};
use crate::comparison::{Column, Comparison};
use crate::monitor::Monitor;

/// What the table's rows of processor time are called.
pub const CPU: &str = "CPU a request";

/// A table without numbers.
pub(super) fn empty(monitors: &[Monitor]) -> Comparison {
    let column = |case: Case| Column { what: case.what, unit: case.rate, cpu: "µs", aim: None };
    Comparison::new(CASES.map(column).into(), monitors.iter().map(|monitor| monitor.name.clone()))
}

/// Adds one turn of a VMM in a case, both by their numbers.
pub(super) fn push(results: &mut Comparison, monitor: usize, case: usize, done: &Done) {
    results.push(monitor, case, done.rate(CASES[case].rate));
    results.push_cpu(monitor, case, done.cpu, |time| done.micros_a_request(time));
}

/// What one turn of a VMM gave.
pub(super) fn in_one_line(case: &Case, done: &Done) -> String {
    let busy = 100.0 * done.guest_cpu.as_secs_f64() / done.time.as_secs_f64();
    let (cpu, others) = (done.micros_a_request(done.cpu.total()), done.micros_a_request(done.cpu.others));
    let rate = case.rate.show(done.rate(case.rate));
    format!("{rate} ({cpu:.0} µs of CPU a request, {others:.0} outside vCPUs; {busy:.0} % of the guest's in the load)")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::cpu::ProcessorTime;

    fn done(requests: u64) -> Done {
        let cpu = ProcessorTime { vcpus: Duration::from_millis(600), others: Duration::from_millis(200) };
        let (time, guest_cpu) = (Duration::from_secs(1), Duration::from_millis(250));
        Done { requests, bytes: requests << 17, time, guest_cpu, cpu }
    }

    #[test]
    fn medians_spreads_and_the_ratio_to_the_best_peer_are_shown() {
        let others = ["firecracker=fc", "cloud-hypervisor=ch"].map(|peer| peer.parse().unwrap());
        let monitors: Vec<_> = std::iter::once(Monitor::ours("vmm".into())).chain(others).collect();
        let mut results = empty(&monitors);
        for (monitor, requests) in [(0, 3000), (0, 1000), (1, 2000), (1, 1200), (2, 500)] {
            (0..CASES.len()).for_each(|case| push(&mut results, monitor, case, &done(requests)));
        }
        let table = results.markdown(1, CPU);
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
    fn one_turn_is_told_in_one_line() {
        let line = in_one_line(&CASES[3], &done(1000));
        assert_eq!(line, "125 MiB/s (800 µs of CPU a request, 200 outside vCPUs; 25 % of the guest's in the load)");
    }
}
