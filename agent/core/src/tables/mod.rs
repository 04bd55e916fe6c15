//! The desired state: the rows that belong in the maps, and the object that each comes from.
//!
//! In: an [`Index`] and the objects in it that are dirty. Out: the keys whose rows changed. The cost
//! of an update is proportional to the change.
//!
//! Several Services may claim the same address and port. All claims are kept; the one that ranks first
//! is used ([`claims`]). When that Service is removed, the next claim is used without being compiled
//! again. All frontends of a Service port share its compiled sets ([`ports`]).

mod claims;
mod ports;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use sluice_abi::{FrontendKey, Network, NetworkKey};

use self::claims::{Claim, Claims, Owner, Served};
pub use self::ports::WithoutLocal;
use self::ports::{PortIndex, Ports};
use crate::compile::{
    self, FrontendRow, NodeAddresses, Overlap, PortRow, ServicePortId, ServiceRows, ServiceView,
    Treatment,
};
use crate::index::{Dirty, Index};
use crate::model::{Kind, NodeContext, ObjectName};
use crate::select::Locality;

/// Differences between two versions of the desired state.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changed {
    /// Frontends whose rows differ.
    pub frontends: BTreeSet<FrontendKey>,
    /// Service ports whose rows differ.
    pub ports: BTreeSet<ServicePortId>,
    /// Whether a network differs.
    pub networks: bool,
    /// Whether a route differs.
    pub routes: bool,
    /// Keys of which several Services claim, or claimed, the address and port.
    pub conflicts: BTreeSet<FrontendKey>,
    /// Whether ranges of ClusterIPs that overlap pod ranges differ.
    pub overlaps: bool,
    /// Services whose frontends differ and that have an external address among those of pods, which no program
    /// serves; with the first such address, and its pod range.
    pub among_pods: BTreeMap<ObjectName, (IpAddr, IpNet)>,
}

impl Changed {
    /// Whether no row differs.
    pub fn is_empty(&self) -> bool {
        self.frontends.is_empty() && self.ports.is_empty() && !self.networks && !self.routes
    }

    /// Adds the differences of a later update.
    pub fn merge(&mut self, later: Changed) {
        unite(&mut self.frontends, later.frontends);
        unite(&mut self.ports, later.ports);
        self.networks |= later.networks;
        self.routes |= later.routes;
        unite(&mut self.conflicts, later.conflicts);
        self.overlaps |= later.overlaps;
        self.among_pods.extend(later.among_pods);
    }
}

/// Adds `more` to `all`. The first set, which is large at the start, is moved, not inserted.
fn unite<T: Ord>(all: &mut BTreeSet<T>, more: BTreeSet<T>) {
    if all.is_empty() {
        *all = more;
    } else {
        all.extend(more);
    }
}

/// Two or more Services with the same address, port and protocol.
#[derive(Clone, Copy, Debug)]
pub struct Conflict<'a> {
    /// Address, port and protocol.
    pub key: FrontendKey,
    claims: &'a [Claim],
}

impl<'a> Conflict<'a> {
    /// All Services, by rank: the first one is served, the others are not.
    pub fn services(&self) -> impl ExactSizeIterator<Item = &'a ObjectName> {
        self.claims.iter().map(|claim| &claim.owner.name)
    }
}

/// A frontend and what it leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrontendView<'a> {
    /// The Service.
    pub service: &'a ObjectName,
    /// The Service port; wildcard rows have none.
    pub port: Option<&'a PortRow>,
    /// The properties of the frontend.
    pub row: FrontendRow,
}

impl<'a> FrontendView<'a> {
    /// What happens to new connections of a client.
    pub fn treatment(&self, client_on_this_node: bool) -> Treatment<'a> {
        self.port.map_or(Treatment::Reject, |port| {
            port.treatment(self.row.uses_local_set(client_on_this_node))
        })
    }
}

/// What a Service compiled to.
#[derive(Clone, Debug)]
struct Compiled {
    owner: Arc<Owner>,
    ports: Box<[PortIndex]>,
    frontends: Box<[(FrontendKey, Option<PortIndex>, FrontendRow)]>,
}

/// Desired rows.
#[derive(Clone, Debug, Default)]
pub struct Tables {
    claims: Claims,
    ports: Ports,
    services: BTreeMap<ObjectName, Compiled>,
    nodes: NodeAddresses,
    networks: BTreeMap<NetworkKey, Network>,
    routes: BTreeMap<IpNet, IpAddr>,
    overlaps: Vec<Overlap>,
    service_ranges_known: bool,
}

impl Tables {
    /// Compiles all objects of an index.
    pub fn full(index: &Index, context: &NodeContext) -> Tables {
        let mut tables = Tables::default();
        tables.update(index, &index.all_dirty(), context);
        tables
    }

    /// Compiles the dirty objects. The caller sets `dirty.nodes` when `context` changed.
    pub fn update(&mut self, index: &Index, dirty: &Dirty, context: &NodeContext) -> Changed {
        let mut changed = Changed::default();
        let locality = Locality {
            node: index.node_name(),
            zone: index.this_node().and_then(|n| n.zone.as_deref()),
        };
        let moved = if dirty.nodes { self.move_nodes(index, context) } else { BTreeSet::new() };
        for name in dirty.services.union(&moved) {
            let rows = index.service(name).map_or_else(ServiceRows::default, |service| {
                let slices: Vec<_> = index.slices_of(name).collect();
                let slices = slices.iter().map(AsRef::as_ref).collect();
                let nodes = &self.nodes;
                compile::service(&ServiceView { service, slices, locality, nodes })
            });
            let created = index.service(name).map_or(0, |s| s.created);
            if self.replace(name, created, rows, &mut changed) {
                changed.among_pods.extend(Some(name.clone()).zip(self.first_among_pods(name)));
            }
        }
        if dirty.nodes {
            let cidrs = || index.service_cidrs().flat_map(|o| &o.cidrs);
            let networks = compile::networks(index.node_name(), index.nodes(), cidrs(), context);
            let known = index.listed(Kind::ServiceCidr);
            changed.networks = networks != self.networks || known != self.service_ranges_known;
            self.networks = networks;
            self.service_ranges_known = known;
            let overlaps = compile::overlaps(index.nodes(), cidrs(), context);
            changed.overlaps = overlaps != self.overlaps;
            self.overlaps = overlaps;
            let routes = compile::routes(index.node_name(), index.nodes());
            changed.routes = routes != self.routes;
            self.routes = routes;
        }
        changed
    }

    /// The desired frontend of a key.
    pub fn frontend(&self, key: &FrontendKey) -> Option<FrontendView<'_>> {
        self.claims.served(key).map(|claim| self.view(claim))
    }

    /// Number of frontends.
    pub fn frontend_count(&self) -> usize {
        self.claims.len()
    }

    /// All frontends by key.
    pub fn frontends(&self) -> impl Iterator<Item = (&FrontendKey, FrontendView<'_>)> {
        self.claims.all_served().map(|(key, claim)| (key, self.view(claim)))
    }

    /// The row of a Service port, if a frontend is served by it.
    pub fn port(&self, id: &ServicePortId) -> Option<&PortRow> {
        let ports = &self.services.get(&id.service)?.ports;
        let mut rows = ports.iter().filter_map(|index| self.ports.served_row(*index));
        rows.find(|row| row.id == *id)
    }

    /// The Service ports that frontends are served by, by Service.
    pub fn ports(&self) -> impl Iterator<Item = &PortRow> {
        let indices = self.services.values().flat_map(|service| &service.ports);
        indices.filter_map(|index| self.ports.served_row(*index))
    }

    /// Number of Service ports that frontends are served by.
    pub fn port_count(&self) -> usize {
        self.ports.served_count()
    }

    /// Number of backends in the sets of these Service ports.
    pub fn backend_count(&self) -> usize {
        self.ports.backend_count()
    }

    /// Service ports with a traffic policy Local and without endpoints on this node, if there are others.
    pub fn without_local(&self) -> WithoutLocal {
        self.ports.without_local()
    }

    /// Networks by key.
    pub fn networks(&self) -> &BTreeMap<NetworkKey, Network> {
        &self.networks
    }

    /// Routes to other nodes' pods: range -> next hop.
    pub fn routes(&self) -> &BTreeMap<IpNet, IpAddr> {
        &self.routes
    }

    /// Keys that several Services claim, without wildcard rows: Services that share an address but
    /// no port do not conflict.
    pub fn conflicts(&self) -> impl Iterator<Item = Conflict<'_>> {
        self.claims.contended().map(|(key, claims)| Conflict { key: *key, claims })
    }

    /// The conflict at a key, if there is one.
    pub fn conflict(&self, key: &FrontendKey) -> Option<Conflict<'_>> {
        let claims = self.claims.contended_at(key)?;
        Some(Conflict { key: *key, claims })
    }

    /// Number of [`Tables::conflicts`].
    pub fn conflict_count(&self) -> usize {
        self.claims.contended_count()
    }

    /// Ranges of ClusterIPs that overlap pod ranges.
    pub fn overlaps(&self) -> &[Overlap] {
        &self.overlaps
    }

    /// Whether the ranges of ClusterIPs are complete: those of ServiceCIDR objects have been listed.
    pub fn service_ranges_known(&self) -> bool {
        self.service_ranges_known
    }

    /// Updates the addresses of nodes. Returns the Services whose rows depend on the change.
    fn move_nodes(&mut self, index: &Index, context: &NodeContext) -> BTreeSet<ObjectName> {
        let nodes = NodeAddresses::new(index.nodes(), context);
        if nodes == self.nodes {
            return BTreeSet::new();
        }
        let affected = index.services().filter(|service| nodes.differ_for(&self.nodes, service));
        let affected = affected.map(|service| service.name.clone()).collect();
        self.nodes = nodes;
        affected
    }

    fn view<'a>(&'a self, claim: &'a Claim) -> FrontendView<'a> {
        FrontendView {
            service: &claim.owner.name,
            port: claim.port.and_then(|index| self.ports.row(index)),
            row: claim.row,
        }
    }

    /// Replaces the rows of a Service; whether frontends differ. A change of endpoints changes ports only.
    fn replace(
        &mut self,
        name: &ObjectName,
        created: i64,
        rows: ServiceRows,
        changed: &mut Changed,
    ) -> bool {
        let (former, mut former_ports) = match self.services.remove(name) {
            Some(former) => (Some((former.owner, former.frontends)), former.ports.into_vec()),
            None => (None, Vec::new()),
        };
        let mut ports = Vec::with_capacity(rows.ports.len());
        for row in rows.ports {
            let same = |index: &PortIndex| self.ports.row(*index).is_some_and(|r| r.id == row.id);
            let index = match former_ports.iter().position(same) {
                None => self.ports.insert(row),
                Some(at) => {
                    let index = former_ports.swap_remove(at);
                    let id = row.id.clone();
                    if self.ports.replace(index, row) {
                        changed.ports.insert(id);
                    }
                    index
                }
            };
            ports.push(index);
        }
        let frontends: Box<[_]> = rows
            .frontends
            .into_iter()
            .map(|(key, at, row)| (key, at.and_then(|at| ports.get(at).copied()), row))
            .collect();
        let owner = match &former {
            Some((owner, _)) if owner.created == created => Arc::clone(owner),
            _ => Arc::new(Owner { name: name.clone(), created }),
        };
        let same = former
            .as_ref()
            .is_some_and(|(known, rows)| Arc::ptr_eq(known, &owner) && *rows == frontends);
        if !same {
            let kept: BTreeSet<FrontendKey> = frontends.iter().map(|(key, ..)| *key).collect();
            for (key, ..) in former.iter().flat_map(|(_, rows)| rows.iter()) {
                if !kept.contains(key) {
                    self.claim(*key, name, None, changed);
                }
            }
            for (key, port, row) in &frontends {
                let claim = Claim { owner: Arc::clone(&owner), port: *port, row: *row };
                self.claim(*key, name, Some(claim), changed);
            }
        }
        former_ports.into_iter().for_each(|index| self.ports.remove(index));
        if !frontends.is_empty() {
            self.services.insert(name.clone(), Compiled { owner, ports: ports.into(), frontends });
        }
        !same
    }

    /// The first external address of a Service that is in a pod range, and that range.
    fn first_among_pods(&self, service: &ObjectName) -> Option<(IpAddr, IpNet)> {
        let frontends = self.services.get(service)?.frontends.iter();
        let external =
            frontends.filter(|(key, _, row)| row.kind.is_external() && !key.is_node_port());
        let mut addresses = external.map(|(key, ..)| IpAddr::from(key.addr));
        addresses.find_map(|address| Some((address, self.nodes.pod_range_of(&address)?)))
    }

    /// Sets or withdraws the claim of one Service to one key.
    fn claim(
        &mut self,
        key: FrontendKey,
        name: &ObjectName,
        claim: Option<Claim>,
        changed: &mut Changed,
    ) {
        let Served { before, after, contended } = self.claims.set(key, name, claim);
        changed.conflicts.extend(contended.then_some(key));
        let same = match (&before, &after) {
            (Some(before), Some(after)) => before.is_same(after),
            (None, None) => true,
            _ => false,
        };
        if !same {
            changed.frontends.insert(key);
        }
        let port = |claim: Option<Claim>| claim.and_then(|claim| claim.port);
        let (lost, gained) = (port(before), port(after));
        if lost == gained {
            return;
        }
        let first = gained.filter(|index| self.ports.gain(*index));
        let last = lost.filter(|index| self.ports.lose(*index));
        for row in [first, last].into_iter().flatten().filter_map(|index| self.ports.row(index)) {
            changed.ports.insert(row.id.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn merged_changes_contain_both() {
        let key = |n| FrontendKey { proto: n, ..FrontendKey::default() };
        let mut changed = Changed { frontends: BTreeSet::from([key(1)]), ..Changed::default() };
        assert!(!changed.is_empty());
        changed.merge(Changed { frontends: BTreeSet::from([key(2)]), ..Changed::default() });
        assert_eq!(changed.frontends, BTreeSet::from([key(1), key(2)]));
        assert!(!changed.networks && !changed.routes);

        for (networks, routes) in [(true, false), (false, true)] {
            let mut changed = Changed::default();
            assert!(changed.is_empty());
            changed.merge(Changed { networks, routes, ..Changed::default() });
            changed.merge(Changed::default());
            assert_eq!((changed.networks, changed.routes), (networks, routes));
            assert!(!changed.is_empty());
        }
    }
}
