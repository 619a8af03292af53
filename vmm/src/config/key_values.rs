// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Values of the form `key=value,key=value`, as Cloud Hypervisor's users know them.

use std::str::FromStr;

/// The pairs that have not been taken yet.
#[derive(Debug)]
pub(super) struct KeyValues<'a> {
    pairs: Vec<Pair<'a>>,
}

#[derive(Debug)]
struct Pair<'a> {
    key: &'a str,
    value: &'a str,
    /// What follows the value behind a comma and is no pair by itself: the burst of a rate.
    more: Option<&'a str>,
}

impl<'a> KeyValues<'a> {
    pub(super) fn parse(text: &'a str) -> Result<Self, String> {
        let mut pairs: Vec<Pair<'_>> = Vec::new();
        for part in text.split(',').filter(|part| !part.is_empty()) {
            let Some((key, value)) = part.split_once('=') else {
                match pairs.last_mut() {
                    Some(Pair { key: "bw" | "ops", more: more @ None, .. }) => *more = Some(part),
                    _ => return Err(format!("'{part}' is not KEY=VALUE")),
                }
                continue;
            };
            if value.is_empty() {
                return Err(format!("{key} has no value"));
            }
            if pairs.iter().any(|before| before.key == key) {
                return Err(format!("{key} is given twice"));
            }
            pairs.push(Pair { key, value, more: None });
        }
        Ok(Self { pairs })
    }

    fn take_pair(&mut self, key: &str) -> Option<Pair<'a>> {
        let at = self.pairs.iter().position(|pair| pair.key == key)?;
        Some(self.pairs.remove(at))
    }

    /// The value of a key, if it is there.
    pub(super) fn take(&mut self, key: &str) -> Option<&'a str> {
        self.take_pair(key).map(|pair| pair.value)
    }

    /// The value of a key, and what stands behind it.
    pub(super) fn take_two(&mut self, key: &str) -> Option<(&'a str, Option<&'a str>)> {
        self.take_pair(key).map(|pair| (pair.value, pair.more))
    }

    /// The value of a key that is on or off.
    pub(super) fn take_switch(&mut self, key: &str) -> Result<Option<bool>, String> {
        self.take_one_of(key, &[("on", true), ("off", false), ("true", true), ("false", false)], "on or off")
    }

    /// The value of a key that has one of a few names.
    pub(super) fn take_one_of<T: Copy>(
        &mut self,
        key: &str,
        names: &[(&str, T)],
        choice: &str,
    ) -> Result<Option<T>, String> {
        let Some(value) = self.take(key) else { return Ok(None) };
        match names.iter().find(|(name, _)| *name == value) {
            Some((_, meaning)) => Ok(Some(*meaning)),
            None => Err(format!("{key}={value}: give {choice}")),
        }
    }

    /// The value of a key that is a number of some sort.
    pub(super) fn take_number<T: FromStr>(&mut self, key: &str, what: &str) -> Result<Option<T>, String> {
        let Some(value) = self.take(key) else { return Ok(None) };
        value.parse().map(Some).map_err(|_| format!("{key}={value}: give {what}"))
    }

    /// Refuses what is left: keys that nobody has asked for.
    pub(super) fn finish(self, known: &[&str]) -> Result<(), String> {
        match self.pairs.first() {
            None => Ok(()),
            Some(Pair { key, .. }) => Err(format!("there is no key '{key}': there are {}", known.join(", "))),
        }
    }
}
