//! The rows that the maps have, and what leads from them to the desired ones.

use std::collections::{BTreeMap, BTreeSet};

use sluice_abi::{PodPolicy, PolicyEnd, ports_kind};
use sluice_core::policy::{PolicyRows, Step};
use sluice_core::table::{
    OpenNamespaces, PodPolicies, PolicyClasses, PolicyEpochs, PolicyNetworks, PolicyPeers,
    PortSets, Table, Write,
};

use crate::kernel::{Kernel, Result};

/// The small maps as they were read or written: rows of pods with their revisions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// `POLICY_EPOCH`.
    pub epoch: u32,
    pods: BTreeMap<u32, PodPolicy>,
    open_namespaces: BTreeMap<u64, u32>,
}

fn read<T: Table>(kernel: &mut dyn Kernel) -> Result<BTreeMap<T::Key, T::Value>> {
    Ok(kernel.read(T::SPEC)?.typed::<T>().collect())
}

impl Found {
    fn read_small(kernel: &mut dyn Kernel) -> Result<Found> {
        let mut pods = read::<PodPolicies>(kernel)?;
        pods.retain(|_, row| *row != PodPolicy::default());
        Ok(Found {
            epoch: read::<PolicyEpochs>(kernel)?.into_values().next().unwrap_or_default(),
            pods,
            open_namespaces: read::<OpenNamespaces>(kernel)?,
        })
    }

    /// Reads all maps. The rows of pods are also in the second result, with revision 0.
    pub fn read(kernel: &mut dyn Kernel) -> Result<(Found, PolicyRows)> {
        let found = Found::read_small(kernel)?;
        let pods =
            found.pods.iter().map(|(index, row)| (*index, PodPolicy { revision: 0, ..*row }));
        let rows = PolicyRows {
            pods: pods.collect(),
            classes: read::<PolicyClasses>(kernel)?,
            networks: read::<PolicyNetworks>(kernel)?,
            peers: read::<PolicyPeers>(kernel)?,
            ports: read::<PortSets>(kernel)?,
            open_namespaces: found.open_namespaces.clone(),
        };
        Ok((found, rows))
    }

    /// Whether the small maps still have these rows.
    pub fn holds(&self, kernel: &mut dyn Kernel) -> Result<bool> {
        Ok(Found::read_small(kernel)? == *self)
    }

    /// The writes of a step.
    pub fn writes(&self, step: &Step) -> Vec<Write> {
        step.writes(self.epoch, &self.pods)
    }

    /// Takes in a step that was carried out.
    pub fn written(&mut self, step: &Step) {
        if !step.pods.is_empty() {
            self.epoch = self.epoch.wrapping_add(1);
        }
        for (index, row) in &step.pods {
            if row.generation == 0 {
                self.pods.remove(index);
            } else {
                self.pods.insert(*index, PodPolicy { revision: self.epoch, ..*row });
            }
        }
        step.open_namespaces.apply(&mut self.open_namespaces);
    }

    /// Whether a row has a revision that `POLICY_EPOCH` has not reached: the step that wrote it was not
    /// carried out completely.
    pub fn is_ahead(&self) -> bool {
        self.pods.values().any(|row| self.distance(row.revision) > 0)
    }

    /// Makes the next epoch follow all revisions, and `floor`: flows may have been judged at that
    /// epoch.
    pub fn catch_up(&mut self, floor: Option<u32>) {
        let revisions = self.pods.values().map(|row| row.revision).chain(floor);
        if let Some(last) = revisions.max_by_key(|revision| self.distance(*revision)) {
            let distance = self.distance(last).max(0).unsigned_abs();
            self.epoch = self.epoch.wrapping_add(distance);
        }
    }

    /// How far a revision is ahead of the epoch.
    fn distance(&self, revision: u32) -> i32 {
        revision.wrapping_sub(self.epoch).cast_signed()
    }
}

/// Takes the rows out that judge no flow now and are not wanted, and returns their deletions: what an
/// interrupted step left must not take the space of rows that are missing, and must not judge a pod or a
/// peer that gets its table or its class.
pub fn take_unused(found: &mut PolicyRows, wanted: &PolicyRows) -> Vec<Write> {
    let ends: Vec<PolicyEnd> = found.pods.values().flat_map(|row| row.ends).collect();
    let tables: BTreeSet<u64> = ends.iter().map(|end| end.table).collect();
    let classes: BTreeSet<u64> =
        found.classes.values().chain(found.networks.values()).copied().collect();
    let peers = take(&mut found.peers, |key| {
        tables.contains(&key.table) && classes.contains(&key.class)
            || wanted.peers.contains_key(key)
    });
    let used = found.peers.values().chain(ends.iter().map(|end| &end.otherwise));
    let sets: BTreeSet<u64> =
        used.filter(|ports| ports.kind == ports_kind::SET).map(|ports| ports.id).collect();
    let ports = take(&mut found.ports, |key| {
        sets.contains(&zerocopy::transmute!(key.id)) || wanted.ports.contains_key(key)
    });
    [Write::delete::<PolicyPeers>(peers), Write::delete::<PortSets>(ports)]
        .into_iter()
        .flatten()
        .collect()
}

/// Removes the rows whose key is not in use; returns their keys.
fn take<K: Ord + Copy, V>(rows: &mut BTreeMap<K, V>, in_use: impl Fn(&K) -> bool) -> Vec<K> {
    rows.extract_if(.., |key, _| !in_use(key)).map(|(key, _)| key).collect()
}

#[cfg(test)]
mod tests {
    use sluice_abi::{Addr, PolicyPeerKey, PolicyPortKey, PolicyPorts};

    use super::*;

    /// One isolated pod with table 1, and one address of class 1.
    fn rows() -> PolicyRows {
        let end = PolicyEnd { table: 1, otherwise: PolicyPorts::NONE };
        let pod = PodPolicy { generation: 1, ends: [end; 2], ..PodPolicy::default() };
        let mut rows = PolicyRows::default();
        rows.pods.insert(7, pod);
        rows.classes.insert(Addr::from(std::net::Ipv4Addr::new(10, 244, 1, 2)), 1);
        rows.peers.insert(PolicyPeerKey { table: 1, class: 1 }, PolicyPorts::ALL);
        rows
    }

    #[test]
    fn rows_that_judge_nothing_and_are_not_wanted_are_removed_first() {
        let mut wanted = rows();
        for row in wanted.pods.values_mut() {
            row.ends[1].table = 2;
        }
        wanted.peers.insert(PolicyPeerKey { table: 2, class: 1 }, PolicyPorts::ALL);
        let mut found = rows();
        // Of the table that the pod gets; of a class that no peer has yet; of neither.
        let unused = [(2, 3), (1, 2), (3, 3)].map(|(table, class)| PolicyPeerKey { table, class });
        found.peers.extend(unused.map(|key| (key, PolicyPorts::set(9))));
        // Rows that will be replaced take no more space.
        found.peers.insert(PolicyPeerKey { table: 2, class: 1 }, PolicyPorts::NONE);
        let of_nine =
            PolicyPortKey { prefix_len: 64, id: zerocopy::transmute!(9u64), ..Default::default() };
        found.ports.insert(of_nine, 1);
        let writes = take_unused(&mut found, &wanted);
        let labels: Vec<_> = writes.iter().map(|w| (w.table().name, w.len())).collect();
        assert_eq!(labels, [("POLICY_PEERS", 3), ("POLICY_PORTS", 1)]);
        let kept: Vec<_> = found.peers.keys().map(|key| (key.table, key.class)).collect();
        assert_eq!((kept, found.ports.len()), (vec![(1, 1), (2, 1)], 0));
    }

    #[test]
    fn rows_that_judge_flows_stay_until_pods_change_over() {
        let mut found = rows();
        let set =
            PolicyPortKey { prefix_len: 64, id: zerocopy::transmute!(9u64), ..Default::default() };
        found.ports.insert(set, 1);
        found.peers.insert(PolicyPeerKey { table: 1, class: 1 }, PolicyPorts::set(9));
        let before = found.clone();
        assert!(take_unused(&mut found, &PolicyRows::default()).is_empty());
        assert_eq!(found, before);
    }
}
