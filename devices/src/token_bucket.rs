// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! How fast a device may go: buckets that fill at a steady rate and are drawn from by what is done.
//!
//! A guest controls how much it asks for. Over any time it gets the rate times that time, one burst, and at most one
//! request more for each queue that shares the bucket: a request is let in as soon as nothing is owed, whatever it costs,
//! and what it costs beyond the bucket's content is a debt that the next one waits for. So no request is too large to be
//! ever let in, and none is taken before it is let in.

use std::num::NonZeroU64;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

const NANOSECONDS: u128 = 1_000_000_000;

/// A rate and what may exceed it at once, both in tokens: bytes or operations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// Tokens a second.
    pub per_second: NonZeroU64,
    /// Tokens that the bucket holds when it is full, as it is at the start.
    pub burst: u64,
}

impl Rate {
    /// A rate whose burst is what comes in a twentieth of a second.
    pub fn new(per_second: NonZeroU64) -> Self {
        Self { per_second, burst: (per_second.get() / 20).max(1) }
    }
}

/// A bucket, shared by all who draw from it.
#[derive(Debug)]
pub struct TokenBucket {
    rate: Rate,
    level: Mutex<Level>,
}

/// Counts in billionths of a token, so that a nanosecond adds a whole number of them and nothing is lost by rounding.
#[derive(Debug)]
struct Level {
    /// Below the bucket's content when it is owed.
    missing: u128,
    at: Instant,
}

impl TokenBucket {
    /// A bucket that is full at `now`.
    pub fn new(rate: Rate, now: Instant) -> Self {
        Self { rate, level: Mutex::new(Level { missing: 0, at: now }) }
    }

    /// How long nothing may be let in, if that is so at `now`.
    pub fn wait(&self, now: Instant) -> Option<Duration> {
        let owed = self.refill(now, 0).saturating_sub(u128::from(self.rate.burst).saturating_mul(NANOSECONDS));
        if owed == 0 {
            return None;
        }
        // Rounded up: who comes back after that time finds nothing owed.
        let nanoseconds = owed.div_ceil(u128::from(self.rate.per_second.get()));
        Some(Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(u64::MAX)))
    }

    /// Draws `tokens` at `now`.
    pub fn take(&self, tokens: u64, now: Instant) {
        self.refill(now, tokens);
    }

    /// Adds what has come in until `now` and draws `tokens`; gives how much is missing to a full bucket.
    fn refill(&self, now: Instant, tokens: u64) -> u128 {
        let mut level = self.level.lock().unwrap_or_else(PoisonError::into_inner);
        // Another thread may have looked at a later clock already.
        let passed = now.saturating_duration_since(level.at).as_nanos();
        let came = passed.saturating_mul(u128::from(self.rate.per_second.get()));
        level.at = level.at.max(now);
        let drawn = u128::from(tokens).saturating_mul(NANOSECONDS);
        level.missing = level.missing.saturating_sub(came).saturating_add(drawn);
        level.missing
    }
}

/// Limits on bytes and on operations: of one device, or shared by a group of them.
#[derive(Debug, Default)]
pub struct RateLimiter {
    bandwidth: Option<TokenBucket>,
    operations: Option<TokenBucket>,
}

impl RateLimiter {
    /// A limiter whose buckets are full at `now`.
    pub fn new(bandwidth: Option<Rate>, operations: Option<Rate>, now: Instant) -> Self {
        let bucket = |rate: Option<Rate>| rate.map(|rate| TokenBucket::new(rate, now));
        Self { bandwidth: bucket(bandwidth), operations: bucket(operations) }
    }

    /// How long no operation may begin, if that is so at `now`.
    pub fn wait(&self, now: Instant) -> Option<Duration> {
        let buckets = self.bandwidth.iter().chain(&self.operations);
        buckets.filter_map(|bucket| bucket.wait(now)).max()
    }

    /// One operation of `bytes` begins at `now`.
    pub fn take(&self, bytes: u64, now: Instant) {
        if let Some(bandwidth) = &self.bandwidth {
            bandwidth.take(bytes, now);
        }
        if let Some(operations) = &self.operations {
            operations.take(1, now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rate(per_second: u64, burst: u64) -> Rate {
        Rate { per_second: NonZeroU64::new(per_second).unwrap(), burst }
    }

    /// Lets in requests of `cost` as fast as the bucket has it for `seconds`; how many tokens went.
    fn run(bucket: &TokenBucket, cost: u64, start: Instant, seconds: u64) -> u64 {
        let (mut now, mut taken) = (start, 0);
        while now < start + Duration::from_secs(seconds) {
            match bucket.wait(now) {
                Some(wait) => now += wait,
                None => {
                    bucket.take(cost, now);
                    taken += cost;
                }
            }
        }
        taken
    }

    #[test]
    fn ten_seconds_give_the_rate_to_within_five_percent() {
        let start = Instant::now();
        for per_second in [10, 100, 1_000, 10 << 20, 7 << 30] {
            for cost in [1, per_second / 50, per_second / 5] {
                // Millions of single bytes a second show nothing that thousands don't.
                let cost = cost.max(per_second / 10_000).max(1);
                let bucket = TokenBucket::new(Rate::new(NonZeroU64::new(per_second).unwrap()), start);
                let taken = run(&bucket, cost, start, 10);
                let expected = 10 * per_second;
                assert!(taken >= expected - expected / 20, "{per_second} {cost}: {taken}");
                assert!(taken <= expected + expected / 20, "{per_second} {cost}: {taken}");
            }
        }
    }

    #[test]
    fn a_burst_comes_at_once_and_only_once_it_has_been_saved() {
        let start = Instant::now();
        let bucket = TokenBucket::new(rate(10, 100), start);
        bucket.take(100, start);
        assert_eq!(bucket.wait(start), None, "nothing is owed");
        bucket.take(1, start);
        assert_eq!(bucket.wait(start), Some(Duration::from_millis(100)));
        let later = start + Duration::from_secs(1_000_000);
        bucket.take(101, later);
        assert_eq!(bucket.wait(later), Some(Duration::from_millis(100)), "no more than the burst is saved");
    }

    #[test]
    fn a_request_larger_than_the_bucket_is_let_in_and_paid_for_afterwards() {
        let start = Instant::now();
        let bucket = TokenBucket::new(rate(1 << 20, 1), start);
        bucket.take((4 << 30) + 1, start);
        assert_eq!(bucket.wait(start), Some(Duration::from_secs(4096)));
        assert_eq!(bucket.wait(start + Duration::from_secs(4096)), None);
    }

    #[test]
    fn a_clock_that_goes_back_and_numbers_without_bounds_do_no_harm() {
        let start = Instant::now();
        let bucket = TokenBucket::new(rate(u64::MAX, u64::MAX), start + Duration::from_secs(5));
        bucket.take(u64::MAX, start);
        bucket.take(u64::MAX, start);
        assert!(bucket.wait(start).is_some_and(|wait| wait <= Duration::from_secs(1)));
        let slow = TokenBucket::new(rate(1, 0), start);
        for _ in 0..10 {
            slow.take(u64::MAX, start);
        }
        assert_eq!(slow.wait(start), Some(Duration::from_nanos(u64::MAX)));
    }

    #[test]
    fn who_shares_a_limiter_shares_its_rate() {
        let start = Instant::now();
        let limiter = RateLimiter::new(None, Some(rate(100, 1)), start);
        let (mut now, mut taken) = (start, [0u32; 2]);
        while now < start + Duration::from_secs(10) {
            for disk in &mut taken {
                while let Some(wait) = limiter.wait(now) {
                    now += wait;
                }
                limiter.take(4096, now);
                *disk += 1;
            }
        }
        assert!((950..=1050).contains(&(taken[0] + taken[1])), "{taken:?}");
        assert_eq!(taken[0], taken[1]);
    }

    #[test]
    fn the_narrower_of_two_limits_rules() {
        let start = Instant::now();
        let limiter = RateLimiter::new(Some(rate(1000, 0)), Some(rate(1, 0)), start);
        limiter.take(5000, start);
        assert_eq!(limiter.wait(start), Some(Duration::from_secs(5)));
        assert_eq!(RateLimiter::default().wait(start), None);
    }
}
