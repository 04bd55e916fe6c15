//! Relative links in Markdown files.

use anyhow::Result;

use super::Finding;
use super::tree::Tree;

/// Every relative link leads to a file or folder, and to a heading if it names one.
pub fn relative(tree: &Tree) -> Result<Vec<Finding>> {
    let mut findings = Vec::new();
    for (path, text) in tree.with_extension("", "md") {
        for (line, link) in links(text) {
            if link.contains("://") || link.starts_with("mailto:") {
                continue;
            }
            let (file, anchor) = link.split_once('#').unwrap_or((link, ""));
            let target = if file.is_empty() { path.to_owned() } else { resolve(path, file) };
            if !tree.exists(&target) {
                findings.push(Finding::new(path, line, format!("{link} does not exist")));
            } else if !anchor.is_empty()
                && !tree.get(&target).is_some_and(|t| has_heading(t, anchor))
            {
                findings.push(Finding::new(path, line, format!("{link}: no such heading")));
            }
        }
    }
    Ok(findings)
}

/// Targets of `[text](target)` outside code blocks, with line numbers.
fn links(text: &str) -> Vec<(usize, &str)> {
    let mut links = Vec::new();
    let mut code = false;
    for (number, line) in text.lines().enumerate() {
        if line.trim_start().starts_with("```") {
            code = !code;
        }
        if code {
            continue;
        }
        let targets = line.split("](").skip(1).filter_map(|rest| rest.split_once(')'));
        links.extend(targets.map(|(target, _)| (number + 1, target)));
    }
    links
}

/// The path of a link in the file `from`.
fn resolve(from: &str, link: &str) -> String {
    let mut parts: Vec<&str> = from.split('/').collect();
    parts.pop();
    for part in link.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    parts.join("/")
}

/// Whether a Markdown file has a heading with this anchor, as GitHub derives it.
fn has_heading(text: &str, anchor: &str) -> bool {
    text.lines().filter(|line| line.starts_with('#')).any(|line| {
        let heading = line.trim_start_matches('#').trim().to_lowercase();
        let derived: String = heading
            .chars()
            .filter(|c| c.is_alphanumeric() || [' ', '-', '_'].contains(c))
            .map(|c| if c == ' ' { '-' } else { c })
            .collect();
        derived == anchor
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn broken_relative_link_is_found() {
        let tree = Tree::of(&[
            ("README.md", "[a](docs/A.md) [b](docs/B.md)\n```\n[c](d)\n```\n[e](https://x/y)"),
            ("docs/A.md", "# First part\n[up](../README.md) [self](#first-part) [dir](../docs/)"),
            ("docs/C.md", "[gone](A.md#second-part)"),
        ]);
        let found: Vec<String> =
            relative(&tree).expect("checked").iter().map(ToString::to_string).collect();
        assert_eq!(
            found,
            [
                "README.md:1: docs/B.md does not exist",
                "docs/C.md:1: A.md#second-part: no such heading"
            ]
        );
    }
}
