//! Why a pod may or may not send or receive something, by the policies themselves.
//!
//! A rule that does not allow a flow misses it by its peers, its ports or both. The nearest rule is the
//! one that misses by the least: by ports only, then by a label, by a namespace, by an address.

mod tiers;

use std::net::IpAddr;
use std::sync::Arc;

use sluice_abi::PolicyDirection;

use super::compiler::Policies;
use super::describe;
use super::subjects::{Standing, depends_on_unknown_namespace, pod_of};
use super::term::Term;
use super::{Explanation, NearMiss, Query, RuleName, Verdict, may_select};
use crate::index::Index;
use crate::model::{
    LabelSelector, NetworkPolicy, Pod, PolicyPeer, PolicyPort, PolicyRule, PortSpec, Tier,
};

/// Rules that are described at most.
const NEAREST: usize = 8;

/// The other end of a flow.
struct Peer<'a> {
    address: IpAddr,
    /// The pods that have its address, normally one.
    pods: Vec<&'a Pod>,
    /// Whether the address is of a pod of any node.
    in_pod_range: bool,
}

impl Policies {
    /// The Pods that have an address, as far as rules are concerned: normally one. Without any policy, none
    /// is known.
    pub fn owners<'a>(&self, index: &'a Index, address: IpAddr) -> Vec<&'a Pod> {
        self.pods.owners(index, address.into())
    }

    /// Why a pod may or may not send or receive something. The peer is a pod if a Pod object or a lease
    /// has its address.
    pub fn explain(&self, index: &Index, query: &Query) -> Explanation {
        let peer = Peer {
            address: query.peer,
            pods: self.pods.owners(index, query.peer.into()),
            in_pod_range: self.networks.in_pod_range(query.peer),
        };
        let peers = peer.pods.iter().map(|pod| pod.name.clone()).collect();
        let explained = |isolating, verdict| Explanation { peers, isolating, verdict };
        let namespace = &query.pod.namespace;
        // The lease of a deleted pod may still exist beside that of a pod with its name.
        let leases =
            || self.subjects.iter().filter(|(pod, _)| pod.name.as_ref() == Some(&query.pod));
        let subject =
            leases().find(|(pod, _)| pod_of(index, pod).is_some()).or_else(|| leases().next());
        let pod = match subject {
            Some((lease, _)) => pod_of(index, lease),
            None => index.pod(&query.pod),
        };
        let Some(pod) = pod else {
            let open = !may_select(index, namespace);
            let verdict = if open { Verdict::NotIsolated } else { Verdict::Pending };
            return explained(Vec::new(), verdict);
        };
        if pod.host_network && subject.is_none() {
            return explained(Vec::new(), Verdict::HostNetwork);
        }
        if depends_on_unknown_namespace(index, namespace) {
            return explained(Vec::new(), Verdict::Pending);
        }
        let own: Vec<(&NetworkPolicy, &[PolicyRule])> = index
            .network_policies_of(namespace)
            .filter(|policy| policy.pod_selector.matches(|key| pod.labels.get(key)))
            .filter_map(|policy| Some((policy, policy.rules(query.direction)?)))
            .collect();
        let admin = tiers::Tier::of(index, query.direction, pod, Tier::Admin);
        let baseline = match own.is_empty() {
            true => tiers::Tier::of(index, query.direction, pod, Tier::Baseline),
            false => tiers::Tier::default(),
        };
        let names = own.iter().map(|(policy, _)| policy.name.clone());
        let names: Vec<_> = admin.names().chain(names).chain(baseline.names()).collect();
        if names.is_empty() {
            return explained(names, Verdict::NotIsolated);
        }
        if let Some((_, Standing::Judged(ends))) = subject
            && let Some(table) = ends[query.direction as usize]
            && let Some(reason) = self.tables.closed(table)
        {
            return explained(names, Verdict::Closed(reason));
        }
        let flow = Flow { index, query, pod, peer: &peer };
        let own = || match own.is_empty() {
            true => baseline.verdict(&flow, &|| Verdict::NotIsolated),
            false => judge(&flow, &own),
        };
        explained(names, admin.verdict(&flow, &own))
    }
}

/// What is explained.
struct Flow<'a> {
    index: &'a Index,
    query: &'a Query,
    pod: &'a Pod,
    peer: &'a Peer<'a>,
}

impl Flow<'_> {
    /// The pods whose port names count.
    fn named(&self) -> Vec<&Pod> {
        match self.query.direction {
            PolicyDirection::Egress => self.peer.pods.clone(),
            PolicyDirection::Ingress => vec![self.pod],
        }
    }
}

fn judge(flow: &Flow<'_>, isolating: &[(&NetworkPolicy, &[PolicyRule])]) -> Verdict {
    let Flow { index, query, peer, .. } = *flow;
    let named = flow.named();
    // By distance, then by name and position.
    let mut missed = Vec::new();
    for (policy, rules) in isolating {
        for (at, rule) in rules.iter().enumerate() {
            let by_ports = !rule.ports.is_empty()
                && !rule.ports.iter().any(|port| admits(port, query, &named));
            let nearest =
                rule.peers.iter().map(|p| (distance(index, &policy.name.namespace, p, peer), p));
            let nearest = nearest.min_by_key(|(distance, _)| *distance);
            let by_peers = nearest.map_or(0, |(distance, _)| distance);
            if !by_ports && by_peers == 0 {
                return Verdict::Allowed(RuleName { policy: policy.name.clone(), rule: at });
            }
            let both = u32::from(by_ports && by_peers > 0);
            missed.push((
                (both, by_peers),
                *policy,
                Some((at, rule, nearest.map(|n| n.1), by_ports)),
            ));
        }
        if rules.is_empty() {
            missed.push(((2, 0), *policy, None));
        }
    }
    missed.sort_by_key(|(distance, ..)| *distance);
    let text = |policy: &NetworkPolicy, (rule, nearest, by_ports)| {
        describe_miss(index, query, policy, rule, nearest, by_ports, peer)
    };
    let near = missed.into_iter().take(NEAREST).map(|(_, policy, rule)| NearMiss {
        policy: policy.name.clone(),
        rule: rule.map(|(at, ..)| at),
        text: match rule {
            Some((_, rule, nearest, by_ports)) => text(policy, (rule, nearest, by_ports)),
            None => {
                format!("{} allows no {}", policy.name, describe::direction(query.direction))
            }
        },
    });
    Verdict::Denied(near.collect())
}

fn admits(port: &PolicyPort, query: &Query, named: &[&Pod]) -> bool {
    port.protocol.number() == query.protocol
        && match &port.ports {
            PortSpec::All => true,
            PortSpec::Number(number) => number.get() == query.port,
            PortSpec::Range(first, last) => (first.get()..=last.get()).contains(&query.port),
            PortSpec::Name(name) => {
                let has = |pod: &&Pod| {
                    pod.ports.iter().any(|p| {
                        p.name == *name && p.protocol == port.protocol && p.port.get() == query.port
                    })
                };
                !named.is_empty() && named.iter().all(has)
            }
            PortSpec::Invalid(_) => false,
        }
}

/// How far a peer of a rule is from the other end; 0 if it matches.
fn distance(index: &Index, own: &Arc<str>, peer: &PolicyPeer, other: &Peer<'_>) -> u32 {
    const ADDRESS: u32 = 500;
    const NAMESPACE: u32 = 50;
    let Some(term) = Term::new(peer, own) else { return u32::MAX };
    match (peer, term) {
        (_, Term::Block(block)) => {
            let outside = block.except.iter().any(|except| except.contains(&other.address));
            match (block.cidr.contains(&other.address), outside) {
                (true, false) => 0,
                (true, true) => NAMESPACE,
                (false, _) => ADDRESS,
            }
        }
        (PolicyPeer::Pods { namespaces, pods }, term) => {
            if other.pods.is_empty() {
                return if term.is_every_pod() && other.in_pod_range { 0 } else { ADDRESS };
            }
            let of_pod = |pod: &&Pod| {
                if term.selects(index, &pod.name.namespace, &pod.labels) {
                    return 0;
                }
                let labels = failing(pods, |key| pod.labels.get(key)).count();
                let namespace = match namespaces {
                    None => usize::from(pod.name.namespace != *own),
                    Some(selector) => match index.namespace(&pod.name.namespace) {
                        Some(n) => {
                            failing(selector, |k| n.labels.get(k).map(String::as_str)).count()
                        }
                        None => usize::from(!selector.is_empty()),
                    },
                };
                u32::try_from(labels).unwrap_or(NAMESPACE) + NAMESPACE * u32::from(namespace > 0)
            };
            other.pods.iter().map(of_pod).max().unwrap_or(ADDRESS)
        }
        (PolicyPeer::Nodes(selector), _) => {
            let mut nodes = index.nodes_with(selector);
            let is_of_node = nodes.any(|node| node.addresses().any(|a| a == other.address));
            if is_of_node { 0 } else { ADDRESS }
        }
        _ => u32::MAX,
    }
}

/// The requirements that labels do not meet.
fn failing<'a, 'b: 'a>(
    selector: &'a LabelSelector,
    label: impl Fn(&str) -> Option<&'b str> + 'a,
) -> impl Iterator<Item = &'a std::sync::Arc<str>> + 'a {
    let requirements = selector.requirements().iter();
    requirements.filter(move |r| !r.operator.accepts(label(&r.key))).map(|r| &r.key)
}

/// The values of the labels that requirements do not accept: "role=web, no label tier".
fn values<'b>(selector: &LabelSelector, label: impl Fn(&str) -> Option<&'b str>) -> String {
    let mut keys: Vec<_> = failing(selector, &label).collect();
    keys.dedup();
    let value = |key: &std::sync::Arc<str>| match label(key) {
        Some(value) => format!("{key}={value}"),
        None => format!("no label {key}"),
    };
    keys.into_iter().map(value).collect::<Vec<_>>().join(", ")
}

/// "shop/db allows TCP 5432 from role=api; the client has role=web".
fn describe_miss(
    index: &Index,
    query: &Query,
    policy: &NetworkPolicy,
    rule: &PolicyRule,
    nearest: Option<&PolicyPeer>,
    by_ports: bool,
    other: &Peer<'_>,
) -> String {
    let preposition = describe::preposition(query.direction);
    let end = match query.direction {
        PolicyDirection::Egress => "server",
        PolicyDirection::Ingress => "client",
    };
    let peers = match nearest {
        None => "anyone".to_owned(),
        Some(peer) if rule.peers.len() == 1 => peer.to_string(),
        Some(peer) => format!("{peer} and {} more", rule.peers.len() - 1),
    };
    let ports = describe::ports(&rule.ports);
    let mut why = Vec::new();
    if let Some(peer) = nearest
        && distance(index, &policy.name.namespace, peer, other) > 0
    {
        why.push(format!("the {end} {}", difference(index, &policy.name.namespace, peer, other)));
    }
    if by_ports {
        why.push(format!("the flow is {}", describe::target(query.protocol, query.port)));
    }
    format!("{} allows {ports} {preposition} {peers}; {}", policy.name, why.join(", "))
}

/// What the other end has instead of what a peer requires.
fn difference(index: &Index, own: &Arc<str>, peer: &PolicyPeer, other: &Peer<'_>) -> String {
    let address = other.address;
    match peer {
        PolicyPeer::Invalid(text) => format!("cannot match: {text}"),
        PolicyPeer::Block(block) => {
            let except = block.except.iter().find(|except| except.contains(&address));
            match except.filter(|_| block.cidr.contains(&address)) {
                Some(except) => format!("has {address} in the exception {except}"),
                None => format!("has the address {address}"),
            }
        }
        PolicyPeer::Nodes(_) => format!("has the address {address}"),
        PolicyPeer::Pods { namespaces, pods } => {
            let apart = |pod: &&&Pod| distance_to(index, own, peer, pod, other) > 0;
            let Some(pod) = other.pods.iter().find(apart) else {
                let kind = if other.in_pod_range { "a pod that is not known" } else { "not a pod" };
                return format!("{address} is {kind}");
            };
            let namespace = &pod.name.namespace;
            let mut parts = Vec::new();
            match namespaces {
                None if namespace != own => {
                    parts.push(format!("is in namespace {namespace}"));
                }
                Some(selector) if !selector.is_empty() => match index.namespace(namespace) {
                    None => parts.push(format!("is in namespace {namespace}, which is not known")),
                    Some(n) => {
                        let has = values(selector, |key| n.labels.get(key).map(String::as_str));
                        if !has.is_empty() {
                            parts.push(format!("is in namespace {namespace} with {has}"));
                        }
                    }
                },
                _ => {}
            }
            let has = values(pods, |key| pod.labels.get(key));
            if !has.is_empty() {
                parts.push(format!("has {has}"));
            }
            parts.join(" and ")
        }
    }
}

/// As [`distance`], for one of the pods.
fn distance_to(
    index: &Index,
    own: &Arc<str>,
    peer: &PolicyPeer,
    pod: &Pod,
    other: &Peer<'_>,
) -> u32 {
    let one = Peer { pods: vec![pod], ..*other };
    distance(index, own, peer, &one)
}
