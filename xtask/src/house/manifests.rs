// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Versions stand in one table, that of the root `Cargo.toml`, and come from crates.io.

use super::source::{Finding, Source};

pub(super) fn check(sources: &[Source]) -> Vec<Finding> {
    let manifests = sources.iter().filter(|source| source.path == "Cargo.toml" || source.is("/Cargo.toml"));
    manifests.flat_map(check_one).collect()
}

fn check_one(source: &Source) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut section = "";
    for (number, line) in source.lines() {
        let line = line.split('#').next().unwrap_or_default().trim();
        if let Some(header) = line.strip_prefix('[') {
            section = header.trim_end_matches(']');
            // `[dependencies.name]` would hide from the lines below.
            if section.contains("dependencies.") {
                findings.push(source.finding(number, "write a dependency on one line: `name.workspace = true`"));
            }
            continue;
        }
        let Some((name, value)) = line.split_once('=').filter(|_| section.ends_with("dependencies")) else { continue };
        if value.contains("git =") || value.contains("git=") {
            findings
                .push(source.finding(number, format!("{}: no git dependencies, only what crates.io has", name.trim())));
        } else if section != "workspace.dependencies" && !line.contains("workspace = true") {
            let what =
                format!("{}: the version belongs into the root Cargo.toml, here only `workspace = true`", name.trim());
            findings.push(source.finding(number, what));
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::super::source::sample;
    use super::*;

    #[test]
    fn a_version_outside_of_the_one_table_is_found() {
        for bad in ["libc = \"0.2\"", "libc = { version = \"0.2\", features = [] }", "arch = { path = \"../arch\" }"] {
            let text = format!("[package]\nname = \"a\"\n\n[dev-dependencies]\n{bad}\n");
            assert_eq!(check(&[sample("a/Cargo.toml", &text)]).len(), 1, "{bad}");
        }
        assert_eq!(check(&[sample("a/Cargo.toml", "[dependencies.libc]\nversion = \"0.2\"\n")]).len(), 1);
    }

    #[test]
    fn the_table_and_what_refers_to_it_are_fine() {
        let member =
            "[dependencies]\nlibc.workspace = true\nclap = { workspace = true, features = [\"derive\"] }\n# libc = 1\n";
        let root = "[workspace.dependencies]\nlibc = \"0.2\" # a remark\n[profile.dev]\ndebug = 1\n";
        assert!(check(&[sample("a/Cargo.toml", member), sample("Cargo.toml", root)]).is_empty());
    }

    #[test]
    fn a_git_dependency_is_found_even_in_the_table() {
        let root = "[workspace.dependencies]\nx = { git = \"https://example.org/x\" }\n";
        assert_eq!(check(&[sample("Cargo.toml", root)]).len(), 1);
    }
}
