//! Packets are delivered only after the policy stage.
//!
//! A delivering verdict is constructed in one file, by functions that take the token of the policy
//! stage. The token has no other constructor, so the type checker proves the rest.

use anyhow::Result;
use proc_macro2::{TokenStream, TokenTree};
use syn::visit::{self, Visit};

use super::Finding;
use super::source;
use super::tree::Tree;

const PROGRAMS: &str = "ebpf/programs/src/";
const VERDICT: &str = "Verdict";
/// Variants that deliver the packet.
const DELIVERING: [&str; 3] = ["ToPod", "ToUplink", "ToStack"];
/// The file whose functions construct them.
const DELIVERY: &str = "ebpf/programs/src/stage/forward.rs";
/// The token, and the file that constructs it.
const TOKEN: &str = "Judged";
const POLICY: &str = "ebpf/programs/src/stage/policy.rs";

/// Delivering verdicts are constructed in [`DELIVERY`] by functions that take a [`TOKEN`], and
/// tokens are constructed in [`POLICY`].
pub fn after_policy(tree: &Tree) -> Result<Vec<Finding>> {
    let mut findings = Vec::new();
    for path in [POLICY, DELIVERY] {
        if tree.get(path).is_none() {
            findings.push(Finding::new(path, 0, "does not exist"));
        }
    }
    for (path, text) in tree.with_extension(PROGRAMS, "rs") {
        let mut visitor = Visitor { path, takes_token: false, findings: Vec::new() };
        visitor.visit_file(&source::parse(path, text)?);
        findings.append(&mut visitor.findings);
    }
    Ok(findings)
}

struct Visitor<'a> {
    path: &'a str,
    /// Whether the current function has a parameter of the token's type.
    takes_token: bool,
    findings: Vec<Finding>,
}

impl Visitor<'_> {
    fn check(&mut self, line: usize, path: &[String]) {
        let name = |index: usize| {
            path.len().checked_sub(index).and_then(|i| path.get(i)).map_or("", String::as_str)
        };
        let (kind, variant) = (name(2), name(1));
        let delivers = kind == VERDICT && DELIVERING.contains(&variant);
        if delivers && !(self.path == DELIVERY && self.takes_token) {
            let message = format!(
                "Verdict::{variant} is constructed outside the functions of {DELIVERY} that take {TOKEN}"
            );
            self.findings.push(Finding::new(self.path, line, message));
        }
        if variant == TOKEN && self.path != POLICY {
            let message = format!("{TOKEN} is constructed outside {POLICY}");
            self.findings.push(Finding::new(self.path, line, message));
        }
    }

    fn function(&mut self, signature: &syn::Signature, visit: impl FnOnce(&mut Self)) {
        let takes_token = signature.inputs.iter().any(|input| match input {
            syn::FnArg::Typed(argument) => mentions(&argument.ty),
            syn::FnArg::Receiver(_) => false,
        });
        let outer = std::mem::replace(&mut self.takes_token, takes_token);
        visit(self);
        self.takes_token = outer;
    }

    fn tokens(&mut self, tokens: TokenStream) {
        let tokens: Vec<TokenTree> = tokens.into_iter().collect();
        for window in tokens.windows(4) {
            if let [
                TokenTree::Ident(kind),
                TokenTree::Punct(_),
                TokenTree::Punct(_),
                TokenTree::Ident(v),
            ] = window
            {
                self.check(kind.span().start().line, &[kind.to_string(), v.to_string()]);
            }
        }
        for token in tokens {
            if let TokenTree::Group(group) = token {
                self.tokens(group.stream());
            }
        }
    }
}

impl<'ast> Visit<'ast> for Visitor<'_> {
    fn visit_item_mod(&mut self, item: &'ast syn::ItemMod) {
        if !source::is_test(&item.attrs) {
            visit::visit_item_mod(self, item);
        }
    }

    fn visit_item_fn(&mut self, item: &'ast syn::ItemFn) {
        self.function(&item.sig, |v| visit::visit_item_fn(v, item));
    }

    fn visit_impl_item_fn(&mut self, item: &'ast syn::ImplItemFn) {
        self.function(&item.sig, |v| visit::visit_impl_item_fn(v, item));
    }

    // Patterns contain paths outside expressions: only expressions construct.
    fn visit_expr_path(&mut self, item: &'ast syn::ExprPath) {
        self.check(line(&item.path), &segments(&item.path));
    }

    fn visit_expr_struct(&mut self, item: &'ast syn::ExprStruct) {
        self.check(line(&item.path), &segments(&item.path));
        visit::visit_expr_struct(self, item);
    }

    fn visit_macro(&mut self, item: &'ast syn::Macro) {
        // matches!(value, pattern) constructs nothing.
        if !item.path.is_ident("matches") {
            self.tokens(item.tokens.clone());
        }
    }

    fn visit_pat(&mut self, _: &'ast syn::Pat) {}
}

fn mentions(kind: &syn::Type) -> bool {
    struct Finder(bool);
    impl<'ast> Visit<'ast> for Finder {
        fn visit_ident(&mut self, ident: &'ast proc_macro2::Ident) {
            self.0 |= ident == TOKEN;
        }
    }
    let mut finder = Finder(false);
    finder.visit_type(kind);
    finder.0
}

fn segments(path: &syn::Path) -> Vec<String> {
    path.segments.iter().map(|segment| segment.ident.to_string()).collect()
}

fn line(path: &syn::Path) -> usize {
    use syn::spanned::Spanned;
    path.span().start().line
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD_POLICY: &str = "pub struct Judged(()); pub fn allow() -> Judged { Judged(()) }";
    const GOOD_DELIVERY: &str =
        "pub fn to_pod(_: Judged, i: u32) -> Verdict { Verdict::ToPod { ifindex: i } }";

    fn lines(delivery: &str, other: &str) -> Vec<String> {
        let tree = Tree::of(&[
            (POLICY, GOOD_POLICY),
            (DELIVERY, delivery),
            ("ebpf/programs/src/hook/pod.rs", other),
        ]);
        after_policy(&tree).expect("checked").iter().map(ToString::to_string).collect()
    }

    #[test]
    fn delivery_with_the_token_and_patterns_are_allowed() {
        let other = "fn f(v: Verdict) { match v { Verdict::ToPod { ifindex } => 1, _ => 2 }
                     if let Verdict::ToStack = v {} matches!(v, Verdict::ToStack); Verdict::Drop }";
        assert_eq!(lines(GOOD_DELIVERY, other), Vec::<String>::new());
    }

    #[test]
    fn delivery_outside_the_file_is_found() {
        for other in [
            "fn f() -> Verdict { Verdict::ToStack }",
            "fn f() { Ok(sluice_packet::Verdict::ToUplink { ifindex: 1 }) }",
            "fn f() { some!(Verdict::ToPod) }",
            "fn f(_: Judged) { Judged(()) }",
        ] {
            let lines = lines(GOOD_DELIVERY, other);
            assert_eq!(lines.len(), 1, "{other}: {lines:?}");
            assert!(lines[0].starts_with("ebpf/programs/src/hook/pod.rs:1: "), "{lines:?}");
        }
    }

    #[test]
    fn delivery_without_the_token_is_found() {
        let lines = lines("fn to_stack() -> Verdict { Verdict::ToStack }", "");
        assert_eq!(lines.len(), 1, "{lines:?}");
    }
}
