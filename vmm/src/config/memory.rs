// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! How much RAM there is, and what it is made of.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::key_values::{Grammar, KeyValues};
use super::{ConfigError, MIN_MEMORY};

/// The RAM of a machine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
#[non_exhaustive]
pub struct Memory {
    /// How much there is.
    pub size: MemorySize,
    /// Whether it is a file in memory, which another process can be given: a vhost-user backend reads and writes it then.
    pub shared: bool,
}

/// All keys, as the messages name them.
const KEYS: [&str; 1] = ["shared"];
const GRAMMAR: Grammar = Grammar { with_burst: &[], repeated: &[], lists: &[] };

impl Memory {
    fn keys(size: MemorySize, text: &str) -> Result<Self, String> {
        let mut values = KeyValues::parse(text, &GRAMMAR)?;
        let memory = Self { size, shared: values.take_switch("shared")?.unwrap_or_default() };
        values.finish(&KEYS)?;
        Ok(memory)
    }
}

impl From<MemorySize> for Memory {
    fn from(size: MemorySize) -> Self {
        Self { size, shared: false }
    }
}

/// `SIZE[,key=value]…`
impl FromStr for Memory {
    type Err = ConfigError;

    fn from_str(text: &str) -> Result<Self, ConfigError> {
        let (size, keys) = text.split_once(',').unwrap_or((text, ""));
        let problem = |problem| ConfigError::Memory { text: text.to_owned(), problem };
        Self::keys(size.parse()?, keys).map_err(problem)
    }
}

impl fmt::Display for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { size, shared } = self;
        write!(f, "{size}{}", if *shared { ",shared=on" } else { "" })
    }
}

impl TryFrom<String> for Memory {
    type Error = ConfigError;

    fn try_from(text: String) -> Result<Self, ConfigError> {
        text.parse()
    }
}

impl From<Memory> for String {
    fn from(memory: Memory) -> Self {
        memory.to_string()
    }
}

/// An amount of RAM in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct MemorySize(u64);

impl MemorySize {
    /// `bytes` of RAM: at least [`MIN_MEMORY`], and whole pages.
    pub fn new(bytes: u64) -> Result<Self, ConfigError> {
        if bytes < MIN_MEMORY {
            return Err(ConfigError::MemoryTooSmall(bytes));
        }
        if !bytes.is_multiple_of(4096) {
            return Err(ConfigError::MemoryNotPages(bytes));
        }
        Ok(Self(bytes))
    }

    /// `mib` MiB of RAM.
    pub fn mib(mib: u64) -> Result<Self, ConfigError> {
        Self::new(mib.checked_mul(1 << 20).ok_or_else(|| ConfigError::MemorySize(format!("{mib}M")))?)
    }

    /// Bytes.
    pub const fn bytes(self) -> u64 {
        self.0
    }
}

impl Default for MemorySize {
    fn default() -> Self {
        Self(512 << 20)
    }
}

/// `512M`, `4G`; a bare number is MiB.
impl FromStr for MemorySize {
    type Err = ConfigError;

    fn from_str(text: &str) -> Result<Self, ConfigError> {
        let bad = || ConfigError::MemorySize(text.to_owned());
        let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
        let shift = match text.strip_prefix(digits).unwrap_or_default() {
            "K" | "k" => 10,
            "" | "M" | "m" => 20,
            "G" | "g" => 30,
            "T" | "t" => 40,
            _ => return Err(bad()),
        };
        let number: u64 = digits.parse().map_err(|_| bad())?;
        Self::new(number.checked_mul(1 << shift).ok_or_else(bad)?)
    }
}

impl fmt::Display for MemorySize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (shift, unit) in [(40, "T"), (30, "G"), (20, "M")] {
            if self.0.is_multiple_of(1 << shift) {
                return write!(f, "{}{unit}", self.0 >> shift);
            }
        }
        write!(f, "{}K", self.0 >> 10)
    }
}

impl TryFrom<String> for MemorySize {
    type Error = ConfigError;

    fn try_from(text: String) -> Result<Self, ConfigError> {
        text.parse()
    }
}

impl From<MemorySize> for String {
    fn from(size: MemorySize) -> Self {
        size.to_string()
    }
}

/// Bytes for a person.
pub(super) fn human(bytes: u64) -> String {
    match bytes {
        b if b != 0 && b.is_multiple_of(1 << 20) => format!("{}M", b >> 20),
        b if b != 0 && b.is_multiple_of(1 << 10) => format!("{}K", b >> 10),
        b => format!("{b} bytes"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_sizes_are_read_as_people_write_them() {
        let mib = 1 << 20;
        for (text, bytes) in [
            ("512", 512 * mib),
            ("512M", 512 * mib),
            ("512m", 512 * mib),
            ("4G", 4096 * mib),
            ("32M", 32 * mib),
            ("65536K", 64 * mib),
            ("1T", 1 << 40),
        ] {
            assert_eq!(text.parse::<MemorySize>().unwrap().bytes(), bytes, "{text}");
        }
    }

    #[test]
    fn bad_memory_sizes_are_named() {
        for text in ["", "M", "4GB", "-1", "1.5G", "0x100", "99999999999999999999", "16777216T", "4 G", "G4"] {
            assert_eq!(text.parse::<MemorySize>(), Err(ConfigError::MemorySize(text.to_owned())));
        }
        assert_eq!("0".parse::<MemorySize>(), Err(ConfigError::MemoryTooSmall(0)));
        assert_eq!("31M".parse::<MemorySize>(), Err(ConfigError::MemoryTooSmall(31 << 20)));
        assert_eq!("32769K".parse::<MemorySize>(), Err(ConfigError::MemoryNotPages(32769 << 10)));
    }

    #[test]
    fn keys_follow_the_size() {
        let memory = |text: &str| text.parse::<Memory>().map_err(|error| error.to_string());
        let size = MemorySize::mib(512).unwrap();
        for (text, shared) in [("512", false), ("512M,", false), ("512M,shared=off", false), ("512M,shared=on", true)] {
            assert_eq!(memory(text), Ok(Memory { size, shared }), "{text}");
        }
        for memory in ["512M", "4G,shared=on"] {
            assert_eq!(memory.parse::<Memory>().unwrap().to_string(), memory);
        }
        for (text, says) in [
            ("512M,shared=maybe", "'512M,shared=maybe' is no memory: shared=maybe: give on or off"),
            ("512M,shared", "'512M,shared' is no memory: 'shared' is not KEY=VALUE"),
            ("512M,shared=on,shared=on", "'512M,shared=on,shared=on' is no memory: shared is given twice"),
            ("512M,hugepages=on", "'512M,hugepages=on' is no memory: there is no key 'hugepages': there are shared"),
            (
                "shared=on",
                "'shared=on' is not an amount of memory: give a number of MiB, or one with K, M, G or T behind it, such \
                 as 512M",
            ),
            ("16M,shared=on", "16M of memory are too little: a machine has at least 32M"),
        ] {
            assert_eq!(memory(text), Err(says.to_owned()), "{text}");
        }
    }

    #[test]
    fn sizes_survive_being_written_and_read() {
        for text in ["32M", "512M", "4G", "2T", "33556K", "5000M"] {
            let size: MemorySize = text.parse().unwrap();
            assert_eq!(size.to_string().parse::<MemorySize>().unwrap(), size);
        }
    }
}
