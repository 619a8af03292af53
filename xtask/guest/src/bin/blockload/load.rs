// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! One case: as many requests in flight as it says, until the time is over.

use std::fs::File;
use std::io::{Error, Result};
use std::time::{Duration, Instant};

use crate::aio::{self, Queue};
use crate::case::Case;

/// What was done.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Outcome {
    /// Those that were done when the time was over.
    pub(crate) requests: u64,
    /// Until the last of them was done.
    pub(crate) time: Duration,
    /// Processor time of this process meanwhile.
    pub(crate) cpu: Duration,
}

/// Runs the case on a device of `size` bytes.
///
/// What has completed together is replaced together, with one system call: the driver can then ring its doorbell once for
/// all of them.
pub(crate) fn run(device: &File, size: u64, case: Case, time: Duration) -> Result<Outcome> {
    let mut offsets = Offsets::new(case, size).ok_or_else(|| Error::other("the device is smaller than a request"))?;
    let mut queue = Queue::new(device, case)?;
    let cpu_before = aio::processor_time()?;
    let started = Instant::now();
    for slot in 0..case.depth {
        queue.prepare(slot, offsets.next());
    }
    queue.submit()?;
    let mut requests = 0;
    loop {
        let done = queue.wait()?;
        requests += done.len() as u64;
        let passed = started.elapsed();
        if passed >= time {
            let cpu = aio::processor_time()?.saturating_sub(cpu_before);
            queue.finish()?;
            return Ok(Outcome { requests, time: passed, cpu });
        }
        for slot in done {
            queue.prepare(slot, offsets.next());
        }
        queue.submit()?;
    }
}

/// Where the requests go. The same ones each time, so that all VMMs get the same.
struct Offsets {
    is_random: bool,
    bytes: u64,
    /// Requests that the device holds.
    count: u64,
    /// Of the generator, or of the next request.
    state: u64,
}

/// Any number but 0 will do.
const SEED: u64 = 0x2545_f491_4f6c_dd1d;

impl Offsets {
    /// `None` where not even one request fits.
    fn new(case: Case, size: u64) -> Option<Self> {
        let is_random = case.pattern.is_random();
        let count = size / u64::from(case.bytes);
        let state = if is_random { SEED } else { 0 };
        (count > 0).then_some(Self { is_random, bytes: case.bytes.into(), count, state })
    }

    fn next(&mut self) -> u64 {
        let block = if self.is_random {
            self.state = xorshift(self.state);
            self.state % self.count
        } else {
            let block = self.state;
            self.state = (block + 1) % self.count;
            block
        };
        block * self.bytes
    }
}

/// Marsaglia, "Xorshift RNGs", 2003: one of the triples of 64 bits with the full period.
fn xorshift(mut x: u64) -> u64 {
    x ^= x << 13;
    x ^= x >> 7;
    x ^ (x << 17)
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Seek, Write};

    use super::*;

    fn case(text: &str) -> Case {
        text.parse().unwrap()
    }

    /// A file that has no name any more.
    fn file(size: usize) -> File {
        let path = std::env::temp_dir().join(format!("blockload-{}-{size}", std::process::id()));
        let mut file = File::options().read(true).write(true).create_new(true).open(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        file.write_all(&vec![0; size]).unwrap();
        file
    }

    #[test]
    fn sequential_requests_begin_anew_at_the_end() {
        // The last 4096 bytes don't hold a request.
        let mut offsets = Offsets::new(case("read:8192:1"), 3 * 8192 + 4096).unwrap();
        let seen: Vec<_> = (0..5).map(|_| offsets.next()).collect();
        assert_eq!(seen, [0, 8192, 16384, 0, 8192]);
        assert!(Offsets::new(case("read:8192:1"), 8191).is_none());
    }

    #[test]
    fn random_requests_are_all_over_the_device_and_never_beyond_it() {
        let size = 64 << 20;
        let all = || Offsets::new(case("randread:4096:32"), size).unwrap();
        let mut offsets = all();
        let seen: Vec<_> = (0..10_000).map(|_| offsets.next()).collect();
        assert!(seen.iter().all(|offset| offset % 4096 == 0 && offset + 4096 <= size));
        let eighth = |n: u64| seen.iter().filter(|offset| **offset / (size / 8) == n).count();
        assert!((0..8).all(|n| (1000..1500).contains(&eighth(n))));
        let mut again = all();
        assert!(seen.iter().all(|offset| *offset == again.next()));
    }

    #[test]
    fn requests_are_counted_and_none_is_left_in_flight() {
        let file = file(1 << 20);
        for text in ["randread:4096:1", "randread:4096:32", "read:131072:8"] {
            let outcome = run(&file, 1 << 20, case(text), Duration::from_millis(1)).unwrap();
            assert!(outcome.requests > 0 && outcome.time >= Duration::from_millis(1), "{text}: {outcome:?}");
        }
    }

    #[test]
    fn writes_arrive() {
        let mut file = file(256 << 10);
        run(&file, 256 << 10, case("write:131072:2"), Duration::from_millis(1)).unwrap();
        let mut content = Vec::new();
        file.rewind().unwrap();
        file.read_to_end(&mut content).unwrap();
        assert_eq!(content.len(), 256 << 10);
        assert!(content.chunks(4096).all(|block| block.iter().any(|byte| *byte != 0)));
    }

    #[test]
    fn a_short_request_is_an_error() {
        // The file ends where the caller says that it goes on.
        let file = file(4096 + 512);
        let error = run(&file, 8192, case("read:4096:1"), Duration::from_secs(60)).unwrap_err().to_string();
        assert!(error.contains("512 of 4096 bytes"), "{error}");
    }

    #[test]
    fn a_request_that_the_kernel_refuses_is_an_error() {
        let unwritable = File::open("/dev/null").unwrap();
        assert!(run(&unwritable, 8192, case("write:4096:1"), Duration::from_secs(60)).is_err());
    }
}
