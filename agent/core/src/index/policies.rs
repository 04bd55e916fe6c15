//! NetworkPolicies, ClusterNetworkPolicies, and the objects that policies depend on and that changed.

use std::collections::{BTreeMap, BTreeSet};
use std::mem;
use std::ops::Bound;
use std::sync::Arc;

use super::Index;
use crate::model::{ClusterNetworkPolicy, NetworkPolicy, Node, ObjectName};
use crate::visits::visit;

/// Objects that changed, as far as policies depend on them; existing or deleted ones.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PolicyDirty {
    /// All objects may have changed; the other fields are then empty. So it is at the start, when
    /// objects arrive by thousands.
    pub all: bool,
    /// Pods.
    pub pods: BTreeSet<ObjectName>,
    /// Namespaces.
    pub namespaces: BTreeSet<Arc<str>>,
    /// NetworkPolicies and ClusterNetworkPolicies.
    pub policies: BTreeSet<ObjectName>,
    /// Whether pod ranges, addresses or labels of Nodes changed.
    pub nodes: bool,
}

impl PolicyDirty {
    /// All objects may have changed.
    pub fn everything() -> PolicyDirty {
        PolicyDirty { all: true, ..PolicyDirty::default() }
    }

    /// Whether nothing changed.
    pub fn is_empty(&self) -> bool {
        *self == PolicyDirty::default()
    }

    pub(super) fn pod(&mut self, name: &ObjectName) {
        if !self.all {
            self.pods.insert(name.clone());
        }
    }

    pub(super) fn namespace(&mut self, name: &str) {
        if !self.all {
            self.namespaces.insert(name.into());
        }
    }
}

/// The policies by name, and what changed.
#[derive(Clone, Debug)]
pub(super) struct NetworkPolicies {
    by_name: BTreeMap<ObjectName, NetworkPolicy>,
    cluster: BTreeMap<ObjectName, ClusterNetworkPolicy>,
    pub dirty: PolicyDirty,
}

impl Default for NetworkPolicies {
    fn default() -> NetworkPolicies {
        NetworkPolicies {
            by_name: BTreeMap::new(),
            cluster: BTreeMap::new(),
            dirty: PolicyDirty::everything(),
        }
    }
}

impl NetworkPolicies {
    pub fn iter(&self) -> impl Iterator<Item = &NetworkPolicy> {
        self.by_name.values()
    }

    pub fn put(&mut self, policy: NetworkPolicy) {
        if self.by_name.get(&policy.name) != Some(&policy) {
            self.mark(&policy.name);
            self.by_name.insert(policy.name.clone(), policy);
        }
    }

    pub fn remove(&mut self, name: &ObjectName) {
        if self.by_name.remove(name).is_some() {
            self.mark(name);
        }
    }

    pub fn cluster(&self) -> impl Iterator<Item = (&ObjectName, &ClusterNetworkPolicy)> {
        self.cluster.iter()
    }

    pub fn put_cluster(&mut self, policy: ClusterNetworkPolicy) {
        let name = ObjectName::cluster(Arc::clone(&policy.name));
        if self.cluster.get(&name) != Some(&policy) {
            self.mark(&name);
            self.cluster.insert(name, policy);
        }
    }

    pub fn remove_cluster(&mut self, name: &ObjectName) {
        if self.cluster.remove(name).is_some() {
            self.mark(name);
        }
    }

    fn mark(&mut self, name: &ObjectName) {
        if !self.dirty.all {
            self.dirty.policies.insert(name.clone());
        }
    }
}

/// Whether two Nodes are the same for policies: pod ranges, addresses and labels.
pub(super) fn is_same_peer(a: Option<&Node>, b: Option<&Node>) -> bool {
    let parts = |node: &'_ Node| {
        let addresses = node.addresses().collect::<Vec<_>>();
        (node.pod_cidrs.clone(), addresses, node.labels.clone())
    };
    a.map(parts) == b.map(parts)
}

impl Index {
    /// What changed for policies since the last call; at first, everything.
    pub fn take_policy_dirty(&mut self) -> PolicyDirty {
        mem::take(&mut self.policies.dirty)
    }

    /// The NetworkPolicy of this name.
    pub fn network_policy(&self, name: &ObjectName) -> Option<&NetworkPolicy> {
        self.policies.by_name.get(name)
    }

    /// All NetworkPolicies by name.
    pub fn network_policies(&self) -> impl Iterator<Item = &NetworkPolicy> {
        self.policies.iter().inspect(|_| visit())
    }

    /// The NetworkPolicies of a namespace by name.
    pub fn network_policies_of<'a>(
        &'a self,
        namespace: &'a str,
    ) -> impl Iterator<Item = &'a NetworkPolicy> {
        let from = Bound::Included(ObjectName::new(namespace, ""));
        let policies = self.policies.by_name.range((from, Bound::Unbounded));
        policies
            .map(|(_, p)| p)
            .take_while(move |p| *p.name.namespace == *namespace)
            .inspect(|_| visit())
    }

    /// The ClusterNetworkPolicy of this name.
    pub fn cluster_network_policy(&self, name: &ObjectName) -> Option<&ClusterNetworkPolicy> {
        self.policies.cluster.get(name)
    }

    /// All ClusterNetworkPolicies by name.
    pub fn cluster_network_policies(&self) -> impl Iterator<Item = &ClusterNetworkPolicy> {
        self.policies.cluster.values().inspect(|_| visit())
    }

    /// Numbers of NetworkPolicies and of ClusterNetworkPolicies.
    pub fn policy_counts(&self) -> [usize; 2] {
        [self.policies.by_name.len(), self.policies.cluster.len()]
    }

    /// The pod ranges of all nodes.
    pub fn pod_ranges(&self) -> impl Iterator<Item = ipnet::IpNet> {
        self.nodes.values().flat_map(|node| node.pod_cidrs.iter().copied())
    }
}
