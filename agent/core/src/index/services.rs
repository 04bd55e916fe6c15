//! Services and EndpointSlices, and the join between them.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::sync::Arc;

use super::Index;
use crate::model::{Endpoint, EndpointSlice, ObjectName, Service};

/// A slice, and its number in [`super::ending`].
#[derive(Clone, Debug)]
pub struct NumberedSlice {
    pub slice: EndpointSlice,
    pub number: u32,
}

impl Index {
    /// The slices of a Service, in the order of their names, including hidden ones. Endpoints whose
    /// Pods end have the conditions of terminating endpoints.
    pub fn slices_of(&self, service: &ObjectName) -> impl Iterator<Item = Cow<'_, EndpointSlice>> {
        let as_received = self.services.get(service).is_some_and(|s| s.publish_not_ready);
        let names = self.slices_of.get(service).into_iter().flatten();
        names.filter_map(move |name| {
            let slice = &self.slices.get(name)?.slice;
            Some(if as_received { Cow::Borrowed(slice) } else { self.ending.applied(slice) })
        })
    }

    /// Number of distinct addresses of the ready endpoints of a Service on this node, over all its ports.
    /// Terminating endpoints do not count, although they may serve.
    pub fn local_ready_endpoints(&self, service: &ObjectName) -> usize {
        let mut addresses = BTreeSet::new();
        for slice in self.slices_of(service).filter(|slice| !slice.hidden) {
            if slice.ports.iter().any(|port| port.port.is_some()) {
                let counts = |e: &&Endpoint| {
                    let local = e.node_name.as_deref() == Some(&*self.node_name);
                    e.ready && local && slice.address_type.holds(e.address)
                };
                addresses.extend(slice.endpoints.iter().filter(counts).map(|e| e.address));
            }
        }
        addresses.len()
    }

    /// All slices by name, as [`Index::slices_of`] has them.
    #[cfg(test)]
    pub fn slices(&self) -> impl Iterator<Item = EndpointSlice> {
        let of_service = self.slices_of.keys().flat_map(|service| self.slices_of(service));
        let others = self.slices.values().map(|numbered| &numbered.slice);
        let others = others.filter(|slice| slice.service_name().is_none()).map(Cow::Borrowed);
        of_service.chain(others).map(Cow::into_owned)
    }

    pub(super) fn put_service(&mut self, mut service: Service) {
        if self.services.get(&service.name) == Some(&service) {
            return;
        }
        self.changes.services += 1;
        self.share_names(&mut service);
        let name = service.name.clone();
        self.services.insert(name.clone(), service);
        self.dirty.services.insert(name);
    }

    pub(super) fn remove_service(&mut self, name: &ObjectName) {
        if self.services.remove(name).is_some() {
            self.changes.services += 1;
            self.dirty.services.insert(name.clone());
        }
    }

    pub(super) fn put_slice(&mut self, mut slice: EndpointSlice) {
        let former = self.slices.get(&slice.name);
        if former.is_some_and(|former| former.slice == slice) {
            return;
        }
        self.changes.endpoint_slices += 1;
        let (number, former) = (former.map(|f| f.number), former.map(|f| &f.slice));
        let number = self.ending.slice(number, former, Some(&slice));
        self.unlink_slice(&slice.name);
        self.share_names_of_slice(&mut slice);
        if let Some(service) = slice.service_name() {
            let slices = self.slices_of.entry(service.clone()).or_default();
            if let Err(at) = slices.binary_search(&slice.name) {
                slices.reserve_exact(1);
                slices.insert(at, slice.name.clone());
            }
            self.dirty.services.insert(service);
        }
        self.slices.insert(slice.name.clone(), NumberedSlice { slice, number });
    }

    pub(super) fn remove_slice(&mut self, name: &ObjectName) {
        if let Some(NumberedSlice { slice, number }) = self.unlink_slice(name) {
            self.changes.endpoint_slices += 1;
            self.ending.slice(Some(number), Some(&slice), None);
        }
    }

    /// Replaces the names in a Service by shared copies: names are a third of its memory.
    fn share_names(&mut self, service: &mut Service) {
        let of_service = self.services.get_key_value(&service.name).map(|(known, _)| known);
        let of_slices = || self.slices_of.get_key_value(&service.name).map(|(known, _)| known);
        if let Some(known) = of_service.or_else(of_slices) {
            service.name = known.clone();
        }
        self.texts.share(&mut service.name.namespace);
        service.ports.iter_mut().for_each(|port| self.texts.share(&mut port.name));
    }

    /// Replaces the names in a slice by shared copies.
    fn share_names_of_slice(&mut self, slice: &mut EndpointSlice) {
        self.texts.share(&mut slice.name.namespace);
        if let Some(name) = slice.service_name()
            && let Some((known, _)) = self.services.get_key_value(&name)
        {
            slice.service = Some(Arc::clone(&known.name));
        }
        slice.ports.iter_mut().for_each(|port| self.texts.share(&mut port.name));
        for name in slice.endpoints.iter_mut().filter_map(|e| e.node_name.as_mut()) {
            self.texts.share(name);
        }
    }

    /// Marks the Services of slices whose endpoints have other conditions because of a Pod.
    pub(super) fn conditions_changed(&mut self, slices: BTreeSet<ObjectName>) {
        for slice in slices {
            let slice = self.slices.get(&slice).map(|numbered| &numbered.slice);
            self.dirty.services.extend(slice.and_then(EndpointSlice::service_name));
        }
    }

    fn unlink_slice(&mut self, name: &ObjectName) -> Option<NumberedSlice> {
        let former = self.slices.remove(name)?;
        let Some(service) = former.slice.service_name() else { return Some(former) };
        if let Some(slices) = self.slices_of.get_mut(&service) {
            slices.retain(|slice| slice != name);
            if slices.is_empty() {
                self.slices_of.remove(&service);
            }
        }
        self.dirty.services.insert(service);
        Some(former)
    }
}
