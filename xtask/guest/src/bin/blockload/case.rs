// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! A case: what is done to the device.

use std::fmt;
use std::str::FromStr;

/// Buffers begin at multiples of this, and requests are of so many bytes or a multiple: no device wants more for O_DIRECT.
pub(crate) const BLOCK: u32 = 4096;

/// Bounds what the buffers take of the guest's memory.
const MAX_BYTES: u32 = 1 << 20;
const MAX_DEPTH: u16 = 256;

/// What is done, in the words of fio(1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pattern {
    /// Reads anywhere.
    RandRead,
    /// Writes anywhere.
    RandWrite,
    /// Reads from the beginning to the end, again and again.
    Read,
    /// The same with writes.
    Write,
}

const PATTERNS: [(&str, Pattern); 4] = [
    ("randread", Pattern::RandRead),
    ("randwrite", Pattern::RandWrite),
    ("read", Pattern::Read),
    ("write", Pattern::Write),
];

impl Pattern {
    pub(crate) fn writes(self) -> bool {
        matches!(self, Self::RandWrite | Self::Write)
    }

    pub(crate) fn is_random(self) -> bool {
        matches!(self, Self::RandRead | Self::RandWrite)
    }
}

/// What is done, and how much of it at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Case {
    pub(crate) pattern: Pattern,
    /// Of one request.
    pub(crate) bytes: u32,
    /// Requests in flight.
    pub(crate) depth: u16,
}

impl FromStr for Case {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let fields: Vec<_> = text.split(':').collect();
        let [pattern, bytes, depth] = fields[..] else {
            return Err(format!("{text:?}: write it as PATTERN:BYTES:DEPTH"));
        };
        let (_, pattern) = PATTERNS.into_iter().find(|(name, _)| *name == pattern).ok_or_else(|| {
            let names = PATTERNS.map(|(name, _)| name).join(", ");
            format!("{text:?}: {pattern:?} is none of the patterns {names}")
        })?;
        let bytes =
            bytes.parse().ok().filter(|bytes: &u32| bytes.is_multiple_of(BLOCK) && (BLOCK..=MAX_BYTES).contains(bytes));
        let bytes =
            bytes.ok_or_else(|| format!("{text:?}: a request has a multiple of {BLOCK} bytes, up to {MAX_BYTES}"))?;
        let depth = depth.parse().ok().filter(|depth| (1..=MAX_DEPTH).contains(depth));
        let depth = depth.ok_or_else(|| format!("{text:?}: the depth is from 1 to {MAX_DEPTH}"))?;
        Ok(Self { pattern, bytes, depth })
    }
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = PATTERNS.iter().find(|(_, pattern)| *pattern == self.pattern).map_or("", |(name, _)| name);
        write!(f, "{name}:{}:{}", self.bytes, self.depth)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_case_is_written_as_it_is_read() {
        for text in ["randread:4096:1", "randwrite:4096:32", "read:131072:8", "write:1048576:256"] {
            assert_eq!(text.parse::<Case>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn what_no_device_could_do_is_refused() {
        for text in [
            "",
            "randread",
            "randread:4096",
            "randread:4096:1:1",
            "trim:4096:1",
            "read:0:1",
            "read:512:1",
            "read:5000:1",
            "read:2097152:1",
            "read:4096:0",
            "read:4096:257",
            "read:-4096:1",
            "read:4k:1",
        ] {
            assert!(text.parse::<Case>().is_err(), "{text}");
        }
    }
}
