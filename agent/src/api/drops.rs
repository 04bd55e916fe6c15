//! Dropped packets -> rows of a response.

use std::collections::BTreeMap;
use std::net::IpAddr;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use sluice_abi::DropReason;
use sluice_core::dump;

use super::policy::{Direction, verdict};
use crate::state::{Dropped, DroppedBy, DroppedPod};

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

/// A pod at an end of a dropped packet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EndRow {
    /// `namespace/name`.
    pub pod: String,
    /// Its labels at that time.
    pub labels: BTreeMap<String, String>,
}

impl From<&DroppedPod> for EndRow {
    fn from(pod: &DroppedPod) -> EndRow {
        let labels = pod.labels.iter().map(|(key, value)| (key.to_owned(), value.to_owned()));
        EndRow { pod: pod.name.to_string(), labels: labels.collect() }
    }
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
        node: None,
        source_pods: drop.sources.iter().map(EndRow::from).collect(),
        destination_pods: drop.destinations.iter().map(EndRow::from).collect(),
        pod: None,
        direction: None,
        policies: Vec::new(),
        reasons: Vec::new(),
    };
    if let Some(DroppedBy { pod, direction, explanation }) = &drop.policy {
        row.pod = Some(pod.to_string());
        row.direction = Some((*direction).into());
        match explanation {
            Some(explanation) => {
                let verdict = verdict(explanation);
                row.policies = explanation.isolating.iter().map(ToString::to_string).collect();
                row.reasons = verdict.reasons;
                if verdict.allowed {
                    // The objects have changed since.
                    row.reasons.insert(0, "allowed by now".to_owned());
                }
            }
            None => row.reasons.push(
                "not explained: too many different drops; ask by `sluice policy explain`"
                    .to_owned(),
            ),
        }
    }
    row
}
