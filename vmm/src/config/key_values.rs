// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Values of the form `key=value,key=value`, as Cloud Hypervisor's users know them.

use std::str::FromStr;

/// Which keys are more than one value.
#[derive(Debug)]
pub(super) struct Grammar {
    /// A burst may stand behind a comma.
    pub(super) with_burst: &'static [&'static str],
    /// Each may be there many times.
    pub(super) repeated: &'static [&'static str],
    /// A value may be a list in brackets, with commas in it.
    pub(super) lists: &'static [&'static str],
}

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
    pub(super) fn parse(text: &'a str, grammar: &Grammar) -> Result<Self, String> {
        let mut pairs: Vec<Pair<'_>> = Vec::new();
        let parts = Parts { rest: text, lists: grammar.lists };
        for part in parts.filter(|part| !part.is_empty()) {
            let Some((key, value)) = part.split_once('=') else {
                match pairs.last_mut() {
                    Some(Pair { key, more: more @ None, .. }) if grammar.with_burst.contains(key) => *more = Some(part),
                    _ if part == "ro" => return Err("'ro' is not KEY=VALUE: write readonly=on".to_owned()),
                    _ => return Err(format!("'{part}' is not KEY=VALUE")),
                }
                continue;
            };
            if value.is_empty() {
                return Err(format!("{key} has no value"));
            }
            if !grammar.repeated.contains(&key) && pairs.iter().any(|before| before.key == key) {
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

    /// All values of a key that may be repeated, in order.
    pub(super) fn take_all(&mut self, key: &str) -> Vec<&'a str> {
        std::iter::from_fn(|| self.take(key)).collect()
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

/// What stands between commas, those within a list not counted.
#[derive(Debug)]
struct Parts<'a> {
    rest: &'a str,
    lists: &'static [&'static str],
}

impl<'a> Iterator for Parts<'a> {
    type Item = &'a str;

    fn next(&mut self) -> Option<&'a str> {
        if self.rest.is_empty() {
            return None;
        }
        let opens = self.rest.split_once("=[").is_some_and(|(key, _)| self.lists.contains(&key));
        let list = opens.then(|| self.rest.find(']')).flatten().unwrap_or(0);
        let end = self.rest[list..].find(',').map_or(self.rest.len(), |at| list + at);
        let part = &self.rest[..end];
        self.rest = self.rest.get(end + 1..).unwrap_or_default();
        Some(part)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_has_commas_where_the_key_may_have_one() {
        let parts = |text| Parts { rest: text, lists: &["fd"] }.collect::<Vec<_>>();
        assert_eq!(parts("fd=[3,4],mac=x"), ["fd=[3,4]", "mac=x"]);
        assert_eq!(parts("mac=x,fd=[3,4]"), ["mac=x", "fd=[3,4]"]);
        assert_eq!(parts("fd=[3,4"), ["fd=[3", "4"]);
        assert_eq!(parts("path=[a,b=c]"), ["path=[a", "b=c]"]);
        assert_eq!(parts("a,,b,"), ["a", "", "b"]);
    }
}
