//! Rows of the responses.

use serde::{Deserialize, Serialize};

use crate::dataplane::counters::Count;

/// How the node is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    /// Version of the agent; empty when it is away.
    pub version: String,
    /// Name of the node.
    pub node: String,
    /// Where objects come from.
    pub source: String,
    /// Whether pods can be wired.
    pub ready: bool,
    /// Whether every list has arrived.
    pub synced: bool,
    /// Name of the uplink.
    pub uplink: Option<String>,
    /// The node's address on it.
    pub address: Option<String>,
    /// MTU of new pods in bytes.
    pub mtu: Option<u32>,
    /// The node's own pod ranges.
    pub pod_cidrs: Vec<String>,
    /// Rows per table.
    pub tables: Vec<(String, usize)>,
    /// What is wrong now, each in one line.
    pub problems: Vec<String>,
    /// What became of packets.
    pub counters: Vec<Count>,
}

/// One port of a Service.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServiceRow {
    /// `namespace/name`, or `-` when only the kernel could be asked.
    pub service: String,
    /// Name of the port.
    pub port_name: String,
    /// Address that clients use.
    pub address: String,
    /// Port that clients use.
    pub port: u16,
    /// `TCP`, `UDP`, `SCTP`.
    pub protocol: String,
    /// `address:port` of each backend.
    pub backends: Vec<String>,
}
