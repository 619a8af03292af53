// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! A balloon as a configuration has it, and as people write it: `size=256M,deflate-on-oom=on`.

use std::num::NonZeroU32;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::ConfigError;
use super::key_values::{Grammar, KeyValues};
use super::rate;

/// Memory that the guest gives back while it runs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
#[non_exhaustive]
pub struct Balloon {
    /// How much the guest is to give at first, in bytes. A program that embeds the library changes that while it runs.
    #[serde(default)]
    pub size: u64,
    /// Whether a guest that is short of memory takes some out of the balloon by itself.
    #[serde(default)]
    pub deflate_on_oom: bool,
    /// Whether the guest tells of memory that it doesn't use, so that the host has it.
    #[serde(default)]
    pub free_page_reporting: bool,
    /// Whether a program that embeds the library can ask the guest which memory it doesn't use.
    #[serde(default)]
    pub free_page_hinting: bool,
    /// How often the guest is asked for its statistics, in seconds.
    #[serde(default)]
    pub stats: Option<NonZeroU32>,
}

const KEYS: [&str; 5] = ["size", "deflate-on-oom", "free-page-reporting", "free-page-hinting", "stats"];
const GRAMMAR: Grammar = Grammar { with_burst: &[], repeated: &[], lists: &[] };

impl Balloon {
    fn parse(text: &str) -> Result<Self, String> {
        let mut pairs = KeyValues::parse(text, &GRAMMAR)?;
        let size = pairs.take("size").map(|size| {
            rate::number(size).ok_or_else(|| {
                format!("size={size}: give a number of bytes, or one with K, M or G behind it, such as 256M")
            })
        });
        let this = Self {
            size: size.transpose()?.unwrap_or_default(),
            deflate_on_oom: pairs.take_switch("deflate-on-oom")?.unwrap_or_default(),
            free_page_reporting: pairs.take_switch("free-page-reporting")?.unwrap_or_default(),
            free_page_hinting: pairs.take_switch("free-page-hinting")?.unwrap_or_default(),
            stats: pairs.take_number("stats", "a number of seconds, from 1 on")?,
        };
        pairs.finish(&KEYS)?;
        Ok(this)
    }
}

impl FromStr for Balloon {
    type Err = ConfigError;

    fn from_str(text: &str) -> Result<Self, ConfigError> {
        Self::parse(text).map_err(|problem| ConfigError::Balloon { text: text.to_owned(), problem })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_balloon_is_what_its_keys_say() {
        assert_eq!("".parse::<Balloon>().unwrap(), Balloon::default());
        for (text, size) in [("size=0", 0), ("size=4096", 4096), ("size=8K", 8 << 10), ("size=3G", 3 << 30)] {
            assert_eq!(text.parse::<Balloon>().unwrap(), Balloon { size, ..Balloon::default() }, "{text}");
        }
        let full: Balloon =
            "stats=5,free-page-reporting=on,deflate-on-oom=on,size=256M,free-page-hinting=on".parse().unwrap();
        let stats = NonZeroU32::new(5);
        let expected = Balloon {
            size: 256 << 20,
            deflate_on_oom: true,
            free_page_reporting: true,
            free_page_hinting: true,
            stats,
        };
        assert_eq!(full, expected);
        let json = serde_json::to_string(&full).unwrap();
        assert_eq!(serde_json::from_str::<Balloon>(&json).unwrap(), full);
        assert_eq!(serde_json::from_str::<Balloon>("{}").unwrap(), Balloon::default());
    }

    #[test]
    fn what_is_wrong_is_said_with_its_cure() {
        let size = "give a number of bytes, or one with K, M or G behind it, such as 256M";
        for (text, expected) in [
            ("size=half", format!("size=half: {size}")),
            ("size=-1", format!("size=-1: {size}")),
            ("size=99999999999G", format!("size=99999999999G: {size}")),
            ("stats=0", "stats=0: give a number of seconds, from 1 on".to_owned()),
            ("deflate-on-oom=yes", "deflate-on-oom=yes: give on or off".to_owned()),
            (
                "target=1G",
                "there is no key 'target': there are size, deflate-on-oom, free-page-reporting, \
                 free-page-hinting, stats"
                    .to_owned(),
            ),
        ] {
            let Err(ConfigError::Balloon { problem, .. }) = text.parse::<Balloon>() else { panic!("{text}") };
            assert_eq!(problem, expected, "{text}");
        }
    }
}
