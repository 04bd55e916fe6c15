//! Groups of pods: those that have the same namespace, labels and ports.

use std::collections::BTreeSet;
use std::sync::Arc;

use sluice_abi::Addr;

use super::{Group, Pods};
use crate::index::Index;
use crate::policy::classes::{NumberedPort, numbered_ports};
use crate::policy::numbers::Numbers;
use crate::policy::rules::PortName;
use crate::policy::term::{GroupKey, Terms};

impl Pods {
    /// Number of pods, groups, addresses, and names of ports.
    #[cfg(test)]
    pub fn sizes(&self) -> [usize; 4] {
        [
            self.by_name.len(),
            self.by_key.len(),
            self.claims.len(),
            self.ports.len() + self.names.len(),
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
        self.ports.contains_key(name)
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
            if let Some(groups) = self.ports.get_mut(&name) {
                *groups -= 1;
                if *groups == 0 {
                    self.ports.remove(&name);
                }
            }
        }
        self.by_key.remove(&key);
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
            *self.ports.entry(name).or_default() += 1;
        }
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
