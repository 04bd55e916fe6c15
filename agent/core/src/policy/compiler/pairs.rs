//! Closes pods of this node whose ends would let a flow pass while only one of them has changed.

use std::collections::BTreeSet;

use sluice_abi::{Addr, NetworkKey, PodPolicy, PolicyDirection, PolicyPeerKey, PolicyPorts};

use super::super::pairs::{RowSource, row_of, servers_to_close};
use super::super::ports::Ports;
use super::super::tables::CLOSED_END;
use super::super::tracked::When;
use super::super::{LocalPod, Step};
use super::Policies;

/// The rows before or after an update, during it.
struct Rows<'a>(&'a Policies, When);

impl Policies {
    /// Closes the ingress of [`servers_to_close`] from the first of the steps of an update on, and adds a step that
    /// opens it again. Ends the update of all rows.
    pub(super) fn close_pairs(&mut self, local: &[LocalPod], steps: &mut Vec<Step>) {
        let servers = self.servers(local);
        let mut last = Step::default();
        for pod in local.iter().filter(|pod| servers.contains(&pod.index.into())) {
            let index = u32::from(pod.index);
            let former = row_of(&self.before_update(), pod);
            if let Some((row, first)) = former.zip(steps.first_mut())
                && first.pods.iter().all(|(at, _)| *at != index)
            {
                first.pods.push((index, row));
            }
            for step in &mut *steps {
                let is_its = |(at, row): &(u32, PodPolicy)| *at == index && row.generation != 0;
                step.pods.retain(|pod| former.is_some() || !is_its(pod));
                for (_, row) in step.pods.iter_mut().filter(|pod| is_its(pod)) {
                    row.ends[PolicyDirection::Ingress as usize] = CLOSED_END;
                }
            }
            last.pods.extend(row_of(&self.after_update(), pod).map(|row| (index, row)));
        }
        steps.push(last);
        self.pod_rows.end_update();
        self.class_rows.end_update();
        self.network_rows.end_update();
        self.tables.end_update();
        self.namespaces.end_update();
    }

    /// The indices of [`servers_to_close`].
    fn servers(&self, local: &[LocalPod]) -> BTreeSet<u32> {
        let peers = &self.tables.maps.peers;
        let has_moved = |pod: &LocalPod| self.class_rows.has_changed_in_update(&pod.address.into());
        if self.pod_rows.changed_in_update().next().is_none()
            && peers.changed_in_update().next().is_none()
            && self.network_rows.changed_in_update().next().is_none()
            && !local.iter().any(has_moved)
        {
            return BTreeSet::new();
        }
        let rewritten = |classes: &BTreeSet<u64>| {
            let of_local = peers.changed_in_update().filter(|key| classes.contains(&key.class));
            of_local.map(|key| key.table).collect()
        };
        servers_to_close(&self.before_update(), &self.after_update(), local, rewritten)
    }

    fn before_update(&self) -> Rows<'_> {
        Rows(self, When::BeforeUpdate)
    }

    fn after_update(&self) -> Rows<'_> {
        Rows(self, When::Now)
    }
}

impl RowSource for Rows<'_> {
    fn pod(&self, index: u32) -> Option<PodPolicy> {
        self.0.pod_rows.row(self.1, &index)
    }

    fn class(&self, address: &Addr) -> Option<u64> {
        self.0.class_rows.row(self.1, address)
    }

    fn network(&self, key: &NetworkKey) -> Option<u64> {
        self.0.network_rows.row(self.1, key)
    }

    fn peer(&self, key: &PolicyPeerKey) -> Option<PolicyPorts> {
        self.0.tables.maps.peers.row(self.1, key)
    }

    fn ports_of(&self, row: PolicyPorts) -> Ports {
        self.0.tables.ports_of(row)
    }

    fn is_open(&self, namespace: u64) -> bool {
        self.0.namespaces.is_open(self.1, namespace)
    }
}
