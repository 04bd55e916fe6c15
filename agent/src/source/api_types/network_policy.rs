//! networking.k8s.io/v1 NetworkPolicy.
//!
//! Each part that can be left out of a policy without opening it is a [`Part`]: one that is not
//! understood, because a field has another type or is not known, spoils that part only, and the
//! conversion closes it. A field that this version does not know may restrict a rule.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::de::{DeserializeOwned, Error};
use serde::{Deserialize, Deserializer};

use super::{metadata, null_is_default};

/// A part, or why it is not understood.
#[derive(Clone, Debug)]
pub struct Part<T>(pub Result<T, String>);

impl<T: Default> Default for Part<T> {
    fn default() -> Part<T> {
        Part(Ok(T::default()))
    }
}

impl<'de, T: DeserializeOwned> Deserialize<'de> for Part<T> {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Part<T>, D::Error> {
        // What is not even a value, such as a map whose keys are numbers in YAML, spoils the part too.
        // Text that is not JSON ends the reading of the object as well.
        let value = serde_json::Value::deserialize(d).map_err(|e| e.to_string());
        let part = value.and_then(|v| serde_json::from_value(v).map_err(|e| e.to_string()));
        Ok(Part(part))
    }
}

/// A struct that is written as an object. Derived implementations read one from a list too, and an empty
/// list would be a rule that admits everything.
#[derive(Clone, Debug, Default)]
pub struct Obj<T>(pub T);

impl<'de, T: DeserializeOwned> Deserialize<'de> for Obj<T> {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Obj<T>, D::Error> {
        let object = serde_json::Map::deserialize(d)?;
        serde_json::from_value(object.into()).map(Obj).map_err(D::Error::custom)
    }
}

/// As [`null_is_default`], for the contents of a part.
pub(super) fn null_is_empty<'de, D: Deserializer<'de>, T: DeserializeOwned + Default>(
    d: D,
) -> Result<Part<T>, D::Error> {
    Ok(Option::deserialize(d)?.unwrap_or_default())
}

/// networking.k8s.io/v1 NetworkPolicy.
#[derive(Deserialize, Clone, Debug, Default)]
pub struct NetworkPolicy {
    /// Name, namespace.
    #[serde(default, deserialize_with = "metadata")]
    pub metadata: ObjectMeta,
    /// Pods and rules.
    #[serde(default, deserialize_with = "null_is_empty")]
    pub spec: Part<Obj<NetworkPolicySpec>>,
}

/// networking.k8s.io/v1 NetworkPolicySpec.
#[derive(Deserialize, Clone, Debug, Default)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NetworkPolicySpec {
    /// The pods that the policy selects.
    #[serde(default, deserialize_with = "null_is_empty")]
    pub pod_selector: Part<Obj<LabelSelector>>,
    /// `Ingress`, `Egress`; absent or empty: by the rules.
    #[serde(default, deserialize_with = "null_is_empty")]
    pub policy_types: Part<Vec<String>>,
    /// What may reach the pods.
    #[serde(default, deserialize_with = "null_is_empty")]
    pub ingress: Part<Vec<Part<Obj<IngressRule>>>>,
    /// What the pods may reach.
    #[serde(default, deserialize_with = "null_is_empty")]
    pub egress: Part<Vec<Part<Obj<EgressRule>>>>,
}

/// networking.k8s.io/v1 NetworkPolicyIngressRule.
#[derive(Deserialize, Clone, Debug, Default)]
#[serde(deny_unknown_fields)]
pub struct IngressRule {
    /// Ports of the pods; none: all.
    #[serde(default, deserialize_with = "null_is_default")]
    pub ports: Vec<Obj<PolicyPort>>,
    /// Clients; none: all.
    #[serde(default, deserialize_with = "null_is_default")]
    pub from: Vec<Obj<Peer>>,
}

/// networking.k8s.io/v1 NetworkPolicyEgressRule.
#[derive(Deserialize, Clone, Debug, Default)]
#[serde(deny_unknown_fields)]
pub struct EgressRule {
    /// Ports of the destinations; none: all.
    #[serde(default, deserialize_with = "null_is_default")]
    pub ports: Vec<Obj<PolicyPort>>,
    /// Destinations; none: all.
    #[serde(default, deserialize_with = "null_is_default")]
    pub to: Vec<Obj<Peer>>,
}

/// networking.k8s.io/v1 NetworkPolicyPeer.
#[derive(Deserialize, Clone, Debug, Default)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Peer {
    /// Pods with these labels.
    pub pod_selector: Option<Obj<LabelSelector>>,
    /// Pods in namespaces with these labels.
    pub namespace_selector: Option<Obj<LabelSelector>>,
    /// Addresses.
    pub ip_block: Option<Obj<IpBlock>>,
}

/// networking.k8s.io/v1 IPBlock.
#[derive(Deserialize, Clone, Debug, Default)]
#[serde(deny_unknown_fields)]
pub struct IpBlock {
    /// The range.
    #[serde(default)]
    pub cidr: String,
    /// Ranges within it that are not meant.
    #[serde(default, deserialize_with = "null_is_default")]
    pub except: Vec<String>,
}

/// networking.k8s.io/v1 NetworkPolicyPort.
#[derive(Deserialize, Clone, Debug, Default)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PolicyPort {
    /// `TCP` (also when absent), `UDP`, `SCTP`.
    pub protocol: Option<String>,
    /// Number or name; absent: all.
    pub port: Option<IntOrString>,
    /// Last port of a range.
    pub end_port: Option<i64>,
}

/// A number or a name.
#[derive(Deserialize, Clone, Debug)]
#[serde(untagged)]
pub enum IntOrString {
    /// A number.
    Int(i64),
    /// A name.
    String(String),
}

/// meta/v1 LabelSelector.
#[derive(Deserialize, Clone, Debug, Default)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct LabelSelector {
    /// Labels with these values.
    #[serde(default, deserialize_with = "null_is_default")]
    pub match_labels: BTreeMap<String, String>,
    /// Further requirements.
    #[serde(default, deserialize_with = "null_is_default")]
    pub match_expressions: Vec<Obj<LabelRequirement>>,
}

/// meta/v1 LabelSelectorRequirement.
#[derive(Deserialize, Clone, Debug, Default)]
#[serde(deny_unknown_fields)]
pub struct LabelRequirement {
    /// The label.
    #[serde(default)]
    pub key: String,
    /// `In`, `NotIn`, `Exists`, `DoesNotExist`.
    #[serde(default)]
    pub operator: String,
    /// The values.
    #[serde(default, deserialize_with = "null_is_default")]
    pub values: Vec<String>,
}
