//! `cargo xtask tidy`: the rules of this repository that a program can check.
//!
//! ```text
//! Tree (files as text) ──> rule ──> findings (file, line, message)
//! ```
//! A rule is a function of the tree, with its data in tables at the top of its file. Unit tests
//! give each rule a small tree that breaks it. The unit level of `cargo xtask test` runs all
//! rules.

mod abi;
mod chart;
mod crates;
mod delivery;
mod docs;
mod files;
mod imports;
mod layout;
mod links;
mod modules;
mod prose;
mod source;
mod specification;
mod tree;

use std::fmt;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context, Result};
use clap::Args;

use self::tree::Tree;
use crate::cache::checkout;
use crate::progress;

/// Options of `cargo xtask tidy`.
#[derive(Args)]
pub struct Options {
    /// Rewrite the generated files: ebpf/abi/abi.snapshot, the template of the Helm chart
    #[arg(long)]
    update: bool,
    /// Run only this rule
    #[arg(long, value_name = "NAME")]
    rule: Option<String>,
}

/// A place that breaks a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Finding {
    path: String,
    /// Line number, or 0 for the whole file.
    line: usize,
    message: String,
}

impl Finding {
    fn new(path: &str, line: usize, message: impl Into<String>) -> Self {
        Self { path: path.to_owned(), line, message: message.into() }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => write!(f, "{}: {}", self.path, self.message),
            line => write!(f, "{}:{line}: {}", self.path, self.message),
        }
    }
}

struct Rule {
    name: &'static str,
    check: fn(&Tree) -> Result<Vec<Finding>>,
}

const fn rule(name: &'static str, check: fn(&Tree) -> Result<Vec<Finding>>) -> Rule {
    Rule { name, check }
}

/// Every rule.
const RULES: [Rule; 20] = [
    rule("crate-dependencies", crates::dependencies),
    rule("agent-modules", modules::agent),
    rule("reconcilers", modules::reconcilers),
    rule("external-crates", modules::external_crates),
    rule("oracle", modules::oracle),
    rule("documented-names", docs::names),
    rule("abi-snapshot", layout::snapshot),
    rule("abi-unread-fields", abi::unread_fields),
    rule("delivery", delivery::after_policy),
    rule("file-names", files::names),
    rule("file-sizes", files::sizes),
    rule("orphans", files::orphans),
    rule("cluster-phases", files::phases),
    rule("cluster-cases", files::cases),
    rule("imports", imports::order),
    rule("prose", prose::words),
    rule("links", links::relative),
    rule("paths", links::paths),
    rule("specification", specification::tests),
    rule("helm-chart", chart::template),
];

/// Runs the command.
///
/// # Errors
/// When a file cannot be read or parsed.
pub fn run(options: &Options) -> Result<ExitCode> {
    if options.update {
        let tree = Tree::read(&checkout())?;
        println!("  written: {}", layout::update(&tree)?);
        std::fs::write(checkout().join(chart::TEMPLATE), chart::generate(&tree)?)?;
        println!("  written: {}", chart::TEMPLATE);
    }
    let rules: Vec<&Rule> =
        RULES.iter().filter(|r| options.rule.as_ref().is_none_or(|name| name == r.name)).collect();
    anyhow::ensure!(
        !rules.is_empty(),
        "no such rule; rules: {}",
        RULES.iter().map(|rule| rule.name).collect::<Vec<_>>().join(", ")
    );
    Ok(if check_rules(&rules)? { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Checks every rule, prints the findings, and returns whether there are no errors.
///
/// # Errors
/// When a file cannot be read or parsed.
pub fn check() -> Result<bool> {
    check_rules(&RULES.iter().collect::<Vec<_>>())
}

fn check_rules(rules: &[&Rule]) -> Result<bool> {
    let start = Instant::now();
    let tree = Tree::read(&checkout())?;
    let mut errors = 0;
    for rule in rules {
        let mut findings = (rule.check)(&tree).with_context(|| format!("rule {}", rule.name))?;
        findings.sort_by(|a, b| (&a.path, a.line).cmp(&(&b.path, b.line)));
        for finding in &findings {
            eprintln!("    error[{}]: {finding}", rule.name);
        }
        errors += findings.len();
    }
    let result = format!("{} rules, {errors} errors", rules.len());
    progress::line("repository rules", &result, start.elapsed());
    Ok(errors == 0)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn rules_have_unique_names() {
        let names: BTreeSet<&str> = RULES.iter().map(|rule| rule.name).collect();
        assert_eq!(names.len(), RULES.len());
    }
}
