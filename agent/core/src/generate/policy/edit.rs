//! Small changes of objects that exist.

use std::sync::Arc;

use ipnet::IpNet;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index as Pick, select};

use super::cluster::{PRIORITIES, cluster_rule};
use super::overlapping;
use super::{RANGES, labels, net, rule};
use crate::index::Index;
use crate::model::{
    Change, ClusterNetworkPolicy, ClusterRule, Labels, Namespace, NetworkPolicy, Node, Object, Pod,
    PolicyRule, Tier,
};

/// A small change of an object that exists.
#[derive(Clone, Debug)]
pub enum PolicyEdit {
    /// Another rule of a policy; egress or ingress.
    AddRule(Pick, bool, PolicyRule),
    /// A rule of a policy less.
    RemoveRule(Pick, bool, Pick),
    /// Other labels of a pod.
    Relabel(Pick, Labels),
    /// Other pod ranges of a node.
    Ranges(Pick, Vec<IpNet>),
    /// Other rules of a ClusterNetworkPolicy; egress or ingress.
    ClusterRules(Pick, bool, Vec<ClusterRule>),
    /// Another tier and priority of a ClusterNetworkPolicy.
    Rank(Pick, Tier, u16),
    /// A pod gets a deletionTimestamp.
    Terminate(Pick),
    /// Other labels of a namespace.
    RelabelNamespace(Pick, Vec<(Arc<str>, Arc<str>)>),
}

impl PolicyEdit {
    /// The change of one of the objects in an index, if there is one of the kind.
    pub fn change(&self, index: &Index) -> Option<Change> {
        fn pick<T: Clone>(pick: &Pick, of: Vec<&T>) -> Option<T> {
            (!of.is_empty()).then(|| (*pick.get(&of)).clone())
        }
        let policy = |at| pick(at, index.network_policies().collect());
        let pod = |at| {
            let mut pods: Vec<&Pod> = index.pods().collect();
            pods.sort_by_key(|pod| &pod.name);
            pick(at, pods)
        };
        let cluster_policy = |at| pick(at, index.cluster_network_policies().collect());
        let rules =
            |policy: &mut NetworkPolicy, egress: bool, edit: &dyn Fn(&mut Vec<PolicyRule>)| {
                let end = if egress { &mut policy.egress } else { &mut policy.ingress };
                let mut rules = end.take().unwrap_or_default().into_vec();
                edit(&mut rules);
                *end = Some(rules.into());
            };
        let object = match self {
            PolicyEdit::AddRule(at, egress, rule) => {
                let mut policy = policy(at)?;
                rules(&mut policy, *egress, &|rules| rules.push(rule.clone()));
                Object::NetworkPolicy(policy)
            }
            PolicyEdit::RemoveRule(at, egress, rule) => {
                let mut policy = policy(at)?;
                rules(&mut policy, *egress, &|rules| {
                    if !rules.is_empty() {
                        rules.remove(rule.index(rules.len()));
                    }
                });
                Object::NetworkPolicy(policy)
            }
            PolicyEdit::Relabel(at, labels) => {
                Object::Pod(Pod { labels: labels.clone(), ..pod(at)? })
            }
            PolicyEdit::Terminate(at) => Object::Pod(Pod { terminating: true, ..pod(at)? }),
            PolicyEdit::Ranges(at, ranges) => {
                let node = pick(at, index.nodes().collect())?;
                Object::Node(Node { pod_cidrs: ranges.clone(), ..node })
            }
            PolicyEdit::ClusterRules(at, egress, rules) => {
                let mut policy = cluster_policy(at)?;
                let end = if *egress { &mut policy.egress } else { &mut policy.ingress };
                *end = rules.clone().into();
                Object::ClusterNetworkPolicy(policy)
            }
            PolicyEdit::Rank(at, tier, priority) => {
                let (tier, priority) = (*tier, *priority);
                let policy = cluster_policy(at)?;
                Object::ClusterNetworkPolicy(ClusterNetworkPolicy { tier, priority, ..policy })
            }
            PolicyEdit::RelabelNamespace(at, labels) => {
                let namespace = pick(at, index.namespaces().collect())?;
                let labels = labels.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect();
                Object::Namespace(Namespace { labels, ..namespace })
            }
        };
        Some(Change::Apply(object))
    }
}

/// A small change of an object that exists.
pub fn policy_edit() -> impl Strategy<Value = PolicyEdit> {
    let (at, egress) = (any::<Pick>, any::<bool>);
    let pairs = labels;
    let labels = labels().prop_map(Labels::from_iter);
    let cluster_rules = prop_oneof![
        1 => vec(cluster_rule(), 0..4),
        1 => overlapping::cluster_rules(),
    ];
    prop_oneof![
        4 => (at(), egress(), rule()).prop_map(|(at, egress, r)| PolicyEdit::AddRule(at, egress, r)),
        2 => (at(), egress(), at()).prop_map(|(at, egress, r)| PolicyEdit::RemoveRule(at, egress, r)),
        2 => (at(), labels).prop_map(|(at, labels)| PolicyEdit::Relabel(at, labels)),
        1 => (at(), vec(net(&RANGES), 0..4)).prop_map(|(at, nets)| PolicyEdit::Ranges(at, nets)),
        2 => (at(), egress(), cluster_rules)
            .prop_map(|(at, egress, rules)| PolicyEdit::ClusterRules(at, egress, rules)),
        2 => (at(), select(&[Tier::Admin, Tier::Baseline][..]), select(&PRIORITIES[..]))
            .prop_map(|(at, tier, priority)| PolicyEdit::Rank(at, tier, priority)),
        1 => at().prop_map(PolicyEdit::Terminate),
        2 => (at(), pairs()).prop_map(|(at, pairs)| PolicyEdit::RelabelNamespace(at, pairs)),
    ]
}
