//! Cases as data: changes in, table dump out. One file per case in `agent/core/cases`.
//!
//! A file has one or more steps, separated by `===`. A step is a list of changes (see
//! [`notation`]), then `---`, then the dump of the tables after these changes. A step names each
//! object at most once. Lines that start with `#` are comments. The line `context local=ADDRESS,...
//! services=CIDR,...` sets the addresses and ServiceCIDRs of the node, which is called n1.
//!
//! Each case runs with the changes of a step forwards, backwards and repeated. After each step, the
//! rows in a model of the maps equal the desired rows. After each change, the incrementally updated
//! tables equal those that are compiled from scratch.
//!
//! `UPDATE=1 cargo test -p sluice-core cases` rewrites the expected dumps.

mod contract;
mod contract_cluster_policy;
mod contract_maps;
mod contract_policy;
pub mod notation;
pub mod policy_notation;
mod policy_reasons;

use std::path::{Path, PathBuf};
use std::{env, fs};

use crate::diff::{Capacity, RealizedState};
use crate::dump;
use crate::index::Index;
use crate::model::{Change, Kind, NodeContext, NodePortAddresses, parse_cidr, parse_ip};
use crate::properties::kernel::{Kernel, desired_effect, rows};
use crate::tables::{Changed, Tables};

/// One step of a case.
struct Step<'a> {
    /// The text above the separator, as in the file.
    text: &'a str,
    context: Option<NodeContext>,
    changes: Vec<Change>,
    dump: &'a str,
}

#[test]
fn cases_compile_to_their_dumps() {
    let mut failures = Vec::new();
    let files = files();
    assert!(files.len() > 10, "the cases are missing");
    for path in files {
        let text = fs::read_to_string(&path).expect("readable case");
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let steps: Vec<Step<'_>> = text.split("===\n").map(|s| step(&name, s)).collect();
        let dumps = run(&name, &steps, |changes| changes.to_vec());
        for order in [
            (|changes| changes.iter().rev().cloned().collect()) as fn(&[Change]) -> Vec<Change>,
            |changes| changes.iter().flat_map(|c| [c.clone(), c.clone()]).collect(),
        ] {
            assert_eq!(run(&name, &steps, order), dumps, "{name}: the order matters");
        }
        if dumps.iter().eq(steps.iter().map(|step| step.dump)) {
            continue;
        }
        if env::var_os("UPDATE").is_some() {
            let steps = steps.iter().zip(&dumps).map(|(s, dump)| format!("{}---\n{dump}", s.text));
            fs::write(&path, steps.collect::<Vec<_>>().join("===\n")).expect("writable case");
            continue;
        }
        for (n, (step, dump)) in steps.iter().zip(&dumps).enumerate() {
            if step.dump != dump {
                failures.push(format!(
                    "{name}, step {}: expected\n{}got\n{dump}",
                    n + 1,
                    step.dump
                ));
            }
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

/// The dump after each step.
fn run(name: &str, steps: &[Step<'_>], order: fn(&[Change]) -> Vec<Change>) -> Vec<String> {
    let mut index = Index::new("n1");
    index.apply(Change::Replace(Kind::ServiceCidr, vec![]));
    let mut tables = Tables::default();
    let mut context = NodeContext::default();
    let mut kernel = Kernel::new(Capacity { slots: 1000, ..Capacity::default() });
    let mut realized = RealizedState::with_capacity(kernel.read_back(), kernel.capacity);
    let mut dumps = Vec::new();
    for step in steps {
        let mut changed = Changed::default();
        if let Some(new) = &step.context {
            context = new.clone();
            let mut dirty = index.take_dirty();
            dirty.nodes = true;
            changed.merge(tables.update(&index, &dirty, &context));
        }
        for change in order(&step.changes) {
            index.apply(change);
            let dirty = index.take_dirty();
            changed.merge(tables.update(&index, &dirty, &context));
            let full = Tables::full(&index, &context);
            assert_eq!(dump::tables(&tables), dump::tables(&full), "{name}: incremental update");
        }
        let plan = realized.plan(&tables, &changed);
        kernel.begin_plan();
        rows(&plan.writes).into_iter().for_each(|row| kernel.apply(row));
        assert_eq!(kernel.effect(), desired_effect(&tables), "{name}: rows in the maps");
        assert_eq!(&kernel.networks, tables.networks(), "{name}: networks in the map");
        dumps.push(dump::tables(&tables));
    }
    dumps
}

fn step<'a>(name: &str, text: &'a str) -> Step<'a> {
    let (above, dump) = text.split_once("---\n").unwrap_or((text, ""));
    let mut step = Step { text: above, context: None, changes: Vec::new(), dump };
    let lines = above.lines().map(str::trim);
    for line in lines.filter(|line| !line.is_empty() && !line.starts_with('#')) {
        match line.strip_prefix("context ") {
            Some(fields) => step.context = Some(context(fields)),
            None => match notation::change(line) {
                Ok(change) => step.changes.push(change),
                Err(error) => panic!("{name}: {error} in {line:?}"),
            },
        }
    }
    step
}

fn context(fields: &str) -> NodeContext {
    let mut context = NodeContext::default();
    for field in fields.split_whitespace() {
        match field.split_once('=') {
            Some(("local", list)) => {
                context.local_addresses = list.split(',').filter_map(parse_ip).collect();
            }
            Some(("services", list)) => {
                context.service_cidrs = list.split(',').filter_map(parse_cidr).collect();
            }
            Some(("node-ports", "primary")) => context.node_ports = NodePortAddresses::Primary,
            Some(("node-ports", list)) => {
                let ranges = list.split(',').filter_map(parse_cidr).collect();
                context.node_ports = NodePortAddresses::Ranges(ranges);
            }
            _ => panic!("unknown field {field}"),
        }
    }
    context
}

fn files() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("cases");
    let entries = fs::read_dir(folder).expect("folder of cases");
    let paths = entries.map(|entry| entry.expect("entry").path());
    let mut files: Vec<PathBuf> =
        paths.filter(|path| path.extension().is_some_and(|e| e == "txt")).collect();
    files.sort();
    files
}
