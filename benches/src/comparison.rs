// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What VMMs did in turn, as a table in Markdown: a row for each VMM, a column for each thing that was measured, ratios to the
//! best peer, and what it took of the processor.

use std::cmp::Ordering;
use std::fmt::Write;

use crate::cpu::ProcessorTime;
use crate::statistics::{Samples, Summary};

/// What a column's numbers are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Requests a second.
    Iops,
    /// MiB a second.
    Throughput,
    /// Gbit a second.
    Gigabits,
    /// Datagrams a second.
    Datagrams,
    /// Microseconds, of which less is better.
    Micros,
}

/// One thing that is measured.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Column {
    /// For people.
    pub what: &'static str,
    /// What its numbers are.
    pub unit: Unit,
    /// What its processor time is told in.
    pub cpu: &'static str,
    /// The part of the best peer's that is aimed at: at least, or at most where less is better.
    pub aim: Option<f64>,
}

/// All that was measured.
#[derive(Clone, Debug)]
pub struct Comparison {
    columns: Vec<Column>,
    rows: Vec<Row>,
}

#[derive(Clone, Debug)]
struct Row {
    name: String,
    cells: Vec<Cell>,
}

#[derive(Clone, Debug, Default)]
struct Cell {
    value: Samples,
    /// Of the whole process.
    cpu: Samples,
    /// The part of it that isn't the vCPUs' threads.
    others: Samples,
}

impl Comparison {
    /// Without numbers, for VMMs of these names.
    pub fn new(columns: Vec<Column>, names: impl IntoIterator<Item = String>) -> Self {
        let row = |name| Row { name, cells: vec![Cell::default(); columns.len()] };
        let rows = names.into_iter().map(row).collect();
        Self { columns, rows }
    }

    /// Adds what one turn of a VMM gave for a column, both by their numbers.
    pub fn push(&mut self, monitor: usize, column: usize, value: f64) {
        self.rows[monitor].cells[column].value.push(value);
    }

    /// Adds the processor time that the turn took: its parts, as what `of` makes of them.
    pub fn push_cpu(
        &mut self,
        monitor: usize,
        column: usize,
        cpu: ProcessorTime,
        of: impl Fn(std::time::Duration) -> f64,
    ) {
        let cell = &mut self.rows[monitor].cells[column];
        cell.cpu.push(of(cpu.total()));
        cell.others.push(of(cpu.others));
    }

    /// The table. The first `ours` VMMs are ours, and each of them is compared with that of the others that has the best median,
    /// column by column and turn by turn. `cpu` is what the rows of processor time are called.
    pub fn markdown(&self, ours: usize, cpu: &str) -> String {
        let (own, peers) = self.rows.split_at(ours.min(self.rows.len()));
        let heads: String = self.columns.iter().map(|column| format!(" {} |", column.what)).collect();
        let mut lines = format!("| median (min–max) |{heads}\n|---|{}\n", "---|".repeat(self.columns.len()));
        let mut row = |what: &str, cell: &dyn Fn(usize, &Column) -> Option<String>| {
            let cell = |(index, column)| format!(" {} |", cell(index, column).unwrap_or_default());
            let cells: String = self.columns.iter().enumerate().map(cell).collect();
            // Writing to a string can't fail.
            let _ = writeln!(lines, "| {what} |{cells}");
        };
        for monitor in &self.rows {
            row(&monitor.name, &|index, column| Some(value(column.unit, monitor.cells[index].value.summary()?)));
        }
        if !peers.is_empty() {
            for monitor in own {
                row(&format!("{} / best peer", monitor.name), &|index, column| {
                    let best = best(peers, index, column.unit)?;
                    monitor.cells[index].value.ratios(&best.cells[index].value).summary().map(ratio)
                });
            }
            if self.columns.iter().any(|column| column.aim.is_some()) {
                row("aim", &|_, column| {
                    let sign = if column.unit.less_is_better() { '≤' } else { '≥' };
                    column.aim.map(|aim| format!("{sign} {aim:.2}"))
                });
            }
        }
        for monitor in &self.rows {
            row(&format!("{cpu}: {}", monitor.name), &|index, column| cpu_cell(column, &monitor.cells[index]));
        }
        lines
    }
}

/// The one with the best median.
fn best(peers: &[Row], index: usize, unit: Unit) -> Option<&Row> {
    let median = |row: &&Row| row.cells[index].value.summary().map(|summary| summary.median);
    peers.iter().filter(|row| median(row).is_some()).max_by(|a, b| {
        let order = median(a).partial_cmp(&median(b)).unwrap_or(Ordering::Equal);
        if unit.less_is_better() { order.reverse() } else { order }
    })
}

impl Unit {
    fn less_is_better(self) -> bool {
        self == Self::Micros
    }

    /// A number with its unit.
    pub fn show(self, number: f64) -> String {
        let unit = match self {
            Self::Iops => "IOPS",
            Self::Throughput => "MiB/s",
            Self::Gigabits => "Gbit/s",
            Self::Datagrams => "/s",
            Self::Micros => "µs",
        };
        format!("{} {unit}", self.number(number))
    }

    fn number(self, value: f64) -> String {
        match self {
            Self::Gigabits => format!("{value:.2}"),
            _ => whole(value),
        }
    }
}

fn value(unit: Unit, Summary { median, min, max }: Summary) -> String {
    let spread = if min == max { String::new() } else { format!(" ({}–{})", unit.number(min), unit.number(max)) };
    format!("{}{spread}", unit.show(median))
}

fn cpu_cell(column: &Column, cell: &Cell) -> Option<String> {
    let (Summary { median, min, max }, others) = (cell.cpu.summary()?, cell.others.summary()?);
    let spread = if min == max { String::new() } else { format!(" ({}–{})", short(min), short(max)) };
    Some(format!("{} {}{spread}, {} outside vCPUs", short(median), column.cpu, short(others.median)))
}

fn ratio(Summary { median, min, max }: Summary) -> String {
    let spread = if min == max { String::new() } else { format!(" ({min:.2}–{max:.2})") };
    format!("{median:.2}{spread}")
}

/// With a fraction where it matters.
pub fn short(value: f64) -> String {
    if value < 10.0 { format!("{value:.1}") } else { whole(value) }
}

/// Without a fraction, and with a comma at the thousands.
fn whole(value: f64) -> String {
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

    use super::*;

    const COLUMNS: [Column; 3] = [
        Column { what: "rate", unit: Unit::Gigabits, cpu: "ms/Gbit", aim: Some(1.5) },
        Column { what: "latency", unit: Unit::Micros, cpu: "µs", aim: Some(0.8) },
        Column { what: "requests", unit: Unit::Iops, cpu: "µs", aim: None },
    ];

    fn comparison(rows: &[(&str, [&[f64]; 3])]) -> Comparison {
        let mut comparison = Comparison::new(COLUMNS.to_vec(), rows.iter().map(|(name, _)| (*name).to_owned()));
        for (monitor, (_, samples)) in rows.iter().enumerate() {
            for (column, samples) in samples.iter().enumerate() {
                samples.iter().for_each(|sample| comparison.push(monitor, column, *sample));
            }
        }
        comparison
    }

    #[test]
    fn the_best_peer_is_the_one_with_most_or_with_the_shortest_time() {
        let mut comparison = comparison(&[
            ("ours", [&[3.0, 6.0], &[50.0], &[]]),
            ("slow", [&[1.0, 1.0], &[200.0], &[1000.0]]),
            ("fast", [&[2.0, 3.0], &[100.0], &[2000.0]]),
        ]);
        let cpu = ProcessorTime { vcpus: Duration::from_millis(8), others: Duration::from_millis(4) };
        comparison.push_cpu(0, 1, cpu, |time| time.as_secs_f64() * 1e3);
        let expected = "\
| median (min–max) | rate | latency | requests |
|---|---|---|---|
| ours | 4.50 Gbit/s (3.00–6.00) | 50 µs |  |
| slow | 1.00 Gbit/s | 200 µs | 1,000 IOPS |
| fast | 2.50 Gbit/s (2.00–3.00) | 100 µs | 2,000 IOPS |
| ours / best peer | 1.75 (1.50–2.00) | 0.50 |  |
| aim | ≥ 1.50 | ≤ 0.80 |  |
| CPU: ours |  | 12 µs, 4.0 outside vCPUs |  |
| CPU: slow |  |  |  |
| CPU: fast |  |  |  |
";
        assert_eq!(comparison.markdown(1, "CPU"), expected);
    }

    #[test]
    fn without_a_peer_there_is_no_ratio() {
        let table = comparison(&[("ours", [&[1.0], &[], &[]])]).markdown(1, "CPU");
        assert!(!table.contains("peer") && !table.contains("aim"), "{table}");
        assert!(table.ends_with("| ours | 1.00 Gbit/s |  |  |\n| CPU: ours |  |  |  |\n"), "{table}");
    }

    #[test]
    fn thousands_are_set_apart() {
        for (value, shown) in [(0.4, "0"), (999.0, "999"), (1000.0, "1,000"), (1_234_567.0, "1,234,567")] {
            assert_eq!(whole(value), shown);
        }
        assert_eq!((short(9.96), short(10.4), short(0.25)), ("10.0".to_owned(), "10".to_owned(), "0.2".to_owned()));
    }
}
