//! The objects that Sluice works with, cut down to the fields that it reads.
//!
//! Whoever reads the API (or a folder of manifests) converts to these types at once. Defaults of
//! the API (`ready` absent means true, ...) are filled in by that conversion; what the API leaves
//! open stays an `Option` here.

mod address;
mod endpoint_slice;
mod namespace;
mod node;
mod node_context;
mod pod;
mod service;

use std::fmt;
use std::num::NonZeroU16;

pub use address::{parse_cidr, parse_ip};
pub use endpoint_slice::{AddressType, Endpoint, EndpointPort, EndpointSlice, Hints};
pub use namespace::Namespace;
pub use node::Node;
pub use node_context::NodeContext;
pub use pod::{Pod, PodPhase};
pub use service::{Service, ServicePort, TrafficPolicy};
use sluice_abi::proto;

/// Label on a Service or slice that another proxy serves; its presence hides the object.
pub const SERVICE_PROXY_NAME_LABEL: &str = "service.kubernetes.io/service-proxy-name";
/// Label on a headless Service or slice; its presence hides the object.
pub const HEADLESS_LABEL: &str = "service.kubernetes.io/headless";
/// Label on a slice that names its Service.
pub const SERVICE_NAME_LABEL: &str = "kubernetes.io/service-name";
/// Label on a Node that names its zone.
pub const ZONE_LABEL: &str = "topology.kubernetes.io/zone";

/// Whether a Service or slice with these label keys is none of our business.
pub fn hidden_by_label<'a>(keys: impl IntoIterator<Item = &'a str>) -> bool {
    keys.into_iter().any(|k| k == SERVICE_PROXY_NAME_LABEL || k == HEADLESS_LABEL)
}

/// Namespace and name of an object; the namespace of a cluster-wide object is empty.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectName {
    /// Namespace, or empty.
    pub namespace: String,
    /// Name.
    pub name: String,
}

impl ObjectName {
    /// Name of an object in a namespace.
    pub fn new(namespace: impl Into<String>, name: impl Into<String>) -> ObjectName {
        ObjectName { namespace: namespace.into(), name: name.into() }
    }

    /// Name of a cluster-wide object.
    pub fn cluster(name: impl Into<String>) -> ObjectName {
        ObjectName { namespace: String::new(), name: name.into() }
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

/// A port number in the host's order, 1 to 65535.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Port(NonZeroU16);

impl Port {
    /// The port with this number, if there can be one. Takes the API's wide integers.
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
    /// TCP, the API's default.
    #[default]
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

impl Protocol {
    /// From the API's word; `None` stands for TCP, an unknown word gives nothing.
    pub fn from_api(word: Option<&str>) -> Option<Protocol> {
        match word {
            None | Some("" | "TCP") => Some(Protocol::Tcp),
            Some("UDP") => Some(Protocol::Udp),
            Some("SCTP") => Some(Protocol::Sctp),
            Some(_) => None,
        }
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
        f.write_str(match self {
            Protocol::Tcp => "TCP",
            Protocol::Udp => "UDP",
            Protocol::Sctp => "SCTP",
        })
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
}

impl Kind {
    /// Every kind.
    pub const ALL: [Kind; 5] =
        [Kind::Node, Kind::Service, Kind::EndpointSlice, Kind::Pod, Kind::Namespace];
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
        }
    }

    /// Its name.
    pub fn name(&self) -> ObjectName {
        match self {
            Object::Node(o) => ObjectName::cluster(&o.name),
            Object::Service(o) => o.name.clone(),
            Object::EndpointSlice(o) => o.name.clone(),
            Object::Pod(o) => o.name.clone(),
            Object::Namespace(o) => ObjectName::cluster(&o.name),
        }
    }
}

/// What a source tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// The object exists and reads so now.
    Apply(Object),
    /// The object is gone.
    Delete(Kind, ObjectName),
    /// These are all objects of this kind; others are gone. Objects of another kind in the list
    /// are ignored.
    Replace(Kind, Vec<Object>),
}
