//! Groups of pods: those that have the same namespace, labels and ports.

use std::collections::BTreeSet;
use std::sync::Arc;

use sluice_abi::Addr;

use super::{Group, Pods};
use crate::index::Index;
use crate::model::Label;
use crate::policy::classes::{NumberedPort, numbered_ports};
use crate::policy::numbers::Numbers;
use crate::policy::rules::PortName;
use crate::policy::selection::selects_namespace;
use crate::policy::term::{GroupKey, Scope, Term, Terms};

impl Pods {
    /// Number of pods, groups, addresses, and names of ports.
    #[cfg(test)]
    pub fn sizes(&self) -> [usize; 4] {
        [
            self.by_name.len(),
            self.by_key.len(),
            self.claims.len(),
            self.by_port.keys().count() + self.names.len(),
        ]
    }

    /// Labels and ports of the pods that selectors can select.
    pub fn groups(&self) -> impl Iterator<Item = &GroupKey> {
        self.by_key.keys().map(|key| &**key)
    }

    /// As [`Pods::groups`], of one namespace.
    pub fn groups_of(&self, namespace: &str) -> impl Iterator<Item = &GroupKey> {
        let groups = self.by_namespace.of(namespace);
        groups.map(|group| &*self.groups[group as usize].key)
    }

    /// Whether a pod has a container port with this name and protocol.
    pub fn has_port(&self, name: &PortName) -> bool {
        self.by_port.contains(name)
    }

    /// As [`Pods::groups`], with a container port with this name and protocol.
    pub fn groups_with(&self, name: &PortName) -> impl Iterator<Item = &GroupKey> {
        self.by_port.of(name).map(|group| &*self.groups[group as usize].key)
    }

    /// A selector became active or inactive.
    pub fn term(&mut self, index: &Index, number: u32, terms: &Terms, active: bool) {
        let term = terms.registry.get(number);
        if **term == Term::Unknown {
            self.unknown = active.then_some(number);
            self.dirty.addresses.extend(self.claims.all().chain(self.leases.keys().copied()));
        }
        let labels = term.required_label().map(|(key, values)| {
            let label = |value: &Arc<str>| Label { key: Arc::clone(key), value: Arc::clone(value) };
            values.iter().map(label).collect::<Vec<Label>>()
        });
        let with_label =
            |labels: &[Label]| labels.iter().map(|label| self.by_label.count(label)).sum::<usize>();
        let candidates: Vec<u32> = match (labels, &**term) {
            (labels, Term::Pods { scope: Scope::Namespace(own), .. })
                if labels
                    .as_deref()
                    .is_none_or(|l| self.by_namespace.count(own) < with_label(l)) =>
            {
                self.by_namespace.of(own).collect()
            }
            (Some(labels), _) => labels.iter().flat_map(|label| self.by_label.of(label)).collect(),
            (None, Term::Pods { scope: Scope::Selected(namespaces), .. }) => {
                let in_scope = |name: &&Arc<str>| selects_namespace(index, namespaces, name);
                let names = self.by_namespace.keys().filter(in_scope);
                names.flat_map(|name| self.by_namespace.of(name)).collect()
            }
            _ => self.by_key.values().copied().collect(),
        };
        for at in candidates {
            let group = &mut self.groups[at as usize];
            match (group.terms.binary_search(&number), active) {
                (Err(place), true)
                    if term.selects(index, &group.key.namespace, &group.key.labels) =>
                {
                    group.terms.insert(place, number);
                }
                (Ok(place), false) => {
                    group.terms.remove(place);
                }
                _ => continue,
            }
            self.touch(at);
        }
    }

    /// A table uses the name of a port, or does not use it any more.
    pub fn port_name(&mut self, name: &PortName, used: bool) {
        let tables = self.names.entry(name.clone()).or_default();
        let before = *tables;
        *tables = if used { before + 1 } else { before.saturating_sub(1) };
        let now = *tables;
        if now == 0 {
            self.names.remove(name);
        }
        if (before == 0) == (now == 0) {
            return;
        }
        for at in self.by_port.of(name).collect::<Vec<_>>() {
            let named = self.named(&self.groups[at as usize].key);
            self.groups[at as usize].named = named;
            self.touch(at);
        }
    }

    /// Removes a pod from a group, and the group if it is then empty.
    pub(super) fn leave(&mut self, number: u32, at: u32) {
        let group = &mut self.groups[at as usize];
        group.members.remove(number);
        if !group.members.is_empty() {
            return;
        }
        let key = Arc::clone(&group.key);
        self.by_namespace.remove(&key.namespace, at);
        for label in key.labels.0.iter() {
            self.by_label.remove(label, at);
        }
        for name in port_names(&key) {
            self.by_port.remove(&name, at);
            if !self.by_port.contains(&name) {
                self.changed.ports.insert(name);
            }
        }
        self.by_key.remove(&key);
        self.changed.groups.push(key);
        self.free_groups.push(at);
    }

    /// The group with a key.
    pub(super) fn group(&mut self, index: &Index, key: GroupKey, terms: &Terms) -> u32 {
        if let Some(group) = self.by_key.get(&key) {
            return *group;
        }
        let key = Arc::new(key);
        let group = Group {
            members: Numbers::default(),
            terms: terms.selecting(index, &key),
            named: self.named(&key),
            key: Arc::clone(&key),
        };
        let at = self.free_groups.pop().unwrap_or(self.groups.len() as u32);
        match self.groups.get_mut(at as usize) {
            Some(slot) => *slot = group,
            None => self.groups.push(group),
        }
        self.by_namespace.insert(Arc::clone(&key.namespace), at);
        for label in key.labels.0.iter() {
            self.by_label.insert(Arc::clone(label), at);
        }
        for name in port_names(&key) {
            if !self.by_port.contains(&name) {
                self.changed.ports.insert(name.clone());
            }
            self.by_port.insert(name, at);
        }
        self.changed.groups.push(Arc::clone(&key));
        self.by_key.insert(key, at);
        at
    }

    /// The ports of a group whose names are in use.
    pub(super) fn named(&self, key: &GroupKey) -> Arc<[NumberedPort]> {
        if self.names.is_empty() {
            return [].into();
        }
        numbered_ports(&key.ports, |name| self.names.contains_key(name)).into()
    }

    /// Marks the addresses of the pods of a group.
    pub(super) fn touch(&mut self, group: u32) {
        for member in self.groups[group as usize].members.iter() {
            self.dirty.addresses.extend(self.peers[member as usize].addresses().map(Addr::from));
        }
    }
}

/// The names of the ports of a group, each once.
fn port_names(key: &GroupKey) -> BTreeSet<PortName> {
    key.ports.iter().map(|p| (p.protocol, Arc::clone(&p.name))).collect()
}
