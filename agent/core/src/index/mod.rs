//! All objects by name, the joins between them, and the Services that a change affects.
//!
//! In: [`Change`]s in any order, possibly repeated; an object may arrive before those that it
//! refers to. Out: the Services whose rows may have changed ([`Index::take_dirty`]). The index
//! holds no rows.

use std::collections::{BTreeMap, BTreeSet};
use std::mem;

mod ending;
mod interner;
mod pods;
mod policies;
mod services;

use self::ending::Ending;
use self::interner::Interner;
use self::pods::Pods;
pub use self::policies::PolicyDirty;
use self::policies::{NetworkPolicies, is_same_peer};
use self::services::NumberedSlice;
use crate::model::{
    Change, Kind, LabelSelector, Namespace, Node, Object, ObjectName, Pod, Service, ServiceCidr,
};

/// Objects whose rows must be compiled again.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Dirty {
    /// Services, existing or deleted.
    pub services: BTreeSet<ObjectName>,
    /// Whether networks and routes may have changed.
    pub nodes: bool,
}

impl Dirty {
    /// Whether no rows must be compiled.
    pub fn is_empty(&self) -> bool {
        self.services.is_empty() && !self.nodes
    }
}

/// Changes of objects since the start. An object that is equal to the known one is not a change.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Changes of Services.
    pub services: u64,
    /// Changes of EndpointSlices.
    pub endpoint_slices: u64,
}

/// The objects and their joins.
#[derive(Clone, Debug, Default)]
pub struct Index {
    node_name: String,
    nodes: BTreeMap<String, Node>,
    services: BTreeMap<ObjectName, Service>,
    slices: BTreeMap<ObjectName, NumberedSlice>,
    pods: Pods,
    ending: Ending,
    namespaces: BTreeMap<String, Namespace>,
    service_cidrs: BTreeMap<String, ServiceCidr>,
    policies: NetworkPolicies,
    /// Names of the slices of each Service, sorted. Nearly every Service has one.
    slices_of: BTreeMap<ObjectName, Vec<ObjectName>>,
    /// One shared copy of each name of a namespace, port or node.
    texts: Interner<str>,
    listed: BTreeSet<Kind>,
    changes: Changes,
    dirty: Dirty,
}

impl Index {
    /// An empty index of the node with this name.
    pub fn new(node_name: impl Into<String>) -> Index {
        // The addresses of this node yield rows even before its Node object exists.
        let dirty = Dirty { nodes: true, ..Dirty::default() };
        Index { node_name: node_name.into(), dirty, ..Index::default() }
    }

    /// Applies a change. An object that is equal to the known one makes nothing dirty.
    pub fn apply(&mut self, change: Change) {
        match change {
            Change::Apply(object) => self.put(object),
            Change::Delete(kind, name) => self.remove(kind, &name),
            Change::Replace(kind, objects) => {
                self.list(kind);
                let objects: Vec<_> = objects.into_iter().filter(|o| o.kind() == kind).collect();
                self.retain(kind, objects.iter().map(Object::name).collect());
                objects.into_iter().for_each(|o| self.put(o));
            }
            Change::Retain(kind, names) => {
                self.list(kind);
                self.retain(kind, names);
            }
        }
    }

    /// Records that a kind has been listed. Until then, ranges of ClusterIPs may be absent.
    fn list(&mut self, kind: Kind) {
        self.dirty.nodes |= self.listed.insert(kind) && kind == Kind::ServiceCidr;
    }

    /// Whether Nodes, Services and EndpointSlices have each been listed. Before that, absent
    /// objects may still exist, and no table may be written.
    pub fn synced(&self) -> bool {
        [Kind::Node, Kind::Service, Kind::EndpointSlice].iter().all(|k| self.listed.contains(k))
    }

    /// Whether this kind has been listed.
    pub fn listed(&self, kind: Kind) -> bool {
        self.listed.contains(&kind)
    }

    /// Changes since the start.
    pub fn changes(&self) -> Changes {
        self.changes
    }

    /// What must be compiled since the last call.
    pub fn take_dirty(&mut self) -> Dirty {
        mem::take(&mut self.dirty)
    }

    /// All objects, as if all of them had just been added.
    pub fn all_dirty(&self) -> Dirty {
        Dirty { services: self.services.keys().cloned().collect(), nodes: true }
    }

    /// Name of this node.
    pub fn node_name(&self) -> &str {
        &self.node_name
    }

    /// The Node object of this node.
    pub fn this_node(&self) -> Option<&Node> {
        self.nodes.get(&self.node_name)
    }

    /// All nodes by name.
    pub fn nodes(&self) -> impl Iterator<Item = &Node> {
        self.nodes.values()
    }

    /// The nodes that a selector matches.
    pub fn nodes_with<'a>(&'a self, selector: &'a LabelSelector) -> impl Iterator<Item = &'a Node> {
        self.nodes().filter(|node| selector.matches(|key| node.labels.get(key)))
    }

    /// The Service of this name.
    pub fn service(&self, name: &ObjectName) -> Option<&Service> {
        self.services.get(name)
    }

    /// All Services by name.
    pub fn services(&self) -> impl Iterator<Item = &Service> {
        self.services.values()
    }

    /// All known Pods, in any order.
    pub fn pods(&self) -> impl Iterator<Item = &Pod> {
        self.pods.iter()
    }

    /// The Pod of this name.
    pub fn pod(&self, name: &ObjectName) -> Option<&Pod> {
        self.pods.get(name)
    }

    /// All Namespaces by name.
    pub fn namespaces(&self) -> impl Iterator<Item = &Namespace> {
        self.namespaces.values()
    }

    /// The Namespace of this name.
    pub fn namespace(&self, name: &str) -> Option<&Namespace> {
        self.namespaces.get(name)
    }

    /// All ServiceCIDRs by name.
    pub fn service_cidrs(&self) -> impl Iterator<Item = &ServiceCidr> {
        self.service_cidrs.values()
    }

    fn retain(&mut self, kind: Kind, mut kept: Vec<ObjectName>) {
        kept.sort_unstable();
        let gone = self.names(kind).filter(|name| kept.binary_search(name).is_err());
        for name in gone.collect::<Vec<_>>() {
            self.remove(kind, &name);
        }
    }

    fn put(&mut self, object: Object) {
        match object {
            Object::Node(node) => {
                if self.nodes.get(&node.name) == Some(&node) {
                    return;
                }
                let name = node.name.clone();
                let zone = node.zone.clone();
                self.policies.dirty.nodes |= !is_same_peer(self.nodes.get(&name), Some(&node));
                let old = self.nodes.insert(name.clone(), node);
                self.node_changed(&name, old.and_then(|n| n.zone), zone);
            }
            Object::Service(service) => self.put_service(service),
            Object::EndpointSlice(slice) => self.put_slice(slice),
            Object::Pod(pod) => self.put_pod(pod),
            Object::Namespace(namespace) => {
                if self.namespaces.get(&namespace.name) != Some(&namespace) {
                    self.policies.dirty.namespace(&namespace.name);
                    self.namespaces.insert(namespace.name.clone(), namespace);
                }
            }
            Object::NetworkPolicy(policy) => self.policies.put(policy),
            Object::ClusterNetworkPolicy(policy) => self.policies.put_cluster(policy),
            Object::ServiceCidr(new) => {
                if self.service_cidrs.get(&new.name) != Some(&new) {
                    self.service_cidrs.insert(new.name.clone(), new);
                    self.dirty.nodes = true;
                }
            }
        }
    }

    fn remove(&mut self, kind: Kind, name: &ObjectName) {
        match kind {
            Kind::Node => {
                if let Some(old) = self.nodes.remove(&*name.name) {
                    self.policies.dirty.nodes |= !is_same_peer(Some(&old), None);
                    self.node_changed(&name.name, old.zone, None);
                }
            }
            Kind::Service => self.remove_service(name),
            Kind::EndpointSlice => self.remove_slice(name),
            Kind::Pod => {
                let former = self.pods.remove(name);
                if former.is_some() {
                    self.policies.dirty.pod(name);
                }
                let slices = self.ending.pod(former.as_deref(), None);
                self.conditions_changed(slices);
            }
            Kind::Namespace => {
                if self.namespaces.remove(&*name.name).is_some() {
                    self.policies.dirty.namespace(&name.name);
                }
            }
            Kind::NetworkPolicy => self.policies.remove(name),
            Kind::ClusterNetworkPolicy => self.policies.remove_cluster(name),
            Kind::ServiceCidr => {
                self.dirty.nodes |= self.service_cidrs.remove(&*name.name).is_some();
            }
        }
    }

    /// The zone of this node decides which zone hints apply: all Services depend on it.
    fn node_changed(&mut self, name: &str, old_zone: Option<String>, zone: Option<String>) {
        self.dirty.nodes = true;
        if name == self.node_name && old_zone != zone {
            self.dirty.services.extend(self.services.keys().cloned());
        }
    }

    fn put_pod(&mut self, pod: Pod) {
        if self.pods.get(&pod.name) == Some(&pod) {
            return;
        }
        let name = pod.name.clone();
        self.policies.dirty.pod(&name);
        let former = self.pods.put(pod);
        let slices = self.ending.pod(former.as_deref(), self.pods.get(&name));
        self.conditions_changed(slices);
    }

    fn names(&self, kind: Kind) -> Box<dyn Iterator<Item = ObjectName> + '_> {
        match kind {
            Kind::Node => {
                Box::new(self.nodes.keys().map(|name| ObjectName::cluster(name.as_str())))
            }
            Kind::Service => Box::new(self.services.keys().cloned()),
            Kind::EndpointSlice => Box::new(self.slices.keys().cloned()),
            Kind::Pod => Box::new(self.pods.iter().map(|pod| pod.name.clone())),
            Kind::Namespace => {
                Box::new(self.namespaces.keys().map(|name| ObjectName::cluster(name.as_str())))
            }
            Kind::ServiceCidr => {
                Box::new(self.service_cidrs.keys().map(|name| ObjectName::cluster(name.as_str())))
            }
            Kind::NetworkPolicy => Box::new(self.policies.iter().map(|policy| policy.name.clone())),
            Kind::ClusterNetworkPolicy => {
                Box::new(self.policies.cluster().map(|(name, _)| name.clone()))
            }
        }
    }
}

#[cfg(test)]
mod tests;
