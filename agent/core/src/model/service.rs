//! Services.

use std::net::IpAddr;

use super::{ObjectName, Port, Protocol};

/// Which endpoints may serve.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TrafficPolicy {
    /// All of them.
    #[default]
    Cluster,
    /// Those on this node (KEP-2086).
    Local,
}

impl TrafficPolicy {
    /// From the API's word; absent or unknown is Cluster.
    pub fn from_api(word: Option<&str>) -> TrafficPolicy {
        if word == Some("Local") { TrafficPolicy::Local } else { TrafficPolicy::Cluster }
    }
}

/// A core/v1 Service.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Service {
    /// Namespace and name.
    pub name: ObjectName,
    /// `creationTimestamp` in seconds since 1970: of two Services with one address and port, the
    /// older one has it.
    pub created: i64,
    /// Carries a label of [`super::hidden_by_label`].
    pub hidden: bool,
    /// Is of type ExternalName, and so has no address even if the field is set.
    pub external_name: bool,
    /// `clusterIPs`, or `clusterIP` where only that is set; "None" and "" left out.
    pub cluster_ips: Vec<IpAddr>,
    /// Ports.
    pub ports: Vec<ServicePort>,
    /// Seconds a client stays with a backend (session affinity ClientIP); `None`: no affinity.
    pub session_affinity: Option<u32>,
    /// `internalTrafficPolicy`.
    pub internal_traffic_policy: TrafficPolicy,
}

/// One port of a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServicePort {
    /// Name, by which slices are joined; empty where a Service has one unnamed port.
    pub name: String,
    /// Protocol.
    pub protocol: Protocol,
    /// Port at the Service's address. The target port stands in the slices.
    pub port: Port,
}
