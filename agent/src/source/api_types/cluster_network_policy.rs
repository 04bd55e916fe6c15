//! policy.networking.k8s.io/v1alpha2 ClusterNetworkPolicy, and its definition.
//!
//! As for NetworkPolicies, each [`Part`] that is not understood is closed by the conversion. Objects that
//! have an action or a tier keep their unknown fields, so that these are known all the same.

use std::borrow::Cow;
use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::core::ClusterResourceScope;
use serde::Deserialize;
use serde::de::IgnoredAny;

use super::network_policy::{LabelSelector, Obj, Part, null_is_empty};
use super::{metadata, null_is_default, resource};

resource!(
    ClusterNetworkPolicy,
    "policy.networking.k8s.io",
    "v1alpha2",
    "clusternetworkpolicies",
    ClusterResourceScope
);
resource!(
    CustomResourceDefinition,
    "apiextensions.k8s.io",
    "v1",
    "customresourcedefinitions",
    ClusterResourceScope
);

/// Fields that are not known.
pub type Unknown = BTreeMap<String, IgnoredAny>;

/// policy.networking.k8s.io/v1alpha2 ClusterNetworkPolicy.
#[derive(Deserialize, Clone, Debug, Default)]
pub struct ClusterNetworkPolicy {
    /// Name.
    #[serde(default, deserialize_with = "metadata")]
    pub metadata: ObjectMeta,
    /// Pods and rules.
    #[serde(default, deserialize_with = "null_is_empty")]
    pub spec: Part<Obj<ClusterNetworkPolicySpec>>,
}

/// policy.networking.k8s.io/v1alpha2 ClusterNetworkPolicySpec.
#[derive(Deserialize, Clone, Debug, Default)]
pub struct ClusterNetworkPolicySpec {
    /// `Admin`, `Baseline`.
    #[serde(default)]
    pub tier: Part<Option<String>>,
    /// 0 to 1000.
    #[serde(default)]
    pub priority: Part<Option<i64>>,
    /// Pods.
    #[serde(default)]
    pub subject: Part<Option<Obj<Subject>>>,
    /// What the pods may receive.
    #[serde(default, deserialize_with = "null_is_empty")]
    pub ingress: Part<Vec<Part<Obj<ClusterRule>>>>,
    /// What the pods may send.
    #[serde(default, deserialize_with = "null_is_empty")]
    pub egress: Part<Vec<Part<Obj<ClusterRule>>>>,
    /// The rest.
    #[serde(flatten)]
    pub unknown: Unknown,
}

/// policy.networking.k8s.io/v1alpha2 ClusterNetworkPolicySubject.
#[derive(Deserialize, Clone, Debug, Default)]
#[serde(deny_unknown_fields)]
pub struct Subject {
    /// All pods of namespaces.
    pub namespaces: Option<Obj<LabelSelector>>,
    /// Some pods of namespaces.
    pub pods: Option<Obj<NamespacedPods>>,
}

/// policy.networking.k8s.io/v1alpha2 NamespacedPod.
#[derive(Deserialize, Clone, Debug, Default)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NamespacedPods {
    /// Their namespaces; absent: all.
    #[serde(default, deserialize_with = "null_is_default")]
    pub namespace_selector: Obj<LabelSelector>,
    /// The pods; required.
    pub pod_selector: Option<Obj<LabelSelector>>,
}

/// policy.networking.k8s.io/v1alpha2 ClusterNetworkPolicyIngressRule or ClusterNetworkPolicyEgressRule.
#[derive(Deserialize, Clone, Debug, Default)]
pub struct ClusterRule {
    /// For people.
    #[serde(default)]
    pub name: Part<Option<String>>,
    /// `Accept`, `Deny`, `Pass`.
    #[serde(default)]
    pub action: Part<Option<String>>,
    /// Clients of a rule of ingress.
    #[serde(default)]
    pub from: Part<Option<Vec<Part<Obj<ClusterPeer>>>>>,
    /// Destinations of a rule of egress.
    #[serde(default)]
    pub to: Part<Option<Vec<Part<Obj<ClusterPeer>>>>>,
    /// Protocols and destination ports; absent: all.
    #[serde(default)]
    pub protocols: Part<Option<Vec<Part<Obj<ClusterProtocol>>>>>,
    /// The rest.
    #[serde(flatten)]
    pub unknown: Unknown,
}

/// policy.networking.k8s.io/v1alpha2 ClusterNetworkPolicyIngressPeer or ClusterNetworkPolicyEgressPeer.
#[derive(Deserialize, Clone, Debug, Default)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ClusterPeer {
    /// All pods of namespaces.
    pub namespaces: Option<Obj<LabelSelector>>,
    /// Some pods of namespaces.
    pub pods: Option<Obj<NamespacedPods>>,
    /// Nodes; egress only.
    pub nodes: Option<Obj<LabelSelector>>,
    /// CIDRs; egress only.
    pub networks: Option<Vec<String>>,
    /// Domain names; egress only.
    pub domain_names: Option<Vec<String>>,
}

/// policy.networking.k8s.io/v1alpha2 ClusterNetworkPolicyProtocol.
#[derive(Deserialize, Clone, Debug, Default)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ClusterProtocol {
    /// TCP.
    pub tcp: Option<Obj<DestinationPort>>,
    /// UDP.
    pub udp: Option<Obj<DestinationPort>>,
    /// SCTP.
    pub sctp: Option<Obj<DestinationPort>>,
    /// Name of a container port of any protocol.
    pub destination_named_port: Option<String>,
}

/// policy.networking.k8s.io/v1alpha2 ClusterNetworkPolicyProtocolTCP, -UDP or -SCTP.
#[derive(Deserialize, Clone, Debug, Default)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct DestinationPort {
    /// The port; required.
    pub destination_port: Option<Obj<Ports>>,
}

/// policy.networking.k8s.io/v1alpha2 Port.
#[derive(Deserialize, Clone, Debug, Default)]
#[serde(deny_unknown_fields)]
pub struct Ports {
    /// One port.
    pub number: Option<i64>,
    /// Several ports.
    pub range: Option<Obj<Range>>,
}

/// policy.networking.k8s.io/v1alpha2 PortRange.
#[derive(Deserialize, Clone, Debug, Default)]
#[serde(deny_unknown_fields)]
pub struct Range {
    /// First port.
    pub start: i64,
    /// Last port.
    pub end: i64,
}

/// apiextensions.k8s.io/v1 CustomResourceDefinition, metadata only.
#[derive(Deserialize, Clone, Debug, Default)]
pub struct CustomResourceDefinition {
    /// Name.
    #[serde(default, deserialize_with = "metadata")]
    pub metadata: ObjectMeta,
}
