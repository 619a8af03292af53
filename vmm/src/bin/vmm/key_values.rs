// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Values of the form `key=value,key=value`, as Cloud Hypervisor's users know them.

/// The pairs that have not been taken yet.
#[derive(Debug)]
pub(crate) struct KeyValues<'a> {
    pairs: Vec<(&'a str, &'a str)>,
}

impl<'a> KeyValues<'a> {
    pub(crate) fn parse(text: &'a str) -> Result<Self, String> {
        let mut pairs: Vec<(&str, &str)> = Vec::new();
        for part in text.split(',').filter(|part| !part.is_empty()) {
            let (key, value) = part.split_once('=').ok_or_else(|| format!("'{part}' is not KEY=VALUE"))?;
            if value.is_empty() {
                return Err(format!("{key} has no value"));
            }
            if pairs.iter().any(|(before, _)| *before == key) {
                return Err(format!("{key} is given twice"));
            }
            pairs.push((key, value));
        }
        Ok(Self { pairs })
    }

    /// The value of a key, if it is there.
    pub(crate) fn take(&mut self, key: &str) -> Option<&'a str> {
        let at = self.pairs.iter().position(|(found, _)| *found == key)?;
        Some(self.pairs.remove(at).1)
    }

    /// The value of a key that is on or off.
    pub(crate) fn take_switch(&mut self, key: &str) -> Result<Option<bool>, String> {
        match self.take(key) {
            None => Ok(None),
            Some("on" | "true") => Ok(Some(true)),
            Some("off" | "false") => Ok(Some(false)),
            Some(other) => Err(format!("{key}={other}: give on or off")),
        }
    }

    /// Refuses what is left: keys that nobody has asked for.
    pub(crate) fn finish(self, known: &[&str]) -> Result<(), String> {
        match self.pairs.first() {
            None => Ok(()),
            Some((key, _)) => Err(format!("there is no key '{key}': there are {}", known.join(", "))),
        }
    }
}
