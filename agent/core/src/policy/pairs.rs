//! Pairs of pods of this node during a change.
//!
//! The egress of the one pod and the ingress of the other change one after the other. If one denies a flow before
//! and only the other one denies it after the change, it would pass in between:
//!
//! ```text
//!                 egress of the client   ingress of the server
//!   before        denies                 admits
//!   in between    admits                 admits                 <-- if the client changes first
//!   after         admits                 denies
//! ```
//! The ingress of such servers is closed from the first step to the last one.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;
use sluice_abi::pod_policy_flags::JUDGES_HAIRPIN;
use sluice_abi::{Addr, NetworkKey, PodPolicy, PolicyDirection, PolicyPeerKey, PolicyPorts};
use zerocopy::IntoBytes;

use super::networks::network_key;
use super::ports::Ports;
use super::{LocalPod, PolicyRows};

/// Before and after a change.
pub type Both<T> = [T; 2];

/// Rows of the maps, before or after a change.
pub trait Lookup {
    /// Of `POD_POLICY`.
    fn pod(&self, index: u32) -> Option<PodPolicy>;
    /// Of `POLICY_CLASSES`.
    fn class(&self, address: &Addr) -> Option<u64>;
    /// Of `POLICY_NETWORKS`, with exactly this key.
    fn network(&self, key: &NetworkKey) -> Option<u64>;
    /// Of `POLICY_PEERS`.
    fn peer(&self, key: &PolicyPeerKey) -> Option<PolicyPorts>;
    /// What a row admits.
    fn contents(&self, row: PolicyPorts) -> Ports;
}

impl Lookup for PolicyRows {
    fn pod(&self, index: u32) -> Option<PodPolicy> {
        self.pods.get(&index).copied()
    }

    fn class(&self, address: &Addr) -> Option<u64> {
        self.classes.get(address).copied()
    }

    fn network(&self, key: &NetworkKey) -> Option<u64> {
        self.networks.get(key).copied()
    }

    fn peer(&self, key: &PolicyPeerKey) -> Option<PolicyPorts> {
        self.peers.get(key).copied()
    }

    fn contents(&self, row: PolicyPorts) -> Ports {
        Ports::of_inline(row).unwrap_or_else(|| Ports::of_rows(row.id, &self.ports))
    }
}

/// The row of a pod; that of an earlier pod with its index does not count.
fn row_of(rows: &impl Lookup, pod: &LocalPod) -> Option<PodPolicy> {
    rows.pod(pod.index.into()).filter(|row| row.generation == pod.generation)
}

/// The indices of the servers among the pods of this node, as described above. `is_rewritten`: whether rows of a
/// table may differ for classes that addresses have before and after.
pub fn exposed(
    before: &impl Lookup,
    after: &impl Lookup,
    local: &[LocalPod],
    is_rewritten: impl Fn(u64) -> bool,
) -> BTreeSet<u32> {
    let alike = |pod: &LocalPod| {
        let rows = [row_of(before, pod), row_of(after, pod)];
        let may_differ = |direction| {
            let [old, new] = rows.map(|row| row.map(|row| row.ends[direction as usize]));
            old != new || new.is_some_and(|end| is_rewritten(end.table))
        };
        Alike {
            rows,
            classes: [class_of(before, pod.address), class_of(after, pod.address)],
            ends: PolicyDirection::ALL.map(may_differ),
            pods: vec![pod.index.into()],
        }
    };
    let pods: Vec<Alike> = local.iter().map(alike).collect();
    let all_stay = |direction: usize| {
        pods.iter().all(|pod| !pod.ends[direction] && pod.classes[0] == pod.classes[1])
    };
    // Most changes concern one direction, or peers elsewhere.
    if all_stay(0) || all_stay(1) {
        return BTreeSet::new();
    }
    let mut groups: BTreeMap<_, Alike> = BTreeMap::new();
    for pod in pods {
        let rows = pod.rows.map(|row| row.map(|row| (row.flags, row.ends.as_bytes().to_vec())));
        match groups.entry((rows, pod.classes)) {
            Entry::Occupied(mut group) => group.get_mut().pods.extend(pod.pods),
            Entry::Vacant(group) => drop(group.insert(pod)),
        }
    }
    let mut servers = BTreeSet::new();
    for server in groups.values() {
        let has_client = groups.values().any(|client| {
            // Policies without tiers do not judge what a pod sends to itself.
            let judges_itself = |row: &PodPolicy| row.flags & JUDGES_HAIRPIN != 0;
            (client.pods != server.pods
                || client.pods.len() > 1
                || client.rows.iter().flatten().any(judges_itself))
                && may_pass_between(before, after, client, server)
        });
        if has_client {
            servers.extend(&server.pods);
        }
    }
    servers
}

/// Pods that are judged alike, as clients, as servers and as peers, before and after a change.
struct Alike {
    rows: Both<Option<PodPolicy>>,
    classes: Both<u64>,
    /// Whether the ends may differ, apart from the classes of their peers; by [`PolicyDirection`].
    ends: [bool; 2],
    /// Their indices.
    pods: Vec<u32>,
}

/// Whether some flow is denied before and after the change, but passes while only one of its ends has changed.
fn may_pass_between(
    before: &impl Lookup,
    after: &impl Lookup,
    client: &Alike,
    server: &Alike,
) -> bool {
    let may_differ = |pod: &Alike, direction: PolicyDirection, peer: &Alike| {
        pod.ends[direction as usize] || peer.classes[0] != peer.classes[1]
    };
    if !may_differ(client, PolicyDirection::Egress, server)
        || !may_differ(server, PolicyDirection::Ingress, client)
    {
        return false;
    }
    let both = |pod: &Alike, direction, peer: &Alike| {
        [
            admitted(before, pod.rows[0], direction, peer.classes[0]),
            admitted(after, pod.rows[1], direction, peer.classes[1]),
        ]
    };
    let sends = both(client, PolicyDirection::Egress, server);
    let receives = both(server, PolicyDirection::Ingress, client);
    // The id of a set follows from its ports.
    if sends[0] == sends[1] || receives[0] == receives[1] {
        return false;
    }
    let contents = |[old, new]: Both<PolicyPorts>| {
        let [old, new] = [before.contents(old), after.contents(new)];
        [new.minus(&old), old.minus(&new)]
    };
    let [opened, closed] = contents(sends);
    let [opened_there, closed_there] = contents(receives);
    !(opened.and(&closed_there).is_none() && closed.and(&opened_there).is_none())
}

/// The row with what an end of a pod admits for peers of a class. A pod without a row admits nothing: its namespace
/// opens it only before the first and after the last step.
fn admitted(
    rows: &impl Lookup,
    row: Option<PodPolicy>,
    direction: PolicyDirection,
    class: u64,
) -> PolicyPorts {
    let Some(end) = row.map(|row| row.ends[direction as usize]) else { return PolicyPorts::NONE };
    let peer = || rows.peer(&PolicyPeerKey { table: end.table, class });
    match (end.table, class) {
        (0, _) => PolicyPorts::ALL,
        (_, 0) => end.otherwise,
        _ => peer().unwrap_or(end.otherwise),
    }
}

/// The class of an address, 0 if it has none.
fn class_of(rows: &impl Lookup, address: IpAddr) -> u64 {
    let of_network = || {
        let lengths = (0..=IpNet::from(address).max_prefix_len()).rev();
        let mut nets = lengths.filter_map(|length| IpNet::new(address, length).ok());
        nets.find_map(|net| rows.network(&network_key(net)))
    };
    rows.class(&address.into()).or_else(of_network).unwrap_or(0)
}
