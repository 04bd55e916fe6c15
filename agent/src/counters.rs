//! Counters of the programs as the API, metrics and the command line show them.

use std::collections::BTreeMap;

/// One counter.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Count {
    /// `drop`, `outcome` or `lost_event`: dropped packets that are counted, but not shown by `sluice drops`.
    pub kind: String,
    /// Label of the reason or outcome.
    pub label: String,
    /// Packets.
    pub packets: u64,
    /// Bytes.
    pub bytes: u64,
}

impl Count {
    /// [`Count::kind`] of dropped packets without an event.
    pub const LOST_EVENT: &str = "lost_event";
    /// [`Count::label`] of events that the agent has read since it started, but not examined.
    pub const NOT_EXAMINED: &str = "not_examined";

    /// Events that the agent has read, but not examined; their bytes are not counted.
    pub fn not_examined(events: u64) -> Count {
        let (kind, label) = (Count::LOST_EVENT.to_owned(), Count::NOT_EXAMINED.to_owned());
        Count { kind, label, packets: events, bytes: 0 }
    }

    /// Numbers of lost events by reason.
    pub fn lost_events(counts: Vec<Count>) -> BTreeMap<String, u64> {
        let lost = counts.into_iter().filter(|count| count.kind == Count::LOST_EVENT);
        lost.map(|count| (count.label, count.packets)).collect()
    }
}
