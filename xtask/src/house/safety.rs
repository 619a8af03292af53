// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Every `unsafe` block and implementation says why it is sound, right above. Clippy's lint of that kind can be allowed
//! away in a file, and doesn't see code that is compiled for other targets only; this rule can't, and does.

use super::source::{Finding, Source};

pub(super) fn check(sources: &[Source]) -> Vec<Finding> {
    sources.iter().filter(|source| source.is(".rs")).flat_map(check_one).collect()
}

fn check_one(source: &Source) -> Vec<Finding> {
    let lines: Vec<&str> = source.text.lines().collect();
    let unexplained = |index: &usize| opens_unsafe(lines[*index]) && !is_explained(&lines[..*index]);
    let what = "this `unsafe` needs a `// SAFETY:` comment above it: the invariant, and who keeps it";
    (0..lines.len()).filter(unexplained).map(|index| source.finding(index + 1, what)).collect()
}

fn opens_unsafe(line: &str) -> bool {
    let code = line.split("//").next().unwrap_or_default();
    ["unsafe {", "unsafe impl"].iter().any(|words| {
        // Behind an odd number of quotes it stands in a string.
        code.find(words).is_some_and(|at| code[..at].matches('"').count().is_multiple_of(2))
    })
}

/// Looks upwards through comments, attributes and the beginning of the same statement.
fn is_explained(above: &[&str]) -> bool {
    for line in above.iter().rev().map(|line| line.trim()) {
        if line.starts_with("//") {
            if line.contains("SAFETY:") {
                return true;
            }
        } else if line.is_empty() || (line.ends_with([';', '{', '}', ',']) && !line.starts_with('#')) {
            return false;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::super::source::sample;
    use super::*;

    fn findings(text: &str) -> usize {
        check(&[sample("a.rs", text)]).len()
    }

    #[test]
    fn an_unsafe_block_without_a_reason_is_found() {
        assert_eq!(findings("fn f() {\n    unsafe { g() };\n}\n"), 1);
        assert_eq!(findings("// SAFETY: for the first.\nunsafe { g() };\nunsafe { g() };\n"), 1);
        assert_eq!(findings("// Sound.\nunsafe impl Send for X {}\n"), 1);
    }

    #[test]
    fn a_reason_counts_through_attributes_and_line_breaks() {
        assert_eq!(findings("// SAFETY: because\n// of this.\n#[allow(x)]\nlet a =\n    unsafe { g() };\n"), 0);
        assert_eq!(findings("// SAFETY: so.\nunsafe impl Send for X {}\n"), 0);
    }

    #[test]
    fn words_in_comments_and_strings_are_no_code() {
        assert_eq!(findings("// unsafe { x }\nlet a = \"unsafe { x }\";\n"), 0);
        assert_eq!(findings("unsafe fn f() {}\n"), 0);
    }
}
