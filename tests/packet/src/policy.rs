//! Policies of the pods of the node, as rows of the maps, in the agent's place.

use sluice_abi::{
    Addr, LocalPod, NetworkKey, PodPolicy, PolicyDirection, PolicyEnd, PolicyPeerKey,
    PolicyPortKey, PolicyPorts, PortBe, map, namespace_id, pod_policy_flags,
};

use crate::Datapath;
use crate::tables::NAMESPACE;
use crate::topology::v4;

/// Rule table of tests with one table per direction.
const TABLES: [u64; 2] = [0xe, 0x1];

impl Datapath {
    /// Isolates a pod in one direction: it may talk to the peers of these classes on these ports, and to
    /// others on `otherwise`. Flows that were judged before are judged again.
    pub fn isolate(
        &self,
        pod: [u8; 4],
        direction: PolicyDirection,
        rules: &[(u64, PolicyPorts)],
        otherwise: PolicyPorts,
    ) {
        // A table of its own per pod, direction and version: rows of a former one stay.
        let version = u64::from(self.policy_epoch()) + 1;
        let table = TABLES[direction as usize] | u64::from(pod[3]) << 8 | version << 16;
        for (class, ports) in rules {
            let key = PolicyPeerKey { table, class: *class };
            self.map(map::POLICY_PEERS).update(&key, ports).unwrap();
        }
        let mut row = self.policy_row(pod);
        row.ends[direction as usize] = PolicyEnd { table, otherwise };
        self.put_policy_row(pod, row);
    }

    /// Writes that no policy selects a pod in a direction any more.
    pub fn release(&self, pod: [u8; 4], direction: PolicyDirection) {
        let mut row = self.policy_row(pod);
        row.ends[direction as usize] = PolicyEnd::default();
        self.put_policy_row(pod, row);
    }

    /// Writes that ClusterNetworkPolicies select a pod, or that none does.
    pub fn judge_hairpin(&self, pod: [u8; 4], judges: bool) {
        let flags = if judges { pod_policy_flags::JUDGES_HAIRPIN } else { 0 };
        self.put_policy_row(pod, PodPolicy { flags, ..self.policy_row(pod) });
    }

    /// Makes a pod's flows be judged again.
    pub fn rejudge(&self, pod: [u8; 4]) {
        self.put_policy_row(pod, self.policy_row(pod));
    }

    /// Removes the row of a pod: its policies are not known.
    pub fn forget_policy(&self, pod: [u8; 4]) {
        let index = u32::from(pod[3]);
        self.map(map::POD_POLICY).update(&index, &PodPolicy::default()).unwrap();
    }

    /// Withdraws or states that no policy selects pods of the namespace of the tests' pods.
    pub fn open_namespace(&self, open: bool) {
        let namespaces = self.map::<u64, u32>(map::OPEN_NAMESPACES);
        if open {
            namespaces.update(&namespace_id(NAMESPACE), &1).unwrap();
        } else {
            namespaces.delete(&namespace_id(NAMESPACE)).unwrap();
        }
    }

    /// Sets the class of a pod's address as a peer; `None` removes it.
    pub fn class(&self, address: [u8; 4], class: Option<u64>) {
        let classes = self.map::<Addr, u64>(map::POLICY_CLASSES);
        match class {
            Some(class) => classes.update(&v4(address), &class).unwrap(),
            None => drop(classes.delete(&v4(address)).unwrap()),
        }
    }

    /// Sets the class of a network; `len` is the prefix length of the IPv4 network.
    pub fn network_class(&self, address: [u8; 4], len: u32, class: u64) {
        let key = NetworkKey { prefix_len: 96 + len, addr: v4(address) };
        self.map(map::POLICY_NETWORKS).update(&key, &class).unwrap();
    }

    /// Adds ports to a set: `bits` of a port, 0 for every port of the protocol, or every protocol.
    pub fn port_of_set(&self, id: u64, proto: Option<u8>, port: u16, bits: u32) {
        let key = PolicyPortKey {
            prefix_len: if proto.is_some() { 80 + bits } else { 72 },
            id: PolicyPortKey::words(id),
            pad: 0,
            proto: proto.unwrap_or(0),
            port: PortBe::new(port),
        };
        self.map(map::POLICY_PORTS).update(&key, &1u32).unwrap();
    }

    /// `POLICY_EPOCH`.
    pub fn policy_epoch(&self) -> u32 {
        self.map::<u32, u32>(map::POLICY_EPOCH).lookup(&0).unwrap().unwrap_or_default()
    }

    /// Sets `POLICY_EPOCH`: the next change of a row has the number after it.
    pub fn set_policy_epoch(&self, epoch: u32) {
        self.map(map::POLICY_EPOCH).update(&0u32, &epoch).unwrap();
    }

    fn policy_row(&self, pod: [u8; 4]) -> PodPolicy {
        let row = self.map::<u32, PodPolicy>(map::POD_POLICY).lookup(&u32::from(pod[3])).unwrap();
        row.unwrap_or_default()
    }

    fn put_policy_row(&self, pod: [u8; 4], mut row: PodPolicy) {
        let index = u32::from(pod[3]);
        let known = self.map::<u32, LocalPod>(map::PODS).lookup(&index).unwrap();
        let epoch = self.policy_epoch().wrapping_add(1);
        row.generation = known.expect("an array has every index").generation;
        row.revision = epoch;
        self.map(map::POD_POLICY).update(&index, &row).unwrap();
        self.set_policy_epoch(epoch);
    }
}
