//! `cargo xtask tidy`: the rules of this repository that a program can check.
//!
//! ```text
//! Tree (files as text) ──> rule ──> findings (file, line, message)
//! ```
//! A rule is a function of the tree, with its data in tables at the top of its file. Unit tests
//! give each rule a small tree that breaks it. The unit level of `cargo xtask test` runs all
//! rules. A pending rule describes a state that the tree has not reached: its findings are
//! counted, and are errors only with `--strict`.

mod abi;
mod crates;
mod delivery;
mod docs;
mod files;
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
    /// Rewrite the ABI snapshot, ebpf/abi/abi.snapshot
    #[arg(long)]
    update: bool,
    /// Treat findings of pending rules as errors
    #[arg(long)]
    strict: bool,
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

/// Whether findings of a rule are errors.
#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Enforced,
    Pending,
}

struct Rule {
    name: &'static str,
    state: State,
    check: fn(&Tree) -> Result<Vec<Finding>>,
}

const fn rule(name: &'static str, state: State, check: fn(&Tree) -> Result<Vec<Finding>>) -> Rule {
    Rule { name, state, check }
}

/// Every rule.
const RULES: [Rule; 17] = [
    rule("crate-dependencies", State::Enforced, crates::dependencies),
    rule("agent-modules", State::Pending, modules::agent),
    rule("reconcilers", State::Enforced, modules::reconcilers),
    rule("external-crates", State::Pending, modules::external_crates),
    rule("oracle", State::Enforced, modules::oracle),
    rule("documented-names", State::Pending, docs::names),
    rule("abi-snapshot", State::Enforced, layout::snapshot),
    rule("abi-unread-fields", State::Pending, abi::unread_fields),
    rule("delivery", State::Pending, delivery::after_policy),
    rule("file-names", State::Enforced, files::names),
    rule("file-sizes", State::Enforced, files::sizes),
    rule("orphans", State::Enforced, files::orphans),
    rule("cluster-phases", State::Pending, files::phases),
    rule("cluster-cases", State::Enforced, files::cases),
    rule("prose", State::Pending, prose::words),
    rule("links", State::Enforced, links::relative),
    rule("specification", State::Enforced, specification::tests),
];

/// Runs the command.
///
/// # Errors
/// When a file cannot be read or parsed.
pub fn run(options: &Options) -> Result<ExitCode> {
    if options.update {
        println!("  written: {}", layout::update(&Tree::read(&checkout())?)?);
    }
    let rules: Vec<&Rule> =
        RULES.iter().filter(|r| options.rule.as_ref().is_none_or(|name| name == r.name)).collect();
    anyhow::ensure!(
        !rules.is_empty(),
        "no such rule; rules: {}",
        RULES.iter().map(|rule| rule.name).collect::<Vec<_>>().join(", ")
    );
    Ok(if check_rules(&rules, options.strict)? { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Checks every rule, prints the findings, and returns whether there are no errors.
///
/// # Errors
/// When a file cannot be read or parsed.
pub fn check(strict: bool) -> Result<bool> {
    check_rules(&RULES.iter().collect::<Vec<_>>(), strict)
}

fn check_rules(rules: &[&Rule], strict: bool) -> Result<bool> {
    let start = Instant::now();
    let tree = Tree::read(&checkout())?;
    let mut errors = 0;
    let mut pending = Vec::new();
    for rule in rules {
        let mut findings = (rule.check)(&tree).with_context(|| format!("rule {}", rule.name))?;
        if findings.is_empty() {
            continue;
        }
        if rule.state == State::Pending && !strict {
            pending.push(format!("{} {}", rule.name, findings.len()));
            continue;
        }
        findings.sort_by(|a, b| (&a.path, a.line).cmp(&(&b.path, b.line)));
        for finding in &findings {
            eprintln!("    error[{}]: {finding}", rule.name);
        }
        errors += findings.len();
    }
    if !pending.is_empty() {
        println!("    pending, listed by `cargo xtask tidy --strict`: {}", pending.join(", "));
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
