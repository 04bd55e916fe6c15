//! Makes failing cases smaller: object by object, then rule by rule and field by field.

use super::manifest::readable;
use crate::model::{
    ClusterNetworkPolicy, ClusterRule, IpBlock, Label, LabelSelector, Namespace, NetworkPolicy,
    Node, Object, Operator, Pod, PodIps, PodPhase, PolicyPeer, PolicyPort, PolicyRule, PortSpec,
    Protocol, Requirement, Tier,
};

/// Removes parts of objects as long as they fail, until no single part can be removed: objects, rules, peers,
/// ports, requirements of selectors and their values, exceptions of blocks, labels, addresses, and fields
/// with another value than the default. Objects that fail as they are read from their manifests too
/// ([`readable`]) stay so.
pub fn shrink(objects: &[Object], mut fails: impl FnMut(&[Object]) -> bool) -> Vec<Object> {
    let mut kept: Vec<Object> = objects.iter().map(readable).collect();
    if !fails(&kept) {
        kept = objects.to_vec();
    }
    loop {
        let before = kept.clone();
        let mut at = 0;
        while at < kept.len() {
            let mut fewer = kept.clone();
            fewer.remove(at);
            if fails(&fewer) { kept = fewer } else { at += 1 }
        }
        for at in 0..kept.len() {
            let mut tried = 0;
            while let Some(object) = reductions(&kept[at]).into_iter().nth(tried) {
                let mut smaller = kept.clone();
                smaller[at] = object;
                if fails(&smaller) { kept = smaller } else { tried += 1 }
            }
        }
        if kept == before {
            return kept;
        }
    }
}

/// The objects with one part less. What can be read from a manifest stays so.
fn reductions(object: &Object) -> Vec<Object> {
    match object {
        Object::NetworkPolicy(o) => all(network_policy(o), Object::NetworkPolicy),
        Object::ClusterNetworkPolicy(o) => {
            all(cluster_network_policy(o), Object::ClusterNetworkPolicy)
        }
        Object::Pod(o) => all(pod(o), Object::Pod),
        Object::Namespace(o) => all(namespace(o), Object::Namespace),
        Object::Node(o) => all(node(o), Object::Node),
        Object::Service(_) | Object::EndpointSlice(_) | Object::ServiceCidr(_) => Vec::new(),
    }
}

fn all<T, U>(parts: impl IntoIterator<Item = T>, of: impl FnMut(T) -> U) -> Vec<U> {
    parts.into_iter().map(of).collect()
}

/// The lists with one item less; at least `least` are kept.
fn fewer<T: Clone, L: FromIterator<T>>(items: &[T], least: usize) -> Vec<L> {
    let without = |at: usize| {
        let others = items.iter().enumerate().filter(move |(n, _)| *n != at);
        others.map(|(_, item)| item.clone()).collect()
    };
    let count = if items.len() > least { items.len() } else { 0 };
    (0..count).map(without).collect()
}

/// The lists with one item less, or with one that is smaller.
fn smaller<T: Clone, L: FromIterator<T>>(
    items: &[T],
    least: usize,
    reductions: impl Fn(&T) -> Vec<T>,
) -> Vec<L> {
    let mut lists = fewer(items, least);
    for (at, item) in items.iter().enumerate() {
        for reduced in reductions(item) {
            let with = items
                .iter()
                .enumerate()
                .map(|(n, item)| if n == at { reduced.clone() } else { item.clone() });
            lists.push(with.collect());
        }
    }
    lists
}

/// An object with other fields.
fn with<T: Clone>(object: &T, set: impl FnOnce(&mut T)) -> T {
    let mut object = object.clone();
    set(&mut object);
    object
}

fn network_policy(policy: &NetworkPolicy) -> Vec<NetworkPolicy> {
    let mut found = Vec::new();
    // A policy isolates at least one direction.
    if policy.ingress.is_some() && policy.egress.is_some() {
        found.push(NetworkPolicy { ingress: None, ..policy.clone() });
        found.push(NetworkPolicy { egress: None, ..policy.clone() });
    }
    let rules = |rules: &Option<Box<[PolicyRule]>>| {
        smaller::<_, Box<_>>(rules.as_deref().unwrap_or_default(), 0, own_rule)
    };
    found.extend(all(rules(&policy.ingress), |r| with(policy, |p| p.ingress = Some(r))));
    found.extend(all(rules(&policy.egress), |r| with(policy, |p| p.egress = Some(r))));
    found.extend(all(selector(&policy.pod_selector), |s| with(policy, |p| p.pod_selector = s)));
    found
}

fn own_rule(rule: &PolicyRule) -> Vec<PolicyRule> {
    let mut found = all(smaller(&rule.peers, 0, peer), |peers| with(rule, |r| r.peers = peers));
    let ports = smaller(&rule.ports, 0, |port| {
        let mut found = ports(port);
        if !matches!(port.ports, PortSpec::All) {
            found.push(PolicyPort { ports: PortSpec::All, ..port.clone() });
        }
        found
    });
    found.extend(all(ports, |ports| with(rule, |r| r.ports = ports)));
    found
}

fn peer(peer: &PolicyPeer) -> Vec<PolicyPeer> {
    match peer {
        PolicyPeer::Pods { namespaces, pods } => {
            let of = |namespaces, pods| PolicyPeer::Pods { namespaces, pods };
            let mut found = all(namespaces, |_| of(None, pods.clone()));
            let selectors = all(namespaces, selector).concat();
            found.extend(all(selectors, |namespaces| of(Some(namespaces), pods.clone())));
            found.extend(all(selector(pods), |pods| of(namespaces.clone(), pods)));
            found
        }
        PolicyPeer::Block(block) => all(fewer(&block.except, 0), |except| {
            PolicyPeer::Block(IpBlock { except, ..block.clone() })
        }),
        PolicyPeer::Nodes(nodes) => all(selector(nodes), PolicyPeer::Nodes),
        PolicyPeer::Invalid(_) => Vec::new(),
    }
}

/// One port instead of a range, and TCP.
fn ports(port: &PolicyPort) -> Vec<PolicyPort> {
    let mut found = Vec::new();
    if let PortSpec::Range(first, last) = port.ports {
        let number = |number| PolicyPort { ports: PortSpec::Number(number), ..port.clone() };
        found.extend([first, last].map(number));
    }
    if port.protocol != Protocol::Tcp {
        found.push(PolicyPort { protocol: Protocol::Tcp, ..port.clone() });
    }
    found
}

fn selector(selector: &LabelSelector) -> Vec<LabelSelector> {
    smaller(selector.requirements(), 0, |requirement| {
        let of = |operator| Requirement { operator, ..requirement.clone() };
        match &requirement.operator {
            Operator::In(values) => all(fewer(values, 1), |values| of(Operator::In(values))),
            Operator::NotIn(values) => all(fewer(values, 1), |values| of(Operator::NotIn(values))),
            Operator::Exists | Operator::DoesNotExist => Vec::new(),
        }
    })
}

fn cluster_network_policy(policy: &ClusterNetworkPolicy) -> Vec<ClusterNetworkPolicy> {
    let rules = |rules: &[ClusterRule]| smaller::<_, Box<_>>(rules, 0, cluster_rule);
    let mut found = all(rules(&policy.ingress), |r| with(policy, |p| p.ingress = r));
    found.extend(all(rules(&policy.egress), |r| with(policy, |p| p.egress = r)));
    let subject = &policy.subject;
    found
        .extend(all(selector(&subject.namespaces), |s| with(policy, |p| p.subject.namespaces = s)));
    found.extend(all(selector(&subject.pods), |s| with(policy, |p| p.subject.pods = s)));
    if policy.priority != 0 {
        found.push(ClusterNetworkPolicy { priority: 0, ..policy.clone() });
    }
    if policy.tier != Tier::Admin {
        found.push(ClusterNetworkPolicy { tier: Tier::Admin, ..policy.clone() });
    }
    found
}

/// A rule has at least one peer, and a port with a name is one port of each protocol.
fn cluster_rule(rule: &ClusterRule) -> Vec<ClusterRule> {
    let PolicyRule { peers, ports: of_rule } = &rule.matches;
    let mut found: Vec<ClusterRule> =
        all(smaller(peers, 1, cluster_peer), |peers| with(rule, |r| r.matches.peers = peers));
    let is_name = |port: &PolicyPort| matches!(port.ports, PortSpec::Name(_));
    for (at, port) in of_rule.iter().enumerate() {
        let others = of_rule
            .iter()
            .enumerate()
            .filter(|(n, other)| if is_name(port) { other.ports != port.ports } else { *n != at });
        let others = others.map(|(_, other)| other.clone()).collect();
        found.push(with(rule, |r| r.matches.ports = others));
        for reduced in if is_name(port) { Vec::new() } else { ports(port) } {
            let mut list = of_rule.clone();
            list[at] = reduced;
            found.push(with(rule, |r| r.matches.ports = list));
        }
    }
    if !rule.name.is_empty() {
        found.push(ClusterRule { name: "".into(), ..rule.clone() });
    }
    found
}

/// Its namespaces stay: without them, it would be of the namespace of a policy.
fn cluster_peer(of: &PolicyPeer) -> Vec<PolicyPeer> {
    let mut found = peer(of);
    found.retain(|peer| !matches!(peer, PolicyPeer::Pods { namespaces: None, .. }));
    found
}

fn pod(pod: &Pod) -> Vec<Pod> {
    let labels: Vec<Label> =
        all(pod.labels.iter(), |(key, value)| Label { key: key.into(), value: value.into() });
    let labels = fewer::<_, Vec<_>>(&labels, 0);
    let mut found = all(labels, |labels| {
        let labels = labels.into_iter().map(|Label { key, value }| (key, value)).collect();
        Pod { labels, ..pod.clone() }
    });
    found.extend(all(fewer(&pod.ports, 0), |ports| Pod { ports, ..pod.clone() }));
    let ips: Vec<_> = pod.ips.iter().collect();
    found.extend(all(fewer::<_, PodIps>(&ips, 0), |ips| Pod { ips, ..pod.clone() }));
    let plain = [
        Pod { phase: PodPhase::Running, ..pod.clone() },
        Pod { terminating: false, ..pod.clone() },
        Pod { host_network: false, ..pod.clone() },
        Pod { uid: None, ..pod.clone() },
        Pod { node: None, ..pod.clone() },
    ];
    found.extend(plain.into_iter().filter(|plain| plain != pod));
    found
}

fn namespace(namespace: &Namespace) -> Vec<Namespace> {
    all(namespace.labels.keys(), |key| with(namespace, |n| drop(n.labels.remove(key))))
}

fn node(node: &Node) -> Vec<Node> {
    let labels: Vec<(String, String)> =
        all(node.labels.iter(), |(key, value)| (key.to_owned(), value.to_owned()));
    let mut found = all(fewer(&labels, 0), |labels| Node { labels, ..node.clone() });
    found.extend(all(fewer(&node.internal_ips, 0), |of| with(node, |n| n.internal_ips = of)));
    found.extend(all(fewer(&node.external_ips, 0), |of| with(node, |n| n.external_ips = of)));
    found.extend(all(fewer(&node.pod_cidrs, 0), |of| with(node, |n| n.pod_cidrs = of)));
    if node.leaving {
        found.push(Node { leaving: false, ..node.clone() });
    }
    found
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::generate::policy_objects;
    use crate::properties::cases;

    proptest! {
        #![proptest_config(ProptestConfig {
            cases: cases(30), failure_persistence: None, ..Default::default()
        })]

        #[test]
        fn what_is_read_from_a_manifest_stays_so(objects in policy_objects()) {
            for object in objects.iter().map(readable) {
                prop_assert_eq!(&readable(&object), &object);
                for reduced in reductions(&object) {
                    prop_assert_ne!(&reduced, &object);
                    if !matches!(object, Object::Namespace(_)) {
                        prop_assert_eq!(&readable(&reduced), &reduced);
                    }
                }
            }
        }

        #[test]
        fn nothing_stays_that_a_case_does_not_need(objects in policy_objects()) {
            prop_assert_eq!(shrink(&objects, |_| true), []);
            let pod_with_label = |object: &Object| match object {
                Object::Pod(pod) => pod.labels.get("app").is_some(),
                _ => false,
            };
            let has_one = |objects: &[Object]| objects.iter().any(pod_with_label);
            if has_one(&objects) {
                let smallest = shrink(&objects, has_one);
                let [Object::Pod(pod)] = &smallest[..] else { panic!("{smallest:?}") };
                let value = pod.labels.get("app").unwrap();
                let labels = [("app", value)].into_iter().collect();
                let phase = PodPhase::Running;
                let expected = Pod { name: pod.name.clone(), labels, phase, ..Pod::default() };
                prop_assert_eq!(pod, &expected);
            }
        }
    }
}
