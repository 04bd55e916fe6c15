//! Problems of policies, and of the maps.

use std::cell::OnceCell;
use std::collections::BTreeSet;

use sluice_abi::PolicyDirection;

use super::compiler::Policies;
use super::subjects::Standing;
use super::term::Term;
use super::{Finding, FindingReason};
use crate::index::Index;
use crate::model::{
    Kind, LabelSelector, NetworkPolicy, Object, Pod, PolicyPeer, PolicyPort, PolicyRule, PortSpec,
};

impl Policies {
    /// Problems of all policies, and pods of this node that are closed because rows do not fit. Sorted;
    /// the same until something changes. Warnings ([`FindingReason::is_warning`]) are left out.
    ///
    /// Reads every policy, and all Pods for each one with port names.
    pub fn findings(&self, index: &Index) -> Vec<Finding> {
        let mut findings = BTreeSet::new();
        for policy in index.network_policies() {
            findings.extend(check(index, policy, false));
        }
        for (lease, standing) in self.subjects.iter() {
            let (Some(name), Standing::Judged(ends)) = (&lease.name, standing) else { continue };
            for direction in PolicyDirection::ALL {
                let table = ends[direction as usize];
                let Some(reason) = table.and_then(|table| self.tables.closed(table)) else {
                    continue;
                };
                let direction = word(direction);
                let text = match reason {
                    FindingReason::Collision => format!(
                        "{direction} is closed: rules have the same id as others; change a rule"
                    ),
                    _ => format!(
                        "{direction} is closed: the rows of its policies do not fit into the maps"
                    ),
                };
                findings.insert(Finding { kind: Kind::Pod, object: name.clone(), reason, text });
            }
        }
        for block in self.networks.refused().values() {
            for policy in index.network_policies() {
                let uses = |peer: &PolicyPeer| {
                    let term = Term::new(peer, &policy.name.namespace);
                    matches!(term, Some(Term::Block(other)) if other == *block)
                };
                if peers(policy).any(|(_, peer)| uses(peer)) {
                    let text = format!(
                        "ipBlock {} does not fit into the map: it matches nothing",
                        block.cidr
                    );
                    findings.insert(finding(policy, FindingReason::Capacity, text));
                }
            }
        }
        if let Some(address) = self.unclassed.first() {
            let (count, node) = (self.unclassed.len(), index.node_name());
            let address = std::net::IpAddr::from(*address);
            let text = format!(
                "{count} pods, the first at {address}, do not fit into the map of peers: rules match them by ipBlock only"
            );
            let object = crate::model::ObjectName::cluster(node);
            let reason = FindingReason::Capacity;
            findings.insert(Finding { kind: Kind::Node, object, reason, text });
        }
        findings.into_iter().collect()
    }
}

fn finding(policy: &NetworkPolicy, reason: FindingReason, text: String) -> Finding {
    Finding { kind: Kind::NetworkPolicy, object: policy.name.clone(), reason, text }
}

fn word(direction: PolicyDirection) -> &'static str {
    match direction {
        PolicyDirection::Egress => "egress",
        PolicyDirection::Ingress => "ingress",
    }
}

/// The rules of a policy with their direction and field name.
fn rules(policy: &NetworkPolicy) -> impl Iterator<Item = (PolicyDirection, String, &PolicyRule)> {
    let of = |direction, rules: &'static str| {
        move |(at, rule)| (direction, format!("{rules}[{at}]"), rule)
    };
    let ingress = policy.ingress.iter().flatten().enumerate();
    let egress = policy.egress.iter().flatten().enumerate();
    let ingress = ingress.map(of(PolicyDirection::Ingress, "ingress"));
    ingress.chain(egress.map(of(PolicyDirection::Egress, "egress")))
}

/// The peers of a policy with their field names.
fn peers(policy: &NetworkPolicy) -> impl Iterator<Item = (String, &PolicyPeer)> {
    rules(policy).flat_map(|(direction, field, rule)| {
        let list = if direction == PolicyDirection::Ingress { "from" } else { "to" };
        let peers = rule.peers.iter().enumerate();
        peers.map(move |(at, peer)| (format!("{field}.{list}[{at}]"), peer))
    })
}

/// Problems of one policy, given the pods and namespaces that exist; with or without warnings, which
/// require a search of all Pods for each selector.
pub fn check(index: &Index, policy: &NetworkPolicy, warnings: bool) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut add = |reason, text| findings.push(finding(policy, reason, text));
    let namespace = &policy.name.namespace;
    let in_namespace = |pod: &&Pod| pod.name.namespace == *namespace && !pod.host_network;
    let selects = |selector: &LabelSelector, pod: &Pod| selector.matches(|k| pod.labels.get(k));
    let selected = OnceCell::new();
    let selected = || -> &Vec<&Pod> {
        selected.get_or_init(|| {
            let pods = index.pods().filter(in_namespace).filter(|pod| !pod.phase.is_over());
            pods.filter(|pod| selects(&policy.pod_selector, pod)).collect()
        })
    };
    if warnings && selected().is_empty() {
        add(
            FindingReason::NoPod,
            "podSelector matches no pod: the policy has no effect".to_owned(),
        );
    }
    for (direction, field, rule) in rules(policy) {
        for (at, PolicyPort { protocol, ports }) in rule.ports.iter().enumerate() {
            let field = format!("{field}.ports[{at}]");
            match ports {
                PortSpec::Range(first, last) if last < first => add(
                    FindingReason::EmptyPortRange,
                    format!(
                        "{field}: endPort {last} is lower than port {first}: it matches nothing"
                    ),
                ),
                PortSpec::Invalid(text) => {
                    add(FindingReason::InvalidPart, format!("{field}: {text}: it matches nothing"))
                }
                PortSpec::Name(name) => {
                    let has = |pod: &Pod| {
                        pod.ports.iter().any(|p| p.name == *name && p.protocol == *protocol)
                    };
                    let (defined, pods) = match direction {
                        PolicyDirection::Ingress => {
                            let none = selected().is_empty();
                            (none || selected().iter().any(|pod| has(pod)), "selected pod")
                        }
                        PolicyDirection::Egress => {
                            (index.pods().any(|pod| !pod.host_network && has(pod)), "pod")
                        }
                    };
                    if !defined {
                        add(
                            FindingReason::UndefinedPort,
                            format!(
                                "{field}: no {pods} has a {protocol} port with the name {name}: it matches nothing"
                            ),
                        );
                    }
                }
                _ => {}
            }
        }
    }
    for (field, peer) in peers(policy) {
        match (peer, Term::new(peer, namespace)) {
            (PolicyPeer::Invalid(text), _) => {
                add(FindingReason::InvalidPart, format!("{field}: {text}: it matches nothing"));
            }
            (PolicyPeer::Pods { .. }, Some(term)) if warnings => {
                let matches = |pod: &Pod| {
                    !pod.host_network && term.selects(index, &pod.name.namespace, &pod.labels)
                };
                if !index.pods().any(matches) {
                    add(FindingReason::NoPod, format!("{field} matches no pod"));
                }
            }
            _ => {}
        }
    }
    findings
}

/// Problems of the policies among some objects, as `policy check` prints them: with warnings.
pub fn check_all(objects: &[Object]) -> Vec<Finding> {
    let mut index = Index::new("");
    for object in objects {
        index.apply(crate::model::Change::Apply(object.clone()));
    }
    let policies = index.network_policies();
    policies.flat_map(|policy| check(&index, policy, true)).collect()
}
