//! discovery.k8s.io/v1 EndpointSlice.
//!
//! A list of a large cluster has hundreds of thousands of endpoints: their texts are converted while
//! they are parsed.

use std::borrow::Cow;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::core::NamespaceResourceScope;
use serde::de::{SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use sluice_core::model::{Uid, parse_ip};

use super::{metadata_of_service, null_is_default, resource, text};

resource!(EndpointSlice, "discovery.k8s.io", "v1", "endpointslices", NamespaceResourceScope);

/// The first address of a list; `None` if it is empty or the first text is not an address.
#[derive(Clone, Copy, Debug, Default)]
pub struct FirstAddress(pub Option<IpAddr>);

impl<'de> Deserialize<'de> for FirstAddress {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<FirstAddress, D::Error> {
        struct Addresses;
        impl<'de> Visitor<'de> for Addresses {
            type Value = FirstAddress;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of strings")
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<FirstAddress, A::Error> {
                let first = list.next_element::<Address>()?;
                while list.next_element::<Address>()?.is_some() {}
                Ok(FirstAddress(first.and_then(|address| address.0)))
            }
        }
        d.deserialize_seq(Addresses)
    }
}

struct Address(Option<IpAddr>);

impl<'de> Deserialize<'de> for Address {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Address, D::Error> {
        text(d, parse_ip).map(Address)
    }
}

struct Name(Option<Arc<str>>);

impl<'de> Deserialize<'de> for Name {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Name, D::Error> {
        text(d, |name| (!name.is_empty()).then(|| name.into())).map(Name)
    }
}

fn name<'de, D: Deserializer<'de>>(d: D) -> Result<Option<Arc<str>>, D::Error> {
    Ok(Option::<Name>::deserialize(d)?.and_then(|name| name.0))
}

fn is_pod<'de, D: Deserializer<'de>>(d: D) -> Result<bool, D::Error> {
    text(d, |kind| kind == "Pod")
}

fn uid<'de, D: Deserializer<'de>>(d: D) -> Result<Option<Uid>, D::Error> {
    text(d, Uid::from_api)
}

/// discovery.k8s.io/v1 EndpointSlice.
#[derive(Deserialize, Clone, Debug, Default)]
#[serde(rename_all = "camelCase")]
pub struct EndpointSlice {
    /// Name, namespace, labels, one of which names the Service.
    #[serde(default, deserialize_with = "metadata_of_service")]
    pub metadata: ObjectMeta,
    /// `IPv4`, `IPv6`, `FQDN`.
    #[serde(default)]
    pub address_type: String,
    /// Endpoints.
    #[serde(default, deserialize_with = "null_is_default")]
    pub endpoints: Vec<Endpoint>,
    /// Ports of every endpoint.
    #[serde(default, deserialize_with = "null_is_default")]
    pub ports: Vec<EndpointPort>,
}

/// discovery.k8s.io/v1 Endpoint.
#[derive(Deserialize, Clone, Debug, Default)]
#[serde(rename_all = "camelCase")]
pub struct Endpoint {
    /// The first of its addresses.
    #[serde(rename = "addresses", default, deserialize_with = "null_is_default")]
    pub address: FirstAddress,
    /// Ready, serving, terminating.
    #[serde(default)]
    pub conditions: Option<Conditions>,
    /// Node of the endpoint.
    #[serde(default, deserialize_with = "name")]
    pub node_name: Option<Arc<str>>,
    /// Zones and nodes that should use the endpoint.
    pub hints: Option<Hints>,
    /// The Pod behind it.
    pub target_ref: Option<TargetRef>,
}

/// core/v1 ObjectReference.
#[derive(Deserialize, Clone, Debug, Default)]
pub struct TargetRef {
    /// Whether it is a Pod.
    #[serde(rename = "kind", default, deserialize_with = "is_pod")]
    pub is_pod: bool,
    /// UID, if it is one.
    #[serde(default, deserialize_with = "uid")]
    pub uid: Option<Uid>,
}

/// discovery.k8s.io/v1 EndpointConditions.
#[derive(Deserialize, Clone, Copy, Debug, Default)]
pub struct Conditions {
    /// Absent means true.
    pub ready: Option<bool>,
    /// Absent means true.
    pub serving: Option<bool>,
    /// Absent means false.
    pub terminating: Option<bool>,
}

/// discovery.k8s.io/v1 EndpointHints.
#[derive(Deserialize, Clone, Debug, Default)]
#[serde(rename_all = "camelCase")]
pub struct Hints {
    /// Zones that should use it.
    #[serde(default, deserialize_with = "null_is_default")]
    pub for_zones: Vec<Named>,
    /// Nodes that should use it.
    #[serde(default, deserialize_with = "null_is_default")]
    pub for_nodes: Vec<Named>,
}

/// A name of a zone or a node.
#[derive(Deserialize, Clone, Debug, Default)]
pub struct Named {
    /// The name.
    #[serde(default)]
    pub name: String,
}

/// discovery.k8s.io/v1 EndpointPort.
#[derive(Deserialize, Clone, Debug, Default)]
pub struct EndpointPort {
    /// Name, equal to the Service port's.
    pub name: Option<String>,
    /// `TCP` (also when absent), `UDP`, `SCTP`.
    pub protocol: Option<String>,
    /// Target port; a port without it is skipped.
    pub port: Option<i64>,
}
