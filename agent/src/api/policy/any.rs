//! What NetworkPolicies and ClusterNetworkPolicies have in common.

use sluice_core::Index;
use sluice_core::model::{
    ClusterNetworkPolicy, ClusterRule, Kind, NetworkPolicy, ObjectName, Pod, PolicyPeer, PolicyRule,
};
use sluice_core::policy::{selects_namespace, subject_selects};

use super::{Direction, Tier};

/// A policy of either kind.
#[derive(Clone, Copy, Debug)]
pub enum AnyPolicy<'a> {
    /// A NetworkPolicy.
    Namespaced(&'a NetworkPolicy),
    /// A ClusterNetworkPolicy.
    Cluster(&'a ClusterNetworkPolicy),
}

/// A rule of either kind of policy.
#[derive(Clone, Copy, Debug)]
pub enum AnyRule<'a> {
    /// Of a NetworkPolicy: it allows.
    Allow(&'a PolicyRule),
    /// Of a ClusterNetworkPolicy.
    Cluster(&'a ClusterRule),
}

impl<'a> AnyPolicy<'a> {
    /// All policies, by name; ClusterNetworkPolicies are first.
    pub fn all(index: &'a Index) -> impl Iterator<Item = AnyPolicy<'a>> {
        let cluster = index.cluster_network_policies().map(AnyPolicy::Cluster);
        cluster.chain(index.network_policies().map(AnyPolicy::Namespaced))
    }

    /// The policy of this name, which has a namespace if it is a NetworkPolicy.
    pub fn find(index: &'a Index, name: &ObjectName) -> Option<AnyPolicy<'a>> {
        if name.namespace.is_empty() {
            return index.cluster_network_policy(name).map(AnyPolicy::Cluster);
        }
        index.network_policy(name).map(AnyPolicy::Namespaced)
    }

    /// Its name; that of a ClusterNetworkPolicy has no namespace.
    pub fn name(self) -> ObjectName {
        match self {
            AnyPolicy::Namespaced(policy) => policy.name.clone(),
            AnyPolicy::Cluster(policy) => policy.object_name(),
        }
    }

    /// Its kind.
    pub fn kind(self) -> Kind {
        match self {
            AnyPolicy::Namespaced(_) => Kind::NetworkPolicy,
            AnyPolicy::Cluster(_) => Kind::ClusterNetworkPolicy,
        }
    }

    /// Its tier, and the priority of a ClusterNetworkPolicy: policies are judged in this order, equal ones
    /// by name.
    pub fn order(self) -> (Tier, Option<u16>) {
        match self {
            AnyPolicy::Namespaced(_) => (Tier::NetworkPolicy, None),
            AnyPolicy::Cluster(policy) => (policy.tier.into(), Some(policy.priority)),
        }
    }

    /// The selectors of its pods as text.
    pub fn subject(self) -> String {
        match self {
            AnyPolicy::Namespaced(policy) => policy.pod_selector.to_string(),
            AnyPolicy::Cluster(policy) => {
                let namespaces = Some(policy.subject.namespaces.clone());
                let pods = policy.subject.pods.clone();
                PolicyPeer::Pods { namespaces, pods }.to_string()
            }
        }
    }

    /// Whether it selects a pod.
    pub fn selects(self, index: &Index, pod: &Pod) -> bool {
        let (namespace, labels) = (&pod.name.namespace, &pod.labels);
        let selects = match self {
            AnyPolicy::Namespaced(policy) => {
                *namespace == policy.name.namespace
                    && policy.pod_selector.matches(|key| labels.get(key))
            }
            AnyPolicy::Cluster(policy) => {
                subject_selects(index, &policy.subject, namespace, labels)
            }
        };
        selects && !pod.host_network
    }

    /// Whether it isolates a direction, or has rules for it.
    pub fn has(self, direction: Direction) -> bool {
        match self {
            AnyPolicy::Namespaced(policy) => policy.rules(direction.into()).is_some(),
            AnyPolicy::Cluster(policy) => !policy.rules(direction.into()).is_empty(),
        }
    }

    /// Its rules for a direction.
    pub fn rules(self, direction: Direction) -> Vec<AnyRule<'a>> {
        match self {
            AnyPolicy::Namespaced(policy) => {
                let rules = policy.rules(direction.into()).unwrap_or_default();
                rules.iter().map(AnyRule::Allow).collect()
            }
            AnyPolicy::Cluster(policy) => {
                policy.rules(direction.into()).iter().map(AnyRule::Cluster).collect()
            }
        }
    }

    /// Pods that a peer of a rule matches; `None` for addresses.
    pub fn matching_pods(self, index: &Index, peer: &PolicyPeer) -> Option<usize> {
        let PolicyPeer::Pods { namespaces, pods } = peer else { return None };
        let in_namespace = |pod: &Pod| match namespaces {
            None => pod.name.namespace == self.name().namespace,
            Some(selector) => selects_namespace(index, selector, &pod.name.namespace),
        };
        let is_peer = |pod: &&Pod| {
            !pod.host_network
                && !pod.phase.is_over()
                && pods.matches(|key| pod.labels.get(key))
                && in_namespace(pod)
        };
        Some(index.pods().filter(is_peer).count())
    }
}

impl<'a> AnyRule<'a> {
    /// Peers and ports.
    pub fn matches(self) -> &'a PolicyRule {
        match self {
            AnyRule::Allow(rule) => rule,
            AnyRule::Cluster(rule) => &rule.matches,
        }
    }

    /// The rule of a ClusterNetworkPolicy.
    pub fn cluster(self) -> Option<&'a ClusterRule> {
        match self {
            AnyRule::Allow(_) => None,
            AnyRule::Cluster(rule) => Some(rule),
        }
    }
}
