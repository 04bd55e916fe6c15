//! Compilation of objects into table rows: pure functions, one file per subject.

mod network;
mod node_addresses;
mod service;

use std::fmt;
use std::sync::Arc;

use ipnet::IpNet;
pub use network::{Overlap, network_key, networks, overlaps, routes};
pub use node_addresses::NodeAddresses;
pub use service::{ServiceView, service};
use sluice_abi::{Backend, Family, Frontend, FrontendKey, frontend_flags};

use crate::model::{ObjectName, Protocol, TrafficPolicy};

/// One port of a Service in one address family: the unit of load balancing and of session affinity,
/// and what events refer to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServicePortId {
    /// The Service.
    pub service: ObjectName,
    /// Name of the port, possibly empty.
    pub name: Arc<str>,
    /// Protocol of the port.
    pub protocol: Protocol,
    /// Family of the frontends and backends.
    pub family: Family,
}

impl fmt::Display for ServicePortId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.name.is_empty() {
            write!(f, "{}:{}", self.service, self.protocol)
        } else {
            write!(f, "{}:{}/{}", self.service, self.name, self.protocol)
        }
    }
}

/// Desired sets of backends of a Service port. Ids and slots are assigned when it is written
/// ([`crate::diff`]).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortRow {
    /// The Service port.
    pub id: ServicePortId,
    /// Backends for traffic policy Cluster, sorted, each once.
    pub cluster: Box<[Backend]>,
    /// Backends for traffic policy Local, sorted, each once; `None` if no frontend has that policy.
    pub local: Option<Box<[Backend]>>,
    /// UDP only: usable backends in neither set. Existing flows keep them. Sorted.
    pub unselected: Box<[Backend]>,
    /// Clients that the addresses of load balancers accept, sorted; empty if they accept all.
    pub source_ranges: Box<[IpNet]>,
    /// Timeout of session affinity in seconds, or 0.
    pub affinity_seconds: u32,
    /// The traffic policies of its frontends that are Local.
    pub local_policies: LocalPolicies,
}

/// Which traffic policies of a Service are Local, as far as frontends have them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LocalPolicies {
    /// The internal one.
    pub internal: bool,
    /// The external one.
    pub external: bool,
}

/// Backends of one set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Treatment<'a> {
    /// New connections are forwarded to one of these, at least one.
    Forward(&'a [Backend]),
    /// No endpoint is usable on any node: new connections are rejected.
    Reject,
    /// The traffic policy is Local, and endpoints are usable on other nodes only: packets are
    /// dropped.
    Drop,
}

impl PortRow {
    /// What happens to new connections, by the set that the frontend uses for the client.
    pub fn treatment(&self, local_set: bool) -> Treatment<'_> {
        match &self.local {
            _ if self.cluster.is_empty() => Treatment::Reject,
            Some(local) if local_set && local.is_empty() => Treatment::Drop,
            Some(local) if local_set => Treatment::Forward(local),
            _ => Treatment::Forward(&self.cluster),
        }
    }

    /// Whether a Local set is empty although there are endpoints on other nodes.
    pub fn lacks_local_endpoints(&self) -> bool {
        self.local.as_ref().is_some_and(|local| local.is_empty()) && !self.cluster.is_empty()
    }

    /// Number of backends in its sets; those of both occur twice.
    pub fn backend_count(&self) -> usize {
        self.cluster.len() + self.local.as_ref().map_or(0, |local| local.len())
    }

    /// The backends that existing UDP flows keep; those of both sets occur twice.
    pub fn usable(&self) -> impl Iterator<Item = &Backend> {
        let local = self.local.iter().flatten();
        self.cluster.iter().chain(local).chain(&self.unselected)
    }
}

/// Kind of the address of a frontend. Where several claim one address and port, the first kind in
/// this order is served: what the cluster assigns precedes what users choose.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FrontendKind {
    /// A ClusterIP.
    ClusterIp,
    /// An address of a load balancer.
    LoadBalancer,
    /// An external IP.
    ExternalIp,
    /// A port at the addresses of this node; the address of the key is unspecified.
    NodePort,
}

impl FrontendKind {
    /// Whether the external traffic policy applies.
    pub fn is_external(self) -> bool {
        self != FrontendKind::ClusterIp
    }
}

impl fmt::Display for FrontendKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            FrontendKind::ClusterIp => "ClusterIP",
            FrontendKind::LoadBalancer => "LoadBalancer",
            FrontendKind::ExternalIp => "ExternalIP",
            FrontendKind::NodePort => "NodePort",
        })
    }
}

/// Desired properties of a frontend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrontendRow {
    /// Kind of its address.
    pub kind: FrontendKind,
    /// The traffic policy that applies to it.
    pub policy: TrafficPolicy,
    /// Whether it is the wildcard row of its address, which belongs to no Service port.
    pub wildcard: bool,
    /// Whether its clients are limited to the source ranges of the Service port.
    pub limited: bool,
}

impl FrontendRow {
    /// Its value in `FRONTENDS`, for a Service port with this id.
    pub fn value(self, service: u32) -> Frontend {
        let flag = |holds, flag| if holds { flag } else { 0 };
        let external = flag(self.kind.is_external(), frontend_flags::EXTERNAL);
        if self.wildcard {
            return Frontend { service: 0, flags: frontend_flags::WILDCARD | external };
        }
        let local = flag(self.policy == TrafficPolicy::Local, frontend_flags::LOCAL);
        let limited = flag(self.limited, frontend_flags::SOURCE_RANGES);
        Frontend { service, flags: external | local | limited }
    }

    /// Whether a client gets a backend of the Local set.
    pub fn uses_local_set(self, client_on_this_node: bool) -> bool {
        self.value(0).uses_local_set(client_on_this_node)
    }
}

/// The rows of one Service.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServiceRows {
    /// Its ports, each id once.
    pub ports: Vec<PortRow>,
    /// Its frontends, each key once, with the position of the port in `ports`; wildcard rows have
    /// none.
    pub frontends: Vec<(FrontendKey, Option<usize>, FrontendRow)>,
}
