//! Ended flows, which the agent removes while packets arrive.

use std::time::{Duration, Instant};

use netns_tests::{Topology, dataplane, eventually_equals, scaled};
use nix::time::{ClockId, clock_gettime};
use sluice_abi::{Addr, FlowEntry, FlowKey, PortBe, map, proto, tick, ticks};
use sluice_bpf::Map;

/// Flows that end together. The agent removes one by one: this takes some tenths of a second.
const FLOWS: u32 = 200_000;
/// Flows of these that a packet revives.
const REVIVED: usize = 1_000;
/// Seconds that a UDP flow lives (`sluice_packet::lifetime`), and after which these flows end.
const LIFETIME: u32 = 30;
const ENDS_IN: u32 = 5;
/// Attempts at reviving flows before the agent has removed them.
const ATTEMPTS: u32 = 5;

type Flows = Map<FlowKey, FlowEntry>;

fn now() -> u32 {
    let time = clock_gettime(ClockId::CLOCK_MONOTONIC).unwrap();
    tick(Duration::from(time).as_nanos() as u64)
}

fn is_own((key, _): &(FlowKey, FlowEntry)) -> bool {
    key.dst == Addr::v4([198, 51, 100, 7]) && key.proto == proto::UDP
}

/// Adds flows of no pod, in the order of their entries in the table, which is that of their removal.
fn add(flows: &Flows) -> Vec<FlowKey> {
    let keys: Vec<FlowKey> = (0..FLOWS)
        .map(|n| {
            let [_, a, b, c] = n.to_be_bytes();
            let (src, dst) = (Addr::v4([100, a, b, c]), Addr::v4([198, 51, 100, 7]));
            let (sport, dport) = (PortBe::new(4000), PortBe::new(53));
            FlowKey { src, dst, sport, dport, proto: proto::UDP, ..FlowKey::default() }
        })
        .collect();
    let seen = now().wrapping_sub(ticks(LIFETIME - ENDS_IN));
    let entries: Vec<FlowEntry> = keys
        .iter()
        .map(|tuple| FlowEntry { tuple: *tuple, other: *tuple, seen, ..FlowEntry::default() })
        .collect();
    flows.update_batch(&keys, &entries).unwrap();
    let entries = flows.entries().unwrap().into_iter().filter(is_own);
    entries.map(|(key, _)| key).collect()
}

/// Revives flows as packets do, when the agent has read the table and has begun to remove; returns those that
/// it had not removed yet.
fn revive(flows: &Flows) -> Vec<FlowKey> {
    let keys = add(flows);
    let deadline = Instant::now() + scaled(Duration::from_secs(60));
    while flows.lookup(&keys[0]).unwrap().is_some() {
        assert!(Instant::now() < deadline, "no flow is removed");
    }
    let last = keys.iter().rev().take(REVIVED).copied();
    let revived = last.filter(|key| {
        let Some(entry) = flows.lookup(key).unwrap() else { return false };
        flows.update(key, &FlowEntry { seen: now(), ..entry }).unwrap();
        true
    });
    revived.collect()
}

/// The scan has read all flows as ended before the first one is removed. Those with a packet since then go on.
#[test]
fn flow_that_a_packet_revives_after_it_was_read_as_ended_is_not_removed() {
    let topology = Topology::new();
    let node = topology.node(1);
    let _agent = node.agent();
    let mut revived = node.namespaces.run(|| {
        let flows = dataplane::open::<FlowKey, FlowEntry>(map::FLOWS);
        let attempts = (0..ATTEMPTS).map(|_| revive(&flows));
        attempts.into_iter().find(|revived| !revived.is_empty()).expect("the agent is too fast")
    });
    revived.sort();
    let left = || {
        let entries = dataplane::entries::<FlowKey, FlowEntry>(&node, map::FLOWS);
        entries.iter().filter(|entry| is_own(entry)).count()
    };
    // All others are removed in the same round. A scan that removed the revived ones as well would leave fewer.
    eventually_equals("flows that go on", revived.len(), left);
    let entries = dataplane::entries::<FlowKey, FlowEntry>(&node, map::FLOWS);
    let mut found: Vec<FlowKey> = entries.into_iter().filter(is_own).map(|(key, _)| key).collect();
    found.sort();
    assert!(found == revived, "others than the revived flows are left");
}
