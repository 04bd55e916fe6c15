//! Lines and rows of a response.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::drops::DropsEnd;
use crate::counters::Count;
use crate::watches::Watch;

/// First line of every response, also of one that reports an error.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// Version of the protocol that the agent uses.
    pub version: u32,
    /// Version of the agent.
    pub agent: String,
}

/// Every further line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Line<R> {
    /// A row.
    Row(R),
    /// Last line of a complete response.
    End {
        /// Number of rows before it.
        count: usize,
        /// Of a response of dropped packets.
        #[serde(flatten)]
        drops: DropsEnd,
    },
    /// Last line of a response that the agent could not complete.
    Error {
        /// Name of the error for programs.
        code: String,
        /// What is wrong and the remedy.
        message: String,
    },
}

/// State of a node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    /// Version of the agent; empty when it does not run.
    pub version: String,
    /// Git revision of the agent's sources, or `unknown`; empty when it does not run.
    #[serde(default)]
    pub revision: String,
    /// Name of the node.
    pub node: String,
    /// Source of objects.
    pub source: String,
    /// Whether CNI ADD can succeed.
    pub ready: bool,
    /// Whether every kind of object has been listed.
    pub synced: bool,
    /// Name of the uplink.
    pub uplink: Option<String>,
    /// Address of the node on the uplink.
    pub address: Option<IpAddr>,
    /// MTU of new pods in bytes.
    pub mtu: Option<u32>,
    /// The devices that packets of pods can leave by.
    #[serde(default)]
    pub devices: Vec<DeviceRow>,
    /// Pod CIDRs of the node.
    pub pod_cidrs: Vec<IpNet>,
    /// Number of rows by table.
    pub tables: BTreeMap<String, usize>,
    /// Capacities of the maps that grow.
    #[serde(default)]
    pub capacity: BTreeMap<String, u32>,
    /// Conditions that are set.
    pub conditions: Vec<Condition>,
    /// NetworkPolicies and ClusterNetworkPolicies that cannot work as written; empty: none. The node is as
    /// desired.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub policies: String,
    /// Watches of the API server; empty with another source.
    #[serde(default)]
    pub watches: Vec<Watch>,
    /// Packets by drop reason and outcome.
    pub counters: Vec<Count>,
}

/// A device that packets of pods can leave by.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DeviceRow {
    /// Name.
    pub name: String,
    /// `ethernet` or `ip`: the programs that it has; `none`: flows that leave by it keep the pod's
    /// address; `missing`: they could not be attached.
    pub programs: String,
    /// Mode of XDP, or why the device does not have it; empty if it has no programs.
    #[serde(default)]
    pub xdp: Option<String>,
    /// Source of masqueraded flows that leave by it.
    pub address: Option<IpAddr>,
    /// MTU in bytes.
    pub mtu: u32,
}

/// A part of the node's state that differs from the desired one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Condition {
    /// The part, for example `Routes`.
    #[serde(rename = "type")]
    pub kind: String,
    /// `Waiting` for a precondition, `Failed` and retried, or `Degraded`: objects or configuration have to
    /// change. Empty from former agents.
    #[serde(default)]
    pub status: String,
    /// Seconds since the part has this status.
    #[serde(default)]
    pub seconds: u64,
    /// The error.
    pub message: String,
}

/// Treatment of packets to a frontend.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum ServiceAction {
    /// To one of the backends.
    #[default]
    Forward,
    /// Rejected: the Service has no backend.
    Reject,
    /// Dropped: the traffic policy is Local and all backends are on other nodes.
    Drop,
}

/// A port of a Service at one of its addresses.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServiceRow {
    /// `namespace/name`, or `-` when the row was read from the kernel's maps.
    pub service: String,
    /// Name of the port.
    pub port_name: String,
    /// Kind of the frontend: `ClusterIP`, `LoadBalancer`, `ExternalIP`, `NodePort`, or `External`
    /// when the row was read from the kernel's maps.
    #[serde(rename = "type", default)]
    pub kind: String,
    /// Traffic policy of the frontend: `Cluster` or `Local`.
    #[serde(default)]
    pub policy: String,
    /// Address of the frontend; the unspecified address for a NodePort.
    pub address: IpAddr,
    /// Port of the frontend.
    pub port: u16,
    /// `TCP`, `UDP` or `SCTP`.
    pub protocol: String,
    /// Treatment of packets.
    pub action: ServiceAction,
    /// Backends; of an external frontend, those for clients on other hosts.
    pub backends: Vec<SocketAddr>,
    /// Clients that a load balancer accepts; empty: all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub source_ranges: Vec<IpNet>,
}
