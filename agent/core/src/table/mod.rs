//! The BPF maps that the agent writes: one declaration per map.
//!
//! A declaration names the map, its key and value types, its kind and its capacity. The planner,
//! the writer and the read-back handle every map through it, so a new map is one struct, one
//! `impl` [`Table`] and one entry in [`OWNED`], or in [`POLICY_OWNED`] for policies. The maps of pods, and
//! that of sockets, are in no list: each has a reconciler of its own.
//!
//! ```text
//! typed rows --Write::put::<T>--> Write { table, keys, values } --> BPF_MAP_UPDATE_BATCH
//! typed rows <--Rows::typed::<T>-- Rows { table, keys, values } <-- BPF_MAP_LOOKUP_BATCH
//! ```
//! Keys and values of a [`Write`] and of [`Rows`] are packed back to back in the layout of the map.
//! The code that performs the system calls needs no key or value type.

mod diff;
mod expected;
mod pods;
mod policy;
mod rows;
mod sockets;

use std::fmt::Debug;

pub use diff::{Difference, diff, difference};
pub use expected::Expected;
pub use pods::{HostPorts, LocalPods, PodNetnsRows, Pods};
pub use policy::{
    OpenNamespaces, POLICY_OWNED, PodPolicies, PolicyClasses, PolicyEpochs, PolicyNetworks,
    PolicyPeers, PortSets,
};
pub use rows::{Rows, Write};
use sluice_abi::{
    BackendRow, Device, Frontend, FrontendKey, Network, NetworkKey, NodeConfig, ServicePort,
    SourceRangeKey, map,
};
pub use sockets::UdpSockets;
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// Type of a BPF map, as far as it matters to a writer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TableKind {
    /// Hash map.
    Hash,
    /// Array: the key is a `u32` index, and every index always has a value.
    Array,
    /// Longest-prefix-match trie.
    Lpm,
}

/// Shape of a map, without its key and value types.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TableSpec {
    /// Name of the map and of its pin.
    pub name: &'static str,
    /// Type of the map.
    pub kind: TableKind,
    /// Bytes per key.
    pub key_size: usize,
    /// Bytes per value.
    pub value_size: usize,
    /// Maximum number of entries.
    pub capacity: u32,
}

impl TableSpec {
    /// The shape of a map with the key and value types of `T`.
    pub const fn of<T: Table>(name: &'static str, kind: TableKind, capacity: u32) -> TableSpec {
        TableSpec {
            name,
            kind,
            key_size: size_of::<T::Key>(),
            value_size: size_of::<T::Value>(),
            capacity,
        }
    }
}

/// A map with its key and value types.
pub trait Table {
    /// Key in the layout of the map.
    type Key: FromBytes + IntoBytes + Immutable + Copy + Ord + Debug;
    /// Value in the layout of the map.
    type Value: FromBytes + IntoBytes + Immutable + Copy + PartialEq + Debug;
    /// Name, kind, sizes and capacity.
    const SPEC: &'static TableSpec;
}

/// `NETWORKS`: address range -> kind of destination.
#[derive(Clone, Copy, Debug)]
pub struct Networks;

impl Table for Networks {
    type Key = NetworkKey;
    type Value = Network;
    const SPEC: &'static TableSpec =
        &TableSpec::of::<Networks>(map::NETWORKS, TableKind::Lpm, map::NETWORKS_MAX);
}

/// `BACKENDS`: backend id -> address, port, Service port.
#[derive(Clone, Copy, Debug)]
pub struct Backends;

impl Table for Backends {
    type Key = u32;
    type Value = BackendRow;
    const SPEC: &'static TableSpec =
        &TableSpec::of::<Backends>(map::BACKENDS, TableKind::Hash, map::BACKENDS_MAX);
}

/// `SLOTS`: slot -> backend id.
#[derive(Clone, Copy, Debug)]
pub struct Slots;

impl Table for Slots {
    type Key = u32;
    type Value = u32;
    const SPEC: &'static TableSpec =
        &TableSpec::of::<Slots>(map::SLOTS, TableKind::Array, map::SLOTS_MAX);
}

/// `SERVICES`: id of a Service port -> ranges of slots.
#[derive(Clone, Copy, Debug)]
pub struct Services;

impl Table for Services {
    type Key = u32;
    type Value = ServicePort;
    const SPEC: &'static TableSpec =
        &TableSpec::of::<Services>(map::SERVICES, TableKind::Hash, map::SERVICES_MAX);
}

/// `SOURCE_RANGES`: Service port and range of its clients -> 1.
#[derive(Clone, Copy, Debug)]
pub struct SourceRanges;

impl Table for SourceRanges {
    type Key = SourceRangeKey;
    type Value = u32;
    const SPEC: &'static TableSpec =
        &TableSpec::of::<SourceRanges>(map::SOURCE_RANGES, TableKind::Lpm, map::SOURCE_RANGES_MAX);
}

/// `FRONTENDS`: Service address, port and protocol -> Service port.
#[derive(Clone, Copy, Debug)]
pub struct Frontends;

impl Table for Frontends {
    type Key = FrontendKey;
    type Value = Frontend;
    const SPEC: &'static TableSpec =
        &TableSpec::of::<Frontends>(map::FRONTENDS, TableKind::Hash, map::FRONTENDS_MAX);
}

/// `DEVICES`: interface index -> device that packets leave by.
#[derive(Clone, Copy, Debug)]
pub struct Devices;

impl Table for Devices {
    type Key = u32;
    type Value = Device;
    const SPEC: &'static TableSpec =
        &TableSpec::of::<Devices>(map::DEVICES, TableKind::Hash, map::DEVICES_MAX);
}

/// `NODE_CONFIG`: one entry, at index 0.
#[derive(Clone, Copy, Debug)]
pub struct NodeConfigs;

impl Table for NodeConfigs {
    type Key = u32;
    type Value = NodeConfig;
    const SPEC: &'static TableSpec =
        &TableSpec::of::<NodeConfigs>(map::NODE_CONFIG, TableKind::Array, 1);
}

/// The maps of Services and of the node, which the agent writes. A row refers only to rows of maps that precede its own:
/// additions are written in this order, and deletions in the reverse order.
pub const OWNED: [&TableSpec; 8] = [
    Networks::SPEC,
    Backends::SPEC,
    Slots::SPEC,
    Services::SPEC,
    SourceRanges::SPEC,
    Frontends::SPEC,
    Devices::SPEC,
    NodeConfigs::SPEC,
];

/// Sorts writes so that no row refers to an absent row after any of them. All additions precede
/// all deletions and late writes. Writes of one phase keep their order.
pub fn sort_by_reference(writes: &mut [Write]) {
    let position = |table: &TableSpec| {
        OWNED.iter().position(|owned| owned.name == table.name).unwrap_or(OWNED.len())
    };
    writes.sort_by_key(|write| match write {
        Write::Put { table, late: false, .. } => position(table),
        Write::Put { table, .. } | Write::Delete { table, .. } => {
            2 * OWNED.len() + 1 - position(table)
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn additions_follow_references_and_deletions_reverse_them() {
        let put = |table| Write::Put { table, keys: vec![], values: vec![], late: false };
        let late = |table| Write::Put { table, keys: vec![], values: vec![], late: true };
        let delete = |table| Write::Delete { table, keys: vec![] };
        let mut sorted: Vec<Write> = OWNED.map(put).into();
        sorted.extend(OWNED.into_iter().rev().flat_map(|table| [late(table), delete(table)]));
        let mut writes = sorted.clone();
        writes.sort_by_key(|write| (write.is_delete(), std::cmp::Reverse(write.table().name)));
        sort_by_reference(&mut writes);
        assert_eq!(writes, sorted);
    }

    #[test]
    fn every_map_is_declared_once_with_the_sizes_of_the_abi() {
        let sizes: Vec<_> = OWNED.iter().map(|t| (t.name, t.key_size, t.value_size)).collect();
        assert_eq!(
            sizes,
            [
                ("NETWORKS", 20, 4),
                ("BACKENDS", 4, 24),
                ("SLOTS", 4, 4),
                ("SERVICES", 4, 20),
                ("SOURCE_RANGES", 24, 4),
                ("FRONTENDS", 20, 8),
                ("DEVICES", 4, 28),
                ("NODE_CONFIG", 4, 120),
            ]
        );
        assert!(OWNED.iter().all(|table| map::ALL.contains(&table.name)));
    }
}
