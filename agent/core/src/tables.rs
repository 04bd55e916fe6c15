//! The desired state: the rows that belong in the maps, and the object that each comes from.
//!
//! In: an [`Index`] and the objects in it that are dirty. Out: the keys whose rows changed. The cost
//! of an update is proportional to the change.
//!
//! Several Services may claim the same address and port. All claims are kept; the claim of the
//! oldest Service is used. When that Service is removed, the next claim is used without being
//! compiled again.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;
use sluice_abi::{FrontendKey, Network, NetworkKey};

use crate::compile::{self, FrontendRow, ServiceView};
use crate::index::{Dirty, Index};
use crate::model::{NodeContext, ObjectName};
use crate::select::Locality;

/// Differences between two versions of the desired state.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changed {
    /// Frontends whose rows differ.
    pub frontends: BTreeSet<FrontendKey>,
    /// Whether a network differs.
    pub networks: bool,
    /// Whether a route differs.
    pub routes: bool,
}

impl Changed {
    /// Whether nothing differs.
    pub fn is_empty(&self) -> bool {
        self.frontends.is_empty() && !self.networks && !self.routes
    }

    /// Adds the differences of a later update.
    pub fn merge(&mut self, later: Changed) {
        self.frontends.extend(later.frontends);
        self.networks |= later.networks;
        self.routes |= later.routes;
    }
}

/// Two or more Services with the same address, port and protocol.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conflict {
    /// Address, port and protocol.
    pub key: FrontendKey,
    /// The Service that is served.
    pub winner: ObjectName,
    /// The Services that are not served, oldest first.
    pub losers: Vec<ObjectName>,
}

/// A Service's claim to a key. Claims to one key are sorted; the first is used.
#[derive(Clone, Debug)]
struct Claim {
    created: i64,
    row: FrontendRow,
}

impl Claim {
    fn rank(&self) -> (i64, &ObjectName) {
        (self.created, &self.row.service.service)
    }
}

/// Desired rows.
#[derive(Clone, Debug, Default)]
pub struct Tables {
    claims: BTreeMap<FrontendKey, Vec<Claim>>,
    keys_of: BTreeMap<ObjectName, Vec<FrontendKey>>,
    contended: BTreeSet<FrontendKey>,
    networks: BTreeMap<NetworkKey, Network>,
    routes: BTreeMap<IpNet, IpAddr>,
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
        for name in &dirty.services {
            let rows = index.service(name).map_or_else(Vec::new, |service| {
                let slices = index.slices_of(name).collect();
                compile::service(&ServiceView { service, slices, locality })
            });
            let created = index.service(name).map_or(0, |s| s.created);
            self.replace_claims(name, created, rows, &mut changed.frontends);
        }
        if dirty.nodes {
            let cidrs = index.service_cidrs().flat_map(|o| &o.cidrs);
            let networks = compile::networks(index.node_name(), index.nodes(), cidrs, context);
            changed.networks = networks != self.networks;
            self.networks = networks;
            let routes = compile::routes(index.node_name(), index.nodes());
            changed.routes = routes != self.routes;
            self.routes = routes;
        }
        changed
    }

    /// The desired row of a frontend.
    pub fn frontend(&self, key: &FrontendKey) -> Option<&FrontendRow> {
        self.claims.get(key).and_then(|claims| claims.first()).map(|claim| &claim.row)
    }

    /// Number of frontends; a key without a claim has no entry.
    pub fn frontend_count(&self) -> usize {
        self.claims.len()
    }

    /// All frontends by key.
    pub fn frontends(&self) -> impl Iterator<Item = (&FrontendKey, &FrontendRow)> {
        self.claims.iter().filter_map(|(key, claims)| claims.first().map(|c| (key, &c.row)))
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
    pub fn conflicts(&self) -> impl Iterator<Item = Conflict> + '_ {
        self.contended.iter().filter(|k| k.port.get() != 0).filter_map(|key| {
            let mut owners = self.claims.get(key)?.iter().map(|c| c.row.service.service.clone());
            Some(Conflict { key: *key, winner: owners.next()?, losers: owners.collect() })
        })
    }

    fn replace_claims(
        &mut self,
        name: &ObjectName,
        created: i64,
        rows: Vec<(FrontendKey, FrontendRow)>,
        changed: &mut BTreeSet<FrontendKey>,
    ) {
        let old_keys = self.keys_of.remove(name).unwrap_or_default();
        let new_keys: Vec<FrontendKey> = rows.iter().map(|(key, _)| *key).collect();
        let mut rows: BTreeMap<FrontendKey, FrontendRow> = rows.into_iter().collect();
        for key in old_keys.iter().filter(|k| !rows.contains_key(k)).copied().collect::<Vec<_>>() {
            self.claim(key, name, None, changed);
        }
        for key in &new_keys {
            if let Some(row) = rows.remove(key) {
                self.claim(*key, name, Some(Claim { created, row }), changed);
            }
        }
        if !new_keys.is_empty() {
            self.keys_of.insert(name.clone(), new_keys);
        }
    }

    /// Sets or withdraws the claim of one Service on one key.
    fn claim(
        &mut self,
        key: FrontendKey,
        name: &ObjectName,
        claim: Option<Claim>,
        changed: &mut BTreeSet<FrontendKey>,
    ) {
        let claims = self.claims.entry(key).or_default();
        let old_position = claims.iter().position(|c| c.row.service.service == *name);
        let old = old_position.map(|at| claims.remove(at));
        let new_position = claim.map(|claim| {
            let at = claims.partition_point(|c| c.rank() < claim.rank());
            // Nearly every key has one claim: room for exactly one more.
            claims.reserve_exact(1);
            claims.insert(at, claim);
            at
        });
        // The row changes if the first claim does, or if its contents do.
        let same_winner = match (old_position, new_position) {
            (Some(0), Some(0)) => old.as_ref().map(|c| &c.row) == claims.first().map(|c| &c.row),
            (Some(0), _) | (_, Some(0)) => false,
            _ => true,
        };
        if !same_winner {
            changed.insert(key);
        }
        if claims.len() > 1 {
            self.contended.insert(key);
        } else {
            self.contended.remove(&key);
        }
        if claims.is_empty() {
            self.claims.remove(&key);
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
