//! Dropped packets -> rows of a response.

use jiff::Timestamp;
use sluice_abi::DropReason;
use sluice_abi::program::Hook;
use sluice_core::dump;

use crate::api::policy::verdict;
use crate::api::{DropRow, EndRow};
use crate::state::{Dropped, DroppedBy, DroppedPod};

/// Why a packet that is not the first one of a flow was judged as one.
const MID_STREAM: &str = "not the first packet of a flow, and its flow is not known: if policies allowed the flow, \
     this can be a reply to it after its entry was evicted or has expired";

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
    let hook = Hook::from_number(drop.event.hook);
    let time = Timestamp::try_from(drop.at).unwrap_or_default();
    let mut row = DropRow {
        sequence: drop.sequence,
        first_sequence: Some(drop.first_sequence),
        at: format!("{time:.3}"),
        reason: reason.unwrap_or("unknown").to_owned(),
        protocol: dump::protocol(flow.proto),
        source: flow.src.into(),
        source_port: flow.sport.get(),
        destination: flow.dst.into(),
        destination_port: flow.dport.get(),
        program: hook.map_or("unknown", Hook::program).to_owned(),
        device: drop.device.clone().unwrap_or_else(|| format!("ifindex {}", drop.event.ifindex)),
        length: drop.event.len,
        reply: drop.event.is_reply == 1,
        mid_stream: drop.event.is_mid_stream == 1,
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
    if row.mid_stream {
        row.reasons.push(MID_STREAM.to_owned());
    }
    row
}
