//! Manifests in, tables out: every `cases/NAME.yaml` compiles to `cases/NAME.dump`.
//!
//! `UPDATE=1 cargo test -p sluice-agent cases` writes the dumps again. The node of the agent is
//! `worker`.

use std::path::{Path, PathBuf};
use std::{env, fs};

use sluice_core::model::{Change, Object};
use sluice_core::{Index, NodeContext, Tables, dump};

use super::folder;

const NODE: &str = "worker";

/// Number of cases; one that is not found fails the test.
const CASES: usize = 12;

/// Files of the directory of cases with this extension, sorted.
fn files(extension: &str) -> Vec<PathBuf> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("cases");
    let mut files: Vec<PathBuf> = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|e| e == extension))
        .collect();
    files.sort();
    files
}

fn compile(objects: &[Object]) -> String {
    let mut index = Index::new(NODE);
    Change::lists(objects.iter()).into_iter().for_each(|change| index.apply(change));
    dump::tables(&Tables::full(&index, &NodeContext::default()))
}

#[test]
fn manifests_compile_to_the_expected_tables() {
    let update = env::var_os("UPDATE").is_some();
    let cases = files("yaml");
    assert_eq!(cases.len(), CASES);
    let mut failed = Vec::new();
    for case in cases {
        let objects = folder::parse(&fs::read(&case).unwrap());
        let tables = compile(&objects.unwrap_or_else(|e| panic!("{}: {e}", case.display())));
        let expected = case.with_extension("dump");
        if update {
            fs::write(&expected, &tables).unwrap();
        }
        let want = fs::read_to_string(&expected).unwrap_or_default();
        if tables != want {
            failed.push(format!("{}\n--- expected\n{want}--- compiled\n{tables}", case.display()));
        }
    }
    assert!(failed.is_empty(), "{}", failed.join("\n"));
    assert_eq!(files("dump").len(), CASES, "a dump without its manifests");
}
