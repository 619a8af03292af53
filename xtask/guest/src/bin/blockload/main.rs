// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! `blockload DEVICE SECONDS ROUNDS CASE...`: loads a block device past the page cache, and tells how much it did.
//!
//! A case is `PATTERN:BYTES:DEPTH`, as in `randread:4096:32`: what is done, how many bytes a request has, and how many
//! requests are in flight at all times. Each is run for a quarter of the time without counting, so that all code that it
//! needs was run before, and then for the time. Writes destroy what is on the device. When all cases were run, they are run
//! again, until there were as many rounds as asked for.
//!
//! On standard output it says `blockload: ready`, and for each case `blockload: begin CASE` and `blockload: end CASE
//! requests=N bytes=N ns=N cpu_ns=N`. The last is the processor time of this process, in user and in kernel mode. Before
//! each case it pauses, so that the other side has time to stop the whole machine: it may want to look at others
//! meanwhile. Whatever goes wrong is said as `blockload: error: …`, and ends it with status 1: a failed or short request is
//! no request.

mod aio;
mod case;
mod load;

use std::fs::OpenOptions;
use std::io::{Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;
use std::process::ExitCode;
use std::time::Duration;

use case::Case;
use load::Outcome;

const USAGE: &str = "usage: blockload DEVICE SECONDS ROUNDS PATTERN:BYTES:DEPTH...";

/// Before each case.
const PAUSE: Duration = Duration::from_secs(1);

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // One line, whatever is in it: that is what is looked for on a console.
            eprintln!("blockload: error: {}", error.replace('\n', " "));
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &[String]) -> Result<(), String> {
    let [path, seconds, rounds, words @ ..] = arguments else { return Err(USAGE.to_owned()) };
    let time = parse_seconds(seconds)?;
    let rounds: u32 = rounds.parse().map_err(|_| format!("{rounds:?} is no number of rounds"))?;
    let cases = words.iter().map(|word| word.parse()).collect::<Result<Vec<Case>, _>>()?;
    if cases.is_empty() {
        return Err(USAGE.to_owned());
    }
    let writes = cases.iter().any(|case| case.pattern.writes());
    let device = OpenOptions::new().read(true).write(writes).custom_flags(libc::O_DIRECT).open(path);
    let mut device = device.map_err(|error| format!("can't open {path}: {error}"))?;
    let size = device.seek(SeekFrom::End(0)).map_err(|error| format!("can't tell the size of {path}: {error}"))?;
    println!("blockload: ready");
    for case in (0..rounds).flat_map(|_| &cases) {
        std::thread::sleep(PAUSE);
        let load = |time| load::run(&device, size, *case, time).map_err(|error| format!("{path}, {case}: {error}"));
        load(time / 4)?;
        println!("blockload: begin {case}");
        let Outcome { requests, time, cpu } = load(time)?;
        let (bytes, ns, cpu_ns) = (requests * u64::from(case.bytes), time.as_nanos(), cpu.as_nanos());
        println!("blockload: end {case} requests={requests} bytes={bytes} ns={ns} cpu_ns={cpu_ns}");
    }
    Ok(())
}

/// A number, which may have a fraction.
fn parse_seconds(text: &str) -> Result<Duration, String> {
    let seconds = text.parse().ok().and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    seconds.filter(|time| !time.is_zero()).ok_or_else(|| format!("{text:?} is no number of seconds"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_are_more_than_none() {
        assert_eq!(parse_seconds("2"), Ok(Duration::from_secs(2)));
        assert_eq!(parse_seconds("0.25"), Ok(Duration::from_millis(250)));
        for text in ["", "0", "-1", "two", "inf", "NaN", "2s"] {
            assert!(parse_seconds(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_command_line_without_a_case_is_no_command_line() {
        for words in [&[][..], &["/dev/null"], &["/dev/null", "1"], &["/dev/null", "1", "1"]] {
            let arguments: Vec<_> = words.iter().map(|word| (*word).to_owned()).collect();
            assert_eq!(run(&arguments), Err(USAGE.to_owned()));
        }
    }
}
