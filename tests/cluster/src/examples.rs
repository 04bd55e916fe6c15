//! The policies of `docs/examples/policies`, which the tests apply as they are.

use std::fs;
use std::path::PathBuf;

/// A connection between two pods of the grid of `tests/policy_matrix/main.rs`. The examples are applied in the
/// namespace `a`; `b` is the namespace `ingress-nginx`, with the label `purpose=monitoring`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Connection<'a> {
    /// Namespace of the client, `a` or `b`.
    pub from: &'a str,
    /// Namespace of the server.
    pub to: &'a str,
    /// Name and label `app` of the server: `web`, `db` or `api`.
    pub app: &'a str,
    /// Port of the server, 8080 or 9090.
    pub port: u16,
}

/// Whether a connection by pod address passes.
pub type Expectation = fn(Connection<'_>) -> bool;

/// Examples that are applied in a grid of pods, one at a time, and what their comments say. The others are
/// steps of the cases in `cases/`.
pub const IN_GRID: [(&str, Expectation); 6] = [
    ("default-deny-ingress", |c| c.to != "a"),
    ("default-deny-all", |c| c.from != "a" && c.to != "a"),
    ("allow-dns", |c| c.from != "a"),
    ("same-namespace", |c| c.to != "a" || c.from == "a"),
    ("namespaces-by-label", |c| c.to != "a" || c.app != "web" || c.from == "b"),
    ("allow-ingress-controller", |c| {
        c.to != "a" || c.app != "web" || (c.from == "b" && c.port == 8080)
    }),
];

fn folder() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/examples/policies"))
}

/// The manifest of an example.
pub fn manifest(name: &str) -> String {
    let path = folder().join(format!("{name}.yaml"));
    fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::case::{Apply, Case, Example, Step};

    /// The examples that the steps of the cases apply.
    fn in_cases() -> BTreeSet<String> {
        let cases = fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/cases")).unwrap();
        let steps = cases.flat_map(|case| {
            let path = case.unwrap().path().join("steps.yaml");
            let case: Case = serde_yaml::from_str(&fs::read_to_string(path).unwrap()).unwrap();
            case.steps
        });
        let example = |step: Step| match step {
            Step::Example(Example { example }) => Some(example),
            Step::Apply(Apply { apply }) => {
                assert!(!apply.contains('/'), "{apply} is outside the folder of its case");
                None
            }
            _ => None,
        };
        steps.filter_map(example).collect()
    }

    #[test]
    fn every_example_is_applied_by_a_test_and_explained() {
        let files = fs::read_dir(folder()).unwrap().map(|file| file.unwrap().path());
        let examples: BTreeSet<String> = files
            .filter(|path| path.extension().is_some_and(|extension| extension == "yaml"))
            .map(|path| path.file_stem().unwrap().to_str().unwrap().to_owned())
            .collect();
        let mut applied = in_cases();
        applied.extend(IN_GRID.iter().map(|(name, _)| (*name).to_owned()));
        assert_eq!(examples, applied);
        let page = fs::read_to_string(folder().join("README.md")).unwrap();
        for name in &examples {
            assert!(page.contains(&format!("({name}.yaml)")), "README.md does not explain {name}");
            assert!(manifest(name).starts_with("# "), "{name} has no comment");
        }
    }
}
