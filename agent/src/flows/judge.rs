//! Which flows have ended. Pure.

use std::collections::BTreeMap;

use sluice_abi::{FlowEntry, PodRef, proto};
use sluice_packet::lifetime;

/// Seconds for which the source port of a removed pod's TCP connection is kept: TIME_WAIT of the
/// peer, which would reject a new connection from the same port.
const TIME_WAIT: u32 = lifetime::TCP_CLOSED;

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

/// Entries per pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    by_index: BTreeMap<u16, u32>,
    entries: u64,
}

impl Counts {
    /// Adds a flow, by its main entry.
    pub fn add(&mut self, entry: &FlowEntry) {
        let entries = if entry.is_translated() { 2 } else { 1 };
        self.entries += u64::from(entries);
        let owner = entry.owner();
        if !owner.is_none() {
            *self.by_index.entry(owner.index).or_default() += entries;
        }
    }

    /// Entries of all flows.
    pub fn entries(&self) -> u64 {
        self.entries
    }

    /// Entries of the pod with this index.
    pub fn of(&self, index: u32) -> u32 {
        u16::try_from(index).ok().and_then(|index| self.by_index.get(&index)).copied().unwrap_or(0)
    }

    /// Entries of the pod that has the most.
    pub fn most(&self) -> u32 {
        self.by_index.values().copied().max().unwrap_or(0)
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
    fn entries_are_counted_for_the_client_or_else_the_server() {
        let mut counts = Counts::default();
        counts.add(&flow(proto::UDP, FlowKind::Direct, 0));
        let mut translated = flow(proto::TCP, FlowKind::Service, 0);
        translated.other.dport = PortBe::new(80);
        translated.server = PodRef { index: 2, generation: 9 };
        counts.add(&translated);
        let incoming = FlowEntry { client: PodRef::NONE, ..translated };
        counts.add(&incoming);
        counts.add(&FlowEntry { server: PodRef::NONE, ..incoming });
        assert_eq!((counts.of(1), counts.of(2), counts.of(3)), (3, 2, 0));
        assert_eq!((counts.entries(), counts.most()), (7, 3));
    }
}
