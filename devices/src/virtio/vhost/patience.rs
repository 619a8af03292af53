// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! How long a backend is waited for: each time, and in all.
//!
//! A vCPU waits while rings start and stop, one after the other, and there may be many. So one that takes its time with each
//! of them uses up what it has, and what it has comes back slowly.

use std::time::{Duration, Instant};

/// How long the backend has for all that one operation on a ring asks of it.
pub(crate) const PATIENCE: Duration = Duration::from_secs(1);
/// How long it has for many operations that follow each other.
const TOTAL: Duration = Duration::from_secs(2);
/// After how many times what was waited that is forgotten.
const MEMORY: u32 = 5;
/// What an operation may take without being slow: a thread that has no processor just now isn't the backend's fault.
const USUAL: Duration = Duration::from_millis(5);

/// When the backend has to have answered, and how long it had.
#[derive(Clone, Copy, Debug)]
pub(super) struct Deadline {
    pub(super) at: Instant,
    pub(super) of: Duration,
}

/// What is left of it for a backend.
#[derive(Debug)]
pub(super) struct Patience {
    /// What was waited and isn't forgotten.
    waited: Duration,
    since: Instant,
}

impl Patience {
    pub(super) fn new(now: Instant) -> Self {
        Self { waited: Duration::ZERO, since: now }
    }

    /// An operation begins.
    pub(super) fn begin(&mut self, now: Instant) -> Deadline {
        let forgotten = now.saturating_duration_since(self.since).checked_div(MEMORY).unwrap_or_default();
        self.waited = self.waited.saturating_sub(forgotten);
        self.since = now;
        let of = TOTAL.saturating_sub(self.waited).min(PATIENCE);
        Deadline { at: now.checked_add(of).unwrap_or(now), of }
    }

    /// It has ended.
    pub(super) fn end(&mut self, now: Instant) {
        let took = now.saturating_duration_since(self.since).saturating_sub(USUAL);
        self.waited = self.waited.saturating_add(took);
        self.since = now;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn many_slow_answers_have_an_end_and_quick_ones_have_none() {
        for (each, most) in [(ms(4), None), (ms(105), Some(ms(2200))), (ms(905), Some(ms(2000)))] {
            let mut now = Instant::now();
            let begun = now;
            let mut patience = Patience::new(now);
            let mut lost = None;
            for _ in 0..1000 {
                let deadline = patience.begin(now);
                if deadline.of < each {
                    lost = Some(now + deadline.of - begun);
                    break;
                }
                now += each;
                patience.end(now);
            }
            assert_eq!(lost.is_some(), most.is_some(), "{each:?}");
            assert!(lost <= most.map(|most| most + ms(100)), "{each:?}: {lost:?}");
        }
    }

    #[test]
    fn what_was_waited_is_forgotten_in_time() {
        let begun = Instant::now();
        let mut patience = Patience::new(begun);
        for _ in [1, 2] {
            let deadline = patience.begin(begun);
            assert_eq!((deadline.at, deadline.of), (begun + PATIENCE, PATIENCE));
            patience.end(begun + PATIENCE + USUAL);
        }
        let now = begun + PATIENCE + USUAL;
        assert_eq!(patience.begin(now).of, Duration::ZERO);
        assert_eq!(patience.begin(now + ms(500)).of, ms(100));
        assert_eq!(patience.begin(now + ms(10_000)).of, PATIENCE);
    }
}
