// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What a guest can reach denies every way to panic, and opens none of them again: two crates, and the vCPU loop. Only
//! arithmetic on numbers that no guest has a say in may be opened, with a reason.

use super::source::{Finding, Source};

/// The folders, each with the file whose attributes hold for all of it.
const PARTS: [(&str, &str); 3] = [("boot/src/", "lib.rs"), ("devices/src/", "lib.rs"), ("vmm/src/vcpu/", "mod.rs")];
const LINTS: [&str; 6] = [
    "clippy::unwrap_used",
    "clippy::expect_used",
    "clippy::panic",
    "clippy::indexing_slicing",
    "clippy::unreachable",
    ARITHMETIC,
];
const ARITHMETIC: &str = "clippy::arithmetic_side_effects";

pub(super) fn check(sources: &[Source]) -> Vec<Finding> {
    PARTS.iter().flat_map(|(folder, root)| check_part(sources, folder, root)).collect()
}

fn check_part(sources: &[Source], folder: &str, root: &str) -> Vec<Finding> {
    let mut findings = Vec::new();
    for source in sources.iter().filter(|source| source.is(".rs") && source.path.starts_with(folder)) {
        if source.path == format!("{folder}{root}") {
            let denied = denied(&source.text);
            let missing: Vec<_> =
                LINTS.iter().filter(|lint| !denied.iter().any(|name| name == *lint)).copied().collect();
            if !missing.is_empty() {
                findings.push(source.finding(0, format!("this must deny {}", missing.join(", "))));
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

/// The name of files that play the guest for tests, fuzz targets and benchmarks: no guest reaches them.
const MOCK: &str = "/mock.rs";

fn reopened(source: &Source) -> Vec<Finding> {
    let mut findings = Vec::new();
    // The attribute that is being read, which may go over several lines.
    let mut attribute = String::new();
    for (number, line) in source.lines() {
        // What follows is for tests, which may panic.
        if line.contains("#[cfg(test)]") || source.path.ends_with(MOCK) {
            break;
        }
        if attribute.is_empty() && !line.trim_start().starts_with("#[") && !line.trim_start().starts_with("#![") {
            continue;
        }
        attribute.push_str(line);
        if !line.trim_end().ends_with(']') {
            continue;
        }
        let whole = std::mem::take(&mut attribute);
        let opens = whole.contains("allow(") || whole.contains("expect(");
        if let Some(lint) = LINTS.iter().find(|lint| opens && **lint != ARITHMETIC && whole.contains(*lint)) {
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
        clippy::panic,\n        clippy::indexing_slicing,\n        clippy::unreachable,\n        clippy::arithmetic_side_effects\n    )\n)]\n";

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
        let wrapped = "#[allow(\n    clippy::indexing_slicing,\n    reason = \"no\"\n)]\nfn f() {}\n";
        assert_eq!(check(&[sample("vmm/src/vcpu/exits.rs", wrapped)]).len(), 1);
        assert!(check(&[sample("devices/src/virtio/mock.rs", wrapped)]).is_empty());
        assert!(check(&[sample("vmm/src/lib.rs", text)]).is_empty());
        assert!(check(&[sample("devices/src/bus.rs", &format!("#[cfg(test)]\n{text}"))]).is_empty());
    }
}
