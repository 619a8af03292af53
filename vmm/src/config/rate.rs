// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! How fast a device may go.

use std::num::NonZeroU64;

use serde::{Deserialize, Serialize};

use super::key_values::KeyValues;

/// What may be used up in a second, and how much of it at once after a pause.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RateLimit {
    /// Bytes or requests.
    pub per_second: NonZeroU64,
    /// Bytes or requests; as much as in a twentieth of a second when nothing is said.
    #[serde(default)]
    pub burst: Option<NonZeroU64>,
}

/// `1000`, `100M`, `100M/s`, with a burst behind a comma.
pub(super) fn take(values: &mut KeyValues<'_>, key: &str) -> Result<Option<RateLimit>, String> {
    let Some((rate, burst)) = values.take_two(key) else { return Ok(None) };
    let bad = |text: &str| format!("{key}={text}: give a number from 1 on, with K, M or G behind it if you like");
    let per_second = amount(rate.strip_suffix("/s").unwrap_or(rate)).ok_or_else(|| bad(rate))?;
    let burst = burst.map(|burst| amount(burst).ok_or_else(|| bad(burst))).transpose()?;
    Ok(Some(RateLimit { per_second, burst }))
}

fn amount(text: &str) -> Option<NonZeroU64> {
    NonZeroU64::new(number(text)?)
}

/// `1000`, `100M`.
pub(super) fn number(text: &str) -> Option<u64> {
    let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
    let shift = match text.strip_prefix(digits)? {
        "" => 0,
        "K" | "k" => 10,
        "M" | "m" => 20,
        "G" | "g" => 30,
        _ => return None,
    };
    digits.parse::<u64>().ok()?.checked_mul(1 << shift)
}
