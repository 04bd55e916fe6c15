//! The policies by the selector of the pods that they apply to.
//!
//! Policies with equal selectors are one set: a pod is compared with the selector once, and the change of
//! one policy visits none of the others.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use sluice_abi::PolicyDirection;

use super::super::registry::{Registry, content_id};
use super::super::rules::{CompiledPolicy, PortName};
use super::super::selectors::Selectors;
use super::super::term::{Scope, Term};
use crate::index::Index;
use crate::model::{Labels, ObjectName, Pod};

/// What is known of a selector.
#[derive(Clone, Debug, Default)]
pub struct OfSelector {
    /// The policies with it.
    pub policies: BTreeMap<ObjectName, CompiledPolicy>,
    /// Number of policies that affect each direction.
    affecting: [u32; 2],
    /// Names of ports of the selected pods in rules, with the number of their uses.
    names: BTreeMap<PortName, u32>,
    /// The policies with names of ports, also in rules that match nothing.
    with_names: BTreeSet<ObjectName>,
    /// Indices of the pods of this node that it selects.
    pub pods: BTreeSet<u16>,
}

impl OfSelector {
    /// Whether a policy affects a direction.
    pub fn affects(&self, direction: PolicyDirection) -> bool {
        self.affecting[direction as usize] > 0
    }

    /// Whether rules name a port of the selected pods.
    pub fn has_name(&self, name: &PortName) -> bool {
        self.names.contains_key(name)
    }

    /// Names of the policies with names of ports of the selected pods.
    pub fn with_port_names(&self) -> impl Iterator<Item = &ObjectName> {
        self.with_names.iter()
    }

    fn insert(&mut self, name: &ObjectName, policy: CompiledPolicy) {
        for (count, end) in self.affecting.iter_mut().zip(&policy.ends) {
            *count += u32::from(end.is_some());
        }
        for port in policy.names() {
            *self.names.entry(port.clone()).or_default() += 1;
        }
        if policy.has_port_names {
            self.with_names.insert(name.clone());
        }
        self.policies.insert(name.clone(), policy);
    }

    fn remove(&mut self, name: &ObjectName) -> Option<CompiledPolicy> {
        let policy = self.policies.remove(name)?;
        self.with_names.remove(name);
        for (count, end) in self.affecting.iter_mut().zip(&policy.ends) {
            *count -= u32::from(end.is_some());
        }
        for port in policy.names() {
            if let Some(uses) = self.names.get_mut(port) {
                *uses -= 1;
                if *uses == 0 {
                    self.names.remove(port);
                }
            }
        }
        Some(policy)
    }
}

/// All policies.
#[derive(Clone, Debug, Default)]
pub struct BySelector {
    /// Selectors of subjects, as [`Term::Pods`]; one reference per policy.
    registry: Registry<Term>,
    /// Number of the selector of each policy.
    of_policy: BTreeMap<ObjectName, u32>,
    of_selector: BTreeMap<u32, OfSelector>,
    index: Selectors,
    /// Number of policies that name ports.
    with_port_names: usize,
    /// One reference of each policy that was changed or deleted. Tables may refer to the selectors until
    /// the end of the update.
    gone: Vec<u32>,
}

impl BySelector {
    /// Names of all policies.
    pub fn names(&self) -> impl Iterator<Item = &ObjectName> {
        self.of_policy.keys()
    }

    /// What is known of a selector.
    pub fn get(&self, selector: u32) -> Option<&OfSelector> {
        self.of_selector.get(&selector)
    }

    /// The id of a selector: the same in every process.
    pub fn id(&self, selector: u32) -> u64 {
        self.registry.id(selector)
    }

    /// Whether a policy names ports.
    pub fn has_port_names(&self) -> bool {
        self.with_port_names > 0
    }

    /// Whether a selector is of ClusterNetworkPolicies.
    pub fn is_of_cluster(&self, selector: u32) -> bool {
        matches!(**self.registry.get(selector), Term::Pods { scope: Scope::Selected(_), .. })
    }

    /// Whether a selector selects a pod.
    pub fn selects(&self, index: &Index, selector: u32, pod: &Pod) -> bool {
        self.registry.get(selector).selects(index, &pod.name.namespace, &pod.labels)
    }

    /// The selectors that select pods with these labels in a namespace, sorted.
    pub fn selecting(&self, index: &Index, namespace: &Arc<str>, labels: &Labels) -> Vec<u32> {
        let mut found = self.index.candidates(index, namespace, labels);
        found.retain(|selector| self.registry.get(*selector).selects(index, namespace, labels));
        found.sort_unstable();
        found
    }

    /// Removes a policy; returns it with the number of its selector.
    pub fn remove(&mut self, name: &ObjectName) -> Option<(u32, CompiledPolicy)> {
        let selector = self.of_policy.remove(name)?;
        self.gone.push(selector);
        let policy = self.of_selector.get_mut(&selector)?.remove(name)?;
        self.with_port_names -= usize::from(policy.has_port_names);
        Some((selector, policy))
    }

    /// Adds a policy; returns the number of its selector, and whether it is new.
    pub fn insert(&mut self, name: &ObjectName, policy: CompiledPolicy) -> (u32, bool) {
        let (selector, new) =
            self.registry.intern(policy.subject.clone(), |subject| content_id(subject));
        if new {
            self.index.insert(&policy.subject, selector);
        }
        self.with_port_names += usize::from(policy.has_port_names);
        self.of_selector.entry(selector).or_default().insert(name, policy);
        self.of_policy.insert(name.clone(), selector);
        (selector, new)
    }

    /// A selector selects a pod, or does not select it any more.
    pub fn set_pod(&mut self, selector: u32, pod: u16, selected: bool) {
        let Some(of_selector) = self.of_selector.get_mut(&selector) else { return };
        if selected {
            of_selector.pods.insert(pod);
        } else {
            of_selector.pods.remove(&pod);
        }
    }

    /// Releases the selectors that policies do not have any more. Returns those without a policy, with the
    /// pods that they selected.
    pub fn release_gone(&mut self) -> Vec<(u32, BTreeSet<u16>)> {
        let mut unused = Vec::new();
        for selector in std::mem::take(&mut self.gone) {
            let Some(subject) = self.registry.release(selector) else { continue };
            self.index.remove(&subject, selector);
            let former = self.of_selector.remove(&selector).unwrap_or_default();
            unused.push((selector, former.pods));
        }
        unused
    }
}
