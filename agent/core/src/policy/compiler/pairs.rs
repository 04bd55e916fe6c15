//! Closes pods of this node whose ends would let a flow pass while only one of them has changed.

use std::collections::BTreeSet;

use sluice_abi::{Addr, NetworkKey, PodPolicy, PolicyDirection, PolicyPeerKey, PolicyPorts};

use super::super::pairs::{Lookup, exposed};
use super::super::ports::Ports;
use super::super::tables::CLOSED_END;
use super::super::{LocalPod, Step};
use super::Policies;

/// The rows before an update, during it.
struct Before<'a>(&'a Policies);

/// The rows after an update.
struct After<'a>(&'a Policies);

impl Policies {
    /// Closes the ingress of [`exposed`] servers from the first of the steps of an update on, and adds a step that
    /// opens it again. Forgets what was before the update.
    pub(super) fn close_pairs(&mut self, local: &[LocalPod], steps: &mut Vec<Step>) {
        let servers = self.servers(local);
        for index in &servers {
            let Some((row, first)) = Before(self).pod(*index).zip(steps.first_mut()) else {
                continue;
            };
            if first.pods.iter().all(|(at, _)| at != index) {
                first.pods.push((*index, row));
            }
        }
        for (index, row) in steps.iter_mut().flat_map(|step| &mut step.pods) {
            if servers.contains(index) && row.generation != 0 {
                row.ends[PolicyDirection::Ingress as usize] = CLOSED_END;
            }
        }
        let rows = servers.iter().filter_map(|index| Some((*index, After(self).pod(*index)?)));
        steps.push(Step { pods: rows.collect(), ..Step::default() });
        self.pod_rows.settle();
        self.class_rows.settle();
        self.network_rows.settle();
        self.tables.settle();
    }

    /// The indices of the [`exposed`] servers.
    fn servers(&self, local: &[LocalPod]) -> BTreeSet<u32> {
        let peers = &self.tables.maps.peers;
        let has_moved = |pod: &LocalPod| self.class_rows.has_changed(&pod.address.into());
        if self.pod_rows.changed().next().is_none()
            && peers.changed().next().is_none()
            && self.network_rows.changed().next().is_none()
            && !local.iter().any(has_moved)
        {
            return BTreeSet::new();
        }
        let tables: BTreeSet<u64> = peers.changed().map(|key| key.table).collect();
        exposed(&Before(self), &After(self), local, |table| tables.contains(&table))
    }
}

impl Lookup for Before<'_> {
    fn pod(&self, index: u32) -> Option<PodPolicy> {
        self.0.pod_rows.former(&index)
    }

    fn class(&self, address: &Addr) -> Option<u64> {
        self.0.class_rows.former(address)
    }

    fn network(&self, key: &NetworkKey) -> Option<u64> {
        self.0.network_rows.former(key)
    }

    fn peer(&self, key: &PolicyPeerKey) -> Option<PolicyPorts> {
        self.0.tables.maps.peers.former(key)
    }

    fn contents(&self, row: PolicyPorts) -> Ports {
        self.0.tables.contents(row)
    }
}

impl Lookup for After<'_> {
    fn pod(&self, index: u32) -> Option<PodPolicy> {
        self.0.pod_rows.rows().get(&index).copied()
    }

    fn class(&self, address: &Addr) -> Option<u64> {
        self.0.class_rows.rows().get(address).copied()
    }

    fn network(&self, key: &NetworkKey) -> Option<u64> {
        self.0.network_rows.rows().get(key).copied()
    }

    fn peer(&self, key: &PolicyPeerKey) -> Option<PolicyPorts> {
        self.0.tables.maps.peers.rows().get(key).copied()
    }

    fn contents(&self, row: PolicyPorts) -> Ports {
        self.0.tables.contents(row)
    }
}
