// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The kernel's command line, split the way the kernel splits it (Linux `lib/cmdline.c`, `next_arg`).

/// The parameters of a kernel command line, in order.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Cmdline {
    parameters: Vec<(String, Option<String>)>,
}

impl Cmdline {
    /// Reads `/proc/cmdline`, which has to be mounted.
    pub(crate) fn read() -> std::io::Result<Self> {
        Ok(Self::parse(&std::fs::read_to_string("/proc/cmdline")?))
    }

    /// Splits at white space outside double quotes. Quotes around a value, or around the whole parameter, are dropped.
    pub(crate) fn parse(line: &str) -> Self {
        let mut parameters = Vec::new();
        let mut word = String::new();
        let mut quoted = false;
        // The first `=` divides, wherever a quote stands.
        let mut push = |word: &mut String| {
            if !word.is_empty() {
                parameters.push(split(word));
                word.clear();
            }
        };
        for c in line.chars() {
            match c {
                '"' => {
                    quoted = !quoted;
                    word.push(c);
                }
                c if c.is_whitespace() && !quoted => push(&mut word),
                c => word.push(c),
            }
        }
        push(&mut word);
        Self { parameters }
    }

    /// The value of the last `name=value`, as the last one wins in the kernel as well.
    pub(crate) fn value(&self, name: &str) -> Option<&str> {
        self.parameters.iter().rev().find(|(key, _)| key == name)?.1.as_deref()
    }

    /// Whether `name` stands there, with a value other than 0 or without any.
    pub(crate) fn flag(&self, name: &str) -> bool {
        self.parameters.iter().any(|(key, value)| key == name && value.as_deref() != Some("0"))
    }

    /// Which of two bare words comes last, for pairs like `ro` and `rw`.
    pub(crate) fn last_of<'a>(&self, words: &[&'a str]) -> Option<&'a str> {
        self.parameters
            .iter()
            .rev()
            .filter(|(_, value)| value.is_none())
            .find_map(|(key, _)| words.iter().find(|word| *word == key).copied())
    }
}

fn split(word: &str) -> (String, Option<String>) {
    // `"name=some value"`: the quotes embrace the whole parameter.
    let word = match word.strip_prefix('"') {
        Some(inner) => inner.strip_suffix('"').unwrap_or(inner),
        None => word,
    };
    match word.split_once('=') {
        None => (word.to_owned(), None),
        Some((name, value)) => {
            let value = match value.strip_prefix('"') {
                Some(inner) => inner.strip_suffix('"').unwrap_or(inner),
                None => value,
            };
            (name.to_owned(), Some(value.to_owned()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_keep_their_spaces_inside_quotes() {
        let line = Cmdline::parse("console=ttyS0 vmm.run=\"echo a  b; exit 3\" vmm.then=reboot\n");
        assert_eq!(line.value("vmm.run"), Some("echo a  b; exit 3"));
        assert_eq!(line.value("vmm.then"), Some("reboot"));
        assert_eq!(line.value("console"), Some("ttyS0"));
    }

    #[test]
    fn quotes_may_embrace_the_whole_parameter() {
        assert_eq!(Cmdline::parse("\"vmm.run=a b\" c").value("vmm.run"), Some("a b"));
    }

    #[test]
    fn a_value_may_hold_equal_signs_and_single_quotes() {
        assert_eq!(Cmdline::parse("vmm.run=\"X='1 2' y=3\"").value("vmm.run"), Some("X='1 2' y=3"));
        assert_eq!(Cmdline::parse("root=PARTUUID=1-2").value("root"), Some("PARTUUID=1-2"));
    }

    #[test]
    fn the_last_value_wins() {
        let line = Cmdline::parse("ro root=/dev/vda root=/dev/vdb rw");
        assert_eq!(line.value("root"), Some("/dev/vdb"));
        assert_eq!(line.last_of(&["ro", "rw"]), Some("rw"));
    }

    #[test]
    fn a_flag_is_on_bare_or_with_any_value_but_0() {
        let line = Cmdline::parse("vmm.show vmm.powerbutton=1 quiet=0");
        assert!(line.flag("vmm.show") && line.flag("vmm.powerbutton"));
        assert!(!line.flag("quiet") && !line.flag("absent"));
    }

    #[test]
    fn odd_input_is_no_error() {
        assert_eq!(Cmdline::parse(""), Cmdline::default());
        assert_eq!(Cmdline::parse(" \t\n"), Cmdline::default());
        assert_eq!(Cmdline::parse("a=\"never closed").value("a"), Some("never closed"));
        assert_eq!(Cmdline::parse("a=").value("a"), Some(""));
    }
}
