//! Random ClusterNetworkPolicies.

use std::sync::Arc;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

use super::super::{protocol, rarely};
use super::{BLOCKS, PORT_NAMES, net, number, selector, text};
use crate::model::{
    ClusterNetworkPolicy, ClusterRule, IpBlock, LabelSelector, PolicyPeer, PolicyPort, PolicyRule,
    PortSpec, Protocol, RuleAction, Subject, Tier,
};

/// Names of ClusterNetworkPolicies.
pub const NAMES: [&str; 4] = ["c1", "c2", "c3", "c4"];
/// Priorities.
pub const PRIORITIES: [u16; 3] = [7, 0, 1000];

/// A peer.
pub fn cluster_peer() -> impl Strategy<Value = PolicyPeer> {
    let pods = (selector(), selector());
    let block = net(&BLOCKS).prop_map(|cidr| IpBlock { cidr, except: [].into() });
    prop_oneof![
        8 => pods.prop_map(|(n, pods)| PolicyPeer::Pods { namespaces: Some(n), pods }),
        3 => block.prop_map(PolicyPeer::Block),
        1 => selector().prop_map(PolicyPeer::Nodes),
    ]
}

/// Entries of `protocols`; a name is one of each protocol.
pub fn cluster_ports() -> impl Strategy<Value = Vec<PolicyPort>> {
    let one =
        |ports| (protocol(), ports).prop_map(|(p, ports)| vec![PolicyPort { protocol: p, ports }]);
    let named = text(&PORT_NAMES).prop_map(|name| {
        let port = |protocol| PolicyPort { protocol, ports: PortSpec::Name(Arc::clone(&name)) };
        [Protocol::Tcp, Protocol::Udp, Protocol::Sctp].map(port).into()
    });
    prop_oneof![
        1 => protocol().prop_map(|protocol| vec![PolicyPort { protocol, ports: PortSpec::All }]),
        4 => one(number().prop_map(PortSpec::Number).boxed()),
        2 => one((number(), number()).prop_map(|(a, b)| PortSpec::Range(a.min(b), a.max(b))).boxed()),
        2 => named,
    ]
}

/// A rule.
pub fn cluster_rule() -> impl Strategy<Value = ClusterRule> {
    let action = select(&[RuleAction::Accept, RuleAction::Deny, RuleAction::Pass][..]);
    let ports = vec(cluster_ports(), 0..3).prop_map(|ports| ports.concat().into());
    (action, vec(cluster_peer(), 1..3), ports, rarely()).prop_map(
        |(action, peers, ports, invalid)| ClusterRule {
            name: "".into(),
            action,
            matches: PolicyRule { peers: peers.into(), ports },
            invalid: invalid.then(|| "rule".into()),
        },
    )
}

/// A ClusterNetworkPolicy.
pub fn cluster_network_policy() -> impl Strategy<Value = ClusterNetworkPolicy> {
    let tier = select(&[Tier::Admin, Tier::Baseline][..]);
    cluster_network_policy_of(tier, select(&PRIORITIES[..]), selector, || vec(cluster_rule(), 0..4))
}

/// A ClusterNetworkPolicy of these tiers, priorities, selectors and rules.
pub fn cluster_network_policy_of<S, R>(
    tier: impl Strategy<Value = Tier>,
    priority: impl Strategy<Value = u16>,
    selector: impl Fn() -> S,
    rules: impl Fn() -> R,
) -> impl Strategy<Value = ClusterNetworkPolicy>
where
    S: Strategy<Value = LabelSelector>,
    R: Strategy<Value = Vec<ClusterRule>>,
{
    let rules = || rules().prop_map(Box::from);
    (text(&NAMES), tier, priority, selector(), selector(), rules(), rules()).prop_map(
        |(name, tier, priority, namespaces, pods, ingress, egress)| ClusterNetworkPolicy {
            name,
            tier,
            priority,
            subject: Subject { namespaces, pods, invalid: None },
            ingress,
            egress,
            uid: None,
        },
    )
}
