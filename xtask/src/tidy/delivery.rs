//! Packets are delivered only after the policy stage.
//!
//! The type checker proves most of it: a delivery requires the token of the policy stage. This
//! rule covers what visibility cannot: who constructs the token, deliveries and bypasses, and who
//! calls the helpers that send a packet.

use anyhow::Result;
use syn::spanned::Spanned;
use syn::visit::{self, Visit};

use super::Finding;
use super::source;
use super::tree::Tree;

const PROGRAMS: &str = "ebpf/programs/src/";
const TOKEN: &str = "Judged";

/// A restriction on the expressions that use a path.
struct Restriction {
    /// Last segments of the path. A trailing `*` matches any ending.
    path: &'static [&'static str],
    /// The files below [`PROGRAMS`] that may use it.
    places: &'static [&'static str],
    /// Whether only functions with a parameter of type [`TOKEN`] may use it.
    needs_token: bool,
}

const RESTRICTIONS: [Restriction; 14] = [
    anywhere_in(&[TOKEN], &["stage/policy.rs"]),
    Restriction { path: &["Delivery"], places: &["verdict.rs"], needs_token: true },
    Restriction { path: &["Verdict", "Deliver"], places: &["verdict.rs"], needs_token: true },
    // Not delivered by Sluice: passed to the next program before or without translation. Each reason
    // belongs to the hooks at which no policy applies to such packets.
    anywhere_in(&["Bypass", "Arp"], &["hook/pod.rs"]),
    anywhere_in(&["Bypass", "Forwarded"], &["hook/pod.rs", "hook/netdev.rs"]),
    anywhere_in(&["Bypass", "ForTc"], &["hook/xdp.rs"]),
    anywhere_in(&["Bypass", "NotReady"], &["hook/xdp.rs", "hook/netdev.rs"]),
    anywhere_in(&["Bypass", "NodeTraffic"], &["hook/egress.rs", "hook/ingress.rs"]),
    anywhere_in(&["Bypass", "NotForHost"], &["hook/netdev.rs"]),
    anywhere_in(&["Bypass", "Unparsed"], &["hook/netdev.rs"]),
    // Before a packet is read.
    anywhere_in(&["exit", "NEXT"], &["hook/mod.rs"]),
    anywhere_in(&["exit", "XDP_PASS"], &["hook/xdp.rs"]),
    anywhere_in(&["kernel", "redirect_*"], &["exit.rs"]),
    anywhere_in(&["bpf_redirect*"], &["kernel.rs"]),
];

const fn anywhere_in(
    path: &'static [&'static str],
    places: &'static [&'static str],
) -> Restriction {
    Restriction { path, places, needs_token: false }
}

/// Every [`Restriction`] holds, and its files exist.
pub fn after_policy(tree: &Tree) -> Result<Vec<Finding>> {
    let mut findings = Vec::new();
    for place in RESTRICTIONS.iter().flat_map(|restriction| restriction.places) {
        let path = format!("{PROGRAMS}{place}");
        if !tree.exists(&path) {
            findings.push(Finding::new(&path, 0, "does not exist"));
        }
    }
    for (path, text) in tree.with_extension(PROGRAMS, "rs") {
        let mut visitor = Visitor { path, takes_token: false, findings: Vec::new() };
        visitor.visit_file(&source::parse(path, text)?);
        findings.append(&mut visitor.findings);
    }
    Ok(findings)
}

impl Restriction {
    fn applies(&self, path: &[String]) -> bool {
        let matches = |segment: &String, pattern: &&str| match pattern.strip_suffix('*') {
            Some(start) => segment.starts_with(start),
            None => segment == pattern,
        };
        path.len() >= self.path.len()
            && path.iter().rev().zip(self.path.iter().rev()).all(|(s, p)| matches(s, p))
    }

    fn allows(&self, file: &str, takes_token: bool) -> bool {
        let below = file.strip_prefix(PROGRAMS).unwrap_or(file);
        self.places.contains(&below) && (takes_token || !self.needs_token)
    }
}

struct Visitor<'a> {
    path: &'a str,
    /// Whether the current function has a parameter of the token's type.
    takes_token: bool,
    findings: Vec<Finding>,
}

impl Visitor<'_> {
    fn check(&mut self, line: usize, path: &[String]) {
        for restriction in RESTRICTIONS.iter().filter(|restriction| restriction.applies(path)) {
            if !restriction.allows(self.path, self.takes_token) {
                let condition =
                    if restriction.needs_token { " in functions that take Judged" } else { "" };
                let message = format!(
                    "{} is allowed only in {PROGRAMS}{}{condition}",
                    path.join("::"),
                    restriction.places.join(" and ")
                );
                self.findings.push(Finding::new(self.path, line, message));
            }
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
            for (line, path) in source::token_paths(item.tokens.clone()) {
                self.check(line, &path);
            }
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
    path.span().start().line
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: &str = "pub struct Judged(()); pub fn judge() -> Judged { Judged(()) }";
    const VERDICT: &str =
        "impl Verdict { pub fn to_pod(_: Judged) -> Verdict { Verdict::Deliver(Delivery(1)) } }";
    const EXIT: &str =
        "fn leave(v: Verdict) { match v { Verdict::Deliver(d) => kernel::redirect_out(1),
                        Verdict::Bypass(_) => 0 } }";
    const HOOK: &str = "fn f() { Verdict::Bypass(Bypass::Arp); Verdict::Drop(2); judge(); }";

    fn lines(verdict: &str, hook: &str) -> Vec<String> {
        let tree = Tree::of(&[
            ("ebpf/programs/src/stage/policy.rs", POLICY),
            ("ebpf/programs/src/verdict.rs", verdict),
            ("ebpf/programs/src/exit.rs", EXIT),
            ("ebpf/programs/src/kernel.rs", "pub fn redirect_out(i: u32) { bpf_redirect(i, 0) }"),
            ("ebpf/programs/src/hook/pod.rs", hook),
            ("ebpf/programs/src/hook/netdev.rs", ""),
            ("ebpf/programs/src/hook/ingress.rs", ""),
            ("ebpf/programs/src/hook/egress.rs", ""),
            ("ebpf/programs/src/hook/xdp.rs", ""),
            ("ebpf/programs/src/hook/mod.rs", ""),
        ]);
        after_policy(&tree).expect("checked").iter().map(ToString::to_string).collect()
    }

    #[test]
    fn delivery_with_the_token_and_patterns_are_allowed() {
        assert_eq!(lines(VERDICT, HOOK), Vec::<String>::new());
    }

    #[test]
    fn delivery_without_the_policy_stage_is_found() {
        for hook in [
            "fn f() { Judged(()) }",
            "fn f() { crate::verdict::Verdict::Deliver(d) }",
            "fn f() { kernel::redirect_into_pod(1) }",
            "fn f() { unsafe { bpf_redirect_peer(1, 0) } }",
            "fn f() { some!(a, Verdict::Deliver(d)) }",
            // Traffic of a pod is not that of the node.
            "fn f() { Verdict::Bypass(Bypass::NodeTraffic) }",
            "fn f() { exit::NEXT }",
        ] {
            let lines = lines(VERDICT, hook);
            assert_eq!(lines.len(), 1, "{hook}: {lines:?}");
            assert!(lines[0].starts_with("ebpf/programs/src/hook/pod.rs:1: "), "{lines:?}");
        }
    }

    #[test]
    fn delivery_without_the_token_is_found() {
        let lines = lines("fn to_pod() -> Verdict { Verdict::Deliver(Delivery(1)) }", HOOK);
        assert_eq!(lines.len(), 2, "{lines:?}");
    }

    #[test]
    fn missing_place_is_found() {
        let places: usize = RESTRICTIONS.iter().map(|restriction| restriction.places.len()).sum();
        assert_eq!(after_policy(&Tree::of(&[])).expect("checked").len(), places);
    }
}
