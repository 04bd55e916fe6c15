//! Dependencies between the crates of the workspace.

use std::collections::BTreeSet;

use anyhow::Result;

use super::Finding;
use super::tree::Tree;

/// A crate, and the crates of the workspace that it may depend on.
type Allowed = (&'static str, &'static [&'static str]);

/// Crates below tests/ may depend on any other.
const ALLOWED: [Allowed; 9] = [
    ("sluice-abi", &[]),
    ("sluice-packet", &["sluice-abi"]),
    ("sluice-ebpf", &["sluice-abi", "sluice-packet"]),
    ("sluice-bpf", &["sluice-abi"]),
    ("sluice-pod", &["sluice-abi", "sluice-bpf"]),
    ("sluice-cni", &["sluice-abi", "sluice-bpf", "sluice-pod"]),
    ("sluice-core", &["sluice-abi"]),
    ("sluice-agent", &["sluice-abi", "sluice-bpf", "sluice-core", "sluice-packet", "sluice-pod"]),
    ("xtask", &[]),
];

const TESTS: &str = "tests/";

/// A crate depends only on what [`ALLOWED`] lists. Dev-dependencies are exempt.
pub fn dependencies(tree: &Tree) -> Result<Vec<Finding>> {
    let manifests: Vec<Manifest> = tree
        .below("")
        .filter(|(path, _)| path.rsplit('/').next() == Some("Cargo.toml"))
        .filter_map(|(path, text)| Manifest::parse(path, text))
        .collect();
    let own: BTreeSet<&str> = manifests.iter().map(|manifest| manifest.name).collect();
    let mut findings = Vec::new();
    for manifest in manifests.iter().filter(|manifest| !manifest.path.starts_with(TESTS)) {
        let Some((_, allowed)) = ALLOWED.iter().find(|(name, _)| *name == manifest.name) else {
            let message = format!("{} is not in the table of crate dependencies", manifest.name);
            findings.push(Finding::new(manifest.path, 0, message));
            continue;
        };
        for (line, dependency) in &manifest.dependencies {
            if own.contains(dependency) && !allowed.contains(dependency) {
                let message = format!("{} must not depend on {dependency}", manifest.name);
                findings.push(Finding::new(manifest.path, *line, message));
            }
        }
    }
    Ok(findings)
}

struct Manifest<'a> {
    path: &'a str,
    name: &'a str,
    /// Line and package name.
    dependencies: Vec<(usize, &'a str)>,
}

impl<'a> Manifest<'a> {
    /// Reads what the rule needs; `None` if the file has no package.
    fn parse(path: &'a str, text: &'a str) -> Option<Self> {
        let mut section = "";
        let mut name = None;
        let mut dependencies = Vec::new();
        for (number, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.starts_with('#') {
                continue;
            }
            if let Some(header) = line.strip_prefix('[') {
                section = header.trim_end_matches(']');
                // [dependencies.NAME]
                if let Some(package) = section.strip_prefix("dependencies.") {
                    dependencies.push((number + 1, package));
                }
                continue;
            }
            let Some((key, value)) = line.split_once('=') else { continue };
            if section == "package" && key.trim() == "name" {
                name = Some(value.trim().trim_matches('"'));
            }
            let normal = section == "dependencies" || section == "build-dependencies";
            if normal || (section.starts_with("target.") && section.ends_with(".dependencies")) {
                let key = key.split('.').next().unwrap_or_default().trim();
                dependencies.push((number + 1, renamed(value).unwrap_or(key)));
            }
        }
        Some(Self { path, name: name?, dependencies })
    }
}

/// The value of `package` in an inline table.
fn renamed(value: &str) -> Option<&str> {
    let (_, rest) = value.split_once("package")?;
    rest.split('"').nth(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest(name: &str, rest: &str) -> String {
        format!("[package]\nname = \"{name}\"\n{rest}\n")
    }

    #[test]
    fn forbidden_dependency_is_found_under_any_name() {
        let abi = manifest("sluice-abi", "");
        for (dependency, line) in [
            ("[dependencies]\nsluice-abi.workspace = true", 4),
            ("[dependencies]\nshared = { package = \"sluice-abi\", path = \"../ebpf/abi\" }", 4),
            ("[dependencies.sluice-abi]\npath = \"../ebpf/abi\"", 3),
            ("[target.'cfg(unix)'.dependencies]\nsluice-abi = { path = \"../ebpf/abi\" }", 4),
            ("[build-dependencies]\nsluice-abi.workspace = true", 4),
        ] {
            let xtask = manifest("xtask", dependency);
            let tree = Tree::of(&[("ebpf/abi/Cargo.toml", &abi), ("xtask/Cargo.toml", &xtask)]);
            let expected =
                Finding::new("xtask/Cargo.toml", line, "xtask must not depend on sluice-abi");
            assert_eq!(dependencies(&tree).expect("checked"), [expected], "{dependency}");
        }
    }

    #[test]
    fn allowed_dev_and_test_dependencies_are_no_findings() {
        let tree = Tree::of(&[
            ("ebpf/abi/Cargo.toml", &manifest("sluice-abi", "[dependencies]\nzerocopy = \"1\"")),
            (
                "ebpf/packet/Cargo.toml",
                &manifest("sluice-packet", "[dependencies]\nsluice-abi.x = 1"),
            ),
            ("xtask/Cargo.toml", &manifest("xtask", "[dev-dependencies]\nsluice-abi = \"1\"")),
            ("tests/a/Cargo.toml", &manifest("a", "[dependencies]\nsluice-packet = \"1\"")),
            ("Cargo.toml", "[workspace.dependencies]\nsluice-abi = { path = \"ebpf/abi\" }"),
        ]);
        assert_eq!(dependencies(&tree).expect("checked"), []);
    }

    #[test]
    fn crate_outside_the_table_is_found() {
        let tree = Tree::of(&[("new/Cargo.toml", &manifest("sluice-new", ""))]);
        assert_eq!(dependencies(&tree).expect("checked").len(), 1);
    }
}
