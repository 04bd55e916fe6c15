//! Dropped packets -> rows of a response.

use std::net::IpAddr;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use sluice_abi::DropReason;
use sluice_core::dump;

use super::policy::{Direction, verdict};
use crate::state::Dropped;

/// A sampled drop.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DropRow {
    /// Its number, which grows over restarts of the agent.
    pub sequence: u64,
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
    /// The pod whose policies dropped it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<String>,
    /// Direction of these policies.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub direction: Option<Direction>,
    /// Pods with the address of the other end.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub peers: Vec<String>,
    /// All policies that isolate the pod in this direction, and ClusterNetworkPolicies with rules for it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub policies: Vec<String>,
    /// Why, the nearest rule first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub reasons: Vec<String>,
}

impl From<&Dropped> for DropRow {
    fn from(drop: &Dropped) -> DropRow {
        row(drop)
    }
}

fn row(drop: &Dropped) -> DropRow {
    let flow = drop.event.flow;
    let reason = DropReason::from_number(drop.event.reason).map(|reason| reason.label());
    let time = Timestamp::try_from(drop.at).unwrap_or_default();
    let mut row = DropRow {
        sequence: drop.sequence,
        at: format!("{time:.3}"),
        reason: reason.unwrap_or("unknown").to_owned(),
        protocol: dump::protocol(flow.proto),
        source: flow.src.into(),
        source_port: flow.sport.get(),
        destination: flow.dst.into(),
        destination_port: flow.dport.get(),
        pod: None,
        direction: None,
        peers: Vec::new(),
        policies: Vec::new(),
        reasons: Vec::new(),
    };
    if let Some((pod, direction, explanation)) = &drop.policy {
        let verdict = verdict(explanation);
        row.pod = Some(pod.to_string());
        row.direction = Some((*direction).into());
        row.policies = explanation.isolating.iter().map(ToString::to_string).collect();
        (row.peers, row.reasons) = (verdict.peers, verdict.reasons);
        if verdict.allowed {
            // The objects have changed since.
            row.reasons.insert(0, "allowed by now".to_owned());
        }
    }
    row
}
