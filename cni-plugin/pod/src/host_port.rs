//! hostPorts of pods: the rows of `HOST_PORTS`.

use std::net::Ipv4Addr;
use std::path::Path;

use serde::de::IntoDeserializer;
use serde::de::value::{self, StrDeserializer};
use serde::{Deserialize, Serialize};
use sluice_abi::{Addr, Backend, HostPortKey, PortBe, map, proto};
use sluice_bpf::{BpfError, Map};

use crate::dataplane::unless_absent;

/// A port of the node that leads to a port of the pod (`runtimeConfig.portMappings` of CNI).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HostPort {
    /// Address of the node; unspecified for all of them.
    pub host_ip: Ipv4Addr,
    /// Port of the node.
    pub host_port: u16,
    /// Port of the pod.
    pub container_port: u16,
    /// Protocol.
    pub protocol: Protocol,
}

/// Protocol of a hostPort; its name is in lower case, in leases and in the CNI configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

impl Protocol {
    /// The protocol with this name.
    pub fn from_name(name: &str) -> Option<Protocol> {
        let name: StrDeserializer<'_, value::Error> = name.into_deserializer();
        Protocol::deserialize(name).ok()
    }

    /// IP protocol number.
    pub const fn number(self) -> u8 {
        match self {
            Protocol::Tcp => proto::TCP,
            Protocol::Udp => proto::UDP,
            Protocol::Sctp => proto::SCTP,
        }
    }
}

impl HostPort {
    /// Key of the row.
    pub fn key(&self) -> HostPortKey {
        let port = PortBe::new(self.host_port);
        HostPortKey { addr: self.host_ip.into(), port, proto: self.protocol.number(), pad: 0 }
    }

    /// Value of the row, for a pod at `address`.
    pub fn backend(&self, address: Ipv4Addr) -> Backend {
        let port = PortBe::new(self.container_port);
        Backend { addr: address.into(), port, proto: self.protocol.number(), pad: 0 }
    }
}

/// Writes the rows of a pod's hostPorts; those of another pod with the same port are replaced. The caller
/// holds the lock of the leases.
///
/// # Errors
/// The map does not exist, or cannot be written.
pub(crate) fn put(pins: &Path, address: Ipv4Addr, ports: &[HostPort]) -> Result<(), BpfError> {
    if ports.is_empty() {
        return Ok(());
    }
    let map = open(pins)?;
    ports.iter().try_for_each(|port| map.update(&port.key(), &port.backend(address)))
}

/// The first hostPort of a pod whose row is missing or leads elsewhere.
///
/// # Errors
/// The map does not exist, or cannot be read.
pub(crate) fn first_different(
    pins: &Path,
    address: Ipv4Addr,
    ports: &[HostPort],
) -> Result<Option<HostPort>, BpfError> {
    if ports.is_empty() {
        return Ok(None);
    }
    let map = open(pins)?;
    for port in ports {
        if map.lookup(&port.key())? != Some(port.backend(address)) {
            return Ok(Some(port.clone()));
        }
    }
    Ok(None)
}

/// Deletes the rows of a pod: those of `ports`, or, if its hostPorts are not known, every row with its
/// address. Does nothing without the map. The caller holds the lock of the leases: a row that another pod
/// writes between look-up and deletion would be lost.
///
/// # Errors
/// The map exists and cannot be opened, read or written.
pub(crate) fn remove(
    pins: &Path,
    address: Ipv4Addr,
    ports: Option<&[HostPort]>,
) -> Result<(), BpfError> {
    if ports.is_some_and(<[HostPort]>::is_empty) {
        return Ok(());
    }
    let Some(map) = unless_absent(open(pins))? else { return Ok(()) };
    let pod = Addr::from(address);
    let keys = match ports {
        Some(ports) => ports.iter().map(HostPort::key).collect(),
        None => map.entries()?.into_iter().map(|(key, _)| key).collect::<Vec<_>>(),
    };
    for key in keys {
        // Another pod may have the port by now.
        if map.lookup(&key)?.is_some_and(|backend| backend.addr == pod) {
            map.delete(&key)?;
        }
    }
    Ok(())
}

fn open(pins: &Path) -> Result<Map<HostPortKey, Backend>, BpfError> {
    Map::open_pinned(pins.join("maps").join(map::HOST_PORTS))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn row_leads_from_the_node_to_the_pod() {
        let port = HostPort {
            host_ip: Ipv4Addr::UNSPECIFIED,
            host_port: 8080,
            container_port: 80,
            protocol: Protocol::Udp,
        };
        let key = port.key();
        assert_eq!((key.addr, key.port.get(), key.proto), (Addr::v4([0; 4]), 8080, 17));
        assert!(key.is_node_port(), "the key matches every address of the node");
        let backend = port.backend([10, 244, 1, 7].into());
        assert_eq!((backend.addr, backend.port.get()), (Addr::v4([10, 244, 1, 7]), 80));
    }

    #[test]
    fn file_of_a_lease_has_names_and_numbers() {
        let text = r#"{"hostIp":"127.0.0.1","hostPort":53,"containerPort":5353,"protocol":"sctp"}"#;
        let port: HostPort = serde_json::from_str(text).expect("valid");
        assert_eq!(port.protocol.number(), 132);
        assert_eq!(serde_json::to_string(&port).expect("serialized"), text);
        assert_eq!(Protocol::from_name("sctp"), Some(Protocol::Sctp));
        assert_eq!(Protocol::from_name("SCTP"), None);
    }
}
