//! One order and one form of imports; rustfmt sorts them within their group.

use anyhow::Result;
use syn::spanned::Spanned;
use syn::{Item, ItemUse, UseTree, Visibility};

use super::Finding;
use super::source::parse;
use super::tree::Tree;

/// Crates of the first group.
const STANDARD: [&str; 3] = ["std", "core", "alloc"];
/// First segments of the last group, besides the modules that the file declares.
const OWN: [&str; 3] = ["crate", "self", "super"];

const ORDER: &str = "imports are in this order: the standard library, other crates, this crate";
const FORM: &str = "an import has no path within braces";

/// Private imports of each module are in order, and no import has a path within braces.
pub fn order(tree: &Tree) -> Result<Vec<Finding>> {
    let mut findings = Vec::new();
    for (path, text) in tree.with_extension("", "rs") {
        add_findings(path, &parse(path, text)?.items, &mut findings);
    }
    Ok(findings)
}

fn add_findings(path: &str, items: &[Item], findings: &mut Vec<Finding>) {
    let own: Vec<String> = items.iter().filter_map(declared).collect();
    let imports = || items.iter().filter_map(import);
    let mut last = 0;
    for import in imports().filter(|import| matches!(import.vis, Visibility::Inherited)) {
        let group = group(import, &own);
        if group < last {
            findings.push(Finding::new(path, import.span().start().line, ORDER));
        }
        last = last.max(group);
    }
    for import in imports().filter(|import| has_nested_path(&import.tree, false)) {
        findings.push(Finding::new(path, import.span().start().line, FORM));
    }
    for item in items {
        if let Item::Mod(module) = item
            && let Some((_, items)) = &module.content
        {
            add_findings(path, items, findings);
        }
    }
}

fn import(item: &Item) -> Option<&ItemUse> {
    match item {
        Item::Use(import) => Some(import),
        _ => None,
    }
}

/// The name of a module that is declared.
fn declared(item: &Item) -> Option<String> {
    match item {
        Item::Mod(module) => Some(module.ident.to_string()),
        _ => None,
    }
}

/// Number of an import's group.
fn group(import: &ItemUse, own: &[String]) -> u8 {
    let first = match &import.tree {
        UseTree::Path(path) => path.ident.to_string(),
        UseTree::Name(name) => name.ident.to_string(),
        UseTree::Rename(rename) => rename.ident.to_string(),
        UseTree::Glob(_) | UseTree::Group(_) => return 2,
    };
    if STANDARD.contains(&first.as_str()) {
        0
    } else if OWN.contains(&first.as_str())
        || import.leading_colon.is_none() && own.contains(&first)
    {
        2
    } else {
        1
    }
}

fn has_nested_path(tree: &UseTree, in_group: bool) -> bool {
    match tree {
        UseTree::Path(path) => in_group || has_nested_path(&path.tree, in_group),
        UseTree::Group(group) => group.items.iter().any(|item| has_nested_path(item, true)),
        UseTree::Name(_) | UseTree::Rename(_) | UseTree::Glob(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, lines: &[usize]) {
        let found = order(&Tree::of(&[("a.rs", text)])).expect("valid Rust");
        assert_eq!(found.iter().map(|finding| finding.line).collect::<Vec<_>>(), lines, "{text}");
    }

    #[test]
    fn groups_are_in_order() {
        check("mod part;\nuse std::io;\nuse anyhow::Result;\nuse part::X;\nuse super::Y;", &[]);
        check("use anyhow::Result;\nuse std::io;", &[2]);
        check("use crate::x;\nuse anyhow::Result;\nuse std::io;", &[2, 3]);
        check("mod part;\nuse part::X;\nuse anyhow::Result;", &[3]);
        check("mod part;\nuse super::X;\nuse ::part::Y;", &[3]);
        check("mod part {\nuse super::X;\nuse std::io;\n}", &[3]);
        // A re-export can be beside its module.
        check("mod part;\npub use part::X;\nuse std::io;", &[]);
    }

    #[test]
    fn imports_have_one_module_each() {
        check("use std::{fs, io};\nuse std::io::{self, Read as _};", &[]);
        check("use std::{fs, io::Read};\npub use std::{fs::{self}};", &[1, 2]);
    }
}
