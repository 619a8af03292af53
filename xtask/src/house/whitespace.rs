// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Text files end in one newline, and no line ends in blanks.

use super::source::{Finding, Source};

pub(super) fn check(sources: &[Source]) -> Vec<Finding> {
    sources.iter().flat_map(check_one).collect()
}

fn check_one(source: &Source) -> Vec<Finding> {
    let mut findings = Vec::new();
    // The licences are kept as their owners wrote them, and the seeds of the fuzz targets are no texts.
    if source.path.starts_with("LICENSE-") || source.path.starts_with("fuzz/corpus/") {
        return findings;
    }
    if !source.text.is_empty() && (!source.text.ends_with('\n') || source.text.ends_with("\n\n")) {
        findings.push(source.finding(source.text.lines().count(), "the file must end in exactly one newline"));
    }
    for (number, line) in source.text.split('\n').enumerate() {
        if line.ends_with([' ', '\t', '\r']) {
            findings.push(source.finding(number + 1, "the line ends in blanks"));
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::super::source::sample;
    use super::*;

    #[test]
    fn blanks_at_the_end_are_found() {
        for bad in ["a", "a\n\n", "a \n", "a\t\nb\n", "a\r\n"] {
            assert_eq!(check(&[sample("x.md", bad)]).len(), 1, "{bad:?}");
        }
        let fine = [sample("x.md", "a\n\nb\n"), sample("empty", ""), sample("fuzz/corpus/x/seed", "a \n\n")];
        assert!(check(&fine).is_empty());
    }
}
