//! Relative links and paths in Markdown files.

use anyhow::Result;

use super::Finding;
use super::tree::Tree;

/// Folders of the repository, and of a crate, with which a path in a text begins.
const FOLDERS: [&str; 8] =
    ["agent", "cni-plugin", "deploy", "docs", "ebpf", "src", "tests", "xtask"];

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

/// Every path in backticks exists, from the root of the repository or from the folder of the text. Of
/// a path with a placeholder, `*` or `<name>`, this is the part before it.
pub fn paths(tree: &Tree) -> Result<Vec<Finding>> {
    let mut findings = Vec::new();
    for (file, text) in tree.with_extension("", "md") {
        for (line, word) in code_words(text) {
            let path = word.split(['*', '<']).next().unwrap_or(word);
            let path = if path == word { path } else { path.rsplit_once('/').map_or("", |p| p.0) };
            if !tree.exists(path) && !tree.exists(&resolve(file, path)) {
                findings.push(Finding::new(file, line, format!("{word} does not exist")));
            }
        }
    }
    Ok(findings)
}

/// Words in backticks that begin with one of [`FOLDERS`], with line numbers.
fn code_words(text: &str) -> Vec<(usize, &str)> {
    let mut found = Vec::new();
    for (number, line) in prose(text) {
        let words = line.split('`').skip(1).step_by(2).flat_map(str::split_whitespace);
        let words = words.map(|word| word.trim_matches([',', ';', ':', '(', ')']));
        let is_path = |word: &&str| word.split_once('/').is_some_and(|(f, _)| FOLDERS.contains(&f));
        found.extend(words.filter(is_path).map(|word| (number, word)));
    }
    found
}

/// Targets of `[text](target)` outside code blocks, with line numbers.
fn links(text: &str) -> Vec<(usize, &str)> {
    let mut links = Vec::new();
    for (number, line) in prose(text) {
        let targets = line.split("](").skip(1).filter_map(|rest| rest.split_once(')'));
        links.extend(targets.map(|(target, _)| (number, target)));
    }
    links
}

/// Lines outside code blocks, with their numbers.
fn prose(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut code = false;
    text.lines().enumerate().filter_map(move |(index, line)| {
        if line.trim_start().starts_with("```") {
            code = !code;
        }
        (!code).then_some((index + 1, line))
    })
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
    #[test]
    fn path_that_does_not_exist_is_found() {
        let tree = Tree::of(&[
            ("agent/README.md", "`src/main.rs`, `src/gone.rs`, src/prose.rs\n```\n`src/code`\n```"),
            ("agent/src/main.rs", ""),
            ("tests/fuzz/src/lib.rs", ""),
            ("README.md", "`tests/fuzz/src/<target>.rs`, `tests/*`, `run agent/src/old.rs`, `a/b`"),
            ("docs/A.md", "`tests/gone/<name>/` `/agent/x` `src/main.rs`"),
        ]);
        let found: Vec<String> =
            paths(&tree).expect("checked").iter().map(ToString::to_string).collect();
        let expected = [
            "README.md:1: agent/src/old.rs does not exist",
            "agent/README.md:1: src/gone.rs does not exist",
            "docs/A.md:1: tests/gone/<name>/ does not exist",
            "docs/A.md:1: src/main.rs does not exist",
        ];
        assert_eq!(found, expected);
    }
}
