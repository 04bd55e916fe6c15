//! XDP against tc: two nodes with the same tables receive the same random frames, one through XDP and
//! then tc, the other through tc alone. What leaves by XDP is what tc sends; what passes is unchanged,
//! and tc does the same with it on both nodes. Counters and flows are equal after each frame.
//!
//! `CASES=n` (`cargo xtask test --cases n`) runs n frames; `SEED=n` repeats a run.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test ends where it fails")]

use std::collections::BTreeMap;

use packet_tests::random::{Random, cases};
use packet_tests::topology::{
    HOST_MAC, OTHER_NODE_MAC, ROUTER_MAC, SECOND_HOST, SECOND_IFINDEX, SECOND_NODE,
    SECOND_ROUTER_MAC,
};
use packet_tests::*;
use sluice_abi::{
    DropReason, FlowEntry, Frontend, Outcome, flow_flags, frontend_flags, program, proto,
};
use sluice_bpf::test_run::XdpAction;

/// Frames of an ordinary run.
const FRAMES: usize = 1_500;
/// One kind of frame in this many is not a packet of a flow, or damaged.
const UNUSUAL: usize = 6;
const FLAGS: [u8; 6] = [2, 16, 16, 24, 17, 4];
const EXTERNAL_FLAG: u32 = frontend_flags::EXTERNAL;
const LOCAL: u32 = EXTERNAL_FLAG | frontend_flags::LOCAL;
const RANGES: u32 = EXTERNAL_FLAG | frontend_flags::SOURCE_RANGES;
const ANY: [u8; 4] = [0; 4];
const LOAD_BALANCER: [u8; 4] = [203, 0, 113, 80];
const OTHER_CLIENT: [u8; 4] = [198, 51, 100, 8];
const FAR_CLIENT: [u8; 4] = [10, 244, 2, 21];

/// A frontend, its flags, its backend and whether the backend is in the set Local.
type Row = ([u8; 4], u16, u8, u32, Option<Endpoint>, bool);

/// Each Service port has one backend at most, so that both nodes choose the same.
const ROWS: [Row; 14] = [
    (ANY, 30_080, proto::TCP, EXTERNAL_FLAG, Some((FAR_POD, 8080)), false),
    (ANY, 30_081, proto::TCP, EXTERNAL_FLAG, Some((SERVER, 8080)), false),
    (ANY, 30_082, proto::TCP, LOCAL, Some((SERVER, 8080)), true),
    (ANY, 30_083, proto::TCP, LOCAL, Some((FAR_POD, 8080)), false),
    (ANY, 30_084, proto::TCP, EXTERNAL_FLAG, None, false),
    (ANY, 30_085, proto::TCP, EXTERNAL_FLAG, Some((SECOND_HOST, 8080)), false),
    (ANY, 30_086, proto::TCP, EXTERNAL_FLAG, Some((NODE, 9000)), false),
    (ANY, 30_053, proto::UDP, EXTERNAL_FLAG, Some((FAR_POD, 53)), false),
    (ANY, 30_054, proto::UDP, EXTERNAL_FLAG, Some((SERVER, 53)), false),
    (ANY, 30_868, proto::SCTP, EXTERNAL_FLAG, Some((FAR_POD, 3868)), false),
    (VIP, 80, proto::TCP, 0, Some((FAR_POD, 8080)), false),
    (LOAD_BALANCER, 443, proto::TCP, EXTERNAL_FLAG, Some((OTHER_NODE, 8443)), false),
    (LOAD_BALANCER, 444, proto::TCP, RANGES, Some((FAR_POD, 8444)), false),
    (LOAD_BALANCER, 53, proto::UDP, EXTERNAL_FLAG, Some((ROUTER, 53)), false),
];

fn fill(datapath: &Datapath) {
    for (service, (address, port, protocol, flags, backend, is_local)) in (1..).zip(ROWS) {
        let cluster: Vec<Endpoint> = backend.into_iter().collect();
        let local = if is_local { cluster.clone() } else { Vec::new() };
        let affinity_seconds = if service % 4 == 0 { 100 } else { 0 };
        datapath.service_port(service, protocol, &Sets { cluster, local, affinity_seconds });
        datapath.frontend((address, port, protocol), Frontend { service, flags });
        if flags & RANGES == RANGES {
            datapath.source_range(service, EXTERNAL, 32);
        }
    }
    datapath.wildcard(VIP);
    datapath.wildcard(LOAD_BALANCER);
}

/// The two nodes.
struct Pair {
    /// Frames from the wire pass XDP, and then tc.
    both: Datapath,
    /// Only tc.
    tc: Datapath,
}

/// What the run has seen.
#[derive(Debug, Default)]
struct Seen {
    sent: BTreeMap<(&'static str, [u8; 4]), u32>,
    passed: u32,
}

impl Pair {
    fn new() -> Pair {
        let mut both = Datapath::node();
        both.use_xdp();
        let tc = Datapath::node();
        fill(&both);
        fill(&tc);
        Pair { both, tc }
    }

    /// A frame that the uplink `ifindex` receives.
    fn wire(&self, ifindex: u32, frame: &[u8], seen: &mut Seen) {
        let what = || format!("on {ifindex}: {}", show(frame));
        let Ok(by_xdp) = self.both.try_xdp(ifindex, frame) else { return };
        if by_xdp.action == XdpAction::Pass {
            assert_eq!(by_xdp.data, frame, "passed unchanged {}", what());
            assert_eq!(by_xdp.counters, Counters::new(), "{}", what());
            seen.passed += 1;
            self.tc_alike(program::FROM_NETDEV, ifindex, frame);
            return;
        }
        let by_tc = self.tc.run(program::FROM_NETDEV, frame, ifindex);
        let mut counters = by_xdp.counters.clone();
        let counted = counters.remove(Outcome::ToUplinkByXdp.label());
        counters.extend(counted.map(|counter| (Outcome::ToUplink.label(), counter)));
        assert_eq!(counters, by_tc.counters, "{}", what());
        by_tc.counted(&counters.keys().copied().collect::<Vec<_>>());
        assert_eq!(by_tc.action, Action::Redirect, "{}", what());
        assert!(by_xdp.data[14..] == by_tc.data[14..], "by XDP {} {}", show(&by_xdp.data), what());
        // Not `Packet::read`: wrong checksums remain as wrong as they were.
        let to: [u8; 4] = by_xdp.data[30..34].try_into().unwrap();
        let (device, mac) = next_hop(to);
        let expected = if device == ifindex { XdpAction::Tx } else { XdpAction::Redirect };
        assert_eq!(by_xdp.action, expected, "to {to:?} {}", what());
        assert_eq!(by_xdp.data[..14], [&mac[..], &HOST_MAC, &[8, 0]].concat(), "{}", what());
        let label = if expected == XdpAction::Tx { "tx" } else { "redirect" };
        *seen.sent.entry((label, to)).or_default() += 1;
        self.same_flows(frame);
    }

    fn same_flows(&self, frame: &[u8]) {
        let (both, tc) = (flows(&self.both), flows(&self.tc));
        let without = |a: &[FlowEntry], b: &[FlowEntry]| {
            a.iter().filter(|flow| !b.contains(flow)).copied().collect::<Vec<_>>()
        };
        let (more, less) = (without(&both, &tc), without(&tc, &both));
        assert_eq!(more, less, "flows with and without XDP after {}", show(frame));
    }

    /// A frame at a tc hook of both nodes.
    fn tc_alike(&self, name: &str, ifindex: u32, frame: &[u8]) {
        let run = |datapath: &Datapath| datapath.try_run(name, frame, ifindex, 0);
        // The kernel makes no test packet of a frame without a complete IP header.
        let (Ok(one), Ok(other)) = (run(&self.both), run(&self.tc)) else { return };
        let labels: Vec<_> = one.counters.keys().copied().collect();
        one.counted(&labels);
        let others: Vec<_> = other.counters.keys().copied().collect();
        other.counted(&others);
        assert_eq!(labels, others, "on {ifindex}: {}", show(frame));
        assert_eq!((one.action, &one.data), (other.action, &other.data), "{}", show(frame));
        self.same_flows(frame);
    }
}

/// The flows without times and without `STREAM`, which depends on them: the two nodes process a packet one
/// after the other, and a tick can end in between.
fn flows(datapath: &Datapath) -> Vec<FlowEntry> {
    let mut flows = datapath.flows();
    for flow in &mut flows {
        flow.flags &= !flow_flags::STREAM;
        (flow.seen, flow.since) = (0, 0);
    }
    flows.sort_by_key(|flow| flow.tuple);
    flows
}

/// The device and the hardware address that packets to an address leave by.
fn next_hop(to: [u8; 4]) -> (u32, [u8; 6]) {
    match to {
        [10, 244, 2, _] | OTHER_NODE => (UPLINK_IFINDEX, OTHER_NODE_MAC),
        [198, 18, 9, _] => (SECOND_IFINDEX, SECOND_ROUTER_MAC),
        _ => (UPLINK_IFINDEX, ROUTER_MAC),
    }
}

fn packet(random: &mut Random, protocol: u8, from: Endpoint, to: Endpoint) -> Packet {
    let len = if random.below(20) == 0 { 1300 + random.below(400) } else { random.below(100) };
    let payload: Vec<u8> = (0..len).map(|_| random.bits() as u8).collect();
    let mut packet = match protocol {
        proto::UDP => Packet::udp(from, to, &payload),
        proto::SCTP => Packet::sctp(from, to, &payload),
        _ => Packet::tcp(from, to, *random.pick(&FLAGS), &payload),
    };
    packet.ttl = *random.pick(&[64, 64, 64, 64, 2, 1, 0]);
    packet.dont_fragment = random.below(2) == 0;
    packet.id = random.bits() as u16;
    packet
}

/// A packet of a new or open flow to a frontend.
fn to_frontend(random: &mut Random) -> (u32, Packet) {
    let (address, port, protocol, ..) = *random.pick(&ROWS);
    let node = *random.pick(&[NODE, SECOND_NODE]);
    let to = if address == ANY { node } else { address };
    let clients = [EXTERNAL, OTHER_CLIENT, FAR_CLIENT, OTHER_NODE, SECOND_HOST];
    let client = *random.pick(&clients);
    let port = if random.below(30) == 0 { port + 1 } else { port };
    let from = (client, 5000 + random.below(4) as u16);
    let ifindex = if client == SECOND_HOST { SECOND_IFINDEX } else { UPLINK_IFINDEX };
    (ifindex, packet(random, protocol, from, (to, port)))
}

/// A packet in either direction of an open flow.
fn of_flow(random: &mut Random, flow: &FlowEntry) -> (u32, Packet) {
    let address = |addr: sluice_abi::Addr| addr.to_v4().unwrap();
    let tuple = if random.below(3) == 0 { flow.other } else { flow.tuple.reversed() };
    let from = (address(tuple.src), tuple.sport.get());
    let to = (address(tuple.dst), tuple.dport.get());
    let ifindex = match from.0 {
        SERVER => SERVER_IFINDEX,
        SECOND_HOST => SECOND_IFINDEX,
        _ => UPLINK_IFINDEX,
    };
    (ifindex, packet(random, tuple.proto, from, to))
}

/// Damages a frame, or makes it one of those that only tc handles.
fn unusual(random: &mut Random, packet: &mut Packet) -> Vec<u8> {
    match random.below(6) {
        0 => packet.options = vec![1; 4 * (1 + random.below(10))],
        1 => *packet = packet.fragment(0, 8 * (1 + random.below(8))),
        2 => *packet = packet.fragment(8 * random.below(1 + packet.body.len() / 8) as u16, 40),
        3 => *packet = Packet::icmp_error(ROUTER, packet.src, (3, 1, 0), packet, 8),
        4 => packet.checksum = L4Checksum::Zero,
        _ => packet.src = *random.pick(&[NODE, SERVER, CLIENT, FAR_CLIENT, VIP, [224, 0, 0, 1]]),
    }
    let mut frame = packet.bytes_from_wire();
    match random.below(6) {
        0 => frame.truncate(14 + random.below(frame.len() - 14)),
        1 => {
            let at = random.below(frame.len().min(60));
            frame[at] ^= 1 << random.below(8);
        }
        2 => frame.extend((0..random.below(20)).map(|_| 0)),
        _ => {}
    }
    frame
}

#[test]
fn random_frames_have_the_same_fate_by_xdp_and_by_tc() {
    let frames = cases(FRAMES);
    let mut random = Random::from_environment();
    let pair = Pair::new();
    let mut seen = Seen::default();
    for _ in 0..frames {
        let open = pair.tc.flows();
        let (ifindex, mut packet) = if open.is_empty() || random.below(3) == 0 {
            to_frontend(&mut random)
        } else {
            let flow = *random.pick(&open);
            of_flow(&mut random, &flow)
        };
        if ifindex == SERVER_IFINDEX {
            pair.tc_alike(program::FROM_POD, ifindex, &packet.bytes_from_pod(ifindex));
            continue;
        }
        let frame = if random.below(UNUSUAL) == 0 {
            unusual(&mut random, &mut packet)
        } else if ifindex == SECOND_IFINDEX {
            packet.frame(HOST_MAC, SECOND_ROUTER_MAC)
        } else {
            packet.bytes_from_wire()
        };
        pair.wire(ifindex, &frame, &mut seen);
    }
    println!("{seen:?}");
    if frames >= FRAMES {
        let of = |label, to| seen.sent.get(&(label, to)).copied().unwrap_or(0);
        for (label, to) in [
            ("tx", FAR_POD),
            ("tx", OTHER_NODE),
            ("tx", EXTERNAL),
            ("tx", FAR_CLIENT),
            ("redirect", SECOND_HOST),
        ] {
            assert!(of(label, to) > frames as u32 / 1000, "{label} to {to:?}: {seen:?}");
        }
        assert!(seen.passed > frames as u32 / 10, "{seen:?}");
    }
    let dropped = DropReason::SourceNotAllowed.label();
    assert!(pair.tc.counters().contains_key(dropped), "rules of Services were in effect");
}
