//! The look-ups of the programs, on the rows: for tests.

use std::net::IpAddr;

use sluice_abi::{
    Addr, PolicyDirection, PolicyEnd, PolicyPeerKey, PolicyPortKey, PolicyPorts, PortBe,
    namespace_id, ports_kind,
};

use super::{LocalPod, PolicyRows};

/// What the programs do with one side of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Judgement {
    /// It passes.
    Pass,
    /// It is dropped by the direction's reason.
    Deny,
    /// It is dropped because the pod has no row yet.
    Pending,
}

impl PolicyRows {
    /// Judges one side of a flow.
    pub fn judge(
        &self,
        pod: &LocalPod,
        direction: PolicyDirection,
        peer: IpAddr,
        protocol: u8,
        port: u16,
    ) -> Judgement {
        let row = self.pods.get(&u32::from(pod.index)).copied().unwrap_or_default();
        if row.generation != pod.generation {
            let id = pod.name.as_ref().map_or(0, |name| namespace_id(&name.namespace));
            let open = self.open_namespaces.contains_key(&id);
            return if open { Judgement::Pass } else { Judgement::Pending };
        }
        let end = row.ends[direction as usize];
        if end.table == 0 || self.admits(self.ports(end, peer), protocol, port) {
            Judgement::Pass
        } else {
            Judgement::Deny
        }
    }

    /// The ports of an end for a peer.
    fn ports(&self, end: PolicyEnd, peer: IpAddr) -> PolicyPorts {
        let class = self.class(peer.into());
        if class == 0 {
            return end.otherwise;
        }
        let key = PolicyPeerKey { table: end.table, class };
        self.peers.get(&key).copied().unwrap_or(end.otherwise)
    }

    /// The class of an address.
    fn class(&self, address: Addr) -> u64 {
        if let Some(class) = self.classes.get(&address) {
            return *class;
        }
        let prefixes = self.networks.iter().filter(|(key, _)| {
            let ones = u128::MAX.checked_shl(128 - key.prefix_len).unwrap_or(0);
            u128::from_be_bytes(address.0) & ones == u128::from_be_bytes(key.addr.0)
        });
        prefixes.max_by_key(|(key, _)| key.prefix_len).map_or(0, |(_, class)| *class)
    }

    fn admits(&self, ports: PolicyPorts, protocol: u8, port: u16) -> bool {
        match ports.kind {
            ports_kind::ALL => true,
            ports_kind::RANGE => {
                ports.proto == protocol && (ports.first..=ports.last).contains(&port)
            }
            ports_kind::SET => {
                let id = PolicyPortKey::words(ports.id);
                // The longest prefix decides.
                let found = (72..=96).rev().find_map(|prefix_len| {
                    let ones = u16::MAX.checked_shl(96 - prefix_len).unwrap_or(0);
                    let port = PortBe::new(if prefix_len < 80 { 0 } else { port & ones });
                    let proto = if prefix_len < 80 { 0 } else { protocol };
                    self.ports.get(&PolicyPortKey { prefix_len, id, pad: 0, proto, port })
                });
                found == Some(&1)
            }
            _ => false,
        }
    }
}
