//! Which flows have ended. Pure.

use std::collections::BTreeMap;

use sluice_abi::map::FLOWS_WITHOUT_POD;
use sluice_abi::{FlowEntry, PodRef, proto};
use sluice_packet::lifetime;

/// Seconds for which the source port of a removed pod's TCP connection is kept: TIME_WAIT of the
/// peer, which would reject a new connection from the same port.
const TIME_WAIT: u32 = lifetime::TCP_CLOSED;

/// Difference from which a count is corrected. Smaller ones are flows that were confirmed or removed while
/// the table was read.
const COUNT_TOLERANCE: u32 = 64;

/// What happens to an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// The flow goes on.
    Keep,
    /// The flow is expired, or a pod of it was removed.
    Remove,
    /// The entry is an alias: its main entry decides.
    Alias,
}

/// Judges an entry at the tick `now`; `generations` are those of the pods by index, 0 for none.
pub fn fate(entry: &FlowEntry, now: u32, generations: &[u16]) -> Fate {
    if entry.is_alias() {
        return Fate::Alias;
    }
    let exists = |pod: PodRef| {
        pod.is_none() || generations.get(usize::from(pod.index)) == Some(&pod.generation)
    };
    let ended = if exists(entry.client) && exists(entry.server) {
        lifetime::is_expired(entry, now)
    } else {
        !keeps_port(entry) || lifetime::idle(entry, now) > sluice_abi::ticks(TIME_WAIT)
    };
    if ended { Fate::Remove } else { Fate::Keep }
}

/// Whether a removed pod's flow keeps its source port for some time.
fn keeps_port(entry: &FlowEntry) -> bool {
    entry.tuple.proto == proto::TCP && entry.kind().is_some_and(|kind| kind.is_masqueraded())
}

/// Entries by index of `POD_FLOWS`: those of each pod, and those of flows without one, except TCP.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    by_index: BTreeMap<u32, u32>,
    entries: u64,
}

impl Counts {
    /// Adds a flow, by its main entry.
    pub fn add(&mut self, entry: &FlowEntry) {
        let entries = if entry.is_translated() { 2 } else { 1 };
        self.entries += u64::from(entries);
        let account = entry.account();
        if account != FlowEntry::NOT_COUNTED {
            *self.by_index.entry(account).or_default() += entries;
        }
    }

    /// Entries of all flows.
    pub fn entries(&self) -> u64 {
        self.entries
    }

    /// Entries that count for this index of `POD_FLOWS`.
    pub fn of(&self, index: u32) -> u32 {
        self.by_index.get(&index).copied().unwrap_or(0)
    }

    /// Entries of the pod that has the most.
    pub fn most_of_a_pod(&self) -> u32 {
        self.by_index.range(..FLOWS_WITHOUT_POD).map(|(_, entries)| *entries).max().unwrap_or(0)
    }
}

/// The new count of a row of `POD_FLOWS`, if it has to be corrected: `counted` are its entries in `FLOWS`,
/// `before` and `after` the programs' counts before and after the table was read.
///
/// Flows that were confirmed during the read may be missing in `counted`. The count is not lowered by them:
/// otherwise the limit would admit as many again.
pub fn correction(counted: u32, before: u32, after: u32) -> Option<u32> {
    let is_exact = counted == 0 || after == 0;
    let tolerance = if is_exact { 0 } else { COUNT_TOLERANCE };
    let most = counted.saturating_add(after.saturating_sub(before));
    if after > most.saturating_add(tolerance) {
        Some(most)
    } else if counted > after.saturating_add(tolerance) {
        Some(counted)
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use sluice_abi::tcp_state::OPEN;
    use sluice_abi::{FlowKey, FlowKind, PortBe, flow_flags, ticks};

    use super::*;

    const NOW: u32 = 1_000_000;
    const GENERATIONS: [u16; 3] = [0, 7, 9];

    fn flow(proto: u8, kind: FlowKind, idle_seconds: u32) -> FlowEntry {
        let tuple = FlowKey { proto, ..FlowKey::default() };
        FlowEntry {
            tuple,
            other: tuple,
            kind: kind as u8,
            tcp: if proto == proto::TCP { [OPEN, OPEN] } else { [0, 0] },
            flags: flow_flags::REPLIED,
            client: PodRef { index: 1, generation: 7 },
            seen: NOW - ticks(idle_seconds),
            ..FlowEntry::default()
        }
    }

    #[test]
    fn expired_flows_are_removed() {
        for (proto, idle, expected) in [
            (proto::TCP, 86_000, Fate::Keep),
            (proto::TCP, 87_000, Fate::Remove),
            (proto::UDP, 29, Fate::Keep),
            (proto::UDP, 32, Fate::Remove),
        ] {
            assert_eq!(fate(&flow(proto, FlowKind::Direct, idle), NOW, &GENERATIONS), expected);
        }
    }

    #[test]
    fn flows_of_removed_pods_are_removed_at_once_but_source_ports_after_time_wait() {
        let removed = PodRef { index: 1, generation: 8 };
        let never = PodRef { index: 4000, generation: 1 };
        for pod in [removed, never] {
            for (proto, kind, idle, expected) in [
                (proto::UDP, FlowKind::Masquerade, 0, Fate::Remove),
                (proto::TCP, FlowKind::Direct, 0, Fate::Remove),
                (proto::TCP, FlowKind::Service, 0, Fate::Remove),
                (proto::TCP, FlowKind::Masquerade, 50, Fate::Keep),
                (proto::TCP, FlowKind::Masquerade, 62, Fate::Remove),
            ] {
                let client = FlowEntry { client: pod, ..flow(proto, kind, idle) };
                let server = FlowEntry { server: pod, ..flow(proto, kind, idle) };
                assert_eq!(fate(&client, NOW, &GENERATIONS), expected, "{proto} {kind:?} {idle}");
                assert_eq!(fate(&server, NOW, &GENERATIONS), expected);
            }
        }
        let alias = FlowEntry {
            flags: flow_flags::ALIAS,
            client: removed,
            ..flow(proto::UDP, FlowKind::Service, 0)
        };
        assert_eq!(fate(&alias, NOW, &GENERATIONS), Fate::Alias);
    }

    #[test]
    fn entries_are_counted_for_the_client_or_else_the_server_or_else_those_without_pod() {
        let mut counts = Counts::default();
        counts.add(&flow(proto::UDP, FlowKind::Direct, 0));
        let mut translated = flow(proto::TCP, FlowKind::Service, 0);
        translated.other.dport = PortBe::new(80);
        translated.server = PodRef { index: 2, generation: 9 };
        counts.add(&translated);
        let incoming = FlowEntry { client: PodRef::NONE, ..translated };
        counts.add(&incoming);
        let connection = FlowEntry { server: PodRef::NONE, ..incoming };
        counts.add(&connection);
        let mut datagrams = connection;
        (datagrams.tuple.proto, datagrams.other.proto) = (proto::UDP, proto::UDP);
        for _ in 0..2 {
            counts.add(&datagrams);
        }
        assert_eq!((counts.of(0), counts.of(1), counts.of(2), counts.of(3)), (0, 3, 2, 0));
        assert_eq!((counts.of(FLOWS_WITHOUT_POD), counts.entries()), (4, 11));
        assert_eq!(counts.most_of_a_pod(), 3, "flows without a pod are those of none");
    }

    #[test]
    fn counts_are_corrected_but_not_lowered_by_flows_that_are_added_meanwhile() {
        for (counted, before, after, expected) in [
            // Flows that the agent has removed, and those that a program's count has lost.
            (100, 500, 500, Some(100)),
            (500, 100, 100, Some(500)),
            (500, 100, 200, Some(500)),
            (100, 500, 400, Some(100)),
            // Flows that were confirmed while the table was read, which may be counted or not.
            (100, 100, 500, None),
            (500, 100, 500, None),
            (100, 450, 500, Some(150)),
            (400, 450, 500, None),
            // Differences within the tolerance, unless there are no flows.
            (436, 500, 500, None),
            (435, 500, 500, Some(435)),
            (564, 500, 500, None),
            (0, 1, 1, Some(0)),
            (1, 0, 0, Some(1)),
            (0, 0, 1, None),
            (0, 0, 0, None),
        ] {
            let found = correction(counted, before, after);
            assert_eq!(found, expected, "{counted} counted, {before} before, {after} after");
        }
    }
}
