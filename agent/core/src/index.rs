//! All objects by name, the joins between them, and the Services that a change affects.
//!
//! In: [`Change`]s in any order, possibly repeated; an object may arrive before those that it
//! refers to. Out: the Services whose rows may have changed ([`Index::take_dirty`]). The index
//! holds no rows.

use std::collections::{BTreeMap, BTreeSet};
use std::mem;
use std::sync::Arc;

use crate::model::{
    Change, EndpointSlice, Kind, Namespace, Node, Object, ObjectName, Pod, Service, ServiceCidr,
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

/// The objects and their joins.
#[derive(Clone, Debug, Default)]
pub struct Index {
    node_name: String,
    nodes: BTreeMap<String, Node>,
    services: BTreeMap<ObjectName, Service>,
    slices: BTreeMap<ObjectName, EndpointSlice>,
    pods: BTreeMap<ObjectName, Pod>,
    namespaces: BTreeMap<String, Namespace>,
    service_cidrs: BTreeMap<String, ServiceCidr>,
    /// Names of the slices of each Service, sorted. Nearly every Service has one.
    slices_of: BTreeMap<ObjectName, Vec<ObjectName>>,
    /// One copy of each node name in slices.
    node_names: BTreeSet<Arc<str>>,
    listed: BTreeSet<Kind>,
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
                self.listed.insert(kind);
                let objects: Vec<_> = objects.into_iter().filter(|o| o.kind() == kind).collect();
                let kept: BTreeSet<ObjectName> = objects.iter().map(Object::name).collect();
                self.retain(kind, &kept);
                objects.into_iter().for_each(|o| self.put(o));
            }
            Change::Retain(kind, names) => {
                self.listed.insert(kind);
                self.retain(kind, &names.into_iter().collect());
            }
        }
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

    /// The Service of this name.
    pub fn service(&self, name: &ObjectName) -> Option<&Service> {
        self.services.get(name)
    }

    /// All Services by name.
    #[cfg(test)]
    pub fn services(&self) -> impl Iterator<Item = &Service> {
        self.services.values()
    }

    /// The slices of a Service, in the order of their names, including hidden ones.
    pub fn slices_of(&self, service: &ObjectName) -> impl Iterator<Item = &EndpointSlice> {
        self.slices_of.get(service).into_iter().flatten().filter_map(|n| self.slices.get(n))
    }

    /// All slices by name.
    #[cfg(test)]
    pub fn slices(&self) -> impl Iterator<Item = &EndpointSlice> {
        self.slices.values()
    }

    /// All known Pods by name.
    pub fn pods(&self) -> impl Iterator<Item = &Pod> {
        self.pods.values()
    }

    /// The Pod of this name.
    pub fn pod(&self, name: &ObjectName) -> Option<&Pod> {
        self.pods.get(name)
    }

    /// All Namespaces by name.
    pub fn namespaces(&self) -> impl Iterator<Item = &Namespace> {
        self.namespaces.values()
    }

    /// All ServiceCIDRs by name.
    pub fn service_cidrs(&self) -> impl Iterator<Item = &ServiceCidr> {
        self.service_cidrs.values()
    }

    fn retain(&mut self, kind: Kind, kept: &BTreeSet<ObjectName>) {
        for name in self.names(kind).filter(|n| !kept.contains(n)).collect::<Vec<_>>() {
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
                let old = self.nodes.insert(name.clone(), node);
                self.node_changed(&name, old.and_then(|n| n.zone), zone);
            }
            Object::Service(service) => {
                let name = service.name.clone();
                if self.services.get(&name) != Some(&service) {
                    self.services.insert(name.clone(), service);
                    self.dirty.services.insert(name);
                }
            }
            Object::EndpointSlice(mut slice) => {
                if self.slices.get(&slice.name) == Some(&slice) {
                    return;
                }
                self.unlink_slice(&slice.name.clone());
                if let Some(service) = slice.service_name() {
                    let slices = self.slices_of.entry(service.clone()).or_default();
                    if let Err(at) = slices.binary_search(&slice.name) {
                        slices.reserve_exact(1);
                        slices.insert(at, slice.name.clone());
                    }
                    self.dirty.services.insert(service);
                }
                for name in slice.endpoints.iter_mut().filter_map(|e| e.node_name.as_mut()) {
                    match self.node_names.get(&**name) {
                        Some(known) => *name = Arc::clone(known),
                        None => drop(self.node_names.insert(Arc::clone(name))),
                    }
                }
                self.slices.insert(slice.name.clone(), slice);
            }
            Object::Pod(pod) => {
                self.pods.insert(pod.name.clone(), pod);
            }
            Object::Namespace(namespace) => {
                self.namespaces.insert(namespace.name.clone(), namespace);
            }
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
                    self.node_changed(&name.name, old.zone, None);
                }
            }
            Kind::Service => {
                if self.services.remove(name).is_some() {
                    self.dirty.services.insert(name.clone());
                }
            }
            Kind::EndpointSlice => self.unlink_slice(name),
            Kind::Pod => {
                self.pods.remove(name);
            }
            Kind::Namespace => {
                self.namespaces.remove(&*name.name);
            }
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

    fn unlink_slice(&mut self, name: &ObjectName) {
        let Some(service) = self.slices.remove(name).and_then(|s| s.service_name()) else { return };
        if let Some(slices) = self.slices_of.get_mut(&service) {
            slices.retain(|slice| slice != name);
            if slices.is_empty() {
                self.slices_of.remove(&service);
            }
        }
        self.dirty.services.insert(service);
    }

    fn names(&self, kind: Kind) -> Box<dyn Iterator<Item = ObjectName> + '_> {
        match kind {
            Kind::Node => {
                Box::new(self.nodes.keys().map(|name| ObjectName::cluster(name.as_str())))
            }
            Kind::Service => Box::new(self.services.keys().cloned()),
            Kind::EndpointSlice => Box::new(self.slices.keys().cloned()),
            Kind::Pod => Box::new(self.pods.keys().cloned()),
            Kind::Namespace => {
                Box::new(self.namespaces.keys().map(|name| ObjectName::cluster(name.as_str())))
            }
            Kind::ServiceCidr => {
                Box::new(self.service_cidrs.keys().map(|name| ObjectName::cluster(name.as_str())))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slice(name: &str, service: &str) -> Object {
        Object::EndpointSlice(EndpointSlice {
            name: ObjectName::new("shop", name),
            service: Some(service.into()),
            ..EndpointSlice::default()
        })
    }

    fn service(name: &str) -> Object {
        Object::Service(Service { name: ObjectName::new("shop", name), ..Service::default() })
    }

    fn node(name: &str, zone: Option<&str>) -> Object {
        Object::Node(Node { name: name.into(), zone: zone.map(Into::into), ..Node::default() })
    }

    fn dirty(index: &mut Index) -> Vec<String> {
        index.take_dirty().services.into_iter().map(|n| n.name.to_string()).collect()
    }

    #[test]
    fn index_is_synced_when_nodes_services_and_slices_are_listed() {
        let mut index = Index::new("n1");
        for kind in [Kind::Service, Kind::Pod, Kind::EndpointSlice] {
            index.apply(Change::Replace(kind, vec![]));
            assert!(!index.synced());
        }
        index.apply(Change::Apply(node("n1", None)));
        assert!(!index.synced());
        index.apply(Change::Replace(Kind::Node, vec![]));
        assert!(index.synced());
        assert_eq!(index.nodes().count(), 0);
    }

    #[test]
    fn slice_that_moves_to_another_service_makes_both_dirty() {
        let mut index = Index::new("n1");
        index.apply(Change::Apply(slice("s", "a")));
        assert_eq!(dirty(&mut index), ["a"]);
        index.apply(Change::Apply(slice("s", "b")));
        assert_eq!(dirty(&mut index), ["a", "b"]);
        index.apply(Change::Apply(slice("s", "b")));
        assert!(index.take_dirty().is_empty());
    }

    #[test]
    fn replacement_makes_only_differing_services_dirty() {
        let mut index = Index::new("n1");
        index.apply(Change::Replace(Kind::Service, vec![service("a"), service("b")]));
        assert_eq!(dirty(&mut index), ["a", "b"]);
        index.apply(Change::Replace(Kind::Service, vec![service("b"), service("c")]));
        assert_eq!(dirty(&mut index), ["a", "c"]);
    }

    #[test]
    fn list_that_is_applied_object_by_object_deletes_the_others() {
        let mut index = Index::new("n1");
        for name in ["a", "b"] {
            index.apply(Change::Apply(service(name)));
        }
        assert!(!index.listed(Kind::Service));
        index.take_dirty();
        let names = vec![ObjectName::new("shop", "b")];
        index.apply(Change::Retain(Kind::Service, names));
        assert!(index.listed(Kind::Service));
        assert_eq!(dirty(&mut index), ["a"]);
    }

    #[test]
    fn zone_of_this_node_makes_every_service_dirty() {
        let mut index = Index::new("n1");
        index.apply(Change::Replace(Kind::Service, vec![service("a"), service("b")]));
        index.take_dirty();
        index.apply(Change::Apply(node("n2", Some("z"))));
        let seen = index.take_dirty();
        assert!(seen.nodes && seen.services.is_empty());
        index.apply(Change::Apply(node("n1", Some("z"))));
        assert_eq!(dirty(&mut index), ["a", "b"]);
        index.apply(Change::Delete(Kind::Node, ObjectName::cluster("n1")));
        assert_eq!(dirty(&mut index), ["a", "b"]);
    }
    #[test]
    fn service_cidr_makes_the_networks_dirty() {
        let mut index = Index::new("n1");
        index.take_dirty();
        let cidr = |net: &str| {
            let cidrs = [net.parse().expect("a range")].into();
            Object::ServiceCidr(ServiceCidr { name: "kubernetes".into(), cidrs })
        };
        for (change, dirty) in [
            (Change::Apply(cidr("10.96.0.0/16")), true),
            (Change::Apply(cidr("10.96.0.0/16")), false),
            (Change::Apply(cidr("10.97.0.0/16")), true),
            (Change::Retain(Kind::ServiceCidr, vec![ObjectName::cluster("kubernetes")]), false),
            (Change::Retain(Kind::ServiceCidr, vec![]), true),
            (Change::Delete(Kind::ServiceCidr, ObjectName::cluster("kubernetes")), false),
        ] {
            index.apply(change.clone());
            assert_eq!(index.take_dirty().nodes, dirty, "{change:?}");
        }
        assert_eq!(index.service_cidrs().count(), 0);
    }
}
