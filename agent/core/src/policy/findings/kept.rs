//! Problems of policies, kept until something changes that they depend on.
//!
//! A policy is checked again if it changes. One that names ports is also checked if pods that it or its peers select
//! come, change or go, or if the first pod with such a port comes or the last one goes.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use sluice_abi::PolicyDirection;

use super::super::pods::Pods;
use super::super::rules::PortName;
use super::super::selectors::Selectors;
use super::super::subjects::Subjects;
use super::super::term::{GroupKey, Scope, Term};
use super::super::{Finding, FindingReason, KnownPods};
use super::{Checks, check, cluster, rules};
use crate::index::{Index, PolicyDirty};
use crate::model::{NetworkPolicy, ObjectName, PolicyPort, PortSpec};
use crate::visits::visit;

/// Problems of the policies.
#[derive(Clone, Debug, Default)]
pub struct Kept {
    /// Of the policies that have any.
    found: BTreeMap<ObjectName, Vec<Finding>>,
    /// Policies that have to be checked.
    dirty: BTreeSet<ObjectName>,
    /// NetworkPolicies by the names of ports of other pods that they have.
    by_port: HashMap<PortName, BTreeSet<ObjectName>>,
    /// Those by the numbers of their selectors of other pods.
    selectors: Selectors,
    by_number: HashMap<u32, ObjectName>,
    next_number: u32,
    named: BTreeMap<ObjectName, Named>,
}

/// The rules for egress of a NetworkPolicy that name ports.
#[derive(Clone, Debug)]
struct Named {
    number: u32,
    ports: BTreeSet<PortName>,
    peers: Vec<Term>,
}

impl Named {
    /// Whether labels of namespaces decide about a peer.
    fn has_namespaces(&self) -> bool {
        let is_selected = |term: &Term| matches!(term, Term::Pods { scope: Scope::Selected(namespaces), .. } if !namespaces.is_empty());
        self.peers.iter().any(is_selected)
    }
}

/// Pods that came, changed or went, as far as policies depend on them.
#[derive(Clone, Debug, Default)]
pub struct ChangedPods {
    /// Groups with their first pod, and those that have none any more.
    pub groups: Vec<Arc<GroupKey>>,
    /// Ports that the first pod has, or none any more.
    pub ports: BTreeSet<PortName>,
}

impl Kept {
    /// Marks what has to be checked again. `is_all`: `dirty` has all policies.
    pub fn changed(
        &mut self,
        index: &Index,
        (dirty, is_all): (&PolicyDirty, bool),
        subjects: &Subjects,
        pods: &Pods,
        changed: &ChangedPods,
    ) {
        self.dirty.extend(dirty.policies.iter().cloned());
        if is_all {
            return;
        }
        for group in &changed.groups {
            self.dirty.extend(subjects.with_port_names(index, group));
            let peers = self.selectors.candidates(index, &group.namespace, &group.labels);
            let policies = peers.iter().filter_map(|number| self.by_number.get(number));
            self.dirty.extend(policies.cloned());
        }
        let ports = changed.ports.iter().filter_map(|port| self.by_port.get(port));
        self.dirty.extend(ports.flatten().cloned());
        let has_pods = |namespace: &Arc<str>| pods.groups_of(namespace).next().is_some();
        let namespaces = dirty.namespaces.iter().any(has_pods);
        let is_affected = |named: &Named| {
            let is_block = |term: &Term| matches!(term, Term::Block(_));
            namespaces && named.has_namespaces() || dirty.nodes && named.peers.iter().any(is_block)
        };
        if namespaces || dirty.nodes {
            let named = self.named.iter().filter(|(_, named)| is_affected(named));
            self.dirty.extend(named.map(|(name, _)| name.clone()));
        }
        // There are few of them.
        if !changed.groups.is_empty() || !dirty.namespaces.is_empty() || dirty.nodes {
            self.dirty.extend(index.cluster_network_policies().map(|policy| policy.object_name()));
        }
    }

    /// The problems of all policies.
    pub fn findings(
        &mut self,
        index: &Index,
        pods: &Pods,
        known: KnownPods,
    ) -> impl Iterator<Item = &Finding> {
        let checks = Checks { warnings: false, known: KnownPods::OfCluster };
        for name in std::mem::take(&mut self.dirty) {
            visit();
            let own = index.network_policy(&name);
            self.set_named(&name, own);
            let of_own = own.map(|policy| check(index, pods, policy, checks));
            let of_cluster = || {
                let policy = index.cluster_network_policy(&name)?;
                Some(cluster::check(index, pods, policy, checks))
            };
            match of_own.or_else(of_cluster).filter(|found| !found.is_empty()) {
                Some(found) => self.found.insert(name, found),
                None => self.found.remove(&name),
            };
        }
        let is_known = move |finding: &&Finding| {
            known != KnownPods::OfNode || finding.reason != FindingReason::UndefinedPort
        };
        self.found.values().flatten().filter(is_known)
    }

    /// Records what the rules of a policy say about ports of other pods; `None`: it was deleted.
    fn set_named(&mut self, name: &ObjectName, policy: Option<&NetworkPolicy>) {
        if let Some(former) = self.named.remove(name) {
            for port in &former.ports {
                if let Some(policies) = self.by_port.get_mut(port) {
                    policies.remove(name);
                    if policies.is_empty() {
                        self.by_port.remove(port);
                    }
                }
            }
            for peer in &former.peers {
                self.selectors.remove(peer, former.number);
            }
            self.by_number.remove(&former.number);
        }
        let (mut ports, mut peers) = (BTreeSet::new(), Vec::new());
        let egress = policy.into_iter().flat_map(rules).filter(|r| r.0 == PolicyDirection::Egress);
        for (.., rule) in egress.filter(|(.., rule)| rule.ports.iter().any(|p| named(p).is_some()))
        {
            ports.extend(rule.ports.iter().filter_map(named));
            peers.extend(rule.peers.iter().filter_map(|peer| Term::new(peer, &name.namespace)));
        }
        if ports.is_empty() {
            return;
        }
        peers.sort_unstable();
        peers.dedup();
        let number = self.next_number;
        self.next_number = self.next_number.wrapping_add(1);
        for port in &ports {
            self.by_port.entry(port.clone()).or_default().insert(name.clone());
        }
        for peer in &peers {
            self.selectors.insert(peer, number);
        }
        self.by_number.insert(number, name.clone());
        self.named.insert(name.clone(), Named { number, ports, peers });
    }
}

fn named(PolicyPort { protocol, ports }: &PolicyPort) -> Option<PortName> {
    match ports {
        PortSpec::Name(name) => Some((*protocol, name.clone())),
        _ => None,
    }
}
