//! The Kubernetes objects that Sluice uses, reduced to the fields that it reads.
//!
//! Sources (API server, manifest folder) convert to these types at once. The conversion fills in the
//! defaults of the API (absent `ready` means true, for example); fields that are optional in the API
//! and have no default are `Option`s.

mod address;
mod cluster_network_policy;
mod endpoint_slice;
mod namespace;
mod network_policy;
mod node;
mod node_context;
mod pod;
mod service;
mod service_cidr;

use std::cmp::Ordering;
use std::fmt;
use std::num::NonZeroU16;
use std::sync::Arc;

pub use address::{parse_cidr, parse_ip};
pub use cluster_network_policy::{ClusterNetworkPolicy, ClusterRule, RuleAction, Subject, Tier};
pub use endpoint_slice::{AddressType, Endpoint, EndpointPort, EndpointSlice, Hints};
pub use namespace::{NAMESPACE_NAME_LABEL, Namespace};
pub use network_policy::{
    IpBlock, LabelSelector, NetworkPolicy, Operator, PolicyPeer, PolicyPort, PolicyRule, PortSpec,
    Requirement,
};
pub use node::Node;
pub use node_context::{LOOPBACK, NodeContext, NodePortAddresses};
pub use pod::{ContainerPort, Label, Labels, Pod, PodIps, PodPhase, Uid};
pub use service::{ExternalAccess, Service, ServicePort, TrafficPolicy};
pub use service_cidr::ServiceCidr;
use sluice_abi::proto;

/// Label of a Service or slice that another proxy serves; its presence hides the object.
pub const SERVICE_PROXY_NAME_LABEL: &str = "service.kubernetes.io/service-proxy-name";
/// Label of a headless Service or slice; its presence hides the object.
pub const HEADLESS_LABEL: &str = "service.kubernetes.io/headless";
/// Label of a slice with the name of its Service.
pub const SERVICE_NAME_LABEL: &str = "kubernetes.io/service-name";
/// Label of a Node with the name of its zone.
pub const ZONE_LABEL: &str = "topology.kubernetes.io/zone";

/// Whether a Service or slice with these label keys is not programmed.
pub fn hidden_by_label<'a>(keys: impl IntoIterator<Item = &'a str>) -> bool {
    keys.into_iter().any(|k| k == SERVICE_PROXY_NAME_LABEL || k == HEADLESS_LABEL)
}

/// Namespace and name of an object; the namespace of a cluster-scoped object is empty. A copy shares
/// both texts. Ordered by namespace, then by name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct ObjectName {
    /// Namespace, or empty.
    pub namespace: Arc<str>,
    /// Name.
    pub name: Arc<str>,
}

impl ObjectName {
    /// Name of an object in a namespace.
    pub fn new(namespace: impl Into<Arc<str>>, name: impl Into<Arc<str>>) -> ObjectName {
        ObjectName { namespace: namespace.into(), name: name.into() }
    }

    /// Name of a cluster-scoped object.
    pub fn cluster(name: impl Into<Arc<str>>) -> ObjectName {
        ObjectName { namespace: Arc::default(), name: name.into() }
    }
}

impl Ord for ObjectName {
    fn cmp(&self, other: &ObjectName) -> Ordering {
        // Names of one index mostly share the text of their namespace.
        let texts = |a: &Arc<str>, b: &Arc<str>| {
            if Arc::ptr_eq(a, b) { Ordering::Equal } else { a.cmp(b) }
        };
        texts(&self.namespace, &other.namespace).then_with(|| texts(&self.name, &other.name))
    }
}

impl PartialOrd for ObjectName {
    fn partial_cmp(&self, other: &ObjectName) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl fmt::Display for ObjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() {
            f.write_str(&self.name)
        } else {
            write!(f, "{}/{}", self.namespace, self.name)
        }
    }
}

/// A port number, 1 to 65535.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Port(NonZeroU16);

impl Port {
    /// The port with this number; `None` if it is out of range. Takes the integers of the API.
    pub fn new(number: impl Into<i64>) -> Option<Port> {
        u16::try_from(number.into()).ok().and_then(NonZeroU16::new).map(Port)
    }

    /// The number.
    pub const fn get(self) -> u16 {
        self.0.get()
    }
}

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Transport protocol of a Service port.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    /// TCP, the default of the API.
    #[default]
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

impl Protocol {
    /// Every protocol.
    pub const ALL: [Protocol; 3] = [Protocol::Tcp, Protocol::Udp, Protocol::Sctp];

    /// The API value.
    pub const fn name(self) -> &'static str {
        match self {
            Protocol::Tcp => "TCP",
            Protocol::Udp => "UDP",
            Protocol::Sctp => "SCTP",
        }
    }

    /// From the API value; absent means TCP, unknown values yield `None`.
    pub fn from_api(word: Option<&str>) -> Option<Protocol> {
        match word {
            None | Some("") => Some(Protocol::default()),
            Some(word) => Protocol::ALL.into_iter().find(|protocol| protocol.name() == word),
        }
    }

    /// The protocol with an IANA number.
    pub fn from_number(number: u8) -> Option<Protocol> {
        Protocol::ALL.into_iter().find(|protocol| protocol.number() == number)
    }

    /// IANA protocol number.
    pub const fn number(self) -> u8 {
        match self {
            Protocol::Tcp => proto::TCP,
            Protocol::Udp => proto::UDP,
            Protocol::Sctp => proto::SCTP,
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Kinds of object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// core/v1 Node.
    Node,
    /// core/v1 Service.
    Service,
    /// discovery.k8s.io/v1 EndpointSlice.
    EndpointSlice,
    /// core/v1 Pod.
    Pod,
    /// core/v1 Namespace.
    Namespace,
    /// networking.k8s.io/v1 ServiceCIDR.
    ServiceCidr,
    /// networking.k8s.io/v1 NetworkPolicy.
    NetworkPolicy,
    /// policy.networking.k8s.io/v1alpha2 ClusterNetworkPolicy.
    ClusterNetworkPolicy,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Kind; 8] = [
        Kind::Node,
        Kind::Service,
        Kind::EndpointSlice,
        Kind::Pod,
        Kind::Namespace,
        Kind::ServiceCidr,
        Kind::NetworkPolicy,
        Kind::ClusterNetworkPolicy,
    ];
}

/// Any object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Object {
    /// A Node.
    Node(Node),
    /// A Service.
    Service(Service),
    /// An EndpointSlice.
    EndpointSlice(EndpointSlice),
    /// A Pod.
    Pod(Pod),
    /// A Namespace.
    Namespace(Namespace),
    /// A ServiceCIDR.
    ServiceCidr(ServiceCidr),
    /// A NetworkPolicy.
    NetworkPolicy(NetworkPolicy),
    /// A ClusterNetworkPolicy.
    ClusterNetworkPolicy(ClusterNetworkPolicy),
}

impl Object {
    /// Its kind.
    pub fn kind(&self) -> Kind {
        match self {
            Object::Node(_) => Kind::Node,
            Object::Service(_) => Kind::Service,
            Object::EndpointSlice(_) => Kind::EndpointSlice,
            Object::Pod(_) => Kind::Pod,
            Object::Namespace(_) => Kind::Namespace,
            Object::ServiceCidr(_) => Kind::ServiceCidr,
            Object::NetworkPolicy(_) => Kind::NetworkPolicy,
            Object::ClusterNetworkPolicy(_) => Kind::ClusterNetworkPolicy,
        }
    }

    /// Its name.
    pub fn name(&self) -> ObjectName {
        match self {
            Object::Node(o) => ObjectName::cluster(o.name.as_str()),
            Object::Service(o) => o.name.clone(),
            Object::EndpointSlice(o) => o.name.clone(),
            Object::Pod(o) => o.name.clone(),
            Object::Namespace(o) => ObjectName::cluster(o.name.as_str()),
            Object::ServiceCidr(o) => ObjectName::cluster(o.name.as_str()),
            Object::NetworkPolicy(o) => o.name.clone(),
            Object::ClusterNetworkPolicy(o) => ObjectName::cluster(Arc::clone(&o.name)),
        }
    }
}

/// A change that a source reports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// The object was added or updated.
    Apply(Object),
    /// The object was deleted.
    Delete(Kind, ObjectName),
    /// These are all objects of this kind; others were deleted. Objects of another kind in the
    /// list are ignored.
    Replace(Kind, Vec<Object>),
    /// These are the names of all objects of this kind, each of which was applied before; others were
    /// deleted. Ends a list that is applied object by object.
    Retain(Kind, Vec<ObjectName>),
}

impl Change {
    /// What a source sends first: one list per kind, in the order of [`Kind::ALL`].
    pub fn lists<'a>(objects: impl Iterator<Item = &'a Object> + Clone) -> Vec<Change> {
        let of_kind = |kind| objects.clone().filter(move |o| o.kind() == kind).cloned().collect();
        Kind::ALL.into_iter().map(|kind| Change::Replace(kind, of_kind(kind))).collect()
    }

    /// The change as if no Service had `externalIPs`.
    #[must_use]
    pub fn without_external_ips(mut self) -> Change {
        let objects = match &mut self {
            Change::Apply(object) => std::slice::from_mut(object),
            Change::Replace(_, objects) => objects.as_mut_slice(),
            Change::Delete(..) | Change::Retain(..) => &mut [],
        };
        for object in objects {
            if let Object::Service(Service { external: Some(external), .. }) = object {
                external.ips = Box::default();
            }
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn either_label_hides_an_object() {
        assert!(hidden_by_label(["app", SERVICE_PROXY_NAME_LABEL]));
        assert!(hidden_by_label([HEADLESS_LABEL]));
        assert!(!hidden_by_label(["app", SERVICE_NAME_LABEL]));
    }

    #[test]
    fn port_is_between_1_and_65535() {
        assert_eq!(Port::new(-1), None);
        assert_eq!(Port::new(0), None);
        assert_eq!(Port::new(1).map(Port::get), Some(1));
        assert_eq!(Port::new(65_535).map(Port::get), Some(65_535));
        assert_eq!(Port::new(65_536), None);
        assert_eq!(Port::new(65_616), None, "not truncated to 80");
    }

    #[test]
    fn absent_and_unknown_api_values() {
        assert_eq!(Protocol::from_api(None), Some(Protocol::Tcp));
        assert_eq!(Protocol::from_api(Some("")), Some(Protocol::Tcp));
        assert_eq!(Protocol::from_api(Some("UDP")), Some(Protocol::Udp));
        assert_eq!(Protocol::from_api(Some("udp")), None);
        assert_eq!(TrafficPolicy::from_api(None), TrafficPolicy::Cluster);
        assert_eq!(TrafficPolicy::from_api(Some("Local")), TrafficPolicy::Local);
        assert_eq!(AddressType::from_api("IPv6"), AddressType::Ipv6);
        assert_eq!(AddressType::from_api("FQDN"), AddressType::Other);
        assert_eq!(PodPhase::from_api(None), PodPhase::Pending);
        assert_eq!(PodPhase::from_api(Some("Evicted")), PodPhase::Unknown);
    }

    #[test]
    fn succeeded_and_failed_pods_are_over() {
        let over = ["Pending", "Running", "Succeeded", "Failed", "Unknown"]
            .map(|phase| PodPhase::from_api(Some(phase)).is_over());
        assert_eq!(over, [false, false, true, true, false]);
    }

    #[test]
    fn cluster_scoped_name_has_no_slash() {
        assert_eq!(ObjectName::cluster("n1").to_string(), "n1");
        assert_eq!(ObjectName::new("shop", "web").to_string(), "shop/web");
    }
}
