//! Problems of policies, kept until something changes that they depend on.
//!
//! A policy is checked again if it changes. One that names ports is also checked if pods that it selects come,
//! change or go, or if the first pod with such a port comes or the last one goes.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use sluice_abi::PolicyDirection;

use super::super::pods::Pods;
use super::super::rules::PortName;
use super::super::subjects::Subjects;
use super::super::term::GroupKey;
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
    ports: BTreeMap<ObjectName, BTreeSet<PortName>>,
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
        pods: ChangedPods,
    ) {
        self.dirty.extend(dirty.policies.iter().cloned());
        if is_all {
            return;
        }
        for group in &pods.groups {
            self.dirty.extend(subjects.with_port_names(index, group));
        }
        self.dirty
            .extend(pods.ports.iter().filter_map(|port| self.by_port.get(port)).flatten().cloned());
        if !pods.ports.is_empty() || !dirty.namespaces.is_empty() {
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
        let checks = Checks { warnings: false, port_names: true };
        for name in std::mem::take(&mut self.dirty) {
            visit();
            let own = index.network_policy(&name);
            self.set_ports(&name, own);
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
            known == KnownPods::OfCluster || finding.reason != FindingReason::UndefinedPort
        };
        self.found.values().flatten().filter(is_known)
    }

    fn set_ports(&mut self, name: &ObjectName, policy: Option<&NetworkPolicy>) {
        for port in self.ports.remove(name).into_iter().flatten() {
            if let Some(policies) = self.by_port.get_mut(&port) {
                policies.remove(name);
                if policies.is_empty() {
                    self.by_port.remove(&port);
                }
            }
        }
        let egress = policy.into_iter().flat_map(rules).filter(|r| r.0 == PolicyDirection::Egress);
        let ports = egress.flat_map(|(.., rule)| &rule.ports);
        let ports: BTreeSet<PortName> = ports.filter_map(named).collect();
        if ports.is_empty() {
            return;
        }
        for port in &ports {
            self.by_port.entry(port.clone()).or_default().insert(name.clone());
        }
        self.ports.insert(name.clone(), ports);
    }
}

fn named(PolicyPort { protocol, ports }: &PolicyPort) -> Option<PortName> {
    match ports {
        PortSpec::Name(name) => Some((*protocol, name.clone())),
        _ => None,
    }
}
