//! Routes to the pods of other nodes, and the unreachable route to this node's own pod CIDR.
//!
//! Without the latter, packets to an address that no pod has would follow the default route, and
//! loop where the next router sends them back.

use sluice_bpf::error_chain;
use sluice_core::model::Kind;

use super::{NotReconciled, Reconciler, all_or_failed};
use crate::conditions::Concern;
use crate::kernel::{Hop, Kernel, Routes};
use crate::state::State;

/// Adds, replaces and deletes routes.
#[derive(Debug, Default)]
pub struct ReconcileRoutes {
    /// The routes after the last success.
    former: Routes,
}

impl Reconciler for ReconcileRoutes {
    fn concern(&self) -> Concern {
        Concern::Routes
    }

    fn reconcile(
        &mut self,
        state: &mut State,
        kernel: &mut dyn Kernel,
    ) -> Result<(), NotReconciled> {
        if !state.listed(Kind::Node) {
            return Err(NotReconciled::Waiting("Nodes have not been listed"));
        }
        if !state.tables_written() {
            return Err(NotReconciled::Waiting("the maps have not been written"));
        }
        let desired = desired(state);
        let actual = kernel.routes()?;
        let mut failures = Vec::new();
        let (mut written, mut deleted, mut repaired) = (0, 0, 0);
        for change in changes(&actual, &desired) {
            let result = match &change {
                Change::Put(dst, hop) => kernel.put_route(dst, hop).map(|()| written += 1),
                Change::Delete(dst, hop) => kernel.delete_route(dst, hop).map(|()| deleted += 1),
            };
            match (result, change) {
                (Err(e), _) => failures.push(error_chain(&e)),
                (Ok(()), Change::Put(dst, hop)) if self.former.get(&dst) == Some(&hop) => {
                    repaired += 1;
                }
                _ => {}
            }
        }
        state.repaired("routes", repaired);
        if written + deleted > 0 {
            tracing::info!(written, deleted, "routes changed");
        }
        all_or_failed(&failures)?;
        self.former = desired;
        Ok(())
    }
}

/// The routes of this node.
fn desired(state: &State) -> Routes {
    let others = state.tables().routes().iter().map(|(dst, hop)| (*dst, Hop::Via(*hop)));
    let own = state.pod_cidrs().into_iter().map(|dst| (dst.trunc(), Hop::Unreachable));
    others.chain(own).collect()
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Change {
    Put(ipnet::IpNet, Hop),
    Delete(ipnet::IpNet, Hop),
}

/// What leads from `actual` to `desired`. A route that changes its kind is deleted first: the
/// kernel keeps both, because their metrics differ.
fn changes(actual: &Routes, desired: &Routes) -> Vec<Change> {
    let mut changes = Vec::new();
    for (dst, hop) in desired {
        match actual.get(dst) {
            Some(old) if old == hop => continue,
            Some(old) if std::mem::discriminant(old) != std::mem::discriminant(hop) => {
                changes.push(Change::Delete(*dst, *old));
            }
            _ => {}
        }
        changes.push(Change::Put(*dst, *hop));
    }
    let extra = actual.iter().filter(|(dst, _)| !desired.contains_key(dst));
    changes.extend(extra.map(|(dst, hop)| Change::Delete(*dst, *hop)));
    changes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn routes(lines: &[(&str, &str)]) -> Routes {
        lines
            .iter()
            .map(|(dst, hop)| {
                let hop = hop.parse().map_or(Hop::Unreachable, Hop::Via);
                (dst.parse().unwrap(), hop)
            })
            .collect()
    }

    #[test]
    fn only_differences_are_changed_and_a_changed_kind_is_deleted_first() {
        let actual = routes(&[
            ("10.1.0.0/24", "172.18.0.3"),
            ("10.2.0.0/24", "172.18.0.3"),
            ("10.3.0.0/24", "172.18.0.3"),
            ("10.4.0.0/24", "unreachable"),
        ]);
        let desired = routes(&[
            ("10.1.0.0/24", "172.18.0.3"),
            ("10.2.0.0/24", "172.18.0.4"),
            ("10.3.0.0/24", "unreachable"),
            ("10.5.0.0/24", "172.18.0.5"),
        ]);
        let (via, net) =
            (|ip: &str| Hop::Via(ip.parse().unwrap()), |net: &str| net.parse().unwrap());
        assert_eq!(
            changes(&actual, &desired),
            [
                Change::Put(net("10.2.0.0/24"), via("172.18.0.4")),
                Change::Delete(net("10.3.0.0/24"), via("172.18.0.3")),
                Change::Put(net("10.3.0.0/24"), Hop::Unreachable),
                Change::Put(net("10.5.0.0/24"), via("172.18.0.5")),
                Change::Delete(net("10.4.0.0/24"), Hop::Unreachable),
            ]
        );
        assert_eq!(changes(&desired, &desired), []);
    }
}
