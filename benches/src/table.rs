// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The table of results, in Markdown: a row for each thing measured, a column for each VMM, and ratios.

use std::fmt::Write;

use crate::statistics::{Samples, Summary};

/// What a row's numbers are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Milliseconds.
    Milliseconds,
    /// MiB, measured in bytes.
    Bytes,
}

/// One thing that was measured, for each VMM.
#[derive(Clone, Debug)]
pub struct Row {
    /// What it is.
    pub what: &'static str,
    /// What its numbers are.
    pub unit: Unit,
    /// In the order of the VMMs.
    pub samples: Vec<Samples>,
}

impl Row {
    /// A row without numbers.
    pub fn new(what: &'static str, unit: Unit, monitors: usize) -> Self {
        Self { what, unit, samples: vec![Samples::default(); monitors] }
    }
}

/// The table. The first VMM is compared with all others.
pub fn markdown(names: &[&str], rows: &[Row]) -> String {
    let mut lines = String::new();
    let ratios = || names.iter().skip(1);
    // Writing to a string can't fail.
    let _ = write!(lines, "| median (min–max) | {} |", names.join(" | "));
    for name in ratios() {
        let _ = write!(lines, " {} / {name} |", names[0]);
    }
    let _ = write!(lines, "\n|---|{}{}", "---|".repeat(names.len()), "---:|".repeat(ratios().count()));
    for row in rows {
        let summaries: Vec<_> = row.samples.iter().map(Samples::summary).collect();
        let _ = write!(lines, "\n| {} |", row.what);
        for summary in &summaries {
            let _ = write!(lines, " {} |", summary.map_or_else(String::new, |summary| cell(row.unit, summary)));
        }
        for other in summaries.iter().skip(1) {
            let ratio = summaries[0].zip(*other).map(|(ours, theirs)| ours.median / theirs.median);
            let _ = write!(lines, " {} |", ratio.map_or_else(String::new, |ratio| format!("{ratio:.2}")));
        }
    }
    lines.push('\n');
    lines
}

fn cell(unit: Unit, summary: Summary) -> String {
    let Summary { median, min, max } = summary;
    let (factor, name) = match unit {
        Unit::Milliseconds => (1.0, "ms"),
        Unit::Bytes => (1.0 / f64::from(1 << 20), "MiB"),
    };
    let number = |value: f64| match value * factor {
        large if large >= 100.0 => format!("{large:.0}"),
        middle if middle >= 10.0 => format!("{middle:.1}"),
        small => format!("{small:.2}"),
    };
    let spread = if min == max { String::new() } else { format!(" ({}–{})", number(min), number(max)) };
    format!("{} {name}{spread}", number(median))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_spreads_and_ratios_are_shown() {
        let row = |what, unit, samples: [&[f64]; 2]| Row {
            what,
            unit,
            samples: samples.iter().map(|samples| samples.iter().copied().collect()).collect(),
        };
        let rows = [
            row("set-up", Unit::Milliseconds, [&[5.25, 4.0, 17.0], &[10.5, 9.0, 123.4]]),
            row("size", Unit::Bytes, [&[(3 << 19) as f64], &[]]),
        ];
        let expected = "\
| median (min–max) | vmm | peer | vmm / peer |
|---|---|---|---:|
| set-up | 5.25 ms (4.00–17.0) | 10.5 ms (9.00–123) | 0.50 |
| size | 1.50 MiB |  |  |
";
        assert_eq!(markdown(&["vmm", "peer"], &rows), expected);
    }
}
