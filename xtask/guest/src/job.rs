// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The testbed's one job: a command, its environment, and where its output goes.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread::JoinHandle;

use crate::testbed::{ERRORS, INPUT, OUTPUT, open_port};
use crate::{sys, system};

/// What the job's disk says.
pub(crate) struct Job {
    arguments: Vec<String>,
    environment: Vec<(String, String)>,
    /// Rows and columns of the terminal, where the job is to have one.
    terminal: Option<(u16, u16)>,
}

impl Job {
    /// Reads `argv` and `env`, whose entries each end in NUL, and `terminal`, which may be missing.
    pub(crate) fn read(directory: &Path) -> Result<Self, String> {
        let list = |name: &str| -> Result<Vec<String>, String> {
            let path = directory.join(name);
            let text =
                std::fs::read_to_string(&path).map_err(|error| format!("can't read {}: {error}", path.display()))?;
            Ok(text.split_terminator('\0').map(str::to_owned).collect())
        };
        let environment = list("env")?;
        let pairs = environment.iter().filter_map(|entry| entry.split_once('='));
        let terminal = std::fs::read_to_string(directory.join("terminal")).ok();
        Ok(Self {
            arguments: list("argv")?,
            environment: pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect(),
            terminal: terminal.as_deref().and_then(parse_size),
        })
    }
}

fn parse_size(text: &str) -> Option<(u16, u16)> {
    let (rows, columns) = text.trim().split_once(' ')?;
    Some((rows.parse().ok()?, columns.parse().ok()?))
}

/// Runs the job to its end, and ends what it left running. Gives its status as a shell counts it.
pub(crate) fn run(job: &Job, control: File) -> Result<i32, String> {
    let (program, arguments) = job.arguments.split_first().ok_or("the job has no command")?;
    let mut command = Command::new(program);
    system::set_environment(&mut command);
    command.args(arguments).current_dir("/share").envs(job.environment.iter().cloned());
    let (pid, pumps) = match job.terminal {
        Some(size) => start_in_terminal(&mut command, size, control)?,
        None => {
            // Nothing that is said there is for this job, but it has to be taken.
            std::thread::spawn(move || BufReader::new(control).lines().map_while(Result::ok).for_each(drop));
            start_with_pipes(&mut command)?
        }
    };
    let status = sys::wait_for(pid).map_err(|error| format!("can't wait for {program}: {error}"))?;
    // Whoever still holds the job's output would keep the pumps waiting for its end.
    sys::signal_everyone(libc::SIGKILL);
    for pump in pumps {
        let _ = pump.join();
    }
    Ok(status)
}

fn start(command: &mut Command) -> Result<std::process::Child, String> {
    command.spawn().map_err(|error| format!("can't start {}: {error}", command.get_program().display()))
}

fn start_with_pipes(command: &mut Command) -> Result<(u32, Vec<JoinHandle<()>>), String> {
    let (output, errors) = (open_port(OUTPUT)?, open_port(ERRORS)?);
    let mut child = start(command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()))?;
    let mut pumps = Vec::new();
    if let Some(pipe) = child.stdout.take() {
        pumps.push(pump(pipe, output));
    }
    if let Some(pipe) = child.stderr.take() {
        pumps.push(pump(pipe, errors));
    }
    Ok((child.id(), pumps))
}

fn start_in_terminal(
    command: &mut Command,
    (rows, columns): (u16, u16),
    control: File,
) -> Result<(u32, Vec<JoinHandle<()>>), String> {
    let failed = |error: std::io::Error| format!("can't set up a terminal: {error}");
    let (output, mut input) = (open_port(OUTPUT)?, open_port(INPUT)?);
    // A write waits until the other side is there; a read would take its absence for the end.
    input.write_all(b"\n").map_err(failed)?;
    let (master, slave) = sys::open_pty().map_err(failed)?;
    sys::set_window_size(&master, rows, columns).map_err(failed)?;
    sys::use_terminal(command, &slave).map_err(failed)?;
    let child = start(command)?;
    // The child has its own copies by now; ours would keep the terminal open after the job's end.
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let for_input = master.try_clone().map_err(failed)?;
    let for_size = master.try_clone().map_err(failed)?;
    drop(pump(input, for_input));
    std::thread::spawn(move || follow_size(control, &for_size));
    Ok((child.id(), vec![pump(master, output)]))
}

/// Copies until the source ends. A terminal whose last user is gone ends with an error, which is no news either.
fn pump(mut from: impl Read + Send + 'static, mut to: impl Write + Send + 'static) -> JoinHandle<()> {
    std::thread::spawn(move || {
        let mut buffer = vec![0; 64 << 10];
        while let Ok(length) = from.read(&mut buffer) {
            if length == 0 || to.write_all(&buffer[..length]).is_err() {
                break;
            }
        }
    })
}

/// Follows the size of the window at the other side: lines of `size ROWS COLUMNS`.
fn follow_size(control: File, terminal: &File) {
    for line in BufReader::new(control).lines().map_while(Result::ok) {
        if let Some((rows, columns)) = line.strip_prefix("size ").and_then(parse_size) {
            let _ = sys::set_window_size(terminal, rows, columns);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_terminal_size_is_rows_and_columns() {
        assert_eq!(parse_size("24 80\n"), Some((24, 80)));
        assert_eq!(parse_size("24"), None);
        assert_eq!(parse_size("24 -1"), None);
    }

    #[test]
    fn arguments_may_hold_anything_but_nul() {
        let directory = std::env::temp_dir().join(format!("guest-init-job-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        std::fs::write(directory.join("argv"), "sh\0-c\0echo \"a\n b\"\0\0").unwrap();
        std::fs::write(directory.join("env"), "A=b=c\0").unwrap();
        let job = Job::read(&directory).unwrap();
        std::fs::remove_dir_all(&directory).unwrap();
        assert_eq!(job.arguments, ["sh", "-c", "echo \"a\n b\"", ""]);
        assert_eq!(job.environment, [("A".to_owned(), "b=c".to_owned())]);
        assert_eq!(job.terminal, None);
    }
}
