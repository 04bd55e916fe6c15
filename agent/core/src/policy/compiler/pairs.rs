//! Closes pods of this node whose ends would let a flow pass while only one of them has changed.

use std::collections::BTreeSet;

use sluice_abi::{Addr, NetworkKey, PodPolicy, PolicyDirection, PolicyPeerKey, PolicyPorts};

use super::super::pairs::{RowSource, class_of, row_of, servers_to_close};
use super::super::ports::Ports;
use super::super::tables::CLOSED_END;
use super::super::{LocalPod, Step};
use super::Policies;

/// The rows before an update, during it.
struct Before<'a>(&'a Policies);

/// The rows after an update.
struct After<'a>(&'a Policies);

impl Policies {
    /// Closes the ingress of [`servers_to_close`] from the first of the steps of an update on, and adds a step that
    /// opens it again. Ends the update of all rows.
    pub(super) fn close_pairs(&mut self, local: &[LocalPod], steps: &mut Vec<Step>) {
        let servers = self.servers(local);
        let mut last = Step::default();
        for pod in local.iter().filter(|pod| servers.contains(&pod.index.into())) {
            let index = u32::from(pod.index);
            let former = row_of(&Before(self), pod);
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
            last.pods.extend(row_of(&After(self), pod).map(|row| (index, row)));
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
        let classes: BTreeSet<u64> = local
            .iter()
            .flat_map(|pod| {
                [class_of(&Before(self), pod.address), class_of(&After(self), pod.address)]
            })
            .collect();
        let of_local = peers.changed_in_update().filter(|key| classes.contains(&key.class));
        let tables: BTreeSet<u64> = of_local.map(|key| key.table).collect();
        servers_to_close(&Before(self), &After(self), local, |table| tables.contains(&table))
    }
}

impl RowSource for Before<'_> {
    fn pod(&self, index: u32) -> Option<PodPolicy> {
        self.0.pod_rows.before_update(&index)
    }

    fn class(&self, address: &Addr) -> Option<u64> {
        self.0.class_rows.before_update(address)
    }

    fn network(&self, key: &NetworkKey) -> Option<u64> {
        self.0.network_rows.before_update(key)
    }

    fn peer(&self, key: &PolicyPeerKey) -> Option<PolicyPorts> {
        self.0.tables.maps.peers.before_update(key)
    }

    fn ports_of(&self, row: PolicyPorts) -> Ports {
        self.0.tables.ports_of(row)
    }

    fn is_open(&self, namespace: u64) -> bool {
        self.0.namespaces.was_open(namespace)
    }
}

impl RowSource for After<'_> {
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

    fn ports_of(&self, row: PolicyPorts) -> Ports {
        self.0.tables.ports_of(row)
    }

    fn is_open(&self, namespace: u64) -> bool {
        self.0.namespaces.rows().contains_key(&namespace)
    }
}
