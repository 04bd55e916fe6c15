//! Objects that claim the same addresses, as text.

use sluice_abi::FrontendKey;
use sluice_core::compile::Overlap;
use sluice_core::dump;
use sluice_core::tables::Conflict;

use super::State;
use crate::conditions::{Concern, Status};

/// Conflicts that the condition names.
const NAMED: usize = 10;
/// Services of one conflict that the condition names, besides the one that is served.
const NAMED_SERVICES: usize = 5;

impl State {
    /// Sets the condition to the present conflicts. Its length and its cost are bounded, whatever their
    /// number.
    pub(super) fn report_conflicts(&mut self) {
        let overlaps = self.tables.overlaps().iter().map(overlap);
        let lines = overlaps.chain(self.tables.conflicts().map(|c| conflict(&c)));
        let count = self.tables.overlaps().len() + self.tables.conflict_count();
        if count == 0 {
            self.conditions.clear(Concern::Conflicts);
        } else {
            let message = bounded(lines, count, NAMED, "; ");
            self.conditions.set(Concern::Conflicts, Status::Degraded, message, self.now);
        }
    }
}

/// Address, port and protocol.
pub fn frontend(key: &FrontendKey) -> String {
    if key.is_node_port() {
        let family = if key.addr.is_v4() { "IPv4" } else { "IPv6" };
        format!("{family} NodePort {}/{}", key.port.get(), dump::protocol(key.proto))
    } else {
        dump::key(key)
    }
}

/// A conflict in one line.
fn conflict(c: &Conflict<'_>) -> String {
    let frontend = frontend(&c.key);
    let mut services = c.services();
    let winner = services.next().map(ToString::to_string).unwrap_or_default();
    let count = services.len();
    let losers = bounded(services.map(ToString::to_string), count, NAMED_SERVICES, ", ");
    format!(
        "{frontend} is used by Service {winner}, which has precedence; not programmed: {losers}"
    )
}

/// A range of ClusterIPs among pods, in one line.
fn overlap(o: &Overlap) -> String {
    let others = match o.others {
        0 => String::new(),
        n => format!(" and {n} other pod ranges"),
    };
    format!(
        "Service range {} overlaps the pod range {} of node {}{others}: ClusterIPs among the \
         addresses of pods are not reachable",
        o.services, o.pods, o.node
    )
}

/// The first lines, and the number of the others.
pub fn bounded(
    lines: impl Iterator<Item = String>,
    count: usize,
    max: usize,
    separator: &str,
) -> String {
    let mut text = lines.take(max).collect::<Vec<_>>().join(separator);
    if count > max {
        text.push_str(&format!("{separator}and {} more", count - max));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_beyond_the_limit_are_counted() {
        let lines = |n: usize| bounded((0..n).map(|n| n.to_string()), n, 3, "; ");
        assert_eq!(lines(3), "0; 1; 2");
        assert_eq!(lines(5), "0; 1; 2; and 2 more");
    }
}
