//! The maps of the pods of this node. Their rows are owned by the CNI binary; the agent repairs them from
//! the leases.

use sluice_abi::{Addr, Backend, HostPortKey, LocalPod, PodNetns, map};

use super::{Table, TableKind, TableSpec};

/// `LOCAL_PODS`: pod address -> device and MACs.
#[derive(Clone, Copy, Debug)]
pub struct LocalPods;

impl Table for LocalPods {
    type Key = Addr;
    type Value = LocalPod;
    const SPEC: &'static TableSpec =
        &TableSpec::of::<LocalPods>(map::LOCAL_PODS, TableKind::Hash, map::LOCAL_PODS_MAX);
}

/// `PODS`: the same rows by index.
#[derive(Clone, Copy, Debug)]
pub struct Pods;

impl Table for Pods {
    type Key = u32;
    type Value = LocalPod;
    const SPEC: &'static TableSpec =
        &TableSpec::of::<Pods>(map::PODS, TableKind::Array, map::LOCAL_PODS_MAX);
}

/// `POD_NETNS`: cookie of a network namespace -> addresses of the pod.
#[derive(Clone, Copy, Debug)]
pub struct PodNetnsRows;

impl Table for PodNetnsRows {
    type Key = u64;
    type Value = PodNetns;
    const SPEC: &'static TableSpec =
        &TableSpec::of::<PodNetnsRows>(map::POD_NETNS, TableKind::Hash, map::LOCAL_PODS_MAX);
}

/// `HOST_PORTS`: address, port and protocol of the node -> address and port of a pod.
#[derive(Clone, Copy, Debug)]
pub struct HostPorts;

impl Table for HostPorts {
    type Key = HostPortKey;
    type Value = Backend;
    const SPEC: &'static TableSpec =
        &TableSpec::of::<HostPorts>(map::HOST_PORTS, TableKind::Hash, map::HOST_PORTS_MAX);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_map_of_pods_is_declared_once_with_the_sizes_of_the_abi() {
        let declared = [LocalPods::SPEC, Pods::SPEC, PodNetnsRows::SPEC, HostPorts::SPEC];
        let sizes = declared.map(|t| (t.name, t.key_size, t.value_size));
        assert_eq!(
            sizes,
            [("LOCAL_PODS", 16, 32), ("PODS", 4, 32), ("POD_NETNS", 8, 32), ("HOST_PORTS", 20, 20),]
        );
        assert!(declared.iter().all(|table| map::ALL.contains(&table.name)));
    }
}
