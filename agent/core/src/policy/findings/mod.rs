//! Problems of policies, and of the maps.

mod cluster;
mod kept;
mod port_names;

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;

use sluice_abi::PolicyDirection;

pub use self::kept::{ChangedPods, Kept};
use self::port_names::who_lacks;
use super::compiler::Policies;
use super::describe;
use super::pods::Pods;
use super::subjects::{Standing, pod_of};
use super::term::{GroupKey, Scope, Term, Terms};
use super::{Closing, Finding, FindingReason, KnownPods};
use crate::index::Index;
use crate::model::{
    Change, Kind, NAMESPACE_NAME_LABEL, NetworkPolicy, Object, ObjectName, Operator, PolicyPeer,
    PolicyPort, PolicyRule, PortSpec,
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
            let text = format!("{what}: no address matches");
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

/// The rules of a policy that its `policyTypes` switches off, in a sentence for each direction.
pub fn unused_rules(policy: &NetworkPolicy) -> impl Iterator<Item = String> {
    let text = |direction| {
        let count = policy.unused_rules[direction as usize];
        let (word, name) = (describe::direction(direction), describe::policy_type(direction));
        (count > 0)
            .then(|| format!("{word} has rules, but policyTypes lacks {name}: they have no effect"))
    };
    PolicyDirection::ALL.into_iter().filter_map(text)
}

/// What is checked besides parts that cannot match anything.
#[derive(Clone, Copy)]
struct Checks {
    /// Selectors that match no pod, and rules without their policy type.
    warnings: bool,
    /// Pods that are known: what they lack is a problem only if others cannot have it.
    known: KnownPods,
}

impl Checks {
    /// Whether all pods of the cluster are known.
    fn knows_all(self) -> bool {
        self.known == KnownPods::OfCluster
    }

    /// Whether all pods that a term can select are known.
    fn knows_pods_of(self, pods: &Pods, term: &Term) -> bool {
        let has_pods = |namespace: &Arc<str>| pods.groups_of(namespace).next().is_some();
        match (self.known, term) {
            (KnownPods::OfCluster, _) => true,
            (KnownPods::OfNode, _) => false,
            (KnownPods::OfNamespaces, Term::Pods { scope: Scope::Namespace(own), .. }) => {
                has_pods(own)
            }
            (KnownPods::OfNamespaces, Term::Pods { scope: Scope::Selected(namespaces), .. }) => {
                let names = namespaces.requirements().iter().find_map(|r| match &r.operator {
                    Operator::In(names) if *r.key == *NAMESPACE_NAME_LABEL => Some(names),
                    _ => None,
                });
                names.is_some_and(|names| names.iter().all(has_pods))
            }
            (KnownPods::OfNamespaces, _) => false,
        }
    }
}

/// Problems of one policy, given the pods that exist.
fn check(index: &Index, pods: &Pods, policy: &NetworkPolicy, checks: Checks) -> Vec<Finding> {
    let warnings = checks.warnings;
    let mut findings = Vec::new();
    let mut add = |reason, text| findings.push(finding(policy, reason, text));
    let namespace = &policy.name.namespace;
    let selected = || {
        let groups = pods.groups_of(namespace);
        groups.filter(|g| policy.pod_selector.matches(|key| g.labels.get(key)))
    };
    let has_pods = checks.knows_all() || pods.groups_of(namespace).next().is_some();
    if warnings && has_pods && selected().next().is_none() {
        add(
            FindingReason::NoPod,
            "podSelector matches no pod: the policy has no effect".to_owned(),
        );
    }
    for text in unused_rules(policy).filter(|_| warnings) {
        add(FindingReason::UnusedRules, text);
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
                    let who = match direction {
                        PolicyDirection::Ingress => {
                            let mut selected = selected().peekable();
                            let defined = selected.peek().is_none() || selected.any(has);
                            (!defined).then_some("selected pod")
                        }
                        PolicyDirection::Egress => {
                            let names = std::slice::from_ref(&name);
                            who_lacks(index, pods, namespace, &rule.peers, names, checks)
                        }
                    };
                    if let Some(who) = who {
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
                    let term = Term::new(peer, namespace);
                    let term = term.filter(|term| checks.knows_pods_of(pods, term));
                    if term.is_some_and(|term| !selects(term)) {
                        add(FindingReason::NoPod, format!("{} matches no pod", field()));
                    }
                }
                _ => {}
            }
        }
    }
    findings
}

/// Problems of the policies among some objects, with warnings: those of a file, for example. `known`: whether all
/// pods of the cluster, or of the namespaces that have any, are among them.
pub fn check_all(objects: &[Object], known: KnownPods) -> Vec<Finding> {
    let mut index = Index::new("");
    for object in objects {
        index.apply(Change::Apply(object.clone()));
    }
    let mut pods = Pods::default();
    pods.set_needed(true);
    for pod in index.pods() {
        pods.pod(&index, &pod.name, &Terms::default());
    }
    let checks = Checks { warnings: true, known };
    let own = index.network_policies().flat_map(|policy| check(&index, &pods, policy, checks));
    let cluster = index.cluster_network_policies();
    let cluster = cluster.flat_map(|policy| cluster::check(&index, &pods, policy, checks));
    own.chain(cluster).collect()
}
