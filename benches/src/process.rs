// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! One run of a VMM: started, listened to, and waited for.

use std::fs::{self, File};
use std::io::{self, Read, Seek};
use std::os::fd::AsFd;
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process, set_parent_process_death_signal};

use crate::{smaps, sys};

/// More than any start has taken, even in an emulated host: what takes longer has failed.
const TIMEOUT: Duration = Duration::from_secs(120);

/// Has what the command starts killed when this process ends, in whatever way: stopped, it would hear of no other signal. It then
/// takes a little longer to start.
pub fn end_with_us(command: &mut Command) {
    sys::before_exec(command, || Ok(set_parent_process_death_signal(Some(Signal::KILL))?));
}

/// A VMM that runs, with its guest's serial port on its standard output.
#[derive(Debug)]
pub struct Running {
    /// `None` from the moment on when it is waited for.
    child: Option<Child>,
    output: ChildStdout,
    errors: File,
    started: Instant,
    /// What is waited for has failed when it has not come by then.
    deadline: Instant,
    seen: Vec<u8>,
    /// So much of it was given as lines.
    taken: usize,
}

impl Running {
    /// Starts the command; time counts from here.
    pub fn start(command: &mut Command) -> Result<Self> {
        let errors = tempfile::tempfile().context("can't make a temporary file")?;
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(errors.try_clone()?);
        let started = Instant::now();
        let mut child =
            command.spawn().with_context(|| format!("can't run {}", command.get_program().to_string_lossy()))?;
        let output = child.stdout.take().context("the standard output is no pipe")?;
        Ok(Self {
            child: Some(child),
            output,
            errors,
            started,
            deadline: started + TIMEOUT,
            seen: Vec::new(),
            taken: 0,
        })
    }

    /// What comes next may take so long from now on.
    pub fn allow(&mut self, time: Duration) {
        self.deadline = Instant::now() + time;
    }

    /// Lets it stand still until [`Self::go_on`].
    pub fn pause(&self) -> Result<()> {
        self.signal(Signal::STOP)
    }

    /// Ends a pause.
    pub fn go_on(&self) -> Result<()> {
        self.signal(Signal::CONT)
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        let child = self.child.as_ref().context("it has ended")?;
        Ok(kill_process(Pid::from_child(child), signal)?)
    }

    /// Its process's number.
    pub fn id(&self) -> Result<u32> {
        Ok(self.child.as_ref().context("it has ended")?.id())
    }

    /// Reads until the output holds `marker`; the time since the start.
    pub fn wait_for(&mut self, marker: &[u8]) -> Result<Duration> {
        loop {
            if !self.read_more()? {
                bail!("it ended before the guest said {:?}{}", String::from_utf8_lossy(marker), self.said());
            }
            let now = self.started.elapsed();
            if self.seen.windows(marker.len()).any(|window| window == marker) {
                return Ok(now);
            }
        }
    }

    /// Reads until there is a line, not given before, that begins with one of the words: the line, without its end.
    pub fn next_line(&mut self, beginnings: &[&str]) -> Result<String> {
        loop {
            while let Some(length) = self.seen[self.taken..].iter().position(|byte| *byte == b'\n') {
                let line = String::from_utf8_lossy(&self.seen[self.taken..][..length]).trim_end().to_owned();
                self.taken += length + 1;
                if beginnings.iter().any(|beginning| line.starts_with(beginning)) {
                    return Ok(line);
                }
            }
            if !self.read_more()? {
                bail!("it ended before there was a line that begins with any of {beginnings:?}{}", self.said());
            }
        }
    }

    /// What it holds of memory beside its guest's, in bytes. It stands still while it is looked at.
    pub fn resident_outside_guest_ram(&self) -> Result<u64> {
        self.pause()?;
        let maps = fs::read_to_string(format!("/proc/{}/smaps", self.id()?));
        self.go_on()?;
        smaps::resident_outside_guest_ram(&maps?).context("/proc/PID/smaps is not as it is known")
    }

    /// All of its output, once it has come to its end. How it ended doesn't matter.
    pub fn output(mut self) -> Result<Vec<u8>> {
        while self.read_more()? {}
        Ok(std::mem::take(&mut self.seen))
    }

    /// Reads the rest of the output and waits for the end: the processor time that it took.
    pub fn wait(mut self) -> Result<Duration> {
        while self.read_more()? {}
        let child = self.child.take().context("it has ended already")?;
        let (status, time): (ExitStatus, Duration) = sys::wait(child)?;
        if !status.success() {
            bail!("it ended with {status}{}", self.said());
        }
        Ok(time)
    }

    /// `false` when there is no more to come.
    fn read_more(&mut self) -> Result<bool> {
        let mut buffer = [0; 4096];
        loop {
            let left = self.deadline.saturating_duration_since(Instant::now());
            match sys::wait_readable(self.output.as_fd(), left) {
                Ok(true) => (),
                Ok(false) => {
                    bail!("it took too long: {} s from its start{}", self.started.elapsed().as_secs(), self.said())
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error.into()),
            }
            let read = self.output.read(&mut buffer)?;
            self.seen.extend_from_slice(&buffer[..read]);
            return Ok(read > 0);
        }
    }

    /// The end of what came out of it, for an error.
    fn said(&mut self) -> String {
        let mut errors = String::new();
        // Without it there is less to tell.
        let _ = self.errors.rewind().and_then(|()| self.errors.read_to_string(&mut errors));
        let last =
            |text: &str| text.trim().lines().rev().take(5).map(|line| format!("\n    {line}")).collect::<String>();
        format!("; last lines, newest first:{}{}", last(&errors), last(&String::from_utf8_lossy(&self.seen)))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            // Both fail only for a process that is gone.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Running {
        Running::start(Command::new("sh").args(["-c", script])).unwrap()
    }

    #[test]
    fn a_marker_is_found_and_the_end_waited_for() {
        let mut running = shell("echo before; printf 'hel'; echo 'lo from'; echo after");
        running.wait_for(b"hello").unwrap();
        running.wait().unwrap();
    }

    #[test]
    fn lines_are_given_one_by_one_once_they_are_whole() {
        let mut running = shell("printf 'a: 1\\r\\nb: 2\\nc: 3\\nb: '; read line; echo 4; printf 'b: half'");
        assert_eq!(running.next_line(&["a: ", "b: "]).unwrap(), "a: 1");
        assert_eq!(running.next_line(&["b: "]).unwrap(), "b: 2");
        assert_eq!(running.next_line(&["b: "]).unwrap(), "b: 4");
        let error = running.next_line(&["b: "]).unwrap_err().to_string();
        assert!(error.contains("b: half"), "{error}");
    }

    #[test]
    fn memory_is_looked_at_while_it_runs() {
        // It stays there until it is killed, by `drop`: one that has ended holds nothing.
        let mut running = shell("echo ready; exec sleep 1000");
        running.wait_for(b"ready").unwrap();
        assert!(running.resident_outside_guest_ram().unwrap() > 0);
    }

    #[test]
    fn a_failure_tells_what_was_said() {
        let error = shell("echo why >&2").wait_for(b"marker").unwrap_err().to_string();
        assert!(error.contains("marker") && error.contains("why"), "{error}");
        let error = shell("echo because; exit 3").wait().unwrap_err().to_string();
        assert!(error.contains("exit status: 3") && error.contains("because"), "{error}");
    }
}
