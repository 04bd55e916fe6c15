//! Dependencies between modules, within the agent and of the oracle.

use std::collections::BTreeSet;

use anyhow::Result;

use super::Finding;
use super::source::{self, Use};
use super::tree::Tree;

const AGENT: &str = "agent/src/";

/// A module of the agent, and what it may use: modules, or single items of modules.
type Allowed = (&'static str, &'static [&'static str]);

/// The data flow: `source -> event -> state -> reconcile -> kernel`; `view` and `observe` read, and `api`
/// has the rows. It has no cycle.
const MODULES: [Allowed; 28] = [
    // Values and small services without dependencies.
    ("backoff", &[]),
    ("conditions", &[]),
    ("counters", &[]),
    ("dir_watcher", &["paths"]),
    ("findings", &[]),
    ("host", &[]),
    ("devices", &["host"]),
    ("lock", &[]),
    ("paths", &[]),
    ("version", &[]),
    ("signals", &[]),
    ("watches", &[]),
    ("config", &["devices", "host", "paths", "source_ports"]),
    ("source_ports", &[]),
    ("flows", &["kernel"]),
    ("drops", &["event", "kernel"]),
    ("api", &["counters", "watches"]),
    ("event", &["api::Call", "host"]),
    ("source", &["config", "dir_watcher", "event", "findings", "paths", "watches"]),
    (
        "state",
        &["api::Call", "backoff", "conditions", "config", "devices", "event", "findings", "host"],
    ),
    ("first_lists", &["event", "state"]),
    ("kernel", &["config", "counters", "event", "host", "paths", "signals"]),
    (
        "reconcile",
        &[
            "backoff",
            "conditions",
            "config",
            "devices",
            "event",
            "findings",
            "host",
            "kernel",
            "paths",
            "state",
        ],
    ),
    ("notices", &["event"]),
    ("observe", &["conditions", "counters", "flows", "notices", "state", "version", "watches"]),
    (
        "health_checks",
        &["kernel::HealthCheck", "kernel::HealthChecks", "kernel::KernelError", "observe"],
    ),
    (
        "cli",
        &[
            "api",
            "config",
            "counters",
            "flows",
            "kernel",
            "lock",
            "paths",
            "run",
            "source::agents",
            "source::convert",
            "source::folder",
            "version",
            "watches",
        ],
    ),
    (
        "view",
        &["api", "conditions", "counters", "devices", "kernel", "state", "version", "watches"],
    ),
];

/// Modules that connect the others and may use all of them.
const CONNECTING: [&str; 5] = ["event_loop", "harness", "lib", "main", "run"];

/// The implementation of the kernel trait, and the modules that may name it.
const LINUX: [&str; 2] = ["kernel", "linux"];
const LINUX_USERS: [&str; 3] = ["cli", "kernel", "run"];

/// An external crate, and the only part of the agent that may use it.
const EXTERNAL: [(&str, &str); 4] = [
    ("k8s_openapi", "agent/src/source/"),
    ("kube", "agent/src/source/"),
    ("aya", "agent/src/kernel/"),
    ("aya_obj", "agent/src/kernel/"),
];

/// Modules below `reconcile` that all reconcilers may use.
const SHARED_BY_RECONCILERS: [&str; 2] = ["lease_rows", "walk"];

/// Files of an oracle, and the modules of its crate that it may use besides its own.
const ORACLE: &str = "oracle";
const CORE: &str = "agent/core/src/";
const ORACLE_MAY_USE: [&str; 2] = ["model", ORACLE];
/// External crates that an oracle may use. `sluice_abi` is not among them: it is part of what the
/// oracle judges.
const ORACLE_CRATES: [&str; 4] = ["std", "core", "alloc", "ipnet"];

/// Modules of the agent use only those that [`MODULES`] lists, and exist.
pub fn agent(tree: &Tree) -> Result<Vec<Finding>> {
    let mut findings = Vec::new();
    let present: BTreeSet<&str> =
        tree.with_extension(AGENT, "rs").filter_map(|(path, _)| module(path)).collect();
    for (name, _) in MODULES {
        if !present.contains(name) {
            findings.push(Finding::new(AGENT, 0, format!("module {name} does not exist")));
        }
    }
    for name in &present {
        if !CONNECTING.contains(name) && allowed(name).is_none() {
            let message = format!("module {name} is not in the table of module dependencies");
            findings.push(Finding::new(AGENT, 0, message));
        }
    }
    for (path, text) in tree.with_extension(AGENT, "rs") {
        let Some(name) = module(path) else { continue };
        let Some(allowed) = allowed(name) else { continue };
        for used in uses(path, AGENT, text)? {
            let Some(other) = module_of_use(&used).filter(|other| *other != name) else { continue };
            let item = used.path.get(2).map(|item| format!("{other}::{item}")).unwrap_or_default();
            let listed = allowed.contains(&other) || allowed.contains(&item.as_str());
            let linux = used.path.iter().skip(1).take(2).eq(LINUX.iter());
            if present.contains(other) && (!listed || (linux && !LINUX_USERS.contains(&name))) {
                let message = format!("{name} must not use {}", used.display());
                findings.push(Finding::new(path, used.line, message));
            }
        }
    }
    Ok(findings)
}

/// No reconciler uses another. `reconcile/mod.rs` lists them all.
pub fn reconcilers(tree: &Tree) -> Result<Vec<Finding>> {
    let prefix = format!("{AGENT}reconcile/");
    let name = |path: &str| -> Option<String> {
        let below = path.strip_prefix(&prefix)?;
        Some(below.split('/').next()?.trim_end_matches(".rs").to_owned())
    };
    let all: BTreeSet<String> = tree
        .with_extension(&prefix, "rs")
        .filter_map(|(path, _)| name(path))
        .filter(|name| name != "mod" && !SHARED_BY_RECONCILERS.contains(&name.as_str()))
        .collect();
    let mut findings = Vec::new();
    for (path, text) in tree.with_extension(&prefix, "rs") {
        let Some(own) = name(path).filter(|own| all.contains(own)) else { continue };
        for used in uses(path, AGENT, text)? {
            let other = used.path.get(2).filter(|_| used.starts_with(&["crate", "reconcile"]));
            if let Some(other) = other.filter(|other| **other != own && all.contains(*other)) {
                let message = format!("reconciler {own} must not use reconciler {other}");
                findings.push(Finding::new(path, used.line, message));
            }
        }
    }
    Ok(findings)
}

/// External crates are used only in the part of the agent that [`EXTERNAL`] names.
pub fn external_crates(tree: &Tree) -> Result<Vec<Finding>> {
    let mut findings = Vec::new();
    for (path, text) in tree.with_extension(AGENT, "rs") {
        for used in uses(path, AGENT, text)? {
            for (name, place) in EXTERNAL {
                if used.starts_with(&[name]) && !path.starts_with(place) {
                    let message = format!("{} is used outside {place}", used.display());
                    findings.push(Finding::new(path, used.line, message));
                }
            }
        }
    }
    Ok(findings)
}

/// An oracle uses nothing of what it judges.
pub fn oracle(tree: &Tree) -> Result<Vec<Finding>> {
    let (file, folder) = (format!("{CORE}{ORACLE}.rs"), format!("{CORE}{ORACLE}/"));
    let mut findings = Vec::new();
    let files: Vec<(&str, &str)> = tree
        .with_extension(CORE, "rs")
        .filter(|(path, _)| *path == file || path.starts_with(&folder))
        .collect();
    if files.is_empty() {
        findings.push(Finding::new(&file, 0, "no oracle"));
    }
    for (path, text) in files {
        for used in uses(path, CORE, text)? {
            let first = used.path.first().map(String::as_str).unwrap_or_default();
            let allowed = match first {
                "crate" => used.path.get(1).is_some_and(|m| ORACLE_MAY_USE.contains(&m.as_str())),
                // Paths that start with an uppercase letter are types in scope. A lower-case path
                // is a crate, or a module imported by a path that this rule checks as well.
                name => {
                    name.starts_with(|c: char| c.is_uppercase())
                        || ORACLE_CRATES.contains(&name)
                        || !is_crate(name)
                }
            };
            if !allowed {
                let message = format!("the oracle must not use {}", used.display());
                findings.push(Finding::new(path, used.line, message));
            }
        }
    }
    Ok(findings)
}

/// Whether a name is that of a crate of the workspace.
fn is_crate(name: &str) -> bool {
    name.starts_with("sluice_")
}

/// The paths that a file uses outside tests.
fn uses(path: &str, prefix: &str, text: &str) -> Result<Vec<Use>> {
    let is_test = path
        .split('/')
        .any(|part| part == "tests" || part == "tests.rs" || part.ends_with("_tests.rs"));
    if is_test {
        return Ok(Vec::new());
    }
    source::uses(path, path.strip_prefix(prefix).unwrap_or(path), text)
}

/// The agent's module that a file belongs to.
fn module(path: &str) -> Option<&str> {
    let below = path.strip_prefix(AGENT)?;
    below.split('/').next().map(|name| name.trim_end_matches(".rs"))
}

fn module_of_use(used: &Use) -> Option<&str> {
    let first = used.path.first()?;
    let own = first == "crate" || first == "sluice_agent";
    if own { used.path.get(1).map(String::as_str) } else { None }
}

fn allowed(module: &str) -> Option<&'static [&'static str]> {
    MODULES.iter().find(|(name, _)| *name == module).map(|(_, allowed)| *allowed)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Modules whose dependencies are all among those removed before them are removed, until none is left.
    #[test]
    fn table_of_modules_has_no_cycle() {
        let module = |used: &'static str| used.split("::").next().unwrap_or(used);
        let mut left: Vec<&Allowed> = MODULES.iter().collect();
        while !left.is_empty() {
            let names: BTreeSet<&str> = left.iter().map(|(name, _)| *name).collect();
            let before = left.len();
            left.retain(|(_, uses)| uses.iter().any(|used| names.contains(module(used))));
            assert!(left.len() < before, "a cycle among {names:?}");
        }
    }

    fn messages(findings: Result<Vec<Finding>>) -> Vec<String> {
        findings.expect("checked").iter().map(ToString::to_string).collect()
    }

    /// A tree with every module, and these files.
    fn agent_tree(files: &[(&str, &str)]) -> Tree {
        let empty: Vec<(String, &str)> =
            MODULES.iter().map(|(name, _)| (format!("{AGENT}{name}/mod.rs"), "")).collect();
        let all: Vec<(&str, &str)> = empty
            .iter()
            .map(|(path, text)| (path.as_str(), *text))
            .chain(files.iter().copied())
            .collect();
        Tree::of(&all)
    }

    #[test]
    fn module_that_uses_a_forbidden_module_is_found() {
        for (path, text, message) in [
            ("state/apply.rs", "use crate::kernel::Map;", "state must not use crate::kernel::Map"),
            (
                "api/server.rs",
                "fn f() { crate::kernel::write() }",
                "api must not use crate::kernel::write",
            ),
            ("event/x.rs", "use crate::{state::State};", "event must not use crate::state::State"),
            (
                "reconcile/pods.rs",
                "use crate::kernel::linux::LinuxKernel;",
                "reconcile must not use crate::kernel::linux::LinuxKernel",
            ),
            (
                "health_checks/x.rs",
                "use crate::kernel::Maps;",
                "health_checks must not use crate::kernel::Maps",
            ),
        ] {
            let path = format!("{AGENT}{path}");
            let tree = agent_tree(&[(&path, text)]);
            assert_eq!(messages(agent(&tree)), [format!("{path}:1: {message}")]);
        }
    }

    #[test]
    fn data_flow_of_the_agent_is_allowed() {
        let tree = agent_tree(&[
            ("agent/src/source/kube.rs", "use crate::event::Event; use super::convert;"),
            ("agent/src/reconcile/routes.rs", "use crate::{kernel::Kernel, state::State};"),
            ("agent/src/run.rs", "use crate::{api, reconcile, source};"),
            ("agent/src/main.rs", "use sluice_agent::cli;"),
            ("agent/src/observe/metrics.rs", "use crate::counters::Count;"),
            ("agent/src/state/tests.rs", "use crate::reconcile::Reconcilers;"),
            ("agent/src/state/x.rs", "#[cfg(test)] mod tests { use crate::kernel::fake::Fake; }"),
        ]);
        assert_eq!(messages(agent(&tree)), Vec::<String>::new());
    }

    #[test]
    fn module_outside_the_table_and_missing_module_are_found() {
        let mut files = vec![("agent/src/answers.rs", "")];
        assert_eq!(messages(agent(&agent_tree(&files))).len(), 1);
        files.clear();
        assert_eq!(messages(agent(&Tree::of(&files))).len(), MODULES.len());
    }

    #[test]
    fn reconciler_that_uses_another_is_found() {
        let files = [
            ("agent/src/reconcile/mod.rs", "mod pods; mod routes; use self::pods::Pods;"),
            ("agent/src/reconcile/pods.rs", "use super::Outcome;"),
            ("agent/src/reconcile/routes.rs", "\nuse super::pods::Pods;"),
        ];
        assert_eq!(
            messages(reconcilers(&Tree::of(&files))),
            ["agent/src/reconcile/routes.rs:2: reconciler routes must not use reconciler pods"]
        );
    }

    #[test]
    fn external_crate_outside_its_module_is_found() {
        let files = [
            ("agent/src/source/kube.rs", "use kube::Client;"),
            ("agent/src/state/mod.rs", "fn f(s: &k8s_openapi::api::core::v1::Service) {}"),
        ];
        assert_eq!(
            messages(external_crates(&Tree::of(&files))),
            [
                "agent/src/state/mod.rs:1: k8s_openapi::api::core::v1::Service is used outside agent/src/source/"
            ]
        );
    }

    #[test]
    fn oracle_that_uses_what_it_judges_is_found() {
        for text in ["use crate::compile::compile;", "use super::select;", "use sluice_abi::Addr;"]
        {
            let tree = Tree::of(&[("agent/core/src/oracle.rs", text)]);
            assert_eq!(messages(oracle(&tree)).len(), 1, "{text}");
        }
        let text = "use std::net::IpAddr; use crate::model::Service; fn f() { Answer::Drop }";
        assert_eq!(
            messages(oracle(&Tree::of(&[("agent/core/src/oracle/service/mod.rs", text)]))),
            Vec::<String>::new()
        );
        assert_eq!(messages(oracle(&Tree::of(&[]))).len(), 1, "a missing oracle is found");
    }
}
