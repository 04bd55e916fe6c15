//! Wire objects -> the model. Pure; the same for the API server and for folders.
//!
//! Fills in the API's defaults (the API server does it for its clients, files lack them), so that
//! the model need not know them. An object that makes no sense is ignored and named; a part that
//! makes no sense (one address, one port) is left out, as kube-proxy does.

use std::fmt;
use std::net::IpAddr;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use sluice_core::model::{
    AddressType, Endpoint, EndpointPort, EndpointSlice, Hints, Namespace, Node, Object, ObjectName,
    Pod, PodPhase, Port, Protocol, SERVICE_NAME_LABEL, Service, ServicePort, TrafficPolicy,
    ZONE_LABEL, hidden_by_label, parse_cidr, parse_ip,
};

use super::api_types;

/// Namespace of an object in a file that names none.
const DEFAULT_NAMESPACE: &str = "default";
/// Idle time of session affinity that the API fills in.
const DEFAULT_AFFINITY_SECONDS: u32 = 10_800;
/// Longest idle time that the API allows.
const MAX_AFFINITY_SECONDS: u32 = 86_400;

/// An object that is not taken.
#[derive(Debug, PartialEq, Eq)]
pub enum Ignored {
    /// It has no name; of this kind.
    NoName(&'static str),
}

impl fmt::Display for Ignored {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Ignored::NoName(kind) => write!(f, "{kind} without metadata.name"),
        }
    }
}

impl Ignored {
    /// Tells the log.
    pub fn log(&self) {
        tracing::warn!(reason = %self, "object ignored");
    }
}

/// Namespace (none for a cluster-wide object) and name.
pub fn object_name(meta: &ObjectMeta) -> ObjectName {
    ObjectName {
        namespace: meta.namespace.clone().unwrap_or_default(),
        name: meta.name.clone().unwrap_or_default(),
    }
}

fn cluster_name(kind: &'static str, meta: &ObjectMeta) -> Result<String, Ignored> {
    meta.name.clone().filter(|n| !n.is_empty()).ok_or(Ignored::NoName(kind))
}

fn namespaced(kind: &'static str, meta: &ObjectMeta) -> Result<ObjectName, Ignored> {
    let namespace = meta.namespace.clone().unwrap_or_else(|| DEFAULT_NAMESPACE.to_owned());
    Ok(ObjectName { namespace, name: cluster_name(kind, meta)? })
}

fn label<'a>(meta: &'a ObjectMeta, key: &str) -> Option<&'a str> {
    meta.labels.as_ref()?.get(key).map(String::as_str).filter(|v| !v.is_empty())
}

fn hidden(meta: &ObjectMeta) -> bool {
    meta.labels.as_ref().is_some_and(|l| hidden_by_label(l.keys().map(String::as_str)))
}

/// A list, or the single field that older writers fill.
fn list_or_single(list: Vec<String>, single: Option<String>) -> Vec<String> {
    if list.is_empty() { single.into_iter().collect() } else { list }
}

/// A Node.
pub fn node(o: api_types::Node) -> Result<Object, Ignored> {
    let name = cluster_name("Node", &o.metadata)?;
    let internal_ips = o
        .status
        .addresses
        .iter()
        .filter(|a| a.kind == "InternalIP")
        .filter_map(|a| parse_ip(&a.address))
        .collect();
    let pod_cidrs = list_or_single(o.spec.pod_cidrs, o.spec.pod_cidr)
        .iter()
        .filter_map(|c| parse_cidr(c))
        .collect();
    let zone = label(&o.metadata, ZONE_LABEL).map(str::to_owned);
    Ok(Object::Node(Node { name, internal_ips, pod_cidrs, zone }))
}

/// A Namespace.
pub fn namespace(o: api_types::Namespace) -> Result<Object, Ignored> {
    let name = cluster_name("Namespace", &o.metadata)?;
    Ok(Object::Namespace(Namespace { name, labels: o.metadata.labels.unwrap_or_default() }))
}

/// A Pod.
pub fn pod(o: api_types::Pod) -> Result<Object, Ignored> {
    let ips = list_or_single(
        o.status.pod_ips.into_iter().map(|p| p.ip).filter(|ip| !ip.is_empty()).collect(),
        o.status.pod_ip,
    );
    Ok(Object::Pod(Pod {
        name: namespaced("Pod", &o.metadata)?,
        uid: o.metadata.uid.unwrap_or_default(),
        phase: PodPhase::from_api(o.status.phase.as_deref()),
        host_network: o.spec.host_network.unwrap_or(false),
        ips: ips.iter().filter_map(|ip| parse_ip(ip)).collect(),
        node: o.spec.node_name.filter(|n| !n.is_empty()),
    }))
}

/// A Service.
pub fn service(o: api_types::Service) -> Result<Object, Ignored> {
    let name = namespaced("Service", &o.metadata)?;
    let spec = o.spec;
    let cluster_ips: Vec<IpAddr> = list_or_single(spec.cluster_ips, spec.cluster_ip)
        .iter()
        .filter_map(|ip| parse_ip(ip))
        .collect();
    let ports = spec
        .ports
        .into_iter()
        .filter_map(|p| {
            Some(ServicePort {
                protocol: Protocol::from_api(p.protocol.as_deref())?,
                port: Port::new(p.port)?,
                name: p.name.unwrap_or_default(),
            })
        })
        .collect();
    let session_affinity = (spec.session_affinity.as_deref() == Some("ClientIP")).then(|| {
        spec.session_affinity_config
            .and_then(|c| c.client_ip)
            .and_then(|c| c.timeout_seconds)
            .and_then(|s| u32::try_from(s).ok())
            .filter(|s| (1..=MAX_AFFINITY_SECONDS).contains(s))
            .unwrap_or(DEFAULT_AFFINITY_SECONDS)
    });
    Ok(Object::Service(Service {
        created: o.metadata.creation_timestamp.as_ref().map_or(0, |t| t.0.as_second()),
        hidden: hidden(&o.metadata),
        external_name: spec.kind.as_deref() == Some("ExternalName"),
        cluster_ips,
        ports,
        session_affinity,
        internal_traffic_policy: TrafficPolicy::from_api(spec.internal_traffic_policy.as_deref()),
        name,
    }))
}

/// An EndpointSlice.
pub fn endpoint_slice(o: api_types::EndpointSlice) -> Result<Object, Ignored> {
    let name = namespaced("EndpointSlice", &o.metadata)?;
    let ports = o
        .ports
        .into_iter()
        .filter_map(|p| {
            Some(EndpointPort {
                protocol: Protocol::from_api(p.protocol.as_deref())?,
                port: p.port.and_then(Port::new),
                // The API's default; only a file can lack it.
                name: Some(p.name.unwrap_or_default()),
            })
        })
        .collect();
    let endpoints = o.endpoints.into_iter().filter_map(endpoint).collect();
    Ok(Object::EndpointSlice(EndpointSlice {
        service: label(&o.metadata, SERVICE_NAME_LABEL).map(str::to_owned),
        hidden: hidden(&o.metadata),
        address_type: AddressType::from_api(&o.address_type),
        ports,
        endpoints,
        name,
    }))
}

/// An endpoint, if it has an address: names of the type FQDN are none.
fn endpoint(e: api_types::Endpoint) -> Option<Endpoint> {
    let address = parse_ip(e.addresses.first()?)?;
    let c = e.conditions.unwrap_or_default();
    let names = |list: Vec<api_types::Named>| list.into_iter().map(|n| n.name).collect();
    Some(Endpoint {
        address,
        ready: c.ready.unwrap_or(true),
        serving: c.serving.unwrap_or(true),
        terminating: c.terminating.unwrap_or(false),
        node_name: e.node_name.filter(|n| !n.is_empty()),
        hints: e
            .hints
            .map(|h| Hints { zones: names(h.for_zones), nodes: names(h.for_nodes) })
            .unwrap_or_default(),
    })
}

#[cfg(test)]
mod tests;
