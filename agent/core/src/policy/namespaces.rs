//! Namespaces in which no policy can select pods: rows of `OPEN_NAMESPACES`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use sluice_abi::{map, namespace_id};

use super::cluster_may_select;
use super::rows::RowChange;
use super::tracked::{Tracked, When};
use crate::index::Index;

/// What is known of a namespace.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Facts {
    /// It has an object, or pods of this node.
    exists: bool,
    /// It has NetworkPolicies.
    own: bool,
    /// ClusterNetworkPolicies may select its pods.
    cluster: bool,
}

/// The namespaces with one id.
#[derive(Clone, Copy, Debug, Default)]
struct OfId {
    /// Number of those that exist.
    existing: u32,
    /// Number of those whose pods policies can select.
    closed: u32,
}

/// The namespaces, and their rows.
#[derive(Clone, Debug, Default)]
pub struct Namespaces {
    by_name: BTreeMap<Arc<str>, Facts>,
    by_id: BTreeMap<u64, OfId>,
    /// Ids of which every namespace is open.
    open: BTreeSet<u64>,
    rows: Tracked<u64, u32>,
    /// Whether some open ids have no row, because they do not fit.
    is_full: bool,
}

impl Namespaces {
    /// Names of all that are known.
    pub fn names(&self) -> impl Iterator<Item = &Arc<str>> {
        self.by_name.keys()
    }

    /// The rows.
    pub fn rows(&self) -> &BTreeMap<u64, u32> {
        self.rows.rows()
    }

    /// Whether an id has a row.
    pub fn is_open(&self, when: When, id: u64) -> bool {
        self.rows.row(when, &id).is_some()
    }

    /// Forgets the rows from before.
    pub fn end_update(&mut self) {
        self.rows.end_update();
    }

    /// NetworkPolicies of a namespace were added, changed or deleted.
    pub fn policies(&mut self, index: &Index, name: &Arc<str>, has_pods: bool) {
        match self.by_name.get(name) {
            Some(Facts { exists, cluster, .. }) => {
                let (exists, cluster) = (*exists, *cluster);
                self.set(name, Facts { exists, own: has_policies(index, name), cluster });
            }
            None => self.namespace(index, name, has_pods),
        }
    }

    /// A namespace, its labels, the presence of its pods, or ClusterNetworkPolicies changed.
    pub fn namespace(&mut self, index: &Index, name: &Arc<str>, has_pods: bool) {
        let exists = has_pods || index.namespace(name).is_some();
        let cluster = exists && cluster_may_select(index, name);
        self.set(name, Facts { exists, own: has_policies(index, name), cluster });
    }

    fn set(&mut self, name: &Arc<str>, facts: Facts) {
        let known = facts.exists || facts.own;
        let former = match known {
            true => self.by_name.insert(Arc::clone(name), facts),
            false => self.by_name.remove(name),
        };
        let former = former.unwrap_or_default();
        if former == facts {
            return;
        }
        let id = namespace_id(name);
        let counts = |facts: Facts| [facts.exists, facts.own || facts.cluster].map(u32::from);
        let ([existed, closed], [exists, closes]) = (counts(former), counts(facts));
        let of_id = self.by_id.entry(id).or_default();
        of_id.existing = of_id.existing - existed + exists;
        of_id.closed = of_id.closed - closed + closes;
        let is_open = of_id.existing > 0 && of_id.closed == 0;
        if of_id.existing == 0 && of_id.closed == 0 {
            self.by_id.remove(&id);
        }
        match is_open {
            true => self.open.insert(id),
            false => self.open.remove(&id),
        };
        if !self.is_full {
            self.rows.set(id, is_open.then_some(1));
        }
    }

    /// The rows that changed since the last call.
    pub fn take(&mut self) -> RowChange<u64, u32> {
        let limit = map::OPEN_NAMESPACES_MAX as usize;
        let is_full = self.open.len() > limit;
        if is_full || self.is_full {
            // The first ones, whatever was before.
            let wanted: BTreeSet<u64> = self.open.iter().take(limit).copied().collect();
            for id in self.rows.rows().keys().copied().collect::<Vec<_>>() {
                if !wanted.contains(&id) {
                    self.rows.set(id, None);
                }
            }
            wanted.into_iter().for_each(|id| self.rows.set(id, Some(1)));
        }
        self.is_full = is_full;
        self.rows.take()
    }
}

fn has_policies(index: &Index, name: &str) -> bool {
    index.network_policies_of(name).next().is_some()
}
