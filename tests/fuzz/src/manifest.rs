//! A YAML file of the manifest folder, and the tables that its objects compile to.
//!
//! A further document adds its object and changes no other. The tables do not depend on the order
//! of the objects. An error names the document.

use std::collections::BTreeSet;

use sluice_agent::source::folder::{ManifestError, parse};
use sluice_core::model::{Change, Object};
use sluice_core::{Index, NodeContext, Tables, dump};

use crate::api_object;

const NODE: &str = "worker";
const DOCUMENT: &[u8] = b"\n---\n{kind: Namespace, metadata: {name: added}}\n";

pub(super) fn run(data: &[u8]) {
    // libyaml also reads UTF-16, which the document below is not.
    if str::from_utf8(data).is_err() {
        return;
    }
    match parse(data) {
        Ok(objects) => {
            objects.iter().for_each(api_object::check);
            let more = parse(&[data, DOCUMENT].concat()).expect("a valid document more");
            assert_eq!(more.len(), objects.len() + 1);
            assert_eq!(more[..objects.len()], objects);
            compile_in_both_orders(objects);
        }
        Err(ManifestError::Document { number, source }) => {
            assert!(number >= 1);
            assert!(!source.to_string().is_empty());
        }
        Err(e) => panic!("{e}"),
    }
}

fn compile_in_both_orders(mut objects: Vec<Object>) {
    let names: BTreeSet<_> = objects.iter().map(|o| (o.kind(), o.name())).collect();
    let tables = compile(&objects);
    // Of two objects with the same name, the last one counts.
    if names.len() == objects.len() {
        objects.reverse();
        assert_eq!(compile(&objects), tables);
    }
}

fn compile(objects: &[Object]) -> String {
    let mut index = Index::new(NODE);
    Change::lists(objects.iter()).into_iter().for_each(|change| index.apply(change));
    dump::tables(&Tables::full(&index, &NodeContext::default()))
}
