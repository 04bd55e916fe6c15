//! Events, injected failures and time in; operations on the node out.

mod changes;
mod failures;
mod fairness;
mod findings;
mod growth;
mod heartbeat;
mod start;

use sluice_abi::node_flags;
use sluice_core::table::NodeConfigs;

use crate::harness::Harness;

/// Operations whose label begins so.
fn only<'a>(log: &'a [String], label: &str) -> Vec<&'a str> {
    log.iter().map(String::as_str).filter(|l| l.starts_with(label)).collect()
}

#[track_caller]
fn position(log: &[String], label: &str) -> usize {
    log.iter().position(|l| l.starts_with(label)).unwrap_or_else(|| panic!("{label} in {log:?}"))
}

fn ready_flag(harness: &mut Harness) -> bool {
    let rows = harness.kernel().rows::<NodeConfigs>();
    rows.first().is_some_and(|(_, config)| config.flags & node_flags::READY != 0)
}
