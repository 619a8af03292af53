// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Every link in a Markdown file that stays within the repository leads somewhere, to the very heading.

use std::collections::HashMap;
use std::path::{Component, Path, PathBuf};

use super::source::{Finding, Source};

pub(crate) fn check(sources: &[Source]) -> Vec<Finding> {
    let by_path: HashMap<&str, &Source> = sources.iter().map(|source| (source.path.as_str(), source)).collect();
    let pages = sources.iter().filter(|source| source.is(".md"));
    pages.flat_map(|page| check_page(page, &by_path)).collect()
}

fn check_page(page: &Source, by_path: &HashMap<&str, &Source>) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (number, line) in prose(&page.text) {
        for target in targets(line) {
            if let Some(what) = what_is_wrong(page, &target, by_path) {
                findings.push(page.finding(number, what));
            }
        }
    }
    findings
}

/// Why a link leads nowhere, if it does.
fn what_is_wrong(page: &Source, target: &str, by_path: &HashMap<&str, &Source>) -> Option<String> {
    if target.contains("://") || target.starts_with("mailto:") {
        return None;
    }
    let (path, anchor) = target.split_once('#').map_or((target, None), |(path, anchor)| (path, Some(anchor)));
    let there = if path.is_empty() {
        Some(page)
    } else {
        let folder = Path::new(&page.path).parent().unwrap_or(Path::new(""));
        let Some(path) = normal(&folder.join(path)) else {
            return Some(format!("{target}: leads out of the repository"));
        };
        let path = path.to_string_lossy().into_owned();
        let file = by_path.get(path.as_str()).copied();
        let is_folder = || path.is_empty() || by_path.keys().any(|known| known.starts_with(&format!("{path}/")));
        if file.is_none() && !is_folder() {
            return Some(format!("{target}: there is no {path}"));
        }
        file
    };
    let anchor = anchor?;
    let there = there.filter(|there| there.is(".md"))?;
    let known = anchors(&there.text);
    (!known.iter().any(|heading| heading == anchor)).then(|| format!("{target}: {} has no such heading", there.path))
}

/// Removes `.` and `..`; nothing where that would leave the repository.
fn normal(path: &Path) -> Option<PathBuf> {
    let mut normal = PathBuf::new();
    for part in path.components() {
        match part {
            Component::Normal(name) => normal.push(name),
            Component::CurDir => {}
            Component::ParentDir if normal.pop() => {}
            _ => return None,
        }
    }
    Some(normal)
}

/// The lines outside of code blocks, with their numbers.
fn prose(text: &str) -> Vec<(usize, &str)> {
    let mut fence: Option<&str> = None;
    let mut lines = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let start = line.trim_start();
        let mark = ["```", "~~~"].into_iter().find(|mark| start.starts_with(mark));
        match (fence, mark) {
            (None, Some(mark)) => fence = Some(mark),
            (Some(open), Some(mark)) if open == mark => fence = None,
            (None, None) => lines.push((index + 1, line)),
            _ => {}
        }
    }
    lines
}

/// Targets of `[text](target)`, `![text](target "title")` and `[name]: target`.
fn targets(line: &str) -> Vec<String> {
    let line = without_code(line);
    let mut targets = Vec::new();
    let mut rest = line.as_str();
    while let Some((_, after)) = rest.split_once("](") {
        let end = after.find(')').unwrap_or(after.len());
        targets.push(after[..end].to_owned());
        rest = &after[end..];
    }
    if let Some((name, target)) = line.split_once("]: ")
        && name.starts_with('[')
        && !name.starts_with("[^")
    {
        targets.push(target.to_owned());
    }
    let first_word =
        |target: String| target.split_whitespace().next().unwrap_or_default().trim_matches(['<', '>']).to_owned();
    targets.into_iter().map(first_word).collect()
}

/// Drops what stands between backticks.
fn without_code(line: &str) -> String {
    line.split('`').step_by(2).collect::<Vec<_>>().join(" ")
}

/// The anchors of a page's headings, as GitHub and mdBook make them.
fn anchors(text: &str) -> Vec<String> {
    let mut anchors: Vec<String> = Vec::new();
    for (_, line) in prose(text) {
        let Some(heading) = line.trim_start_matches('#').strip_prefix(' ').filter(|_| line.starts_with('#')) else {
            continue;
        };
        let anchor = slug(heading);
        // A heading that comes again gets a number.
        let count = (0..).find(|count| !anchors.contains(&numbered(&anchor, *count))).unwrap_or(0);
        anchors.push(numbered(&anchor, count));
    }
    anchors
}

fn numbered(anchor: &str, count: u32) -> String {
    if count == 0 { anchor.to_owned() } else { format!("{anchor}-{count}") }
}

fn slug(heading: &str) -> String {
    let kept = heading.trim().chars().filter(|c| c.is_alphanumeric() || *c == ' ' || *c == '-' || *c == '_');
    kept.map(|c| if c == ' ' { '-' } else { c }).collect::<String>().to_lowercase()
}

#[cfg(test)]
mod tests {
    use super::super::source::sample;
    use super::*;

    fn findings(text: &str) -> Vec<String> {
        let other = sample("Guide/src/use/run.md", "# Run a VM\n\n## `--cpus`, and more\n\n## Twice\n\n## Twice\n");
        let page = sample("Guide/src/index.md", text);
        check(&[page, other, sample("README.md", "# Top\n")]).into_iter().map(|finding| finding.what).collect()
    }

    #[test]
    fn links_that_lead_somewhere_are_fine() {
        let text = "# Here\n[a](use/run.md) [b](use/run.md#run-a-vm), [c](#here), [d](../../README.md \"t\")\n\
            [e](https://example.org/#x) [f](use/run.md#--cpus-and-more) [g](use/run.md#twice-1) [h](use)\n[i]: use/run.md\n";
        assert_eq!(findings(text), Vec::<String>::new());
    }

    #[test]
    fn links_that_lead_nowhere_are_found() {
        for bad in
            ["[a](gone.md)", "![a](gone.png)", "[a](use/run.md#gone)", "[a](#gone)", "[a](../../../x)", "[a]: gone.md"]
        {
            assert_eq!(findings(&format!("{bad}\n")).len(), 1, "{bad}");
        }
    }

    #[test]
    fn code_is_not_read() {
        assert!(findings("```text\n[a](gone.md)\n```\nand `[b](gone.md)` too\n").is_empty());
    }
}
