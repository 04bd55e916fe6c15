//! Services.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use super::{ObjectName, Port, Protocol};

/// Traffic policy: which endpoints are used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TrafficPolicy {
    /// All endpoints.
    #[default]
    Cluster,
    /// The endpoints of this node (KEP-2086).
    Local,
}

impl TrafficPolicy {
    /// From the API value; absent or unknown means Cluster.
    pub fn from_api(word: Option<&str>) -> TrafficPolicy {
        if word == Some("Local") { TrafficPolicy::Local } else { TrafficPolicy::Cluster }
    }
}

impl fmt::Display for TrafficPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            TrafficPolicy::Cluster => "Cluster",
            TrafficPolicy::Local => "Local",
        })
    }
}

/// A core/v1 Service.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Service {
    /// Namespace and name.
    pub name: ObjectName,
    /// `creationTimestamp` in seconds since 1970: of several Services with the same address and
    /// port, and addresses of one kind, the oldest is served.
    pub created: i64,
    /// Carries a label of [`super::hidden_by_label`].
    pub hidden: bool,
    /// Is of type ExternalName: has no address even if the field is set.
    pub external_name: bool,
    /// `clusterIPs`, or `clusterIP` if only that is set; without "None" and "".
    pub cluster_ips: Box<[IpAddr]>,
    /// Ports.
    pub ports: Box<[ServicePort]>,
    /// Timeout of session affinity ClientIP in seconds; `None`: no affinity.
    pub session_affinity: Option<u32>,
    /// `publishNotReadyAddresses`: endpoints are ready whatever their Pods report.
    pub publish_not_ready: bool,
    /// `internalTrafficPolicy`, which applies to the ClusterIPs.
    pub internal_traffic_policy: TrafficPolicy,
    /// Access from outside the cluster; `None` for nearly every Service.
    pub external: Option<Box<ExternalAccess>>,
}

impl Service {
    /// `externalTrafficPolicy`, which applies to NodePorts, external IPs and load balancers.
    pub fn external_traffic_policy(&self) -> TrafficPolicy {
        self.external.as_ref().map_or(TrafficPolicy::Cluster, |external| external.traffic_policy)
    }

    /// The port at which load balancers ask for local endpoints.
    pub fn health_check_node_port(&self) -> Option<Port> {
        self.external.as_ref()?.health_check_node_port
    }
}

/// How clients outside the cluster reach a Service.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExternalAccess {
    /// `externalIPs`.
    pub ips: Box<[IpAddr]>,
    /// Addresses in `status.loadBalancer.ingress` that nodes receive packets for (`ipMode` VIP).
    pub load_balancer_ips: Box<[IpAddr]>,
    /// `loadBalancerSourceRanges`: the clients of `load_balancer_ips`; empty: all.
    pub source_ranges: Box<[IpNet]>,
    /// `externalTrafficPolicy`.
    pub traffic_policy: TrafficPolicy,
    /// `healthCheckNodePort`, if the Service needs one: it has a load balancer and policy Local.
    pub health_check_node_port: Option<Port>,
}

/// One port of a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServicePort {
    /// Name, which joins it with the ports of slices; empty if the Service has one unnamed port.
    pub name: Arc<str>,
    /// Protocol.
    pub protocol: Protocol,
    /// Port of the Service address. The target port comes from the slices.
    pub port: Port,
    /// Port at the addresses of every node.
    pub node_port: Option<Port>,
}
