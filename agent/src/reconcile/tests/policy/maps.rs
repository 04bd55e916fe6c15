//! What the programs read of the maps of policies.

use sluice_abi::{PolicyDirection, proto};
use sluice_core::ObjectName;
use sluice_core::policy::{Judgement, LocalPod, PolicyRows};
use sluice_core::table::{
    OpenNamespaces, PodPolicies, PolicyClasses, PolicyEpochs, PolicyNetworks, PolicyPeers,
    PortSets, Rows, Table,
};

use crate::harness::pod;
use crate::kernel::fake::FakeMaps;

/// Peers and ports to probe.
const PEERS: [&str; 7] = [
    "10.244.1.7",
    "10.244.1.8",
    "10.244.2.9",
    "10.244.1.200",
    "172.18.0.3",
    "203.0.113.1",
    "203.0.113.9",
];
const PORTS: [(u8, u16); 6] = [
    (proto::TCP, 5432),
    (proto::TCP, 80),
    (proto::TCP, 443),
    (proto::UDP, 53),
    (proto::SCTP, 80),
    (proto::ICMP, 0),
];

/// The rows of all maps at one moment.
#[derive(Clone, Debug, PartialEq)]
pub struct View {
    /// Rows of pods with their revisions.
    pub rows: PolicyRows,
    /// `POLICY_EPOCH`.
    pub epoch: u32,
}

impl View {
    /// Reads the maps.
    pub fn of(maps: &FakeMaps) -> View {
        fn rows<T: Table>(maps: &FakeMaps) -> impl Iterator<Item = (T::Key, T::Value)> {
            let mut rows = Rows { table: T::SPEC, keys: Vec::new(), values: Vec::new() };
            for (key, value) in maps.get(T::SPEC.name).into_iter().flatten() {
                rows.keys.extend_from_slice(key);
                rows.values.extend_from_slice(value);
            }
            rows.typed::<T>().collect::<Vec<_>>().into_iter()
        }
        View {
            rows: PolicyRows {
                pods: rows::<PodPolicies>(maps).collect(),
                classes: rows::<PolicyClasses>(maps).collect(),
                networks: rows::<PolicyNetworks>(maps).collect(),
                peers: rows::<PolicyPeers>(maps).collect(),
                ports: rows::<PortSets>(maps).collect(),
                open_namespaces: rows::<OpenNamespaces>(maps).collect(),
            },
            epoch: rows::<PolicyEpochs>(maps).next().map_or(0, |(_, epoch)| epoch),
        }
    }

    /// Judges one side of a flow of pod `n`.
    pub fn judge(
        &self,
        n: u8,
        direction: PolicyDirection,
        peer: &str,
        protocol: u8,
        port: u16,
    ) -> Judgement {
        let lease = pod(n).0;
        let pod = LocalPod {
            index: lease.index as u16,
            generation: lease.row_generation(),
            address: lease.address.into(),
            name: Some(ObjectName::new("shop", format!("pod-{n}"))),
            uid: None,
        };
        self.rows.judge(&pod, direction, peer.parse().unwrap(), protocol, port)
    }

    /// Whether a flow of pod `n` that was judged at an epoch is judged again.
    pub fn judges_again(&self, n: u8, epoch: u32) -> bool {
        let revision = self.rows.pods.get(&n.into()).map_or(0, |row| row.revision);
        epoch.wrapping_sub(revision).cast_signed() < 0
    }

    /// The verdicts on everything that is probed, in one order.
    pub fn verdicts(&self) -> Vec<(Probe, Judgement)> {
        let mut verdicts = Vec::new();
        for pod in [7, 8] {
            for direction in PolicyDirection::ALL {
                for peer in PEERS {
                    for (protocol, port) in PORTS {
                        let verdict = self.judge(pod, direction, peer, protocol, port);
                        verdicts.push((Probe { pod, direction, peer, protocol, port }, verdict));
                    }
                }
            }
        }
        verdicts
    }
}

/// One side of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Probe {
    /// Number of the pod.
    pub pod: u8,
    pub direction: PolicyDirection,
    pub peer: &'static str,
    pub protocol: u8,
    pub port: u16,
}
