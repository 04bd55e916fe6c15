//! API objects -> the model. Pure; the same for the API server and for manifests.
//!
//! Sets the defaults of the API, which the API server sets and manifests lack, so that the model has
//! none. An object without a name is rejected; a part that is not valid (an address, a port) is left
//! out, as in kube-proxy. In a NetworkPolicy it stays and matches nothing; in a ClusterNetworkPolicy it
//! closes its rule.

mod cluster_network_policy;
mod network_policy;
mod service;

use std::net::IpAddr;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::{Deserialize, Deserializer};
use sluice_core::model::{
    AddressType, ContainerPort, Endpoint, EndpointPort, EndpointSlice, Hints, Kind,
    NAMESPACE_NAME_LABEL, Namespace, Node, Object, ObjectName, Pod, PodPhase, Port, Protocol,
    SERVICE_NAME_LABEL, ServiceCidr, Uid, ZONE_LABEL, hidden_by_label, parse_cidr, parse_ip,
};

pub(super) use self::cluster_network_policy::cluster_network_policy;
pub(super) use self::network_policy::network_policy;
pub(super) use self::service::service;
use super::api_types;

/// Namespace of an object in a manifest that names none.
const DEFAULT_NAMESPACE: &str = "default";

/// Taint that the cluster autoscaler sets before it deletes a node.
const TO_BE_DELETED: &str = "ToBeDeletedByClusterAutoscaler";

/// An object that is ignored.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConvertError {
    /// The object has no name.
    #[error("{0} without metadata.name")]
    NoName(&'static str),
    /// A field has another type than in the API.
    #[error("{kind}: {problem}")]
    Structure {
        /// Kind of the object.
        kind: &'static str,
        /// Field and types.
        problem: String,
    },
}

impl ConvertError {
    /// Logs that the object is ignored.
    pub(super) fn log(&self) {
        tracing::warn!(error = %self, "object ignored");
    }
}

/// Converts an object of `kind` from any format.
///
/// # Errors
/// The object does not have the structure of the kind, or it has no name.
pub fn object<'de, D: Deserializer<'de>>(
    kind: Kind,
    deserializer: D,
) -> Result<Object, ConvertError> {
    fn typed<'de, T: Deserialize<'de>, D: Deserializer<'de>>(
        kind: Kind,
        deserializer: D,
        convert: fn(T) -> Result<Object, ConvertError>,
    ) -> Result<Object, ConvertError> {
        T::deserialize(deserializer)
            .map_err(|e| ConvertError::Structure { kind: kind_name(kind), problem: e.to_string() })
            .and_then(convert)
    }
    match kind {
        Kind::Node => typed(kind, deserializer, node),
        Kind::Namespace => typed(kind, deserializer, namespace),
        Kind::Pod => typed(kind, deserializer, pod),
        Kind::Service => typed(kind, deserializer, service),
        Kind::EndpointSlice => typed(kind, deserializer, endpoint_slice),
        Kind::ServiceCidr => typed(kind, deserializer, service_cidr),
        Kind::NetworkPolicy => typed(kind, deserializer, network_policy),
        Kind::ClusterNetworkPolicy => typed(kind, deserializer, cluster_network_policy),
    }
}

/// Converts the JSON of an object of `kind`, as the API server sends it.
///
/// # Errors
/// The bytes are not JSON or not an object of the kind, or the object has no name.
pub fn from_json(kind: Kind, json: &[u8]) -> Result<Object, ConvertError> {
    let mut deserializer = serde_json::Deserializer::from_slice(json);
    let object = object(kind, &mut deserializer)?;
    deserializer
        .end()
        .map_err(|e| ConvertError::Structure { kind: kind_name(kind), problem: e.to_string() })?;
    Ok(object)
}

/// The kind with this name in the API; `None` for kinds that Sluice does not read.
pub fn kind_from_name(name: &str) -> Option<Kind> {
    Kind::ALL.into_iter().find(|kind| kind_name(*kind) == name)
}

/// `apiVersion` of a kind that Sluice reports Events on.
pub const fn api_version(kind: Kind) -> Option<&'static str> {
    match kind {
        Kind::Service | Kind::Pod | Kind::Node => Some("v1"),
        Kind::EndpointSlice => Some("discovery.k8s.io/v1"),
        Kind::NetworkPolicy => Some("networking.k8s.io/v1"),
        Kind::ClusterNetworkPolicy => Some("policy.networking.k8s.io/v1alpha2"),
        Kind::Namespace | Kind::ServiceCidr => None,
    }
}

/// Name of a kind in the API.
pub const fn kind_name(kind: Kind) -> &'static str {
    match kind {
        Kind::Node => "Node",
        Kind::Namespace => "Namespace",
        Kind::Pod => "Pod",
        Kind::Service => "Service",
        Kind::EndpointSlice => "EndpointSlice",
        Kind::ServiceCidr => "ServiceCIDR",
        Kind::NetworkPolicy => "NetworkPolicy",
        Kind::ClusterNetworkPolicy => "ClusterNetworkPolicy",
    }
}

/// Namespace (empty for a cluster-wide object) and name.
pub(super) fn object_name(meta: &ObjectMeta) -> ObjectName {
    ObjectName {
        namespace: meta.namespace.as_deref().unwrap_or_default().into(),
        name: meta.name.as_deref().unwrap_or_default().into(),
    }
}

fn cluster_name(kind: Kind, meta: &ObjectMeta) -> Result<String, ConvertError> {
    meta.name.clone().filter(|n| !n.is_empty()).ok_or(ConvertError::NoName(kind_name(kind)))
}

fn namespaced(kind: Kind, meta: &ObjectMeta) -> Result<ObjectName, ConvertError> {
    let namespace = meta.namespace.as_deref().filter(|n| !n.is_empty());
    let namespace = namespace.unwrap_or(DEFAULT_NAMESPACE);
    Ok(ObjectName::new(namespace, cluster_name(kind, meta)?))
}

fn label<'a>(meta: &'a ObjectMeta, key: &str) -> Option<&'a str> {
    meta.labels.as_ref()?.get(key).map(String::as_str).filter(|v| !v.is_empty())
}

fn hidden(meta: &ObjectMeta) -> bool {
    meta.labels.as_ref().is_some_and(|l| hidden_by_label(l.keys().map(String::as_str)))
}

/// A list, or the singular field that older clients set.
fn list_or_single(list: Vec<String>, single: Option<String>) -> Vec<String> {
    if list.is_empty() { single.into_iter().collect() } else { list }
}

/// Converts a Node.
pub(super) fn node(o: api_types::Node) -> Result<Object, ConvertError> {
    let name = cluster_name(Kind::Node, &o.metadata)?;
    let addresses = |kind| {
        let of_kind = o.status.addresses.iter().filter(move |a| a.kind == kind);
        of_kind.filter_map(|a| parse_ip(&a.address)).collect()
    };
    let (internal_ips, external_ips) = (addresses("InternalIP"), addresses("ExternalIP"));
    let pod_cidrs = list_or_single(o.spec.pod_cidrs, o.spec.pod_cidr)
        .iter()
        .filter_map(|c| parse_cidr(c))
        .collect();
    let zone = label(&o.metadata, ZONE_LABEL).map(str::to_owned);
    let leaving = o.metadata.deletion_timestamp.is_some()
        || o.spec.taints.iter().any(|taint| taint.key == TO_BE_DELETED);
    let labels = o.metadata.labels.unwrap_or_default().into_iter().collect();
    Ok(Object::Node(Node { name, internal_ips, external_ips, pod_cidrs, labels, zone, leaving }))
}

/// Converts a Namespace.
pub(super) fn namespace(o: api_types::Namespace) -> Result<Object, ConvertError> {
    let name = cluster_name(Kind::Namespace, &o.metadata)?;
    let mut labels = o.metadata.labels.unwrap_or_default();
    // The API server sets it, whatever a client writes.
    labels.insert(NAMESPACE_NAME_LABEL.to_owned(), name.clone());
    Ok(Object::Namespace(Namespace { name, labels }))
}

/// Converts a Pod.
pub(super) fn pod(o: api_types::Pod) -> Result<Object, ConvertError> {
    let ips = list_or_single(
        o.status.pod_ips.into_iter().map(|p| p.ip).filter(|ip| !ip.is_empty()).collect(),
        o.status.pod_ip,
    );
    let sidecar = |c: &api_types::Container| c.restart_policy.as_deref() == Some("Always");
    let sidecars = o.spec.init_containers.into_iter().filter(sidecar);
    let ports = o.spec.containers.into_iter().chain(sidecars).flat_map(|c| c.ports);
    let named = |p: api_types::ContainerPort| {
        Some(ContainerPort {
            name: p.name.filter(|name| !name.is_empty())?.into(),
            protocol: Protocol::from_api(p.protocol.as_deref())?,
            port: Port::new(p.container_port)?,
        })
    };
    Ok(Object::Pod(Pod {
        name: namespaced(Kind::Pod, &o.metadata)?,
        uid: o.metadata.uid.as_deref().and_then(Uid::from_api),
        terminating: o.metadata.deletion_timestamp.is_some(),
        labels: o.metadata.labels.unwrap_or_default().into_iter().collect(),
        ports: ports.filter_map(named).collect(),
        phase: PodPhase::from_api(o.status.phase.as_deref()),
        host_network: o.spec.host_network.unwrap_or(false),
        ips: ips.iter().filter_map(|ip| parse_ip(ip)).collect(),
        node: o.spec.node_name.filter(|n| !n.is_empty()).map(Into::into),
    }))
}

/// Converts an EndpointSlice.
pub(super) fn endpoint_slice(o: api_types::EndpointSlice) -> Result<Object, ConvertError> {
    let name = namespaced(Kind::EndpointSlice, &o.metadata)?;
    let ports = o
        .ports
        .into_iter()
        .filter_map(|p| {
            Some(EndpointPort {
                protocol: Protocol::from_api(p.protocol.as_deref())?,
                port: p.port.and_then(Port::new),
                // The default of the API; absent in manifests only.
                name: p.name.unwrap_or_default().into(),
            })
        })
        .collect();
    let mut addresses = o.endpoints.iter().filter_map(|e| e.address.0);
    let invalid = addresses.find(|address| !is_routable(address)).map(Box::new);
    let endpoints = o.endpoints.into_iter().filter_map(endpoint).collect();
    Ok(Object::EndpointSlice(EndpointSlice {
        service: label(&o.metadata, SERVICE_NAME_LABEL).map(Into::into),
        hidden: hidden(&o.metadata),
        address_type: AddressType::from_api(&o.address_type),
        ports,
        endpoints,
        invalid,
        trigger: trigger(&o.metadata),
        name,
    }))
}

/// When the Pod or Service changed that caused the last change of a slice.
fn trigger(meta: &ObjectMeta) -> Option<i64> {
    let time = meta.annotations.as_ref()?.get(api_types::TRIGGER)?;
    time.parse::<jiff::Timestamp>().ok().map(jiff::Timestamp::as_millisecond)
}

/// Whether an address identifies one host beyond its own link: the API accepts no other one for an
/// endpoint or an external IP, but a manifest may have one.
fn is_routable(address: &IpAddr) -> bool {
    let link_local = match address {
        IpAddr::V4(a) => a.is_link_local(),
        IpAddr::V6(a) => a.is_unicast_link_local(),
    };
    is_unicast(address) && !link_local
}

/// Whether an address is that of one host other than this one.
fn is_unicast(address: &IpAddr) -> bool {
    let broadcast = matches!(address, IpAddr::V4(a) if a.is_broadcast());
    !(address.is_unspecified() || address.is_loopback() || address.is_multicast() || broadcast)
}

/// Converts an endpoint; `None` without an IP address, as in slices of type FQDN, or with one that is
/// not routable.
fn endpoint(e: api_types::Endpoint) -> Option<Endpoint> {
    let address = e.address.0.filter(is_routable)?;
    let c = e.conditions.unwrap_or_default();
    let names = |list: Vec<api_types::Named>| list.into_iter().map(|n| n.name).collect();
    Some(Endpoint {
        address,
        ready: c.ready.unwrap_or(true),
        serving: c.serving.unwrap_or(true),
        terminating: c.terminating.unwrap_or(false),
        node_name: e.node_name,
        hints: e
            .hints
            .map(|h| Hints { zones: names(h.for_zones), nodes: names(h.for_nodes) })
            .filter(|h| !h.zones.is_empty() || !h.nodes.is_empty())
            .map(Box::new),
        target: e.target_ref.filter(|target| target.is_pod).and_then(|target| target.uid),
    })
}

/// Converts a ServiceCIDR.
pub(super) fn service_cidr(o: api_types::ServiceCIDR) -> Result<Object, ConvertError> {
    let name = cluster_name(Kind::ServiceCidr, &o.metadata)?;
    let cidrs = o.spec.cidrs.iter().filter_map(|c| parse_cidr(c)).collect();
    Ok(Object::ServiceCidr(ServiceCidr { name, cidrs }))
}

#[cfg(test)]
mod tests;
