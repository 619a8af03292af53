// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Bounds what a guest can make us log.

use std::sync::atomic::{AtomicU64, Ordering};

/// Counts an event that a guest can cause, and says when it is worth a log line: the 1st, 2nd, 4th, 8th… time.
///
/// However often the event happens, the log gets 64 lines at most.
#[derive(Debug, Default)]
pub struct Throttle {
    times: AtomicU64,
}

impl Throttle {
    /// A counter at zero.
    pub const fn new() -> Self {
        Self { times: AtomicU64::new(0) }
    }

    /// Counts one more; gives the count when a line should be logged.
    pub fn hit(&self) -> Option<u64> {
        let times = self.times.fetch_add(1, Ordering::Relaxed).wrapping_add(1);
        times.is_power_of_two().then_some(times)
    }

    /// How often it happened so far.
    pub fn times(&self) -> u64 {
        self.times.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_million_hits_make_twenty_lines() {
        let throttle = Throttle::new();
        let lines = (0..1_000_000).filter(|_| throttle.hit().is_some()).count();
        assert_eq!(lines, 20);
        assert_eq!(throttle.times(), 1_000_000);
    }
}
