//! Problems of policies, and of the maps.

mod cluster;

use std::collections::BTreeSet;
use std::sync::Arc;

use sluice_abi::PolicyDirection;

use super::compiler::Policies;
use super::describe;
use super::pods::Pods;
use super::subjects::Standing;
use super::term::{GroupKey, Term, Terms};
use super::{Finding, FindingReason};
use crate::index::Index;
use crate::model::{
    Change, Kind, NetworkPolicy, Object, ObjectName, PolicyPeer, PolicyPort, PolicyRule, PortSpec,
};

impl Policies {
    /// Problems of all policies, and pods of this node that are closed because rows do not fit. Sorted;
    /// the same until something changes. Warnings ([`FindingReason::is_warning`]) are left out.
    pub fn findings(&self, index: &Index) -> Vec<Finding> {
        let mut findings = BTreeSet::new();
        for policy in index.network_policies() {
            findings.extend(check(index, &self.pods, policy, false));
        }
        for policy in index.cluster_network_policies() {
            findings.extend(cluster::check(index, &self.pods, policy, false));
        }
        for (lease, standing) in self.subjects.iter() {
            let (Some(name), Standing::Judged(ends)) = (&lease.name, standing) else { continue };
            for direction in PolicyDirection::ALL {
                let table = ends[direction as usize];
                let Some(reason) = table.and_then(|table| self.tables.closed(table)) else {
                    continue;
                };
                let direction = describe::direction(direction);
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
        for term in self.networks.refused() {
            findings.extend(users(index, self.terms.registry.get(*term)));
        }
        if let Some(address) = self.unclassed.first() {
            let (count, node) = (self.unclassed.len(), index.node_name());
            let address = std::net::IpAddr::from(*address);
            let text = format!(
                "{count} pods, the first at {address}, do not fit into the map of peers: rules match them by ipBlock only"
            );
            let object = ObjectName::cluster(node);
            let reason = FindingReason::Capacity;
            findings.insert(Finding { kind: Kind::Node, object, reason, text });
        }
        findings.into_iter().collect()
    }
}

/// The policies with a term of addresses that does not fit.
fn users(index: &Index, term: &Term) -> Vec<Finding> {
    let uses = |own: &Arc<str>, peers: &[PolicyPeer]| {
        peers.iter().any(|peer| Term::new(peer, own).is_some_and(|other| other == *term))
    };
    let what = match term {
        Term::Block(block) => format!("block {}", block.cidr),
        _ => "the addresses of nodes".to_owned(),
    };
    let mut findings = Vec::new();
    let text = format!("{what} does not fit into the map: it matches nothing");
    for policy in index.network_policies() {
        if rules(policy).any(|(.., rule)| uses(&policy.name.namespace, &rule.peers)) {
            findings.push(finding(policy, FindingReason::Capacity, text.clone()));
        }
    }
    for policy in index.cluster_network_policies() {
        let mut rules = policy.ingress.iter().chain(&policy.egress);
        if rules.any(|rule| uses(&Arc::default(), &rule.matches.peers)) {
            let effect = "Accept rules do not match it; egress of pods with a Deny or Pass rule for \
                          it is closed";
            let text = format!("{what} does not fit into the map: {effect}");
            findings.push(cluster::finding(policy, FindingReason::Capacity, text));
        }
    }
    findings
}

fn finding(policy: &NetworkPolicy, reason: FindingReason, text: String) -> Finding {
    Finding { kind: Kind::NetworkPolicy, object: policy.name.clone(), reason, text }
}

/// The rules of a policy with their directions and positions.
fn rules(policy: &NetworkPolicy) -> impl Iterator<Item = (PolicyDirection, usize, &PolicyRule)> {
    let of = |direction| move |(at, rule)| (direction, at, rule);
    let ingress = policy.ingress.iter().flatten().enumerate().map(of(PolicyDirection::Ingress));
    let egress = policy.egress.iter().flatten().enumerate().map(of(PolicyDirection::Egress));
    ingress.chain(egress)
}

/// Problems of one policy, given the pods that exist; with or without warnings.
fn check(index: &Index, pods: &Pods, policy: &NetworkPolicy, warnings: bool) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut add = |reason, text| findings.push(finding(policy, reason, text));
    let namespace = &policy.name.namespace;
    let selected = || {
        let groups = pods.groups_of(namespace);
        groups.filter(|g| policy.pod_selector.matches(|key| g.labels.get(key)))
    };
    if warnings && selected().next().is_none() {
        add(
            FindingReason::NoPod,
            "podSelector matches no pod: the policy has no effect".to_owned(),
        );
    }
    for (direction, at, rule) in rules(policy) {
        let field = || format!("{}[{at}]", describe::direction(direction));
        for (at, PolicyPort { protocol, ports }) in rule.ports.iter().enumerate() {
            let field = || format!("{}.ports[{at}]", field());
            match ports {
                PortSpec::Range(first, last) if last < first => add(
                    FindingReason::EmptyPortRange,
                    format!(
                        "{}: endPort {last} is lower than port {first}: it matches nothing",
                        field()
                    ),
                ),
                PortSpec::Invalid(text) => add(
                    FindingReason::InvalidPart,
                    format!("{}: {text}: it matches nothing", field()),
                ),
                PortSpec::Name(name) => {
                    let name = (*protocol, Arc::clone(name));
                    let has = |group: &GroupKey| {
                        group.ports.iter().any(|p| (p.protocol, &p.name) == (name.0, &name.1))
                    };
                    let (defined, who) = match direction {
                        PolicyDirection::Ingress => {
                            let mut selected = selected().peekable();
                            (selected.peek().is_none() || selected.any(has), "selected pod")
                        }
                        PolicyDirection::Egress => (pods.has_port(&name), "pod"),
                    };
                    if !defined {
                        let (protocol, name) = name;
                        let problem =
                            format!("no {who} has a {protocol} port with the name {name}");
                        let text = format!("{}: {problem}: it matches nothing", field());
                        add(FindingReason::UndefinedPort, text);
                    }
                }
                _ => {}
            }
        }
        for (at, peer) in rule.peers.iter().enumerate() {
            let list = describe::preposition(direction);
            let field = || format!("{}.{list}[{at}]", field());
            match peer {
                PolicyPeer::Invalid(text) => {
                    add(
                        FindingReason::InvalidPart,
                        format!("{}: {text}: it matches nothing", field()),
                    );
                }
                PolicyPeer::Pods { .. } if warnings => {
                    let selects = |term: Term| {
                        pods.groups().any(|g| term.selects(index, &g.namespace, &g.labels))
                    };
                    if !Term::new(peer, namespace).is_some_and(selects) {
                        add(FindingReason::NoPod, format!("{} matches no pod", field()));
                    }
                }
                _ => {}
            }
        }
    }
    findings
}

/// Problems of the policies among some objects, with warnings: those of a file, for example.
pub fn check_all(objects: &[Object]) -> Vec<Finding> {
    let mut index = Index::new("");
    for object in objects {
        index.apply(Change::Apply(object.clone()));
    }
    let mut pods = Pods::default();
    pods.set_needed(true);
    for pod in index.pods() {
        pods.pod(&index, &pod.name, &Terms::default());
    }
    let own = index.network_policies().flat_map(|policy| check(&index, &pods, policy, true));
    let cluster = index.cluster_network_policies();
    let cluster = cluster.flat_map(|policy| cluster::check(&index, &pods, policy, true));
    own.chain(cluster).collect()
}
