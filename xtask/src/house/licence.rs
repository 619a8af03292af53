// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Every Rust file begins with its licence.

use super::source::{Finding, Source};

const HEADER: &str = "// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause";

pub(super) fn check(sources: &[Source]) -> Vec<Finding> {
    let without = |source: &&Source| source.is(".rs") && source.text.lines().next() != Some(HEADER);
    sources
        .iter()
        .filter(without)
        .map(|source| source.finding(1, format!("the first line must be `{HEADER}`")))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::source::sample;
    use super::*;

    #[test]
    fn a_file_without_the_header_is_found() {
        assert!(check(&[sample("a.rs", &format!("{HEADER}\n")), sample("a.md", "# a\n")]).is_empty());
        assert_eq!(check(&[sample("a.rs", "//! Text.\n"), sample("b.rs", "")]).len(), 2);
    }
}
