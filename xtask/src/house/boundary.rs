// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The crates that a guest can reach deny every way to panic, and open none of them again.

use super::source::{Finding, Source};

const CRATES: [&str; 2] = ["boot", "devices"];
const LINTS: [&str; 5] =
    ["clippy::unwrap_used", "clippy::expect_used", "clippy::panic", "clippy::indexing_slicing", "clippy::unreachable"];

pub(super) fn check(sources: &[Source]) -> Vec<Finding> {
    CRATES.iter().flat_map(|name| check_crate(sources, name)).collect()
}

fn check_crate(sources: &[Source], name: &str) -> Vec<Finding> {
    let prefix = format!("{name}/src/");
    let mut findings = Vec::new();
    for source in sources.iter().filter(|source| source.is(".rs") && source.path.starts_with(&prefix)) {
        if source.path == format!("{prefix}lib.rs") {
            let denied = denied(&source.text);
            let missing: Vec<_> =
                LINTS.iter().filter(|lint| !denied.iter().any(|name| name == *lint)).copied().collect();
            if !missing.is_empty() {
                findings.push(source.finding(0, format!("this crate must deny {}", missing.join(", "))));
            }
        }
        findings.extend(reopened(source));
    }
    findings
}

/// The lints inside `deny(…)` and `forbid(…)` of the crate's own attributes.
fn denied(text: &str) -> Vec<&str> {
    let inner = text.split("#![").skip(1).filter_map(|attribute| attribute.split(")]").next());
    let lists = inner.filter_map(|attribute| {
        let at = attribute.find("deny(").or_else(|| attribute.find("forbid("))?;
        attribute[at..].split_once('(').map(|(_, list)| list)
    });
    lists.flat_map(|list| list.split([',', ')', '\n']).map(str::trim)).collect()
}

fn reopened(source: &Source) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (number, line) in source.lines() {
        // What follows is for tests, which may panic.
        if line.contains("#[cfg(test)]") {
            break;
        }
        let opens = line.trim_start().starts_with('#') && (line.contains("allow(") || line.contains("expect("));
        if let Some(lint) = LINTS.iter().find(|lint| opens && line.contains(*lint)) {
            findings
                .push(source.finding(number, format!("{lint} stays denied at the guest boundary: return an error")));
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::super::source::sample;
    use super::*;

    const ALL: &str = "#![cfg_attr(\n    not(test),\n    deny(\n        clippy::unwrap_used,\n        clippy::expect_used,\n        \
        clippy::panic,\n        clippy::indexing_slicing,\n        clippy::unreachable\n    )\n)]\n";

    #[test]
    fn a_boundary_crate_has_to_deny_all_of_them() {
        assert!(check(&[sample("devices/src/lib.rs", ALL)]).is_empty());
        let findings = check(&[sample("boot/src/lib.rs", "#![deny(clippy::unwrap_used, clippy::panic)]\n")]);
        assert_eq!(findings.len(), 1);
        let what = &findings[0].what;
        assert!(what.contains("expect_used") && !what.contains("unwrap_used"), "{what}");
        assert_eq!(check(&[sample("boot/src/lib.rs", "// deny(clippy::unwrap_used)\n")]).len(), 1);
    }

    #[test]
    fn a_lint_that_is_opened_again_is_found() {
        let text = "#[allow(clippy::unwrap_used, reason = \"no\")]\nfn f() {}\n";
        assert_eq!(check(&[sample("devices/src/bus.rs", text)]).len(), 1);
        assert!(check(&[sample("vmm/src/lib.rs", text)]).is_empty());
        assert!(check(&[sample("devices/src/bus.rs", &format!("#[cfg(test)]\n{text}"))]).is_empty());
    }
}
