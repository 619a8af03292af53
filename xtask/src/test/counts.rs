// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! How many tests there were, and how they ended, read from what the test runners print.

use std::fmt;
use std::ops::AddAssign;

/// Numbers of tests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) passed: u64,
    pub(crate) failed: u64,
    pub(crate) skipped: u64,
}

impl Counts {
    /// Adds up libtest's lines `test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 2 filtered out; …`.
    pub(crate) fn of_libtest(text: &str) -> Self {
        let mut counts = Self::default();
        for line in text.lines() {
            let Some((_, numbers)) = line.split_once("test result: ").and_then(|(_, rest)| rest.split_once(". "))
            else {
                continue;
            };
            counts += Self {
                passed: number_before(numbers, "passed"),
                failed: number_before(numbers, "failed"),
                skipped: number_before(numbers, "ignored"),
            };
        }
        counts
    }

    /// Reads nextest's line `Summary [   0.3s] 12 tests run: 11 passed (1 slow), 1 failed, 2 skipped`. What a filter has
    /// left out is skipped as well; so its number only counts where there was none.
    pub(crate) fn of_nextest(text: &str, filtered: bool) -> Self {
        let text = without_colours(text);
        let mut summaries = text.lines().filter(|line| line.trim_start().starts_with("Summary ["));
        let Some((_, numbers)) = summaries.next_back().and_then(|line| line.split_once(']')) else {
            return Self::default();
        };
        let failed = ["failed", "timed out", "exec failed"].iter().map(|word| number_before(numbers, word)).sum();
        Self {
            passed: number_before(numbers, "passed"),
            failed,
            skipped: if filtered { 0 } else { number_before(numbers, "skipped") },
        }
    }

    /// Tests that passed only because they had nothing to do.
    pub(crate) fn reclassify_skipped(self, count: u64) -> Self {
        let count = count.min(self.passed);
        Self { passed: self.passed - count, skipped: self.skipped + count, ..self }
    }

    /// A runner that failed without any failed test has failed by itself, which counts as one.
    pub(crate) fn fail_unless(self, success: bool) -> Self {
        if success || self.failed > 0 { self } else { Self { failed: 1, ..self } }
    }
}

impl AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} passed, {} failed", self.passed, self.failed)?;
        if self.skipped > 0 {
            write!(f, ", {} skipped", self.skipped)?;
        }
        Ok(())
    }
}

/// The number in `N word`, where the parts are divided by commas, semicolons or colons; 0 where the word is absent.
fn number_before(text: &str, word: &str) -> u64 {
    let parts = text.split([',', ';', ':', '(', ')']).map(str::trim);
    let mut numbers = parts.filter_map(|part| part.strip_suffix(word)?.strip_suffix(' ')?.parse::<u64>().ok());
    numbers.next_back().unwrap_or(0)
}

/// Drops the escape sequences for colours.
fn without_colours(text: &str) -> String {
    let mut plain = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("\x1b[") {
        plain.push_str(before);
        rest = after.split_once('m').map_or("", |(_, rest)| rest);
    }
    plain + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(passed: u64, failed: u64, skipped: u64) -> Counts {
        Counts { passed, failed, skipped }
    }

    #[test]
    fn libtest_summaries_add_up() {
        let text = "running 4 tests\ntest a ... ok\n\
            test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 7 filtered out; finished in 0.00s\n\n\
            test result: FAILED. 2 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out; finished in 1.20s\n";
        assert_eq!(Counts::of_libtest(text), counts(5, 1, 1));
        assert_eq!(Counts::of_libtest("nothing"), Counts::default());
    }

    #[test]
    fn the_nextest_summary_is_read_with_its_remarks() {
        let text = "        PASS [   0.004s] a b\n------------\n     \
            Summary [   1.234s] 17/20 tests run: 12 passed (2 slow, 1 leaky), 4 failed, 1 timed out, 3 skipped\n";
        assert_eq!(Counts::of_nextest(text, false), counts(12, 5, 3));
        assert_eq!(Counts::of_nextest(text, true), counts(12, 5, 0));
        let coloured = "\x1b[32;1m     Summary\x1b[0m [   0.3s] \x1b[1m2\x1b[0m tests run: \x1b[1m2\x1b[0m \x1b[32;1mpassed\x1b[0m, \x1b[1m0\x1b[0m \x1b[33;1mskipped\x1b[0m\n";
        assert_eq!(Counts::of_nextest(coloured, false), counts(2, 0, 0));
        assert_eq!(Counts::of_nextest("error: could not compile", false), Counts::default());
    }

    #[test]
    fn a_runner_that_fails_without_a_failed_test_counts_as_one() {
        assert_eq!(counts(3, 0, 0).fail_unless(false), counts(3, 1, 0));
        assert_eq!(counts(3, 2, 0).fail_unless(false), counts(3, 2, 0));
        assert_eq!(counts(3, 0, 0).fail_unless(true), counts(3, 0, 0));
    }

    #[test]
    fn the_last_line_names_what_was_skipped_only_where_something_was() {
        assert_eq!(counts(3, 0, 0).to_string(), "3 passed, 0 failed");
        assert_eq!(counts(3, 0, 0).reclassify_skipped(2).to_string(), "1 passed, 0 failed, 2 skipped");
    }
}
