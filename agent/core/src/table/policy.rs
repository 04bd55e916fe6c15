//! The maps of policies.

use sluice_abi::{Addr, NetworkKey, PodPolicy, PolicyPeerKey, PolicyPortKey, PolicyPorts, map};

use super::{Table, TableKind, TableSpec};

/// `POLICY_PORTS`: set of ports, protocol, port -> 1.
#[derive(Clone, Copy, Debug)]
pub struct PortSets;

impl Table for PortSets {
    type Key = PolicyPortKey;
    type Value = u32;
    const SPEC: &'static TableSpec =
        &TableSpec::of::<PortSets>(map::POLICY_PORTS, TableKind::Lpm, map::POLICY_PORTS_MAX);
}

/// `POLICY_PEERS`: rule table, class -> ports.
#[derive(Clone, Copy, Debug)]
pub struct PolicyPeers;

impl Table for PolicyPeers {
    type Key = PolicyPeerKey;
    type Value = PolicyPorts;
    const SPEC: &'static TableSpec =
        &TableSpec::of::<PolicyPeers>(map::POLICY_PEERS, TableKind::Hash, map::POLICY_PEERS_MAX);
}

/// `POLICY_NETWORKS`: range of addresses -> class.
#[derive(Clone, Copy, Debug)]
pub struct PolicyNetworks;

impl Table for PolicyNetworks {
    type Key = NetworkKey;
    type Value = u64;
    const SPEC: &'static TableSpec = &TableSpec::of::<PolicyNetworks>(
        map::POLICY_NETWORKS,
        TableKind::Lpm,
        map::POLICY_NETWORKS_MAX,
    );
}

/// `POLICY_CLASSES`: address of a pod -> class.
#[derive(Clone, Copy, Debug)]
pub struct PolicyClasses;

impl Table for PolicyClasses {
    type Key = Addr;
    type Value = u64;
    const SPEC: &'static TableSpec = &TableSpec::of::<PolicyClasses>(
        map::POLICY_CLASSES,
        TableKind::Hash,
        map::POLICY_CLASSES_MAX,
    );
}

/// `POD_POLICY`: index of a pod of this node -> its rule tables.
#[derive(Clone, Copy, Debug)]
pub struct PodPolicies;

impl Table for PodPolicies {
    type Key = u32;
    type Value = PodPolicy;
    const SPEC: &'static TableSpec =
        &TableSpec::of::<PodPolicies>(map::POD_POLICY, TableKind::Array, map::LOCAL_PODS_MAX);
}

/// `POLICY_EPOCH`: one number, at index 0.
#[derive(Clone, Copy, Debug)]
pub struct PolicyEpochs;

impl Table for PolicyEpochs {
    type Key = u32;
    type Value = u32;
    const SPEC: &'static TableSpec =
        &TableSpec::of::<PolicyEpochs>(map::POLICY_EPOCH, TableKind::Array, 1);
}

/// `OPEN_NAMESPACES`: id of a namespace -> 1.
#[derive(Clone, Copy, Debug)]
pub struct OpenNamespaces;

impl Table for OpenNamespaces {
    type Key = u64;
    type Value = u32;
    const SPEC: &'static TableSpec = &TableSpec::of::<OpenNamespaces>(
        map::OPEN_NAMESPACES,
        TableKind::Hash,
        map::OPEN_NAMESPACES_MAX,
    );
}

/// The maps of policies, in the order in which rows are added. [`crate::policy::Step::writes`] has
/// the order of deletions.
pub const POLICY_OWNED: [&TableSpec; 7] = [
    PortSets::SPEC,
    PolicyPeers::SPEC,
    PolicyNetworks::SPEC,
    PolicyClasses::SPEC,
    PodPolicies::SPEC,
    PolicyEpochs::SPEC,
    OpenNamespaces::SPEC,
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_map_of_policies_is_declared_once_with_the_sizes_of_the_abi() {
        let sizes = POLICY_OWNED.map(|t| (t.name, t.key_size, t.value_size));
        assert_eq!(
            sizes,
            [
                ("POLICY_PORTS", 16, 4),
                ("POLICY_PEERS", 16, 16),
                ("POLICY_NETWORKS", 20, 8),
                ("POLICY_CLASSES", 16, 8),
                ("POD_POLICY", 4, 56),
                ("POLICY_EPOCH", 4, 4),
                ("OPEN_NAMESPACES", 8, 4),
            ]
        );
        assert!(POLICY_OWNED.iter().all(|table| map::ALL.contains(&table.name)));
    }
}
