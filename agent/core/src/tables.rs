//! The desired state: which rows should be in the kernel, and which object made each.
//!
//! In: an [`Index`] and what is dirty in it. Out: the keys whose rows changed. The cost of an
//! update is proportional to the change.
//!
//! Two Services may claim one address and port. All claims are kept, the oldest Service has the
//! row, and when it goes the next one takes over without being compiled again.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;
use sluice_abi::{FrontendKey, Network, NetworkKey};

use crate::compile::{self, FrontendRow, ServiceView};
use crate::index::{Dirty, Index};
use crate::model::ObjectName;
use crate::select::Here;

/// What the agent knows of the node from the node itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Surroundings {
    /// Addresses on this node's interfaces that packets from pods may be sent to.
    pub local_addresses: Vec<IpAddr>,
    /// ServiceCIDRs, where known: a free address there is not outside the cluster.
    pub service_cidrs: Vec<IpNet>,
}

/// Keys whose desired rows changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changed {
    /// Frontends.
    pub frontends: BTreeSet<FrontendKey>,
    /// Networks.
    pub networks: BTreeSet<NetworkKey>,
    /// Whether a route changed.
    pub routes: bool,
}

impl Changed {
    /// Whether nothing changed.
    pub fn is_empty(&self) -> bool {
        self.frontends.is_empty() && self.networks.is_empty() && !self.routes
    }
}

/// Two or more Services that want the same address, port and protocol.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conflict {
    /// What they want.
    pub key: FrontendKey,
    /// Who has it.
    pub winner: ObjectName,
    /// Who does not, oldest first.
    pub losers: Vec<ObjectName>,
}

/// A Service's wish for a row; claims on one key are sorted, the first has it.
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
    /// Everything in the index, compiled afresh.
    pub fn full(index: &Index, surroundings: &Surroundings) -> Tables {
        let mut tables = Tables::default();
        tables.update(index, &index.all_dirty(), surroundings);
        tables
    }

    /// Compiles what is dirty. When `surroundings` changed, `dirty.nodes` has to be set.
    pub fn update(&mut self, index: &Index, dirty: &Dirty, surroundings: &Surroundings) -> Changed {
        let mut changed = Changed::default();
        let here = Here {
            node: index.node_name(),
            zone: index.this_node().and_then(|n| n.zone.as_deref()),
        };
        for name in &dirty.services {
            let rows = index.service(name).map_or_else(Vec::new, |service| {
                let slices = index.slices_of(name).collect();
                compile::service(&ServiceView { service, slices, here })
            });
            let created = index.service(name).map_or(0, |s| s.created);
            self.replace_claims(name, created, rows, &mut changed.frontends);
        }
        if dirty.nodes {
            let networks = compile::networks(index.node_name(), index.nodes(), surroundings);
            changed.networks = differing_keys(&self.networks, &networks);
            self.networks = networks;
            let routes = compile::routes(index.node_name(), index.nodes());
            changed.routes = routes != self.routes;
            self.routes = routes;
        }
        changed
    }

    /// The row that a frontend should have.
    pub fn frontend(&self, key: &FrontendKey) -> Option<&FrontendRow> {
        self.claims.get(key).and_then(|claims| claims.first()).map(|claim| &claim.row)
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

    /// Keys that several Services claim. Wildcards are left out: Services that share an address
    /// with different ports are no conflict.
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
            claims.insert(at, claim);
            at
        });
        // The row is another one if the winner came or went, or if it reads differently.
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

/// Keys that only one of two maps has, or that have different values.
fn differing_keys<K: Ord + Copy, V: PartialEq>(
    a: &BTreeMap<K, V>,
    b: &BTreeMap<K, V>,
) -> BTreeSet<K> {
    let changed_or_gone = a.iter().filter(|(k, v)| b.get(k) != Some(v)).map(|(k, _)| *k);
    let new = b.keys().filter(|k| !a.contains_key(k)).copied();
    changed_or_gone.chain(new).collect()
}
