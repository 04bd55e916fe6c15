//! What fits into the maps, and the capacities that everything would need.

use sluice_abi::{Addr, map};

use super::super::LocalPod;
use super::super::networks::NetworkLimits;
use super::super::tables::Gaps;
use super::{Changed, Policies};
use crate::diff::Capacity;
use crate::index::{Index, PolicyDirty};

/// Of this many rows of `POLICY_CLASSES`, one is left free: additions precede deletions.
const CLASSES: usize = 8;

/// Blocks of all prefixes in all, at most: some tens of MiB. 2,000 blocks of one range with different exceptions fit.
const MEMBERSHIPS: usize = 1 << 22;

/// Rows that the compiler uses at most. Half of a map is for rows that are replaced: additions precede
/// deletions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) struct Limits {
    pub peers: usize,
    pub ports: usize,
    pub networks: NetworkLimits,
    pub classes: usize,
}

impl Limits {
    /// The limits of maps with these capacities.
    fn of(capacity: &Capacity) -> Limits {
        Limits {
            peers: capacity.policy_peers as usize / 2,
            ports: map::POLICY_PORTS_MAX as usize / 2,
            networks: NetworkLimits {
                prefixes: map::POLICY_NETWORKS_MAX as usize / 2,
                memberships: MEMBERSHIPS,
            },
            classes: capacity.policy_classes as usize / CLASSES * (CLASSES - 1),
        }
    }
}

impl Default for Limits {
    /// Those of the largest maps.
    fn default() -> Limits {
        Limits::of(&Capacity::default())
    }
}

/// Rows of the maps that grow, whether they fit or not.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Wanted {
    peers: usize,
    classes: usize,
}

impl Wanted {
    fn max(self, other: Wanted) -> Wanted {
        Wanted { peers: self.peers.max(other.peers), classes: self.classes.max(other.classes) }
    }

    /// The smallest capacities whose [`Limits`] are not below these numbers.
    fn capacity(self) -> Capacity {
        let entries = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
        Capacity {
            policy_peers: entries(self.peers.saturating_mul(2)),
            policy_classes: entries(self.classes.div_ceil(CLASSES - 1).saturating_mul(CLASSES)),
            ..Capacity::NONE
        }
    }
}

impl Policies {
    /// Sets the capacities of the maps. What does not fit is left out of the next update. Returns whether
    /// the limits changed, so that an update is due.
    pub fn set_capacity(&mut self, capacity: &Capacity) -> bool {
        let limits = Limits::of(capacity);
        std::mem::replace(&mut self.limits, limits) != limits
    }

    /// The capacities of `POLICY_CLASSES` and `POLICY_PEERS` with which everything fits.
    pub fn needed(&self) -> Capacity {
        self.wanted.capacity()
    }

    /// The capacities with which everything fits in each step of the last update.
    pub fn needed_by_steps(&self) -> Capacity {
        self.most_wanted.capacity()
    }

    /// The capacities that the policies on this node need, if its pods are those that are bound to it.
    pub fn needed_for(index: &Index) -> Capacity {
        let is_here = |node: &Option<_>| node.as_deref() == Some(index.node_name());
        let here = index.pods().filter(|pod| is_here(&pod.node) && !pod.host_network);
        let local: Vec<LocalPod> = (1..map::LOCAL_PODS_MAX as u16)
            .zip(here.filter(|pod| !pod.phase.is_over()))
            .map(|(number, pod)| LocalPod {
                index: number,
                generation: 1,
                address: pod.ips.iter().next().unwrap_or(std::net::Ipv4Addr::UNSPECIFIED.into()),
                name: Some(pod.name.clone()),
                uid: pod.uid,
            })
            .collect();
        let mut policies = Policies::default();
        policies.update(index, &PolicyDirty::everything(), &local);
        policies.needed()
    }

    /// Closes the tables that do not fit, or depend on what does not.
    pub(super) fn fit(&mut self) {
        let in_range = |address: &Addr| self.networks.in_pod_range((*address).into());
        let gaps = Gaps {
            terms: self.networks.refused().clone(),
            pods: !self.unclassed.iter().all(in_range),
        };
        let peers = self.tables.fit(self.limits.peers, self.limits.ports, &gaps, &self.classes);
        let classes = self.class_rows.rows().len() + self.unclassed.len();
        self.wanted = Wanted { peers, classes };
        self.most_wanted = self.most_wanted.max(self.wanted);
    }

    /// Leaves addresses without a class that do not fit any more, and adds those that fit again.
    pub(super) fn fit_classes(&mut self, changed: &mut Changed) {
        while self.class_rows.rows().len() > self.limits.classes
            && let Some((address, _)) = self.class_rows.rows().last_key_value()
        {
            let address = *address;
            self.class_rows.set(address, None);
            self.unclassed.insert(address);
            // Flows with the address are judged again.
            changed.ranges = true;
        }
        while self.class_rows.rows().len() < self.limits.classes
            && let Some(address) = self.unclassed.first().copied()
        {
            self.set_class_row(address, self.addresses.get(&address).copied());
        }
    }
}
