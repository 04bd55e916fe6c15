//! EndpointSlices.

use std::net::IpAddr;
use std::sync::Arc;

use super::{ObjectName, Port, Protocol, Uid};

/// Type of the addresses of a slice.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum AddressType {
    /// IPv4 addresses.
    #[default]
    Ipv4,
    /// IPv6 addresses.
    Ipv6,
    /// Host names (FQDN) or an unknown type: not programmed.
    Other,
}

impl AddressType {
    /// From the API value.
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
    pub service: Option<Arc<str>>,
    /// Carries a label of [`super::hidden_by_label`].
    pub hidden: bool,
    /// Family of the addresses.
    pub address_type: AddressType,
    /// Ports that every endpoint of the slice serves.
    pub ports: Box<[EndpointPort]>,
    /// Endpoints with an address.
    pub endpoints: Box<[Endpoint]>,
    /// The address of an endpoint that was left out because it is not that of another host or pod.
    pub invalid: Option<Box<IpAddr>>,
    /// When the cause of the last change happened, in milliseconds since 1970.
    pub trigger: Option<i64>,
}

impl EndpointSlice {
    /// The Service that this slice belongs to.
    pub fn service_name(&self) -> Option<ObjectName> {
        let service = self.service.as_ref().filter(|s| !s.is_empty())?;
        Some(ObjectName::new(self.name.namespace.clone(), service.clone()))
    }
}

/// A port of a slice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointPort {
    /// Name, possibly empty.
    pub name: Arc<str>,
    /// Protocol.
    pub protocol: Protocol,
    /// Target port; a port without number is skipped.
    pub port: Option<Port>,
}

/// One endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// The first of its `addresses`; the others are not used.
    pub address: IpAddr,
    /// Condition Ready; absent means true.
    pub ready: bool,
    /// Condition Serving; absent means true.
    pub serving: bool,
    /// Condition Terminating; absent means false.
    pub terminating: bool,
    /// Node that it runs on; an endpoint without node is not local to any.
    pub node_name: Option<Arc<str>>,
    /// Topology hints, if it has any.
    pub hints: Option<Box<Hints>>,
    /// UID of the Pod behind it, by `targetRef`.
    pub target: Option<Uid>,
}

impl Endpoint {
    /// Nodes that should use it (`forNodes`); empty without such a hint.
    pub fn node_hints(&self) -> &[String] {
        self.hints.as_ref().map_or(&[], |hints| &hints.nodes)
    }

    /// Zones that should use it (`forZones`); empty without such a hint.
    pub fn zone_hints(&self) -> &[String] {
        self.hints.as_ref().map_or(&[], |hints| &hints.zones)
    }
}

/// Topology hints of an endpoint; empty lists mean no hint.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hints {
    /// Zones (`forZones`).
    pub zones: Vec<String>,
    /// Nodes (`forNodes`).
    pub nodes: Vec<String>,
}
