//! Objects without some of their parts.

use std::mem;
use std::net::IpAddr;

use ipnet::IpNet;

use crate::model::{
    ClusterNetworkPolicy, ClusterRule, IpBlock, LabelSelector, NetworkPolicy, Node, Object,
    Operator, Pod, PolicyPeer, PolicyPort, PolicyRule, Port, PortSpec, Protocol, RuleAction, Tier,
};

pub const PROTOCOLS: [Protocol; 3] = [Protocol::Tcp, Protocol::Udp, Protocol::Sctp];

pub fn own(objects: &mut [Object], change: impl Fn(&mut NetworkPolicy)) {
    for object in objects {
        if let Object::NetworkPolicy(policy) = object {
            change(policy);
        }
    }
}

pub fn cluster(objects: &mut [Object], change: impl Fn(&mut ClusterNetworkPolicy)) {
    for object in objects {
        if let Object::ClusterNetworkPolicy(policy) = object {
            change(policy);
        }
    }
}

pub fn pods(objects: &mut [Object], change: impl Fn(&mut Pod)) {
    for object in objects {
        if let Object::Pod(pod) = object {
            change(pod);
        }
    }
}

pub fn own_rules(objects: &mut [Object], change: impl Fn(&mut PolicyRule)) {
    own(objects, |policy| {
        let ends = [&mut policy.ingress, &mut policy.egress];
        ends.into_iter().flatten().flatten().for_each(&change);
    });
}

/// Removes the rules for which `stays` is false.
pub fn cluster_rules(objects: &mut [Object], stays: impl Fn(&mut ClusterRule) -> bool) {
    cluster(objects, |policy| {
        for end in [&mut policy.ingress, &mut policy.egress] {
            let mut rules = mem::take(end).into_vec();
            rules.retain_mut(&stays);
            *end = rules.into();
        }
    });
}

/// Peers of NetworkPolicies that are removed match nothing: without any, a rule would match everything.
pub fn own_peers(objects: &mut [Object], is: impl Fn(&PolicyPeer) -> bool) {
    own_rules(objects, |rule| {
        let removed = rule.peers.iter_mut().filter(|peer| is(peer));
        removed.for_each(|peer| *peer = PolicyPeer::Invalid("".into()));
    });
}

pub fn own_ports(objects: &mut [Object], is: impl Fn(&PolicyPort) -> bool) {
    own_rules(objects, |rule| {
        let removed = rule.ports.iter_mut().filter(|port| is(port));
        removed.for_each(|port| port.ports = PortSpec::Invalid("".into()));
    });
}

/// Removes items of a rule. False: it has no other, so that it is removed too; without any, it would match everything.
fn remove<T>(items: &mut Box<[T]>, is: impl Fn(&T) -> bool) -> bool {
    let mut left = mem::take(items).into_vec();
    let before = left.len();
    left.retain(|item| !is(item));
    let stays = before == 0 || !left.is_empty();
    *items = left.into();
    stays
}

/// Removes peers, and the rules that have no other.
pub fn cluster_peers(objects: &mut [Object], is: impl Fn(&PolicyPeer) -> bool) {
    cluster_rules(objects, |rule| remove(&mut rule.matches.peers, &is));
}

/// Removes ports, and the rules that have no other.
pub fn cluster_ports(objects: &mut [Object], is: impl Fn(&PolicyPort) -> bool) {
    cluster_rules(objects, |rule| remove(&mut rule.matches.ports, &is));
}

pub fn selectors_of(peer: &mut PolicyPeer) -> Vec<&mut LabelSelector> {
    match peer {
        PolicyPeer::Pods { namespaces, pods } => {
            namespaces.as_mut().into_iter().chain([pods]).collect()
        }
        PolicyPeer::Nodes(nodes) => vec![nodes],
        PolicyPeer::Block(_) | PolicyPeer::Invalid(_) => Vec::new(),
    }
}

/// Removes requirements from all selectors of NetworkPolicies.
pub fn own_requirements(objects: &mut [Object], is: fn(&Operator) -> bool) {
    own(objects, |policy| without(&mut policy.pod_selector, is));
    own_rules(objects, |rule| {
        rule.peers.iter_mut().flat_map(selectors_of).for_each(|selector| without(selector, is));
    });
}

/// Removes requirements from all selectors of ClusterNetworkPolicies.
pub fn cluster_requirements(objects: &mut [Object], is: fn(&Operator) -> bool) {
    cluster(objects, |policy| {
        without(&mut policy.subject.namespaces, is);
        without(&mut policy.subject.pods, is);
        let rules = policy.ingress.iter_mut().chain(&mut policy.egress);
        let peers = rules.flat_map(|rule| &mut rule.matches.peers);
        peers.flat_map(selectors_of).for_each(|selector| without(selector, is));
    });
}

pub fn without(selector: &mut LabelSelector, is: fn(&Operator) -> bool) {
    let requirements = selector.requirements().iter();
    *selector = requirements.filter(|requirement| !is(&requirement.operator)).cloned().collect();
}

pub fn is_in(operator: &Operator) -> bool {
    matches!(operator, Operator::In(_))
}

pub fn is_not_in(operator: &Operator) -> bool {
    matches!(operator, Operator::NotIn(_))
}

pub fn exists(operator: &Operator) -> bool {
    matches!(operator, Operator::Exists)
}

pub fn does_not_exist(operator: &Operator) -> bool {
    matches!(operator, Operator::DoesNotExist)
}

/// The selectors of namespaces and of pods of a peer.
pub fn selectors(peer: &PolicyPeer) -> Option<(Option<&LabelSelector>, &LabelSelector)> {
    match peer {
        PolicyPeer::Pods { namespaces, pods } => Some((namespaces.as_ref(), pods)),
        _ => None,
    }
}

pub fn is_block_of(peer: &PolicyPeer, v6: bool) -> bool {
    matches!(peer, PolicyPeer::Block(block) if block.cidr.addr().is_ipv6() == v6)
}

/// Blocks of NetworkPolicies lose their exceptions.
pub fn no_exceptions(objects: &mut [Object]) {
    own_blocks(objects, |block| block.except = [].into());
}

pub fn block_of(peer: &PolicyPeer) -> Option<&IpBlock> {
    if let PolicyPeer::Block(block) = peer { Some(block) } else { None }
}

pub fn block_of_mut(peer: &mut PolicyPeer) -> Option<&mut IpBlock> {
    if let PolicyPeer::Block(block) = peer { Some(block) } else { None }
}

/// Changes the blocks of NetworkPolicies.
pub fn own_blocks(objects: &mut [Object], change: impl Fn(&mut IpBlock)) {
    own_rules(objects, |rule| rule.peers.iter_mut().filter_map(block_of_mut).for_each(&change));
}

/// Blocks of NetworkPolicies lose addresses.
pub fn blocks_without(objects: &mut [Object], addresses: Vec<IpAddr>) {
    own_blocks(objects, |block| {
        let except = addresses.iter().map(|address| IpNet::from(*address));
        block.except = block.except.iter().copied().chain(except).collect();
    });
}

/// Other ends of a range; nothing if it has no port then.
fn change_range(ports: &mut PortSpec, change: impl Fn(u16, u16) -> (u16, u16)) {
    if let PortSpec::Range(first, last) = ports {
        let (first, last) = change(first.get(), last.get());
        let range = Port::new(first).zip(Port::new(last));
        *ports = match range.filter(|(first, last)| first <= last) {
            Some((first, last)) => PortSpec::Range(first, last),
            None => PortSpec::Name("".into()),
        };
    }
}

/// Other ends of the ranges of NetworkPolicies.
pub fn own_ranges(objects: &mut [Object], change: impl Fn(u16, u16) -> (u16, u16)) {
    own_rules(objects, |rule| {
        rule.ports.iter_mut().for_each(|port| change_range(&mut port.ports, &change));
    });
}

/// Other ends of the ranges of ClusterNetworkPolicies.
pub fn cluster_ranges(objects: &mut [Object], change: impl Fn(u16, u16) -> (u16, u16)) {
    cluster_matches(objects, |rule| {
        rule.ports.iter_mut().for_each(|port| change_range(&mut port.ports, &change));
    });
}

/// The last ports of the ranges of a rule.
pub fn ends_of_ranges(rule: &PolicyRule) -> Vec<(Protocol, u16)> {
    let end = |port: &PolicyPort| match port.ports {
        PortSpec::Range(first, last) if first <= last => Some((port.protocol, last.get())),
        _ => None,
    };
    rule.ports.iter().filter_map(end).collect()
}

/// Names of ports match nothing.
pub fn without_names(rules: &mut Option<Box<[PolicyRule]>>) {
    for port in rules.iter_mut().flatten().flat_map(|rule| &mut rule.ports) {
        if matches!(port.ports, PortSpec::Name(_)) {
            port.ports = PortSpec::Invalid("".into());
        }
    }
}

/// Names of ports are names that no pod has.
pub fn no_names(rules: &mut [ClusterRule]) {
    for port in rules.iter_mut().flat_map(|rule| &mut rule.matches.ports) {
        if matches!(port.ports, PortSpec::Name(_)) {
            port.ports = PortSpec::Name("".into());
        }
    }
}

/// Removes requirements from the peers of NetworkPolicies that have both selectors.
pub fn both_requirements(objects: &mut [Object], is: fn(&Operator) -> bool) {
    own_rules(objects, |rule| {
        for peer in &mut rule.peers {
            if let PolicyPeer::Pods { namespaces: Some(namespaces), pods } = peer
                && !namespaces.is_empty()
                && !pods.is_empty()
            {
                without(namespaces, is);
                without(pods, is);
            }
        }
    });
}

pub fn nodes(objects: &mut [Object], change: impl Fn(&mut Node)) {
    for object in objects {
        if let Object::Node(node) = object {
            change(node);
        }
    }
}

/// Changes what rules of ClusterNetworkPolicies match.
pub fn cluster_matches(objects: &mut [Object], change: impl Fn(&mut PolicyRule)) {
    cluster_rules(objects, |rule| {
        change(&mut rule.matches);
        true
    });
}

pub fn is_of_tier(object: &Object, tier: Tier) -> bool {
    matches!(object, Object::ClusterNetworkPolicy(policy) if policy.tier == tier)
}

/// Removes the rules of a tier for which `stays` is false.
pub fn of_tier(objects: &mut [Object], tier: Tier, stays: impl Fn(&ClusterRule) -> bool) {
    for object in objects {
        if is_of_tier(object, tier) {
            cluster_rules(std::slice::from_mut(object), |rule| !rule.is_valid() || stays(rule));
        }
    }
}

/// Valid rules that pass accept.
pub fn pass_accepts(objects: &mut [Object]) {
    cluster_rules(objects, |rule| {
        if rule.is_valid() && rule.action == RuleAction::Pass {
            rule.action = RuleAction::Accept;
        }
        true
    });
}

pub fn no_action(objects: &mut [Object], action: RuleAction) {
    cluster_rules(objects, |rule| !rule.is_valid() || rule.action != action);
}
