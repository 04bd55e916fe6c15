//! Names, sizes and places of files.

use std::collections::BTreeSet;

use anyhow::Result;

use super::Finding;
use super::source;
use super::tree::Tree;
use crate::test::CLUSTER_PHASES;

/// Names that say nothing about the contents.
const EMPTY_NAMES: [&str; 9] =
    ["common", "helper", "helpers", "manager", "misc", "shared", "stuff", "util", "utils"];

const MAX_LINES: usize = 400;

/// Rust files that are longer, and why.
const LONG_FILES: [(&str, &str); 0] = [];

const CLUSTER_TESTS: &str = "tests/cluster/tests/";
const CLUSTER_CASES: &str = "tests/cluster/cases/";
const CASE_LIST: &str = "tests/cluster/tests/cases.rs";

/// No file or folder has one of [`EMPTY_NAMES`].
pub fn names(tree: &Tree) -> Result<Vec<Finding>> {
    let mut findings = Vec::new();
    for (path, _) in tree.below("") {
        for part in path.split('/') {
            let stem = part.split('.').next().unwrap_or_default();
            if EMPTY_NAMES.contains(&stem) {
                findings.push(Finding::new(path, 0, format!("`{stem}` does not name a subject")));
            }
        }
    }
    Ok(findings)
}

/// Rust files have at most [`MAX_LINES`] lines, except [`LONG_FILES`], which are longer.
pub fn sizes(tree: &Tree) -> Result<Vec<Finding>> {
    Ok(oversized(tree, &LONG_FILES))
}

fn oversized(tree: &Tree, long_files: &[(&str, &str)]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (path, text) in tree.with_extension("", "rs") {
        let lines = text.lines().count();
        let listed = long_files.iter().any(|(long, _)| *long == path);
        if lines > MAX_LINES && !listed {
            let message = format!("{lines} lines; the limit is {MAX_LINES}");
            findings.push(Finding::new(path, 0, message));
        }
        if lines <= MAX_LINES && listed {
            findings.push(Finding::new(path, 0, "no longer needs its exception"));
        }
    }
    for (path, _) in long_files.iter().filter(|(path, _)| tree.get(path).is_none()) {
        findings.push(Finding::new(path, 0, "has an exception but does not exist"));
    }
    findings
}

/// Every Rust file is the root of a target or declared by a `mod` item: others are not compiled.
pub fn orphans(tree: &Tree) -> Result<Vec<Finding>> {
    let mut declared = BTreeSet::new();
    for (path, text) in tree.with_extension("", "rs") {
        declared_files(path, text, &mut declared)?;
    }
    let findings = tree
        .with_extension("", "rs")
        .filter(|(path, _)| !is_target_root(tree, path) && !declared.contains(*path))
        .map(|(path, _)| Finding::new(path, 0, "is not declared by any `mod` item"));
    Ok(findings.collect())
}

/// Adds the paths that the `mod` items of a file may refer to.
fn declared_files(path: &str, text: &str, declared: &mut BTreeSet<String>) -> Result<()> {
    let (folder, name) = path.rsplit_once('/').unwrap_or(("", path));
    let stem = name.trim_end_matches(".rs");
    let own = format!("{folder}/{stem}");
    // A root of a target and a mod.rs declare files beside them; other files below their name.
    add_declared(&source::parse(path, text)?.items, &[folder, &own], folder, declared);
    Ok(())
}

fn add_declared(
    items: &[syn::Item],
    bases: &[&str],
    folder: &str,
    declared: &mut BTreeSet<String>,
) {
    for item in items {
        let syn::Item::Mod(item) = item else { continue };
        let name = item.ident.to_string();
        for attribute in &item.attrs {
            if let syn::Meta::NameValue(meta) = &attribute.meta
                && meta.path.is_ident("path")
                && let syn::Expr::Lit(syn::ExprLit { lit: syn::Lit::Str(path), .. }) = &meta.value
            {
                declared.insert(format!("{folder}/{}", path.value()));
            }
        }
        let nested: Vec<String> = bases.iter().map(|base| format!("{base}/{name}")).collect();
        match &item.content {
            Some((_, items)) => {
                let nested: Vec<&str> = nested.iter().map(String::as_str).collect();
                add_declared(items, &nested, folder, declared);
            }
            None => {
                for base in nested {
                    declared.insert(format!("{base}.rs"));
                    declared.insert(format!("{base}/mod.rs"));
                }
            }
        }
    }
}

/// Whether cargo finds the file as the root of a target.
fn is_target_root(tree: &Tree, path: &str) -> bool {
    let parts: Vec<&str> = path.split('/').collect();
    let (Some(name), Some(folder)) =
        (parts.last(), parts.len().checked_sub(2).map(|i| &parts[..=i]))
    else {
        return false;
    };
    let is_package =
        |folder: &[&str]| tree.get(&format!("{}/Cargo.toml", folder.join("/"))).is_some();
    match folder {
        [package @ .., "src"] => is_package(package) && ["main.rs", "lib.rs"].contains(name),
        [package @ .., "src", "bin"] | [package @ .., "tests" | "examples" | "benches"] => {
            is_package(package)
        }
        [package @ .., "src", "bin", _] | [package @ .., "tests" | "examples", _] => {
            is_package(package) && *name == "main.rs"
        }
        // Files of fuzz targets and build scripts beside a manifest.
        package => is_package(package),
    }
}

/// Every test binary of the cluster level is in exactly one phase, and every phase's files exist.
pub fn phases(tree: &Tree) -> Result<Vec<Finding>> {
    let listed: Vec<&str> = CLUSTER_PHASES.iter().flat_map(|phase| phase.tests).copied().collect();
    Ok(compare_phases(tree, &listed))
}

fn compare_phases(tree: &Tree, listed: &[&str]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (path, _) in tree.with_extension(CLUSTER_TESTS, "rs") {
        let name = path.strip_prefix(CLUSTER_TESTS).unwrap_or(path).trim_end_matches(".rs");
        let name = name.strip_suffix("/main").unwrap_or(name);
        let count = listed.iter().filter(|listed| **listed == name).count();
        if count != 1 && !name.contains('/') {
            let message = format!("is in {count} of CLUSTER_PHASES, xtask/src/test/level.rs");
            findings.push(Finding::new(path, 0, message));
        }
    }
    for name in listed {
        let path = format!("{CLUSTER_TESTS}{name}.rs");
        if tree.get(&path).is_none()
            && tree.get(&format!("{CLUSTER_TESTS}{name}/main.rs")).is_none()
        {
            findings.push(Finding::new(&path, 0, "is in CLUSTER_PHASES but does not exist"));
        }
    }
    findings
}

/// Every folder with a case of the cluster level is in the list of cases.
pub fn cases(tree: &Tree) -> Result<Vec<Finding>> {
    let list = tree.get(CASE_LIST).unwrap_or_default();
    let folders: BTreeSet<&str> = tree
        .below(CLUSTER_CASES)
        .filter_map(|(path, _)| path.strip_prefix(CLUSTER_CASES)?.split('/').next())
        .collect();
    let findings = folders
        .iter()
        .filter(|name| !list.contains(&format!("\"{name}\"")))
        .map(|name| Finding::new(CASE_LIST, 0, format!("case {name} is not listed")));
    Ok(findings.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paths(findings: Vec<Finding>) -> Vec<String> {
        findings.into_iter().map(|finding| finding.path).collect()
    }

    #[test]
    fn file_or_folder_without_a_subject_is_found() {
        let tree =
            Tree::of(&[("a/src/utils.rs", ""), ("a/common/x.rs", ""), ("a/src/route.rs", "")]);
        assert_eq!(paths(names(&tree).expect("checked")), ["a/common/x.rs", "a/src/utils.rs"]);
    }

    #[test]
    fn long_file_is_found_unless_it_has_an_exception() {
        let long = "\n".repeat(MAX_LINES + 1);
        let tree = Tree::of(&[("a.rs", &long), ("b.rs", &long[1..])]);
        assert_eq!(paths(oversized(&tree, &[])), ["a.rs"]);
        assert_eq!(paths(oversized(&tree, &[("a.rs", "reason")])), Vec::<String>::new());
        let unused = [("a.rs", ""), ("b.rs", ""), ("c.rs", "")];
        assert_eq!(paths(oversized(&tree, &unused)), ["b.rs", "c.rs"]);
    }

    #[test]
    fn file_without_a_mod_item_is_found() {
        let tree = Tree::of(&[
            ("a/Cargo.toml", ""),
            ("a/build.rs", ""),
            (
                "a/src/lib.rs",
                "mod one; mod two { mod deep; } #[cfg(test)] #[path = \"odd.rs\"] mod x;",
            ),
            ("a/src/one/mod.rs", "mod part;"),
            ("a/src/one/part.rs", "mod leaf;"),
            ("a/src/one/part/leaf.rs", ""),
            ("a/src/two/deep.rs", ""),
            ("a/src/odd.rs", ""),
            ("a/src/bin/tool/main.rs", ""),
            ("a/tests/flows.rs", ""),
            ("a/tests/cni/main.rs", "mod chain;"),
            ("a/tests/cni/chain.rs", ""),
            ("a/tests/cni/lost.rs", ""),
            ("a/src/lost.rs", ""),
        ]);
        let found = paths(orphans(&tree).expect("checked"));
        assert_eq!(found, ["a/src/lost.rs", "a/tests/cni/lost.rs"]);
    }

    #[test]
    fn cluster_test_outside_the_phases_is_found() {
        let tree = Tree::of(&[
            ("tests/cluster/tests/new.rs", ""),
            ("tests/cluster/tests/old.rs", ""),
            ("tests/cluster/tests/large/main.rs", ""),
            ("tests/cluster/tests/large/part.rs", ""),
        ]);
        assert_eq!(compare_phases(&tree, &["new", "old", "large"]), []);
        assert_eq!(
            paths(compare_phases(&tree, &["old", "old", "gone", "large"])),
            [
                "tests/cluster/tests/new.rs",
                "tests/cluster/tests/old.rs",
                "tests/cluster/tests/gone.rs"
            ]
        );
    }

    #[test]
    fn case_outside_the_list_is_found() {
        let tree = Tree::of(&[
            (CASE_LIST, "cases! { a = \"a\", }"),
            ("tests/cluster/cases/a/steps.yaml", ""),
            ("tests/cluster/cases/b/steps.yaml", ""),
        ]);
        let findings = cases(&tree).expect("checked");
        assert_eq!(findings, [Finding::new(CASE_LIST, 0, "case b is not listed")]);
    }
}
