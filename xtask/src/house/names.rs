// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! A file is named after what it is.

use std::path::Path;

use super::source::{Finding, Source};

const EMPTY: [&str; 8] = ["utils", "util", "common", "helpers", "helper", "types", "misc", "stuff"];

pub(super) fn check(sources: &[Source]) -> Vec<Finding> {
    sources.iter().filter_map(check_one).collect()
}

fn check_one(source: &Source) -> Option<Finding> {
    if !source.is(".rs") {
        return None;
    }
    let mut parts = Path::new(&source.path).iter().map(|part| part.to_str().unwrap_or_default());
    let name = parts.find(|part| EMPTY.contains(&part.strip_suffix(".rs").unwrap_or(part)))?;
    Some(source.finding(0, format!("`{name}` says nothing about what is in it: name it after the idea")))
}

#[cfg(test)]
mod tests {
    use super::super::source::sample;
    use super::*;

    #[test]
    fn names_that_say_nothing_are_found() {
        for path in ["a/src/utils.rs", "a/src/common/mod.rs", "types.rs"] {
            assert_eq!(check(&[sample(path, "")]).len(), 1, "{path}");
        }
        for path in ["a/src/common_clock.rs", "Guide/types.md"] {
            assert!(check(&[sample(path, "")]).is_empty(), "{path}");
        }
    }
}
