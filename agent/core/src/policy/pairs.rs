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
//! The ingress of such servers is closed from the first step to the last one. Servers that have no row before get
//! theirs in the last step.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;
use sluice_abi::pod_policy_flags::JUDGES_HAIRPIN;
use sluice_abi::{
    Addr, NetworkKey, PodPolicy, PolicyDirection, PolicyPeerKey, PolicyPorts, namespace_id,
};
use zerocopy::IntoBytes;

use super::ports::Ports;
use super::{LocalPod, PolicyRows};
use crate::compile::network_key;

/// Before and after a change.
pub type BeforeAfter<T> = [T; 2];

/// Rows of the maps, before or after a change.
pub trait RowSource {
    /// The row of `POD_POLICY` with an index.
    fn pod(&self, index: u32) -> Option<PodPolicy>;
    /// The class of an address in `POLICY_CLASSES`.
    fn class(&self, address: &Addr) -> Option<u64>;
    /// The class of a range in `POLICY_NETWORKS`; no longer or shorter prefix counts.
    fn network(&self, key: &NetworkKey) -> Option<u64>;
    /// The row of `POLICY_PEERS` with a key.
    fn peer(&self, key: &PolicyPeerKey) -> Option<PolicyPorts>;
    /// The ports that a row admits.
    fn ports_of(&self, row: PolicyPorts) -> Ports;
    /// Whether `OPEN_NAMESPACES` has the id of a namespace.
    fn is_open(&self, namespace: u64) -> bool;
}

impl RowSource for PolicyRows {
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

    fn ports_of(&self, row: PolicyPorts) -> Ports {
        Ports::from_inline(row).unwrap_or_else(|| Ports::from_rows(row.id, &self.ports))
    }

    fn is_open(&self, namespace: u64) -> bool {
        self.open_namespaces.contains_key(&namespace)
    }
}

/// The row of a pod; that of an earlier pod with its index does not count.
pub fn row_of(rows: &impl RowSource, pod: &LocalPod) -> Option<PodPolicy> {
    rows.pod(pod.index.into()).filter(|row| row.generation == pod.generation)
}

/// The indices of the servers among the pods of this node, as described above. `rewritten` has the tables whose rows
/// for some classes, those that the pods have before or after, may differ.
pub fn servers_to_close(
    before: &impl RowSource,
    after: &impl RowSource,
    local: &[LocalPod],
    rewritten: impl FnOnce(&BTreeSet<u64>) -> BTreeSet<u64>,
) -> BTreeSet<u32> {
    let classes = |pod: &LocalPod| [class_of(before, pod.address), class_of(after, pod.address)];
    let classes: Vec<_> = local.iter().map(classes).collect();
    let tables = rewritten(&classes.iter().flatten().copied().collect());
    let group_of = |(pod, classes): (&LocalPod, BeforeAfter<u64>)| {
        let rows = [row_of(before, pod), row_of(after, pod)];
        let may_differ = |direction| {
            let [old, new] = rows.map(|row| row.map(|row| row.ends[direction as usize]));
            old != new || new.is_some_and(|end| tables.contains(&end.table))
        };
        let namespace = pod.name.as_ref().map_or(0, |name| namespace_id(&name.namespace));
        let is_open = before.is_open(namespace) && after.is_open(namespace);
        PodGroup {
            rows,
            without_row: if is_open { PolicyPorts::ALL } else { PolicyPorts::NONE },
            classes,
            ends: PolicyDirection::ALL.map(may_differ),
            pods: vec![pod.index.into()],
        }
    };
    let pods: Vec<PodGroup> = local.iter().zip(classes).map(group_of).collect();
    let all_stay = |direction: usize| {
        pods.iter().all(|pod| !pod.ends[direction] && pod.classes[0] == pod.classes[1])
    };
    // Most changes concern one direction, or peers elsewhere.
    if all_stay(0) || all_stay(1) {
        return BTreeSet::new();
    }
    let mut groups: BTreeMap<_, PodGroup> = BTreeMap::new();
    for pod in pods {
        let rows = pod.rows.map(|row| row.map(|row| (row.flags, row.ends.as_bytes().to_vec())));
        match groups.entry((rows, pod.classes, pod.without_row.kind)) {
            Entry::Occupied(mut group) => group.get_mut().pods.extend(pod.pods),
            Entry::Vacant(group) => drop(group.insert(pod)),
        }
    }
    let mut servers = BTreeSet::new();
    for server in groups.values() {
        let has_client = groups.values().any(|client| {
            // Policies without tiers do not judge what a pod sends to itself.
            let judges_itself =
                |row: &Option<PodPolicy>| row.is_some_and(|row| row.flags & JUDGES_HAIRPIN != 0);
            (client.pods != server.pods
                || client.pods.len() > 1
                || client.rows.iter().all(judges_itself))
                && may_pass_between(before, after, client, server)
        });
        if has_client {
            servers.extend(&server.pods);
        }
    }
    servers
}

/// Pods that are judged alike, as clients, as servers and as peers, before and after a change.
struct PodGroup {
    rows: BeforeAfter<Option<PodPolicy>>,
    /// What they admit without a row: everything, if their namespace is open before and after the change.
    without_row: PolicyPorts,
    classes: BeforeAfter<u64>,
    /// Whether the ends may differ, apart from the classes of their peers; by [`PolicyDirection`].
    ends: [bool; 2],
    /// Their indices.
    pods: Vec<u32>,
}

/// Whether some flow is denied before and after the change, but passes while only one of its ends has changed.
fn may_pass_between(
    before: &impl RowSource,
    after: &impl RowSource,
    client: &PodGroup,
    server: &PodGroup,
) -> bool {
    let may_differ = |pod: &PodGroup, direction: PolicyDirection, peer: &PodGroup| {
        pod.ends[direction as usize] || peer.classes[0] != peer.classes[1]
    };
    if !may_differ(client, PolicyDirection::Egress, server)
        || !may_differ(server, PolicyDirection::Ingress, client)
    {
        return false;
    }
    let both = |pod: &PodGroup, direction, peer: &PodGroup| {
        [
            admitted(before, pod.rows[0], direction, peer.classes[0]).unwrap_or(pod.without_row),
            admitted(after, pod.rows[1], direction, peer.classes[1]).unwrap_or(pod.without_row),
        ]
    };
    let sends = both(client, PolicyDirection::Egress, server);
    // The id of a set follows from its ports.
    if sends[0] == sends[1] {
        return false;
    }
    let receives = both(server, PolicyDirection::Ingress, client);
    if receives[0] == receives[1] {
        return false;
    }
    let difference = |[old, new]: BeforeAfter<PolicyPorts>| {
        let [old, new] = [before.ports_of(old), after.ports_of(new)];
        [new.minus(&old), old.minus(&new)]
    };
    let [opened_by_client, closed_by_client] = difference(sends);
    let [opened_by_server, closed_by_server] = difference(receives);
    !opened_by_client.and(&closed_by_server).is_none()
        || !closed_by_client.and(&opened_by_server).is_none()
}

/// What an end of a pod with a row admits for peers of a class.
fn admitted(
    rows: &impl RowSource,
    row: Option<PodPolicy>,
    direction: PolicyDirection,
    class: u64,
) -> Option<PolicyPorts> {
    let end = row?.ends[direction as usize];
    let peer = || rows.peer(&PolicyPeerKey { table: end.table, class });
    Some(match (end.table, class) {
        (0, _) => PolicyPorts::ALL,
        (_, 0) => end.otherwise,
        _ => peer().unwrap_or(end.otherwise),
    })
}

/// The class of an address, 0 if it has none.
fn class_of(rows: &impl RowSource, address: IpAddr) -> u64 {
    let of_network = || {
        let lengths = (0..=IpNet::from(address).max_prefix_len()).rev();
        let mut nets = lengths.filter_map(|length| IpNet::new(address, length).ok());
        nets.find_map(|net| rows.network(&network_key(net)))
    };
    rows.class(&address.into()).or_else(of_network).unwrap_or(0)
}
