// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Measures the block device on files in memory and on a disk, beside a plain `io_uring` loop, and prints a table.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use clap::Parser;
use devices::virtio::block::EngineChoice;
use vmm_benches::disk::{self, Load, Outcome};
use vmm_benches::fio;

/// Measures the block device beside a plain io_uring loop, and prints a Markdown table
///
/// Each cell holds thousands of requests a second and, in parentheses, microseconds of processor time a request, without
/// the driver's. The last column is the faster engine with one queue, in parts of the plain loop, or of fio where that is
/// measured as well and does more.
#[derive(Debug, Parser)]
struct Arguments {
    /// A folder on a disk; with it, direct I/O is measured as well
    #[arg(long, value_name = "FOLDER")]
    disk: Option<PathBuf>,
    /// A folder in memory
    #[arg(long, value_name = "FOLDER", default_value = "/dev/shm")]
    memory: PathBuf,
    /// Milliseconds for each measurement
    #[arg(long, value_name = "N", default_value_t = 500)]
    time: u64,
    /// Measure Debian's fio as well, with io_uring and the same load
    #[arg(long)]
    fio: bool,
    /// Only rows whose name holds this
    #[arg(long, value_name = "TEXT", default_value = "")]
    only: String,
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("disk: error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<()> {
    let time = Duration::from_millis(arguments.time);
    let mut places = vec![("memory", &arguments.memory, false)];
    if let Some(folder) = &arguments.disk {
        places.extend([("disk", folder, false), ("disk, direct", folder, true)]);
    }
    if arguments.fio {
        fio::look()?;
    }
    let (head, line) = if arguments.fio { ("fio | ", "---:|") } else { ("", "") };
    println!("| what | depth | {head}plain loop | sync | io_uring | io_uring, 2 queues | of the limit |");
    println!("|---|---:|{line}---:|---:|---:|---:|---:|");
    for (place, folder, direct) in places {
        let image = disk::image(folder)?;
        for (pattern, block, write, random) in [
            ("4 KiB random read", 4 << 10, false, true),
            ("4 KiB random write", 4 << 10, true, true),
            ("128 KiB sequential read", 128 << 10, false, false),
        ] {
            let what = format!("{place}: {pattern}");
            if !what.contains(&arguments.only) {
                continue;
            }
            for depth in [1, 32, 128] {
                let load = Load { block, write, random, depth };
                let open = || disk::open(image.path(), direct);
                let device = |engine, queues| disk::device(open()?, direct, engine, queues, load, time);
                let fio = arguments.fio.then(|| fio::run(image.path(), direct, load, time)).transpose()?;
                let plain = disk::plain(&open()?, load, time)?;
                let sync = device(EngineChoice::Sync, 1)?;
                let ring = device(EngineChoice::IoUring, 1)?;
                let two = device(EngineChoice::IoUring, 2)?;
                let cells: Vec<_> = fio.into_iter().chain([plain, sync, ring, two]).map(cell).collect();
                let limit = fio.map_or(plain.iops, |fio| fio.iops.max(plain.iops));
                let part = sync.iops.max(ring.iops) / limit;
                println!("| {what} | {depth} | {} | {part:.2} |", cells.join(" | "));
            }
        }
    }
    Ok(())
}

fn cell(outcome: Outcome) -> String {
    format!("{:.1} ({:.1})", outcome.iops / 1e3, outcome.cpu.as_secs_f64() * 1e6)
}
