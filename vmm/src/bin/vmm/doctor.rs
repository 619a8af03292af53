// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! `vmm doctor`: a line for each check, and under it what to do.

use std::io::{self, Write};
use std::process::ExitCode;

use vmm::doctor::{Report, Status, examine};

use crate::cli::DoctorArguments;

pub(crate) fn doctor(arguments: &DoctorArguments) -> ExitCode {
    let report = examine();
    let printed = if arguments.json { print_json(&report) } else { print(&report) };
    match printed {
        // Whoever reads has had enough.
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            eprintln!("vmm: error: the report can't be printed: {error}");
            ExitCode::FAILURE
        }
        _ if report.can_run => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    }
}

fn print_json(report: &Report) -> io::Result<()> {
    let mut out = io::stdout().lock();
    serde_json::to_writer_pretty(&mut out, report)?;
    writeln!(out)
}

fn print(report: &Report) -> io::Result<()> {
    let mut out = io::stdout().lock();
    for check in &report.checks {
        let mark = match check.status {
            Status::Ok => "ok  ",
            Status::Warning => "miss",
            Status::Failure => "FAIL",
        };
        writeln!(out, "{mark}  {}: {}", check.name, check.found)?;
        if let Some(advice) = &check.advice {
            writeln!(out, "      -> {advice}")?;
        }
    }
    let verdict = match (report.can_run, report.can_run_unmodified_kernels) {
        (true, true) => "This host can run VMs.",
        (true, false) => "This host can run VMs, but unmodified kernels are not expected to boot in them.",
        (false, _) => "This host can't run VMs.",
    };
    writeln!(out, "\n{verdict}")
}
