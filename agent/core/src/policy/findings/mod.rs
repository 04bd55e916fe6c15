//! Problems of policies, and of the maps.

mod cluster;
mod kept;

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;

use sluice_abi::PolicyDirection;

pub use self::kept::{ChangedPods, Kept};
use super::compiler::Policies;
use super::describe;
use super::pods::Pods;
use super::subjects::{Standing, pod_of};
use super::term::{GroupKey, Term, Terms};
use super::{Closing, Finding, FindingReason, KnownPods};
use crate::index::Index;
use crate::model::{
    Change, Kind, NetworkPolicy, Object, ObjectName, PolicyPeer, PolicyPort, PolicyRule, PortSpec,
};

impl Policies {
    /// Problems of all policies, and pods of this node that are closed because rows do not fit. Sorted;
    /// the same until something changes. Warnings ([`FindingReason::is_warning`]) are left out, and what
    /// depends on pods that are not known.
    pub fn findings(&mut self, index: &Index, known: KnownPods) -> Vec<Finding> {
        let kept = self.kept.findings(index, &self.pods, known);
        let mut findings: BTreeSet<Finding> = kept.cloned().collect();
        // The pods of a table have the same policies.
        let mut closings = BTreeMap::new();
        for (lease, standing) in self.subjects.iter() {
            let (Some(pod), Standing::Judged(ends)) = (pod_of(index, lease), standing) else {
                continue;
            };
            for direction in PolicyDirection::ALL {
                let Some(table) = ends[direction as usize] else { continue };
                let closing = closings
                    .entry((direction as usize, table))
                    .or_insert_with(|| self.closing_of(index, pod, direction, table));
                let Some(Closing { reason, text, .. }) = closing else { continue };
                let text = format!("{} is closed: {text}", describe::direction(direction));
                let (object, reason) = (pod.name.clone(), *reason);
                findings.insert(Finding { kind: Kind::Pod, object, reason, text });
            }
        }
        let refused = self.networks.refused().iter();
        let refused = refused.map(|term| &**self.terms.registry.get(*term)).collect();
        findings.extend(users(index, &refused));
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

/// The policies with terms of addresses that do not fit.
fn users(index: &Index, refused: &HashSet<&Term>) -> Vec<Finding> {
    if refused.is_empty() {
        return Vec::new();
    }
    // What the peers of a policy are that do not fit.
    let what = |own: &Arc<str>, peers: &mut dyn Iterator<Item = &PolicyPeer>| {
        let terms = peers.filter_map(|peer| Term::new(peer, own));
        let terms: BTreeSet<Term> = terms.filter(|term| refused.contains(term)).collect();
        let first = match terms.first()? {
            Term::Block(block) => format!("block {}", block.cidr),
            _ => "the addresses of nodes".to_owned(),
        };
        Some(match terms.len() - 1 {
            0 => format!("{first} does not fit into the map"),
            others => format!("{first}, and {others} further peers, do not fit into the map"),
        })
    };
    let mut findings = Vec::new();
    for policy in index.network_policies() {
        let mut peers = rules(policy).flat_map(|(.., rule)| &*rule.peers);
        if let Some(what) = what(&policy.name.namespace, &mut peers) {
            let text = format!("{what}: matches nothing");
            findings.push(finding(policy, FindingReason::Capacity, text));
        }
    }
    for policy in index.cluster_network_policies() {
        let rules = policy.ingress.iter().chain(&policy.egress);
        if let Some(what) = what(&Arc::default(), &mut rules.flat_map(|rule| &*rule.matches.peers))
        {
            let effect = "Accept rules do not match it; egress of pods with a Deny or Pass rule for \
                          it is closed";
            let text = format!("{what}: {effect}");
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

/// What is checked besides parts that cannot match anything.
#[derive(Clone, Copy)]
struct Checks {
    /// Selectors that match no pod.
    warnings: bool,
    /// Whether pods have the named ports. Requires that all pods of the cluster are known.
    port_names: bool,
}

/// Problems of one policy, given the pods that exist.
fn check(index: &Index, pods: &Pods, policy: &NetworkPolicy, checks: Checks) -> Vec<Finding> {
    let Checks { warnings, port_names } = checks;
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
                PortSpec::Name(name) if port_names => {
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
    let checks = Checks { warnings: true, port_names: true };
    let own = index.network_policies().flat_map(|policy| check(&index, &pods, policy, checks));
    let cluster = index.cluster_network_policies();
    let cluster = cluster.flat_map(|policy| cluster::check(&index, &pods, policy, checks));
    own.chain(cluster).collect()
}
