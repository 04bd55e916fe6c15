//! The ABI crate as data: structs, enums and constants.

use std::collections::BTreeSet;

use anyhow::{Context, Result};
use proc_macro2::{Delimiter, TokenStream, TokenTree};
use syn::spanned::Spanned;

use super::Finding;
use super::source::{self, is_test};
use super::tree::Tree;

/// Sources of the ABI crate.
pub const SRC: &str = "ebpf/abi/src/";

/// Fields that exist for the layout only.
const PADDING: &str = "pad";

/// Code whose reads count.
const READERS: [&str; 5] =
    ["agent/", "cni-plugin/", "ebpf/packet/", "ebpf/programs/", "ebpf/userspace/"];

/// The public items of the ABI crate, with the paths under which other crates use them.
#[derive(Debug, Default)]
pub struct Abi {
    /// Structs.
    pub structs: Vec<Struct>,
    /// Enums.
    pub enums: Vec<Enum>,
    /// Paths of constants.
    pub constants: Vec<String>,
}

/// A struct of the ABI.
#[derive(Debug)]
pub struct Struct {
    /// Path within the crate, such as `FlowKey`.
    pub path: String,
    /// File and line of its definition.
    pub file: String,
    /// Fields.
    pub fields: Vec<Field>,
    /// Methods, and the fields of `self` that each reads.
    methods: Vec<(String, BTreeSet<String>)>,
}

/// A field of a struct of the ABI.
#[derive(Debug)]
pub struct Field {
    /// Name, or index in a tuple struct.
    pub name: String,
    /// Type, as in the source.
    pub kind: String,
    line: usize,
}

/// An enum of the ABI.
#[derive(Debug)]
pub struct Enum {
    /// Path within the crate.
    pub path: String,
    /// Variants: name, and label if the enum is declared with labels.
    pub variants: Vec<(String, Option<String>)>,
}

impl Abi {
    /// Parses the crate.
    ///
    /// # Errors
    /// When `lib.rs` does not exist or a file is not valid Rust.
    pub fn parse(tree: &Tree) -> Result<Self> {
        let lib_path = format!("{SRC}lib.rs");
        let lib = tree.get(&lib_path).with_context(|| format!("{lib_path} does not exist"))?;
        let public = public_modules(&source::parse(&lib_path, lib)?);
        let mut abi = Self::default();
        for (path, text) in tree.with_extension(SRC, "rs") {
            // Items of private modules are exported at the root.
            let mut module = source::module_path(path.strip_prefix(SRC).unwrap_or(path));
            module.retain(|name| public.contains(name));
            abi.add_items(path, &module, &source::parse(path, text)?.items)?;
        }
        Ok(abi)
    }

    fn add_items(&mut self, file: &str, module: &[String], items: &[syn::Item]) -> Result<()> {
        let path = |name: &syn::Ident| [module, &[name.to_string()]].concat().join("::");
        let public =
            |visibility: &syn::Visibility| matches!(visibility, syn::Visibility::Public(_));
        for item in items {
            match item {
                syn::Item::Struct(item) if public(&item.vis) => {
                    let present = item.fields.iter().filter(|field| !is_of_next(&field.attrs));
                    let fields = present.enumerate().map(|(index, field)| Field {
                        name: field.ident.as_ref().map_or(index.to_string(), ToString::to_string),
                        kind: text_of(&field.ty),
                        line: field.span().start().line,
                    });
                    let fields = fields.collect();
                    let (path, file) = (path(&item.ident), file.to_owned());
                    self.structs.push(Struct { path, file, fields, methods: Vec::new() });
                }
                syn::Item::Enum(item) if public(&item.vis) => {
                    let variants = item.variants.iter().map(|v| (v.ident.to_string(), None));
                    self.enums.push(Enum { path: path(&item.ident), variants: variants.collect() });
                }
                syn::Item::Const(item) if public(&item.vis) => {
                    self.constants.push(path(&item.ident));
                }
                syn::Item::Mod(item) if public(&item.vis) && !is_test(&item.attrs) => {
                    if let Some((_, items)) = &item.content {
                        let module = [module, &[item.ident.to_string()]].concat();
                        self.add_items(file, &module, items)?;
                    }
                }
                syn::Item::Macro(item) => {
                    self.enums.extend(labelled_enum(item.mac.tokens.clone()));
                }
                syn::Item::Impl(item) => self.add_methods(item),
                _ => {}
            }
        }
        Ok(())
    }

    fn add_methods(&mut self, item: &syn::ItemImpl) {
        let syn::Type::Path(path) = &*item.self_ty else { return };
        let Some(name) = path.path.segments.last().map(|s| s.ident.to_string()) else { return };
        if item.trait_.is_some() {
            return;
        }
        for member in &item.items {
            let syn::ImplItem::Fn(method) = member else { continue };
            let mut reads = BTreeSet::new();
            self_fields(text_tokens(&method.block), &mut reads);
            if let Some(owner) =
                self.structs.iter_mut().find(|s| s.path.rsplit("::").next() == Some(name.as_str()))
            {
                owner.methods.push((method.sig.ident.to_string(), reads));
            }
        }
    }
}

/// Every public field is read outside the ABI crate: as `.field`, in a pattern, or by a method of its
/// struct that is called there. Padding is exempt.
pub fn unread_fields(tree: &Tree) -> Result<Vec<Finding>> {
    let abi = Abi::parse(tree)?;
    let mut names = BTreeSet::new();
    for prefix in READERS {
        for (path, text) in tree.with_extension(prefix, "rs") {
            let tokens: TokenStream =
                text.parse().map_err(|error| anyhow::anyhow!("cannot parse {path}: {error}"))?;
            read_names(tokens, &mut names);
        }
    }
    let mut findings = Vec::new();
    for owner in &abi.structs {
        for field in owner.fields.iter().filter(|field| !field.name.starts_with(PADDING)) {
            let by_method = owner
                .methods
                .iter()
                .any(|(m, reads)| reads.contains(&field.name) && names.contains(m));
            if !by_method && !names.contains(&field.name) {
                let message = format!("{}.{} is never read", owner.path, field.name);
                findings.push(Finding::new(&owner.file, field.line, message));
            }
        }
    }
    Ok(findings)
}

/// Names after a dot that are not assigned to, and names alone between commas or braces, as in the
/// pattern `LocalPod { ifindex, .. }`.
fn read_names(tokens: TokenStream, names: &mut BTreeSet<String>) {
    let tokens: Vec<TokenTree> = tokens.into_iter().collect();
    let punct = |index: Option<usize>| match index.and_then(|i| tokens.get(i)) {
        Some(TokenTree::Punct(punct)) => Some(punct.as_char()),
        _ => None,
    };
    for (index, token) in tokens.iter().enumerate() {
        let before = punct(index.checked_sub(1));
        let after = punct(Some(index + 1));
        let end = tokens.get(index + 1).is_none();
        match token {
            TokenTree::Group(group) => {
                let shorthand = group.delimiter() == Delimiter::Brace;
                if shorthand {
                    shorthand_names(group.stream(), names);
                }
                read_names(group.stream(), names);
            }
            TokenTree::Ident(ident) if before == Some('.') => {
                let assigned = after == Some('=') && punct(Some(index + 2)) != Some('=');
                if !assigned {
                    names.insert(ident.to_string());
                }
            }
            TokenTree::Literal(literal) if before == Some('.') || end => {
                names.insert(literal.to_string());
            }
            _ => {}
        }
    }
}

/// Names of `{ a, b: x, .. }` without a value, and names before a colon.
fn shorthand_names(tokens: TokenStream, names: &mut BTreeSet<String>) {
    let tokens: Vec<TokenTree> = tokens.into_iter().collect();
    let comma = |token: Option<&TokenTree>| match token {
        None => true,
        Some(TokenTree::Punct(punct)) => punct.as_char() == ',',
        Some(_) => false,
    };
    let has_rest = tokens.iter().any(|t| matches!(t, TokenTree::Punct(p) if p.as_char() == '.'));
    for (index, token) in tokens.iter().enumerate() {
        let TokenTree::Ident(ident) = token else { continue };
        let first = index.checked_sub(1).is_none_or(|i| comma(tokens.get(i)));
        if has_rest && first && comma(tokens.get(index + 1)) {
            names.insert(ident.to_string());
        }
    }
}

/// Fields in `self.field`.
fn self_fields(tokens: TokenStream, fields: &mut BTreeSet<String>) {
    let tokens: Vec<TokenTree> = tokens.into_iter().collect();
    for (index, token) in tokens.iter().enumerate() {
        match token {
            TokenTree::Group(group) => self_fields(group.stream(), fields),
            TokenTree::Ident(ident) if ident == "self" => {
                if let Some(TokenTree::Ident(_) | TokenTree::Literal(_)) = tokens.get(index + 2) {
                    fields.extend(tokens.get(index + 2).map(ToString::to_string));
                }
            }
            _ => {}
        }
    }
}

/// An enum declared by a macro in the form `Name { Variant = 1 "label", ... }`.
fn labelled_enum(tokens: TokenStream) -> Option<Enum> {
    let tokens: Vec<TokenTree> = tokens.into_iter().collect();
    let (name, body) = tokens.windows(2).find_map(|pair| match pair {
        [TokenTree::Ident(name), TokenTree::Group(body)]
            if body.delimiter() == Delimiter::Brace =>
        {
            Some((name.to_string(), body.stream()))
        }
        _ => None,
    })?;
    let body: Vec<TokenTree> = body.into_iter().collect();
    let variants: Vec<(String, Option<String>)> = body
        .windows(4)
        .filter_map(|tokens| match tokens {
            [
                TokenTree::Ident(variant),
                TokenTree::Punct(equals),
                TokenTree::Literal(_),
                TokenTree::Literal(label),
            ] if equals.as_char() == '=' => {
                Some((variant.to_string(), Some(label.to_string().trim_matches('"').to_owned())))
            }
            _ => None,
        })
        .collect();
    // The definition of the macro has no literals.
    (!variants.is_empty()).then_some(Enum { path: name, variants })
}

fn public_modules(lib: &syn::File) -> BTreeSet<String> {
    lib.items
        .iter()
        .filter_map(|item| match item {
            syn::Item::Mod(item) if matches!(item.vis, syn::Visibility::Public(_)) => {
                Some(item.ident.to_string())
            }
            _ => None,
        })
        .collect()
}

/// Whether an item exists only with the feature `abi-next`.
fn is_of_next(attributes: &[syn::Attribute]) -> bool {
    attributes.iter().any(|attribute| match &attribute.meta {
        syn::Meta::List(list) if list.path.is_ident("cfg") => {
            list.tokens.to_string().starts_with("feature = \"abi-next\"")
        }
        _ => false,
    })
}

/// The source text of a type, without spaces.
fn text_of(kind: &syn::Type) -> String {
    kind.span().source_text().unwrap_or_default().split_whitespace().collect::<Vec<_>>().join(" ")
}

fn text_tokens(block: &syn::Block) -> TokenStream {
    block.span().source_text().unwrap_or_default().parse().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIB: &str = "mod flow; pub mod map; pub use flow::{Key, kinds};";
    const FLOW: &str = "
        pub struct Key { pub addr: [u8; 16], pub port: u16, pub pad: u16 }
        pub struct Port(pub [u8; 2]);
        impl Key { pub fn is_v4(&self) -> bool { self.addr[0] == 0 } }
        pub mod kinds { pub const LOCAL: u32 = 1; }
        pub enum Family { V4 = 0, V6 = 1 }
        numbered! { /// Why.
            Reason { /// Spoofed.
                Spoofed = 1 \"spoofed_source\", } }
        #[cfg(test)] mod tests { pub const X: u8 = 1; }
    ";

    fn tree(reader: &str) -> Tree {
        Tree::of(&[
            ("ebpf/abi/src/lib.rs", LIB),
            ("ebpf/abi/src/flow.rs", FLOW),
            ("ebpf/abi/src/map.rs", "pub const PODS: &str = \"PODS\";"),
            ("agent/src/x.rs", reader),
        ])
    }

    #[test]
    fn public_items_are_found_under_their_exported_paths() {
        let abi = Abi::parse(&tree("")).expect("valid Rust");
        let structs: Vec<&str> = abi.structs.iter().map(|s| s.path.as_str()).collect();
        assert_eq!(structs, ["Key", "Port"]);
        let fields: Vec<(&str, &str)> = abi.structs[0]
            .fields
            .iter()
            .map(|field| (field.name.as_str(), field.kind.as_str()))
            .collect();
        assert_eq!(fields, [("addr", "[u8; 16]"), ("port", "u16"), ("pad", "u16")]);
        let enums: Vec<&str> = abi.enums.iter().map(|e| e.path.as_str()).collect();
        assert_eq!(enums, ["Family", "Reason"]);
        let label = Some("spoofed_source".to_owned());
        assert_eq!(abi.enums[1].variants, [("Spoofed".to_owned(), label)]);
        assert_eq!(abi.constants, ["kinds::LOCAL", "map::PODS"]);
    }

    #[test]
    fn field_that_is_only_written_is_found() {
        let reads = "fn f(k: &Key) { k.is_v4(); p.0; }";
        for (reader, unread) in [
            ("k.port == 80", false),
            ("let Key { port, .. } = k;", false),
            ("k.port = 80", true),
            ("Key { port: 80, pad: 0 }", true),
            ("Key { addr, port }", true),
        ] {
            let tree = tree(&format!("{reads} fn g() {{ {reader} }}"));
            let findings = unread_fields(&tree).expect("checked");
            let messages: Vec<&str> = findings.iter().map(|f| f.message.as_str()).collect();
            let expected: &[&str] = if unread { &["Key.port is never read"] } else { &[] };
            assert_eq!(messages, expected, "{reader}");
        }
    }

    #[test]
    fn field_read_by_a_method_counts_only_if_the_method_is_called() {
        let findings = unread_fields(&tree("fn f() { k.port; p.0; }")).expect("checked");
        assert_eq!(findings[0].message, "Key.addr is never read");
    }
}
