//! Rows of dropped packets.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::policy::Direction;

/// A sampled drop.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DropRow {
    /// Its number: the next one of the same agent has the next number.
    pub sequence: u64,
    /// Number of the first drop since the agent started, normally larger than all before. Agents of former
    /// versions have none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_sequence: Option<u64>,
    /// RFC 3339.
    pub at: String,
    /// Drop reason.
    pub reason: String,
    /// `TCP`, `UDP`, ...
    pub protocol: String,
    /// Source; of a drop by policy, before translation.
    pub source: IpAddr,
    /// Source port.
    pub source_port: u16,
    /// Destination; of a drop by policy, after translation.
    pub destination: IpAddr,
    /// Destination port.
    pub destination_port: u16,
    /// The program that dropped it: `from_pod`, `to_pod`, `from_netdev`, `to_netdev`.
    #[serde(default)]
    pub program: String,
    /// The device of the program; `ifindex N` if it does not exist any more.
    #[serde(default)]
    pub device: String,
    /// Bytes, with the headers of all layers.
    #[serde(default)]
    pub length: u32,
    /// Whether a policy dropped a reply, which has the reverse direction of source and destination.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub reply: bool,
    /// Whether a policy dropped a packet without a known flow that opens none: a TCP segment other than a SYN, or
    /// an echo reply.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub mid_stream: bool,
    /// The node, where several are asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// Pods with the source address, of a drop by policy: normally one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub source_pods: Vec<EndRow>,
    /// Pods with the destination address, of a drop by policy.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub destination_pods: Vec<EndRow>,
    /// The pod whose policies dropped it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<String>,
    /// Direction of these policies.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub direction: Option<Direction>,
    /// All policies that isolate the pod in this direction, and ClusterNetworkPolicies with rules for it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub policies: Vec<String>,
    /// Why, the nearest rule first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub reasons: Vec<String>,
}

/// What the last line of a response of dropped packets has besides the number of rows.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DropsEnd {
    /// [`DropRow::first_sequence`] of the agent. Absent before its first drop; agents of former versions send none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_sequence: Option<u64>,
    /// Drops without a row, by reason: `rate_limit` and `buffer_full` since the maps were created, `not_examined`
    /// since the agent started. A reason whose counter cannot be read is absent; agents of former versions send
    /// none.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub lost_events: BTreeMap<String, u64>,
}

/// A pod at an end of a dropped packet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EndRow {
    /// `namespace/name`.
    pub pod: String,
    /// Its labels at that time.
    pub labels: BTreeMap<String, String>,
}
