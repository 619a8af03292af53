// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Tells what is going on: a spinner on a terminal, plain lines elsewhere and in CI. All of it goes to standard error.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

/// One step that takes a moment.
pub(crate) struct Step {
    what: String,
    started: Instant,
    spinner: Option<ProgressBar>,
}

impl Step {
    /// Says that the step begins.
    pub(crate) fn start(what: impl Into<String>) -> Self {
        let what = what.into();
        let spinner = is_fancy().then(|| {
            let bar = ProgressBar::new_spinner().with_message(what.clone());
            if let Ok(style) = ProgressStyle::with_template("{spinner} {msg} {elapsed:>}") {
                bar.set_style(style);
            }
            bar.enable_steady_tick(Duration::from_millis(100));
            bar
        });
        if spinner.is_none() {
            note(format!("{what} ..."));
        }
        Self { what, started: Instant::now(), spinner }
    }

    /// Says that the step has succeeded, and with what.
    pub(crate) fn finish(mut self, detail: &str) {
        if let Some(spinner) = self.spinner.take() {
            spinner.finish_and_clear();
        }
        let detail = if detail.is_empty() { String::new() } else { format!(": {detail}") };
        note(format!("{}{detail} ({:.1} s)", self.what, self.started.elapsed().as_secs_f64()));
    }
}

impl Drop for Step {
    /// A step that failed leaves the line to the error.
    fn drop(&mut self) {
        if let Some(spinner) = self.spinner.take() {
            spinner.finish_and_clear();
        }
    }
}

/// One line.
pub(crate) fn note(text: impl AsRef<str>) {
    eprintln!("xtask: {}", text.as_ref());
}

fn is_fancy() -> bool {
    let in_ci = std::env::var_os("CI").is_some_and(|value| !value.is_empty() && value != "false");
    std::io::stderr().is_terminal() && !in_ci
}
