//! Rows of the maps of policies, and the changes of one step.

use std::collections::BTreeMap;

use sluice_abi::{Addr, NetworkKey, PodPolicy, PolicyPeerKey, PolicyPortKey, PolicyPorts};
use zerocopy::FromZeros;

use crate::table::{
    OpenNamespaces, PodPolicies, PolicyClasses, PolicyEpochs, PolicyNetworks, PolicyPeers,
    PortSets, Write,
};

/// All rows of the maps of policies.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PolicyRows {
    /// `POD_POLICY`, with revision 0. An index without a row is zero in the map.
    pub pods: BTreeMap<u32, PodPolicy>,
    /// `POLICY_CLASSES`.
    pub classes: BTreeMap<Addr, u64>,
    /// `POLICY_NETWORKS`. The class may be 0: the range is an exception of a larger one.
    pub networks: BTreeMap<NetworkKey, u64>,
    /// `POLICY_PEERS`.
    pub peers: BTreeMap<PolicyPeerKey, PolicyPorts>,
    /// `POLICY_PORTS`.
    pub ports: BTreeMap<PolicyPortKey, u32>,
    /// `OPEN_NAMESPACES`.
    pub open_namespaces: BTreeMap<u64, u32>,
}

/// Changes of the rows of one map, in the order in which they are carried out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RowChange<K, V> {
    /// Rows to add or to replace.
    pub puts: Vec<(K, V)>,
    /// Rows to delete.
    pub deletes: Vec<K>,
}

impl<K, V> Default for RowChange<K, V> {
    fn default() -> RowChange<K, V> {
        RowChange { puts: Vec::new(), deletes: Vec::new() }
    }
}

impl<K: Ord + Copy, V: PartialEq + Copy> RowChange<K, V> {
    /// Whether nothing changes.
    pub fn is_empty(&self) -> bool {
        self.puts.is_empty() && self.deletes.is_empty()
    }

    /// The changes that lead from some rows to others.
    pub fn between(old: &BTreeMap<K, V>, new: &BTreeMap<K, V>) -> Self {
        let puts = new.iter().filter(|(key, value)| old.get(key) != Some(value));
        let puts = puts.map(|(key, value)| (*key, *value)).collect();
        let deletes = old.keys().filter(|key| !new.contains_key(key)).copied().collect();
        RowChange { puts, deletes }
    }

    /// Carries the changes out.
    pub fn apply(&self, rows: &mut BTreeMap<K, V>) {
        for key in &self.deletes {
            rows.remove(key);
        }
        rows.extend(self.puts.iter().copied());
    }
}

impl RowChange<u32, PodPolicy> {
    /// Rows to write: a row of `POD_POLICY` is deleted by zeros.
    pub fn with_zeros(self) -> impl Iterator<Item = (u32, PodPolicy)> {
        let zeros = self.deletes.into_iter().map(|index| (index, PodPolicy::new_zeroed()));
        self.puts.into_iter().chain(zeros)
    }
}

/// Changes that are carried out together, in the order of [`Step::writes`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Step {
    /// `POLICY_PORTS`.
    pub ports: RowChange<PolicyPortKey, u32>,
    /// `POLICY_PEERS`.
    pub peers: RowChange<PolicyPeerKey, PolicyPorts>,
    /// `POLICY_NETWORKS`: puts have the longest prefix first, deletions the shortest, so that no
    /// address has the class of a range between its old and its new one.
    pub networks: RowChange<NetworkKey, u64>,
    /// `POLICY_CLASSES`.
    pub classes: RowChange<Addr, u64>,
    /// `POD_POLICY`: rows that change, and those of pods whose flows must be judged again. A put of zeros is
    /// a deletion. The revision is 0: it is set by [`Step::writes`].
    pub pods: Vec<(u32, PodPolicy)>,
    /// `OPEN_NAMESPACES`.
    pub open_namespaces: RowChange<u64, u32>,
}

impl Step {
    /// Whether nothing is written.
    pub fn is_empty(&self) -> bool {
        *self == Step::default()
    }

    /// Whether rows of `POLICY_PORTS`, `POLICY_PEERS`, `POLICY_NETWORKS` or `POLICY_CLASSES` change.
    fn changes_tables(&self) -> bool {
        !(self.ports.is_empty()
            && self.peers.is_empty()
            && self.networks.is_empty()
            && self.classes.is_empty())
    }

    /// The batches in the order in which they are written: what a verdict depends on, then the rows of
    /// pods, then the removal of rows of tables, then `POLICY_EPOCH`. `epoch` is what
    /// `POLICY_EPOCH` has; it becomes the next number if a row of a pod is written. `present` are the rows of
    /// pods before the step. If a batch fails, the maps are brought to [`super::Policies::rows`] later.
    ///
    /// If classes, networks, tables or sets of ports change, the current rows of the affected pods are first
    /// written with the next revision. If the agent ends before the epoch is written, the next one detects the
    /// interrupted step by these revisions. No verdict changes
    /// after the epoch, at which a flow counts as judged by all of it. An address gets its row before
    /// the ranges change, and loses it after that: it never has the class of a range in between.
    pub fn writes(&self, epoch: u32, present: &BTreeMap<u32, PodPolicy>) -> Vec<Write> {
        let next = epoch.wrapping_add(1);
        let mark = |(index, row): &(u32, PodPolicy)| {
            let present = present.get(index).filter(|p| p.generation == row.generation)?;
            Some((*index, at_revision(*present, next)))
        };
        let marked = self.pods.iter().filter(|_| self.changes_tables()).filter_map(mark);
        let marked: BTreeMap<u32, PodPolicy> = marked.collect();
        let pods = self.pods.iter().map(|(index, row)| (*index, at_revision(*row, next)));
        let pods = pods.filter(|(index, row)| marked.get(index) != Some(row));
        let epochs = (!self.pods.is_empty()).then_some((0, next));
        [
            Write::delete::<OpenNamespaces>(self.open_namespaces.deletes.iter().copied()),
            Write::put::<PodPolicies>(marked.iter().map(|(index, row)| (*index, *row))),
            Write::put::<PortSets>(self.ports.puts.iter().copied()),
            Write::put::<PolicyPeers>(self.peers.puts.iter().copied()),
            Write::put::<PolicyClasses>(self.classes.puts.iter().copied()),
            Write::put::<PolicyNetworks>(self.networks.puts.iter().copied()),
            Write::delete::<PolicyNetworks>(self.networks.deletes.iter().copied()),
            Write::delete::<PolicyClasses>(self.classes.deletes.iter().copied()),
            Write::put::<PodPolicies>(pods),
            Write::delete::<PolicyPeers>(self.peers.deletes.iter().copied()),
            Write::put::<PolicyEpochs>(epochs),
            Write::delete::<PortSets>(self.ports.deletes.iter().copied()),
            Write::put::<OpenNamespaces>(self.open_namespaces.puts.iter().copied()),
        ]
        .into_iter()
        .flatten()
        .collect()
    }

    /// Makes `epoch` and the rows of pods those that the maps have after [`Step::writes`].
    pub fn written(&self, epoch: &mut u32, present: &mut BTreeMap<u32, PodPolicy>) {
        if !self.pods.is_empty() {
            *epoch = epoch.wrapping_add(1);
        }
        for (index, row) in &self.pods {
            if row.generation == 0 {
                present.remove(index);
            } else {
                present.insert(*index, at_revision(*row, *epoch));
            }
        }
    }
}

/// The row with a revision; a row of zeros is that of no pod.
fn at_revision(row: PodPolicy, revision: u32) -> PodPolicy {
    if row.generation == 0 { row } else { PodPolicy { revision, ..row } }
}
