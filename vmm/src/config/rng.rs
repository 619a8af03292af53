// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! An entropy device as a configuration has it, and as people write it: `bw=1M`.

use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::ConfigError;
use super::key_values::{Grammar, KeyValues};
use super::rate::{self, RateLimit};

/// Random numbers of the host's for the guest.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
#[non_exhaustive]
pub struct Rng {
    /// How many bytes the guest gets in a second.
    #[serde(default)]
    pub bw: Option<RateLimit>,
}

const KEYS: [&str; 1] = ["bw"];
const GRAMMAR: Grammar = Grammar { with_burst: &["bw"], repeated: &[], lists: &[] };

impl Rng {
    fn parse(text: &str) -> Result<Self, String> {
        let mut pairs = KeyValues::parse(text, &GRAMMAR)?;
        let this = Self { bw: rate::take(&mut pairs, "bw")? };
        pairs.finish(&KEYS)?;
        Ok(this)
    }
}

impl FromStr for Rng {
    type Err = ConfigError;

    fn from_str(text: &str) -> Result<Self, ConfigError> {
        Self::parse(text).map_err(|problem| ConfigError::Rng { text: text.to_owned(), problem })
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU64;

    use super::*;

    #[test]
    fn a_device_is_what_its_keys_say() {
        let rate = |per_second, burst| RateLimit {
            per_second: NonZeroU64::new(per_second).unwrap(),
            burst: NonZeroU64::new(burst),
        };
        assert_eq!("".parse::<Rng>().unwrap(), Rng::default());
        assert_eq!("bw=1000".parse::<Rng>().unwrap(), Rng { bw: Some(rate(1000, 0)) });
        let full: Rng = "bw=1M/s,64K".parse().unwrap();
        assert_eq!(full, Rng { bw: Some(rate(1 << 20, 64 << 10)) });
        let json = serde_json::to_string(&full).unwrap();
        assert_eq!(serde_json::from_str::<Rng>(&json).unwrap(), full);
    }

    #[test]
    fn what_is_wrong_is_said_with_its_cure() {
        for (text, expected) in [
            ("bw=0", "bw=0: give a number from 1 on, with K, M or G behind it if you like"),
            ("bw=1M,0", "bw=0: give a number from 1 on, with K, M or G behind it if you like"),
            ("bw", "'bw' is not KEY=VALUE"),
            ("source=/dev/random", "there is no key 'source': there are bw"),
        ] {
            let Err(ConfigError::Rng { problem, .. }) = text.parse::<Rng>() else { panic!("{text}") };
            assert_eq!(problem, expected, "{text}");
        }
    }
}
