// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Rates: from what a configuration says of them to what devices wait for.

use std::num::NonZeroU64;
use std::sync::Arc;
use std::time::Instant;

use devices::token_bucket::{Rate, RateLimiter};

use crate::config::RateLimit;

/// A limiter of its own, if there is anything to limit.
pub(super) fn limiter(bw: Option<RateLimit>, ops: Option<RateLimit>) -> Option<Arc<RateLimiter>> {
    let rate = |limit: RateLimit| {
        let rate = Rate::new(limit.per_second);
        Rate { burst: limit.burst.map_or(rate.burst, NonZeroU64::get), ..rate }
    };
    (bw.is_some() || ops.is_some()).then(|| Arc::new(RateLimiter::new(bw.map(rate), ops.map(rate), Instant::now())))
}
