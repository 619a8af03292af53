// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Measures the network card on taps beside a plain loop, with iperf3, and prints a table.

use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Parser;
use vmm_benches::card::{self, Cable, Load, Outcome, Passer};
use vmm_benches::comparison::short;
use vmm_benches::statistics::Samples;

/// Measures the network card beside a plain loop, by Debian's iperf3, and prints a Markdown table
///
/// iperf3 runs in two network namespaces that go with this program. Frames pass from the tap of the one to that of the other by a
/// loop of read and write on one thread, or by two cards with a driver that passes buffers on. It takes /dev/net/tun, and a user
/// that may make namespaces, or root. Each cell holds medians of what arrived and, in parentheses, of the processor time of what
/// passed it, without the driver's.
#[derive(Debug, Parser)]
struct Arguments {
    /// How long each measurement is
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..=600))]
    seconds: u64,
    /// How often each is made, in turn
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    runs: u32,
    /// Only rows whose name holds this
    #[arg(long, value_name = "TEXT", default_value = "")]
    only: String,
}

const ROWS: [(&str, Load); 3] =
    [("TCP, 1 stream", Load::Streams(1)), ("TCP, 8 streams", Load::Streams(8)), ("UDP, 64 bytes", Load::Datagrams(64))];

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("card: error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<()> {
    card::look()?;
    let cable = Cable::new()?;
    println!("| what | plain loop | cards | of the plain loop |");
    println!("|---|---:|---:|---:|");
    for (what, load) in ROWS {
        if !what.contains(&arguments.only) {
            continue;
        }
        let mut seen: [Seen; 2] = Default::default();
        for run in 1..=arguments.runs {
            for (passer, seen) in [Passer::Plain, Passer::Cards].into_iter().zip(&mut seen) {
                let outcome = cable.measure(passer, load, arguments.seconds);
                seen.push(outcome.with_context(|| format!("{what}, {passer:?}, run {run}"))?);
            }
        }
        let [plain, cards] = &seen;
        let ratio = cards.rates.ratios(&plain.rates).summary().map_or(f64::NAN, |ratios| ratios.median);
        println!("| {what} | {} | {} | {ratio:.2} |", plain.cell(load), cards.cell(load));
    }
    Ok(())
}

#[derive(Debug, Default)]
struct Seen {
    rates: Samples,
    cpu: Samples,
}

impl Seen {
    fn push(&mut self, outcome: Outcome) {
        self.rates.push(outcome.rate);
        self.cpu.push(outcome.cpu);
    }

    fn cell(&self, load: Load) -> String {
        let median = |samples: &Samples| samples.summary().map_or(f64::NAN, |summary| summary.median);
        let (rate, cpu) = (median(&self.rates), short(median(&self.cpu)));
        match load {
            Load::Streams(_) => format!("{rate:.1} Gbit/s ({cpu} ms/Gbit)"),
            Load::Datagrams(_) => format!("{:.0} k/s ({cpu} µs/datagram)", rate / 1e3),
        }
    }
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
    fn a_cell_has_medians_in_the_units_of_its_load() {
        let mut seen = Seen::default();
        for (rate, cpu) in [(10.0, 8.0), (30.0, 60.0), (20.0, 7.0)] {
            seen.push(Outcome { rate, cpu });
        }
        assert_eq!(seen.cell(Load::Streams(1)), "20.0 Gbit/s (8.0 ms/Gbit)");
        let mut seen = Seen::default();
        seen.push(Outcome { rate: 412_345.0, cpu: 12.3 });
        assert_eq!(seen.cell(Load::Datagrams(64)), "412 k/s (12 µs/datagram)");
    }
}
