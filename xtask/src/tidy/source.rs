//! Reads Rust sources: the paths that a file uses.

use anyhow::{Context, Result};
use proc_macro2::{TokenStream, TokenTree};
use syn::spanned::Spanned;
use syn::visit::{self, Visit};

/// A path in a `use` declaration, an expression, a type or a macro call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Use {
    /// Line number.
    pub line: usize,
    /// Segments. `self` and `super` are resolved, so that a path within the crate starts with
    /// `crate`.
    pub path: Vec<String>,
}

impl Use {
    /// Whether the path starts with these segments.
    pub fn starts_with(&self, segments: &[&str]) -> bool {
        self.path.len() >= segments.len() && self.path.iter().zip(segments).all(|(a, b)| a == b)
    }

    /// The path as in the source.
    pub fn display(&self) -> String {
        self.path.join("::")
    }
}

/// Parses a file.
///
/// # Errors
/// When the file is not valid Rust.
pub fn parse(path: &str, text: &str) -> Result<syn::File> {
    syn::parse_file(text).with_context(|| format!("cannot parse {path}"))
}

/// The module path of a file below the `src/` directory of its crate: `reconcile/routes.rs` is
/// `["reconcile", "routes"]`.
pub fn module_path(below_src: &str) -> Vec<String> {
    let mut path: Vec<String> =
        below_src.trim_end_matches(".rs").split('/').map(str::to_owned).collect();
    if path.last().is_some_and(|last| ["mod", "lib", "main"].contains(&last.as_str())) {
        path.pop();
    }
    path
}

/// The paths that a file uses outside `#[cfg(test)]`.
///
/// # Errors
/// When the file is not valid Rust.
pub fn uses(path: &str, below_src: &str, text: &str) -> Result<Vec<Use>> {
    let mut visitor = Visitor { module: module_path(below_src), uses: Vec::new() };
    visitor.visit_file(&parse(path, text)?);
    Ok(visitor.uses)
}

/// Whether an item is compiled for tests only.
pub fn is_test(attributes: &[syn::Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        attribute.path().is_ident("test")
            || (attribute.path().is_ident("cfg")
                && attribute.parse_args::<syn::Ident>().is_ok_and(|ident| ident == "test"))
    })
}

/// Line and segments of each path in the arguments of a macro.
pub fn token_paths(tokens: TokenStream) -> Vec<(usize, Vec<String>)> {
    let mut paths = Vec::new();
    add_token_paths(tokens, &mut paths);
    paths
}

fn add_token_paths(tokens: TokenStream, paths: &mut Vec<(usize, Vec<String>)>) {
    let mut path: Vec<String> = Vec::new();
    let (mut line, mut colons) = (0, 0);
    for token in tokens {
        match token {
            TokenTree::Ident(ident) => {
                if colons != 2 {
                    paths.push((line, std::mem::take(&mut path)));
                    line = ident.span().start().line;
                }
                path.push(ident.to_string());
                colons = 0;
            }
            TokenTree::Punct(punct) if punct.as_char() == ':' && !path.is_empty() => colons += 1,
            other => {
                paths.push((line, std::mem::take(&mut path)));
                colons = 0;
                if let TokenTree::Group(group) = other {
                    add_token_paths(group.stream(), paths);
                }
            }
        }
    }
    paths.push((line, path));
    paths.retain(|(_, path)| !path.is_empty());
}

struct Visitor {
    module: Vec<String>,
    uses: Vec<Use>,
}

impl Visitor {
    fn add(&mut self, line: usize, segments: Vec<String>) {
        let mut base: Option<Vec<String>> = None;
        let mut rest = segments.iter().peekable();
        while let Some(segment) = rest.peek() {
            match segment.as_str() {
                "crate" => base = Some(Vec::new()),
                "self" => base = Some(base.unwrap_or_else(|| self.module.clone())),
                "super" => {
                    let mut parent = base.unwrap_or_else(|| self.module.clone());
                    parent.pop();
                    base = Some(parent);
                }
                _ => break,
            }
            rest.next();
        }
        let rest: Vec<String> = rest.cloned().collect();
        let path = match base {
            Some(base) => [vec!["crate".to_owned()], base, rest].concat(),
            None => rest,
        };
        if path.len() > 1 {
            self.uses.push(Use { line, path });
        }
    }

    fn add_tree(&mut self, tree: &syn::UseTree, prefix: &[String]) {
        match tree {
            syn::UseTree::Path(path) => {
                let prefix = [prefix, &[path.ident.to_string()]].concat();
                self.add_tree(&path.tree, &prefix);
            }
            syn::UseTree::Group(group) => {
                for tree in &group.items {
                    self.add_tree(tree, prefix);
                }
            }
            syn::UseTree::Name(syn::UseName { ident })
            | syn::UseTree::Rename(syn::UseRename { ident, .. }) => {
                self.add(ident.span().start().line, [prefix, &[ident.to_string()]].concat());
            }
            syn::UseTree::Glob(glob) => {
                self.add(glob.span().start().line, [prefix, &["*".to_owned()]].concat());
            }
        }
    }
}

impl<'ast> Visit<'ast> for Visitor {
    fn visit_item_mod(&mut self, item: &'ast syn::ItemMod) {
        if is_test(&item.attrs) {
            return;
        }
        self.module.push(item.ident.to_string());
        visit::visit_item_mod(self, item);
        self.module.pop();
    }

    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        if !is_test(&item.attrs) {
            self.add_tree(&item.tree, &[]);
        }
    }

    fn visit_item_fn(&mut self, item: &'ast syn::ItemFn) {
        if !is_test(&item.attrs) {
            visit::visit_item_fn(self, item);
        }
    }

    fn visit_item_impl(&mut self, item: &'ast syn::ItemImpl) {
        if !is_test(&item.attrs) {
            visit::visit_item_impl(self, item);
        }
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let segments = path.segments.iter().map(|segment| segment.ident.to_string()).collect();
        self.add(path.span().start().line, segments);
        visit::visit_path(self, path);
    }

    fn visit_macro(&mut self, item: &'ast syn::Macro) {
        for (line, path) in token_paths(item.tokens.clone()) {
            self.add(line, path);
        }
        visit::visit_macro(self, item);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_of_declarations_expressions_and_macros_are_found() {
        let text = "
            use crate::state::{Node, self as s};
            use super::retry::Backoff;
            fn f() { kube::Client::new(); vec![crate::kernel::Map::open(), 1] }
            mod inner { use super::own; }
            #[cfg(test)]
            mod tests { use crate::kernel::fake; }
        ";
        let uses = uses("a.rs", "reconcile/routes.rs", text).expect("valid Rust");
        let found: Vec<(usize, String)> = uses.iter().map(|u| (u.line, u.display())).collect();
        let expected = [
            (2, "crate::state::Node"),
            (2, "crate::state::self"),
            (3, "crate::reconcile::retry::Backoff"),
            (4, "kube::Client::new"),
            (4, "crate::kernel::Map::open"),
            (5, "crate::reconcile::routes::own"),
        ];
        assert_eq!(found, expected.map(|(line, path)| (line, path.to_owned())));
    }

    #[test]
    fn module_path_follows_the_file() {
        assert_eq!(module_path("reconcile/mod.rs"), ["reconcile"]);
        assert_eq!(module_path("state.rs"), ["state"]);
        assert_eq!(module_path("main.rs"), Vec::<String>::new());
    }
}
