//! core/v1 Pod.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::Deserialize;

use super::{metadata, null_is_default};

/// core/v1 Pod.
#[derive(Deserialize, Clone, Debug, Default)]
pub struct Pod {
    /// Name, namespace, uid.
    #[serde(default, deserialize_with = "metadata")]
    pub metadata: ObjectMeta,
    /// Node and network mode.
    #[serde(default)]
    pub spec: PodSpec,
    /// Phase and addresses.
    #[serde(default)]
    pub status: PodStatus,
}

/// core/v1 PodSpec.
#[derive(Deserialize, Clone, Debug, Default)]
#[serde(rename_all = "camelCase")]
pub struct PodSpec {
    /// Name of the node.
    pub node_name: Option<String>,
    /// Whether the pod uses the network namespace of the node.
    pub host_network: Option<bool>,
    /// Containers.
    #[serde(default, deserialize_with = "null_is_default")]
    pub containers: Vec<Container>,
    /// Init containers; those with restart policy Always run as long as the others.
    #[serde(default, deserialize_with = "null_is_default")]
    pub init_containers: Vec<Container>,
}

/// core/v1 Container.
#[derive(Deserialize, Clone, Debug, Default)]
#[serde(rename_all = "camelCase")]
pub struct Container {
    /// Ports.
    #[serde(default, deserialize_with = "null_is_default")]
    pub ports: Vec<ContainerPort>,
    /// `Always` makes an init container a sidecar.
    pub restart_policy: Option<String>,
}

/// core/v1 ContainerPort.
#[derive(Deserialize, Clone, Debug, Default)]
#[serde(rename_all = "camelCase")]
pub struct ContainerPort {
    /// Name.
    pub name: Option<String>,
    /// `TCP` (also when absent), `UDP`, `SCTP`.
    pub protocol: Option<String>,
    /// Number.
    #[serde(default)]
    pub container_port: i64,
}

/// core/v1 PodStatus.
#[derive(Deserialize, Clone, Debug, Default)]
pub struct PodStatus {
    /// `Pending`, `Running`, `Succeeded`, `Failed`, `Unknown`.
    pub phase: Option<String>,
    /// First address.
    #[serde(rename = "podIP")]
    pub pod_ip: Option<String>,
    /// One address per family.
    #[serde(rename = "podIPs", default, deserialize_with = "null_is_default")]
    pub pod_ips: Vec<PodIp>,
}

/// core/v1 PodIP.
#[derive(Deserialize, Clone, Debug, Default)]
pub struct PodIp {
    /// The address.
    #[serde(default)]
    pub ip: String,
}
