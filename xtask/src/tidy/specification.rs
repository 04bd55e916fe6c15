//! docs/SPECIFICATION.md, docs/THREAT_MODEL.md and docs/CONTRACT.md name tests that exist.

use anyhow::Result;

use super::Finding;
use super::tree::Tree;
use crate::contract;

/// The pages, and the cell of a row with its tests, from the last one.
const PAGES: [(&str, usize); 3] =
    [("docs/SPECIFICATION.md", 0), ("docs/THREAT_MODEL.md", 0), (contract::PAGE, 1)];

/// A level, and the folder of its tests. Unit tests are beside the code.
const LEVELS: [(&str, &str); 4] = [
    ("unit", ""),
    ("packet", "tests/packet/"),
    ("netns", "tests/netns/"),
    ("cluster", "tests/cluster/"),
];

/// In the cell for tests, a level is followed by names in backticks: of test functions, of cases,
/// or paths.
pub fn tests(tree: &Tree) -> Result<Vec<Finding>> {
    let mut findings = Vec::new();
    for (page, column) in PAGES {
        let text = tree.get(page).unwrap_or_default();
        for (number, line) in text.lines().enumerate() {
            if !line.starts_with('|') {
                continue;
            }
            let cells = line.strip_suffix('|').unwrap_or(line);
            let Some(cell) = cells.rsplit('|').nth(column) else { continue };
            // Specifications of Kubernetes are not part of this repository.
            let ours = cell.split(';').filter(|part| !part.trim().starts_with("upstream"));
            for (level, folder, name) in named(&ours.collect::<Vec<_>>().join(";")) {
                if !exists(tree, folder, name) {
                    let message = format!("no {level} test is called {name}");
                    findings.push(Finding::new(page, number + 1, message));
                }
            }
        }
    }
    Ok(findings)
}

/// Levels and names in a cell.
fn named(cell: &str) -> Vec<(&'static str, &'static str, &str)> {
    let mut level = None;
    let mut names = Vec::new();
    for (index, part) in cell.split('`').enumerate() {
        if index % 2 == 1 {
            names.extend(level.map(|(level, folder)| (level, folder, part)));
            continue;
        }
        let words = part.split(|c: char| !c.is_alphanumeric());
        for word in words {
            level = LEVELS.iter().copied().find(|(name, _)| *name == word).or(level);
        }
        // Text after names, as in "`cargo xtask build` fails otherwise", ends the list.
        if part.contains(';') && !LEVELS.iter().any(|(name, _)| part.contains(name)) {
            level = None;
        }
    }
    names
}

fn exists(tree: &Tree, folder: &str, name: &str) -> bool {
    if name.contains('/') {
        return tree.exists(name);
    }
    tree.with_extension(folder, "rs").any(|(_, text)| has_test(text, name))
        || tree.below(folder).any(|(path, _)| is_case(path, name))
}

/// Whether a source has a test function of this name: one with an attribute `#[test]` or
/// `#[tokio::test]`, which can be followed by others.
fn has_test(text: &str, name: &str) -> bool {
    text.match_indices(&format!("fn {name}(")).any(|(at, _)| {
        let before = text.get(..at).unwrap_or_default();
        let attributes = before.rsplit(['}', ';', '{']).next().unwrap_or_default();
        ["#[test]", "#[tokio::test"].iter().any(|attribute| attributes.contains(attribute))
    })
}

/// Whether a path is the file or folder of this case, below a folder `cases`. Tests of each level
/// fail if a case is not run.
fn is_case(path: &str, name: &str) -> bool {
    let below = path.split('/').skip_while(|part| *part != "cases").nth(1);
    below.is_some_and(|part| part.split('.').next() == Some(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(cell: &str) -> Vec<String> {
        let tree = Tree::of(&[
            (PAGES[0].0, &format!("| promise | held by |\n|---|---|\n| it works | {cell} |\n")),
            ("tests/packet/tests/service.rs", "#[test] fn hairpin() {}"),
            ("tests/packet/cases/fragments.conv", "# A case\ncase: 1\n"),
            ("tests/cluster/cases/pod-ping/steps.yaml", ""),
            (
                "agent/core/src/index/mod.rs",
                "#[test] fn slices_add_up() { let x = 1; }\n\
                 /// Not a test.\nfn helper() {}\n\
                 #[tokio::test(start_paused = true)]\nasync fn loop_ends() {}",
            ),
        ]);
        super::tests(&tree).expect("checked").iter().map(ToString::to_string).collect()
    }

    #[test]
    fn functions_cases_and_paths_are_tests() {
        let cell = "packet `hairpin`, `fragments`; cluster `pod-ping`; unit `slices_add_up`, `loop_ends`, `agent/core/src`";
        assert_eq!(found(cell), Vec::<String>::new());
        assert_eq!(found("`cargo xtask build` fails otherwise"), Vec::<String>::new());
    }

    #[test]
    fn missing_test_and_test_of_another_level_are_found() {
        for cell in [
            "packet `gone`",
            "unit `helper`",
            // A word of a case.
            "packet `case`",
            "cluster `hairpin`",
            "packet `hairpin`; netns `pod-ping`",
            "unit `a/b`",
        ] {
            assert_eq!(found(cell).len(), 1, "{cell}");
        }
    }
}
