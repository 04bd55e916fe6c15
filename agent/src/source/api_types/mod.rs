//! Kubernetes API types with only the fields that Sluice reads.
//!
//! Input: JSON from the API server, YAML from manifests. [`super::convert`] turns them into the
//! model. Other fields are skipped while parsing, which saves memory and time on large objects.
//! These types are private to [`super`].

mod cluster_network_policy;
mod endpoint_slice;
mod network_policy;
mod pod;
mod service_cidr;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use kube::core::{ClusterResourceScope, NamespaceResourceScope};
use serde::de::Visitor;
use serde::{Deserialize, Deserializer};
use sluice_core::model::{HEADLESS_LABEL, SERVICE_NAME_LABEL, SERVICE_PROXY_NAME_LABEL};

pub use self::cluster_network_policy::{
    ClusterNetworkPolicy, ClusterPeer, ClusterProtocol, ClusterRule, CustomResourceDefinition,
    DestinationPort, NamespacedPods, Subject, Unknown,
};
pub use self::endpoint_slice::{Endpoint, EndpointSlice, Named};
pub use self::network_policy::{
    IntOrString, IpBlock, LabelSelector, NetworkPolicy, NetworkPolicySpec, Obj, Part, Peer,
    PolicyPort,
};
pub use self::pod::{Container, ContainerPort, Pod};
pub use self::service_cidr::ServiceCIDR;

/// The metadata fields in use; the others of `ObjectMeta` stay empty.
#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase")]
struct Metadata<L> {
    name: Option<String>,
    namespace: Option<String>,
    uid: Option<String>,
    resource_version: Option<String>,
    creation_timestamp: Option<Time>,
    deletion_timestamp: Option<Time>,
    labels: Option<L>,
    annotations: Option<Annotations>,
}

/// Key of [`Annotations::trigger`].
pub const TRIGGER: &str = "endpoints.kubernetes.io/last-change-trigger-time";

/// The annotation in use, of EndpointSlices.
#[derive(Deserialize, Default)]
struct Annotations {
    #[serde(rename = "endpoints.kubernetes.io/last-change-trigger-time")]
    trigger: Option<String>,
}

/// The labels in use of Services and EndpointSlices, of which a cluster has many.
#[derive(Deserialize)]
struct ServiceLabels {
    #[serde(rename = "kubernetes.io/service-name", default, deserialize_with = "present")]
    name: Option<String>,
    #[serde(
        rename = "service.kubernetes.io/service-proxy-name",
        default,
        deserialize_with = "present"
    )]
    proxy_name: Option<String>,
    #[serde(rename = "service.kubernetes.io/headless", default, deserialize_with = "present")]
    headless: Option<String>,
}

/// A label is present whatever its value is; the API server treats `null` as an empty string.
fn present<'de, D: Deserializer<'de>>(d: D) -> Result<Option<String>, D::Error> {
    null_is_default(d).map(Some)
}

impl From<ServiceLabels> for BTreeMap<String, String> {
    fn from(labels: ServiceLabels) -> BTreeMap<String, String> {
        let ServiceLabels { name, proxy_name, headless } = labels;
        let of = |key: &str, value: Option<String>| Some((key.to_owned(), value?));
        let all = [
            of(SERVICE_NAME_LABEL, name),
            of(SERVICE_PROXY_NAME_LABEL, proxy_name),
            of(HEADLESS_LABEL, headless),
        ];
        all.into_iter().flatten().collect()
    }
}

fn metadata<'de, D: Deserializer<'de>>(d: D) -> Result<ObjectMeta, D::Error> {
    metadata_with::<BTreeMap<_, _>, D>(d)
}

/// Metadata with [`ServiceLabels`] only.
fn metadata_of_service<'de, D: Deserializer<'de>>(d: D) -> Result<ObjectMeta, D::Error> {
    metadata_with::<ServiceLabels, D>(d)
}

fn metadata_with<'de, L, D>(d: D) -> Result<ObjectMeta, D::Error>
where
    L: Deserialize<'de> + Into<BTreeMap<String, String>>,
    D: Deserializer<'de>,
{
    let m = Metadata::<L>::deserialize(d)?;
    Ok(ObjectMeta {
        name: m.name,
        namespace: m.namespace,
        uid: m.uid,
        resource_version: m.resource_version,
        creation_timestamp: m.creation_timestamp,
        deletion_timestamp: m.deletion_timestamp,
        labels: m.labels.map(Into::into),
        annotations: m
            .annotations
            .and_then(|a| Some(BTreeMap::from([(TRIGGER.to_owned(), a.trigger?)]))),
        ..ObjectMeta::default()
    })
}

/// Accepts `null` for an absent list or struct, as Go encodes a nil slice.
fn null_is_default<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(
    d: D,
) -> Result<T, D::Error> {
    Ok(Option::deserialize(d)?.unwrap_or_default())
}

/// Converts a text while it is parsed, without a copy.
fn text<'de, D: Deserializer<'de>, T>(d: D, convert: fn(&str) -> T) -> Result<T, D::Error> {
    struct Text<T>(fn(&str) -> T);
    impl<T> Visitor<'_> for Text<T> {
        type Value = T;
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a string")
        }
        fn visit_str<E>(self, text: &str) -> Result<T, E> {
            Ok((self.0)(text))
        }
    }
    d.deserialize_str(Text(convert))
}

macro_rules! resource {
    ($type:ident, $group:literal, $version:literal, $plural:literal, $scope:ty) => {
        impl kube::Resource for $type {
            type DynamicType = ();
            type Scope = $scope;
            fn kind(_: &()) -> Cow<'_, str> {
                stringify!($type).into()
            }
            fn group(_: &()) -> Cow<'_, str> {
                $group.into()
            }
            fn version(_: &()) -> Cow<'_, str> {
                $version.into()
            }
            fn plural(_: &()) -> Cow<'_, str> {
                $plural.into()
            }
            fn meta(&self) -> &ObjectMeta {
                &self.metadata
            }
            fn meta_mut(&mut self) -> &mut ObjectMeta {
                &mut self.metadata
            }
        }
    };
}

use resource;

resource!(Node, "", "v1", "nodes", ClusterResourceScope);
resource!(Namespace, "", "v1", "namespaces", ClusterResourceScope);
resource!(Pod, "", "v1", "pods", NamespaceResourceScope);
resource!(Service, "", "v1", "services", NamespaceResourceScope);
resource!(NetworkPolicy, "networking.k8s.io", "v1", "networkpolicies", NamespaceResourceScope);
resource!(ServiceCIDR, "networking.k8s.io", "v1", "servicecidrs", ClusterResourceScope);

/// core/v1 Node.
#[derive(Deserialize, Clone, Debug, Default)]
pub struct Node {
    /// Name and labels.
    #[serde(default, deserialize_with = "metadata")]
    pub metadata: ObjectMeta,
    /// Pod CIDRs.
    #[serde(default)]
    pub spec: NodeSpec,
    /// Addresses.
    #[serde(default)]
    pub status: NodeStatus,
}

/// core/v1 NodeSpec.
#[derive(Deserialize, Clone, Debug, Default)]
pub struct NodeSpec {
    /// First pod CIDR; older clients set only this field.
    #[serde(rename = "podCIDR")]
    pub pod_cidr: Option<String>,
    /// One pod CIDR per family.
    #[serde(rename = "podCIDRs", default, deserialize_with = "null_is_default")]
    pub pod_cidrs: Vec<String>,
    /// Taints; only the keys are read.
    #[serde(default, deserialize_with = "null_is_default")]
    pub taints: Vec<Taint>,
}

/// core/v1 Taint.
#[derive(Deserialize, Clone, Debug, Default)]
pub struct Taint {
    /// Key.
    #[serde(default)]
    pub key: String,
}

/// core/v1 NodeStatus.
#[derive(Deserialize, Clone, Debug, Default)]
pub struct NodeStatus {
    /// Addresses of every type.
    #[serde(default, deserialize_with = "null_is_default")]
    pub addresses: Vec<NodeAddress>,
}

/// core/v1 NodeAddress.
#[derive(Deserialize, Clone, Debug, Default)]
pub struct NodeAddress {
    /// `InternalIP`, `Hostname`, ...
    #[serde(rename = "type", default)]
    pub kind: String,
    /// An address or a name, depending on the type.
    #[serde(default)]
    pub address: String,
}

/// core/v1 Namespace, metadata only.
#[derive(Deserialize, Clone, Debug, Default)]
pub struct Namespace {
    /// Name and labels.
    #[serde(default, deserialize_with = "metadata")]
    pub metadata: ObjectMeta,
}

/// core/v1 Service.
#[derive(Deserialize, Clone, Debug, Default)]
pub struct Service {
    /// Name, namespace, labels that hide it, creation time.
    #[serde(default, deserialize_with = "metadata_of_service")]
    pub metadata: ObjectMeta,
    /// Addresses, ports, policies.
    #[serde(default)]
    pub spec: ServiceSpec,
    /// Addresses of load balancers.
    #[serde(default)]
    pub status: ServiceStatus,
}

/// core/v1 ServiceSpec.
#[derive(Deserialize, Clone, Debug, Default)]
#[serde(rename_all = "camelCase")]
pub struct ServiceSpec {
    /// `ClusterIP`, `NodePort`, `LoadBalancer`, `ExternalName`.
    #[serde(rename = "type")]
    pub kind: Option<String>,
    /// First ClusterIP, or `None` for a headless Service.
    #[serde(rename = "clusterIP")]
    pub cluster_ip: Option<String>,
    /// One ClusterIP per family.
    #[serde(rename = "clusterIPs", default, deserialize_with = "null_is_default")]
    pub cluster_ips: Vec<String>,
    /// Ports.
    #[serde(default, deserialize_with = "null_is_default")]
    pub ports: Vec<ServicePort>,
    /// `None` or `ClientIP`.
    pub session_affinity: Option<String>,
    /// Timeout of the affinity.
    pub session_affinity_config: Option<SessionAffinityConfig>,
    /// `Cluster` or `Local`.
    pub internal_traffic_policy: Option<String>,
    /// Whether endpoints are ready whatever their Pods report.
    pub publish_not_ready_addresses: Option<bool>,
    /// `Cluster` or `Local`.
    pub external_traffic_policy: Option<String>,
    /// Addresses of any origin.
    #[serde(rename = "externalIPs", default, deserialize_with = "null_is_default")]
    pub external_ips: Vec<String>,
    /// CIDRs of the clients of load balancers.
    #[serde(default, deserialize_with = "null_is_default")]
    pub load_balancer_source_ranges: Vec<String>,
    /// Port of the health checks of load balancers.
    pub health_check_node_port: Option<i64>,
}

/// core/v1 ServiceStatus.
#[derive(Deserialize, Clone, Debug, Default)]
#[serde(rename_all = "camelCase")]
pub struct ServiceStatus {
    /// State of the load balancer.
    #[serde(default, deserialize_with = "null_is_default")]
    pub load_balancer: LoadBalancerStatus,
}

/// core/v1 LoadBalancerStatus.
#[derive(Deserialize, Clone, Debug, Default)]
pub struct LoadBalancerStatus {
    /// Where clients send packets.
    #[serde(default, deserialize_with = "null_is_default")]
    pub ingress: Vec<LoadBalancerIngress>,
}

/// core/v1 LoadBalancerIngress.
#[derive(Deserialize, Clone, Debug, Default)]
#[serde(rename_all = "camelCase")]
pub struct LoadBalancerIngress {
    /// Address; absent if the load balancer has a name.
    pub ip: Option<String>,
    /// `VIP` (also when absent): packets reach nodes with this address; `Proxy`: they do not.
    pub ip_mode: Option<String>,
}

/// core/v1 ServicePort.
#[derive(Deserialize, Clone, Debug, Default)]
pub struct ServicePort {
    /// Name, equal to that of the EndpointSlice's port.
    pub name: Option<String>,
    /// `TCP` (also when absent), `UDP`, `SCTP`.
    pub protocol: Option<String>,
    /// Port at the ClusterIP.
    #[serde(default)]
    pub port: i64,
    /// Port at every node; absent or 0: none.
    #[serde(rename = "nodePort")]
    pub node_port: Option<i64>,
}

/// core/v1 SessionAffinityConfig.
#[derive(Deserialize, Clone, Debug, Default)]
pub struct SessionAffinityConfig {
    /// Settings of `ClientIP`.
    #[serde(rename = "clientIP")]
    pub client_ip: Option<ClientIpConfig>,
}

/// core/v1 ClientIPConfig.
#[derive(Deserialize, Clone, Debug, Default)]
#[serde(rename_all = "camelCase")]
pub struct ClientIpConfig {
    /// Seconds, 1 to 86400.
    pub timeout_seconds: Option<i64>,
}
