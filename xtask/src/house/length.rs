// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! No Rust file is longer than a person can keep in mind.

use super::source::{Finding, Source};

const LINES: usize = 700;

pub(super) fn check(sources: &[Source]) -> Vec<Finding> {
    let too_long = |source: &Source| {
        let lines = source.text.lines().count();
        (lines > LINES).then(|| source.finding(0, format!("{lines} lines, {LINES} is the limit: divide it by idea")))
    };
    sources.iter().filter(|source| source.is(".rs")).filter_map(too_long).collect()
}

#[cfg(test)]
mod tests {
    use super::super::source::sample;
    use super::*;

    #[test]
    fn a_file_of_701_lines_is_found() {
        assert!(check(&[sample("a.rs", &"x\n".repeat(700)), sample("a.txt", &"x\n".repeat(701))]).is_empty());
        assert_eq!(check(&[sample("a.rs", &"x\n".repeat(701))]).len(), 1);
    }
}
