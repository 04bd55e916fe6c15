//! EndpointSlices.

use std::net::IpAddr;

use super::{ObjectName, Port, Protocol};

/// What the addresses of a slice are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum AddressType {
    /// IPv4 addresses.
    #[default]
    Ipv4,
    /// IPv6 addresses.
    Ipv6,
    /// Host names (FQDN) or something unheard of: never programmed.
    Other,
}

impl AddressType {
    /// From the API's word.
    pub fn from_api(word: &str) -> AddressType {
        match word {
            "IPv4" => AddressType::Ipv4,
            "IPv6" => AddressType::Ipv6,
            _ => AddressType::Other,
        }
    }

    /// Whether an address is of this type.
    pub fn holds(self, address: IpAddr) -> bool {
        match self {
            AddressType::Ipv4 => address.is_ipv4(),
            AddressType::Ipv6 => address.is_ipv6(),
            AddressType::Other => false,
        }
    }
}

/// A discovery.k8s.io/v1 EndpointSlice.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EndpointSlice {
    /// Namespace and name.
    pub name: ObjectName,
    /// Value of [`super::SERVICE_NAME_LABEL`]: the Service, in the same namespace.
    pub service: Option<String>,
    /// Carries a label of [`super::hidden_by_label`].
    pub hidden: bool,
    /// Family of the addresses.
    pub address_type: AddressType,
    /// Ports that every endpoint here serves.
    pub ports: Vec<EndpointPort>,
    /// Endpoints that have an address.
    pub endpoints: Vec<Endpoint>,
}

impl EndpointSlice {
    /// The Service that this slice belongs to.
    pub fn service_name(&self) -> Option<ObjectName> {
        let service = self.service.as_deref().filter(|s| !s.is_empty())?;
        Some(ObjectName::new(&self.name.namespace, service))
    }
}

/// A port of a slice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointPort {
    /// Name; a port without one (not even an empty one) is skipped.
    pub name: Option<String>,
    /// Protocol.
    pub protocol: Protocol,
    /// Target port; a port without one is skipped.
    pub port: Option<Port>,
}

/// One endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// The first of its `addresses`, the only one that counts.
    pub address: IpAddr,
    /// Condition Ready; absent means true.
    pub ready: bool,
    /// Condition Serving; absent means true.
    pub serving: bool,
    /// Condition Terminating; absent means false.
    pub terminating: bool,
    /// Node it runs on; without one it is local nowhere.
    pub node_name: Option<String>,
    /// Who should use it.
    pub hints: Hints,
}

/// Topology hints of an endpoint; empty lists mean no hint.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hints {
    /// Zones (`forZones`).
    pub zones: Vec<String>,
    /// Nodes (`forNodes`).
    pub nodes: Vec<String>,
}
