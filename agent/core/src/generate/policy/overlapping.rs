//! Random clusters in which policies overlap: several policies judge the same flows, and do not agree. What
//! they refer to exists, so that their order, and what is not valid, decides flows. Pods share addresses.

use std::net::IpAddr;
use std::sync::Arc;

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;

use super::super::{distinct, protocol, rarely};
use super::cluster::{PRIORITIES, cluster_network_policy_of, cluster_peer, cluster_ports};
use super::{
    BLOCKS, KEYS, NAMESPACES, NODE_IPS, POD_IPS, PORT_NAMES, VALUES, block, labels, name, net,
    number, phase, pod_name, policy_node, policy_port, selector, text, uid_of,
};
use crate::model::{
    ClusterNetworkPolicy, ClusterRule, ContainerPort, IpBlock, LabelSelector, Namespace,
    NetworkPolicy, Object, Operator, Pod, PolicyPeer, PolicyPort, PolicyRule, Port, PortSpec,
    Protocol, Requirement, RuleAction, Tier, parse_ip,
};

/// Two ranges of ports that meet, overlap, or have one port between them.
const NEIGHBOURS: [[(u16, u16); 2]; 6] = [
    [(53, 80), (81, 443)],
    [(80, 80), (81, 81)],
    [(443, 8079), (8080, 65_535)],
    [(1, 79), (80, 8080)],
    [(53, 81), (80, 443)],
    [(53, 80), (82, 443)],
];

/// A label selector, mostly without requirements.
fn broad() -> impl Strategy<Value = LabelSelector> {
    prop_oneof![2 => Just(LabelSelector::default()), 1 => selector()]
}

/// A label selector with one requirement.
fn narrow() -> impl Strategy<Value = LabelSelector> {
    let values = |n| vec(text(&VALUES), n).prop_map(Box::<[Arc<str>]>::from);
    let operator = prop_oneof![
        1 => values(2..4).prop_map(Operator::In),
        1 => values(1..3).prop_map(Operator::NotIn),
        1 => Just(Operator::Exists),
        1 => Just(Operator::DoesNotExist),
    ];
    (text(&KEYS), operator)
        .prop_map(|(key, operator)| LabelSelector::from_iter([Requirement { key, operator }]))
}

/// What of a rule of a ClusterNetworkPolicy is not valid.
#[derive(Clone, Copy, Debug)]
enum Fault {
    Field,
    NoPeers,
    Peer,
    Port,
}

/// Rules that accept often are not valid: every other one that is not valid denies everything.
fn rule() -> impl Strategy<Value = ClusterRule> {
    use RuleAction::{Accept, Deny, Pass};
    let fault =
        || select(&[Fault::Field, Fault::Field, Fault::NoPeers, Fault::Peer, Fault::Port][..]);
    let action = prop_oneof![
        6 => Just((Accept, None)),
        8 => fault().prop_map(|fault| (Accept, Some(fault))),
        8 => Just((Deny, None)),
        6 => Just((Pass, None)),
        1 => (select(&[Deny, Pass][..]), fault()).prop_map(|(action, f)| (action, Some(f))),
    ];
    let pods = (broad(), broad());
    let peer = prop_oneof![
        5 => pods.prop_map(|(n, pods)| PolicyPeer::Pods { namespaces: Some(n), pods }),
        3 => cluster_peer(),
        1 => broad().prop_map(PolicyPeer::Nodes),
    ];
    let ports = prop_oneof![
        3 => Just(Vec::new()),
        2 => vec(cluster_ports(), 1..3).prop_map(|ports| ports.concat()),
    ];
    (action, vec(peer, 1..3), ports).prop_map(|((action, fault), mut peers, mut ports)| {
        let mut invalid = None;
        match fault {
            None => {}
            Some(Fault::Field) => invalid = Some("rule".into()),
            Some(Fault::NoPeers) => peers.clear(),
            Some(Fault::Peer) => peers.push(PolicyPeer::Invalid("peer".into())),
            Some(Fault::Port) => ports.push(PolicyPort {
                protocol: Protocol::Tcp,
                ports: PortSpec::Invalid("port".into()),
            }),
        }
        let matches = PolicyRule { peers: peers.into(), ports: ports.into() };
        ClusterRule { name: "".into(), action, matches, invalid }
    })
}

fn cluster_network_policy() -> impl Strategy<Value = ClusterNetworkPolicy> {
    let tier = prop_oneof![3 => Just(Tier::Admin), 2 => Just(Tier::Baseline)];
    let priority = prop_oneof![2 => Just(PRIORITIES[0]), 1 => select(&PRIORITIES[..])];
    cluster_network_policy_of(tier, priority, broad, || vec(rule(), 0..5))
}

/// A block with an exception, and a block of this exception.
fn filled_block() -> impl Strategy<Value = [IpBlock; 2]> {
    select(
        &[("10.0.0.0/8", "10.244.1.0/24"), ("0.0.0.0/0", "198.51.100.0/24"), ("::/0", "fd00::/8")]
            [..],
    )
    .prop_filter_map("blocks", |(outer, inner)| {
        let (outer, inner) = (outer.parse().ok()?, inner.parse().ok()?);
        let outer = IpBlock { cidr: outer, except: [inner].into() };
        Some([outer, IpBlock { cidr: inner, except: [].into() }])
    })
}

/// A block without all of it, or without another one.
fn hollow_block() -> impl Strategy<Value = IpBlock> {
    (net(&BLOCKS), net(&BLOCKS), any::<bool>()).prop_map(|(cidr, other, whole)| {
        let except = if whole { cidr } else { other };
        IpBlock { cidr, except: [except].into() }
    })
}

fn peer() -> impl Strategy<Value = PolicyPeer> {
    let every = LabelSelector::default;
    let selectors = prop_oneof![
        3 => narrow().prop_map(|pods| (None, pods)),
        2 => (option::of(selector()), broad()),
        2 => narrow().prop_map(move |namespaces| (Some(namespaces), every())),
        2 => broad().prop_map(move |pods| (Some(every()), pods)),
        4 => (narrow(), narrow()).prop_map(|(namespaces, pods)| (Some(namespaces), pods)),
    ];
    prop_oneof![
        13 => selectors.prop_map(|(namespaces, pods)| PolicyPeer::Pods { namespaces, pods }),
        2 => block().prop_map(PolicyPeer::Block),
        2 => hollow_block().prop_map(PolicyPeer::Block),
        1 => Just(PolicyPeer::Invalid("peer".into())),
    ]
}

/// One entry of `ports`, or two ranges.
fn ports() -> impl Strategy<Value = Vec<PolicyPort>> {
    let neighbours = (protocol(), select(&NEIGHBOURS[..]));
    let others = prop_oneof![
        1 => Just(PortSpec::All),
        1 => Just(PortSpec::Invalid("port".into())),
        5 => text(&PORT_NAMES).prop_map(PortSpec::Name),
    ];
    let reversed = (protocol(), select(&[(443, 80), (8080, 53), (81, 80)][..]));
    let range = |protocol, (first, last)| {
        let ports = PortSpec::Range(Port::new(first)?, Port::new(last)?);
        Some(PolicyPort { protocol, ports })
    };
    prop_oneof![
        3 => policy_port().prop_map(|port| vec![port]),
        10 => (protocol(), others)
            .prop_map(|(protocol, ports)| vec![PolicyPort { protocol, ports }]),
        2 => reversed.prop_map(move |(protocol, ports)| Vec::from_iter(range(protocol, ports))),
        4 => neighbours.prop_map(move |(protocol, ranges)| {
            ranges.into_iter().filter_map(|ports| range(protocol, ports)).collect()
        }),
    ]
}

fn network_policy() -> impl Strategy<Value = NetworkPolicy> {
    let peers = prop_oneof![
        3 => Just(Vec::new()),
        10 => vec(peer(), 1..3),
        2 => filled_block().prop_map(|blocks| blocks.map(PolicyPeer::Block).into()),
    ];
    let ports = prop_oneof![
        2 => Just(Vec::new()),
        3 => vec(ports(), 1..3).prop_map(|ports| ports.concat()),
    ];
    let rule = (peers, ports)
        .prop_map(|(peers, ports)| PolicyRule { peers: peers.into(), ports: ports.into() })
        .boxed();
    let rules = || option::weighted(0.8, vec(rule.clone(), 0..4).prop_map(Box::from));
    (name(&["n1", "n2", "n3"]), broad(), rules(), rules()).prop_map(
        |(name, pod_selector, ingress, egress)| NetworkPolicy {
            name,
            pod_selector,
            ingress,
            egress,
            ..NetworkPolicy::default()
        },
    )
}

/// A port of one of the containers of a pod; others have the same name, with any protocol.
fn container_port() -> impl Strategy<Value = ContainerPort> {
    (text(&PORT_NAMES), protocol(), number()).prop_map(|(name, protocol, port)| ContainerPort {
        name,
        protocol,
        port,
    })
}

/// A Pod. Several have one address, which no lease has, while some of them terminate. Those of the host
/// network have the address of a node.
fn pod() -> impl Strategy<Value = Pod> {
    let address = |from: &'static [&'static str]| {
        select(from).prop_filter_map("an address", parse_ip).boxed()
    };
    let ips = vec(prop_oneof![1 => address(&POD_IPS[6..]), 2 => address(&POD_IPS)], 0..3);
    let node_ip = address(&NODE_IPS);
    let states = (rarely(), proptest::bool::weighted(0.4));
    (pod_name(), labels(), rarely(), ips, node_ip, vec(container_port(), 0..6), phase(), states)
        .prop_map(|(name, labels, is_other, ips, node_ip, ports, phase, states)| {
            let (host_network, terminating) = states;
            let ips: Vec<IpAddr> = if host_network { vec![node_ip] } else { ips };
            Pod {
                name,
                uid: uid_of(if is_other { 2 } else { 1 }),
                node: Some(super::THIS_NODE.into()),
                labels: labels.into_iter().collect(),
                ports: ports.into(),
                ips: ips.into_iter().collect(),
                phase,
                host_network,
                terminating,
            }
        })
}

/// An object of such a cluster.
pub fn object() -> impl Strategy<Value = Object> {
    prop_oneof![
        2 => network_policy().prop_map(Object::NetworkPolicy),
        2 => cluster_network_policy().prop_map(Object::ClusterNetworkPolicy),
        2 => pod().prop_map(Object::Pod),
    ]
}

/// Rules of a ClusterNetworkPolicy.
pub fn cluster_rules() -> impl Strategy<Value = Vec<ClusterRule>> {
    vec(rule(), 0..4)
}

/// A cluster. All Namespaces are known, and most Pods.
pub fn objects() -> impl Strategy<Value = Vec<Object>> {
    let namespace = |name: &'static str| {
        labels().prop_map(move |labels| {
            let labels = labels.into_iter().map(|(k, v)| (k.to_string(), v.to_string()));
            Object::Namespace(Namespace { name: name.into(), labels: labels.collect() })
        })
    };
    let own_policies = vec(network_policy().prop_map(Object::NetworkPolicy), 1..9);
    let own_policies = prop_oneof![1 => Just(Vec::new()), 3 => own_policies];
    let cluster_policy = || cluster_network_policy().prop_map(Object::ClusterNetworkPolicy);
    let cluster_policies =
        prop_oneof![1 => vec(cluster_policy(), 0..2), 3 => vec(cluster_policy(), 3..8)];
    (
        NAMESPACES.map(namespace),
        vec(pod().prop_map(Object::Pod), 9..18),
        vec(policy_node().prop_map(Object::Node), 0..3),
        own_policies,
        cluster_policies,
    )
        .prop_map(|(namespaces, pods, nodes, own, cluster)| {
            distinct([namespaces.into(), pods, nodes, own, cluster].concat())
        })
}
