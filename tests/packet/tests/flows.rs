//! Flows that need loops or statistics: port exhaustion, spread of connections, orphan fragments,
//! full maps.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test ends where it fails")]

use packet_tests::*;
use sluice_abi::{
    DropReason, FlowEntry, FlowKey, FragmentKey, FragmentPorts, Outcome, PortBe, map, proto,
};

const SYN: u8 = 2;
const RST: u8 = 4;

fn syn(port: u16, to: ([u8; 4], u16)) -> Packet {
    Packet::tcp((CLIENT, port), to, SYN, b"")
}

#[test]
fn new_connections_spread_evenly_over_the_backends() {
    let backends = [SERVER, FAR_POD, [10, 244, 2, 21], [10, 244, 2, 22]];
    let datapath = Datapath::node();
    datapath.service(7, (VIP, 80, proto::TCP), &backends.map(|backend| (backend, 8080)));
    let mut hits = [0u32; 4];
    for port in 20_000..24_000 {
        let run = datapath.from_pod(CLIENT_IFINDEX, &syn(port, (VIP, 80)));
        let delivered = if run.packet().dst == SERVER { Outcome::ToPod } else { Outcome::ToUplink };
        run.counted(&[Outcome::Translated.label(), delivered.label()]);
        hits[backends.iter().position(|backend| *backend == run.packet().dst).unwrap()] += 1;
    }
    // 4,000 draws of 1/4: six standard deviations are 164.
    assert!(hits.iter().all(|&n| n.abs_diff(1000) < 164), "{hits:?}");
}

#[test]
fn flows_beyond_the_snat_ports_are_dropped() {
    let datapath = Datapath::node();
    datapath.snat_ports(61_000, 61_001);
    let mut ports = Vec::new();
    for port in 20_000..20_050 {
        let run = datapath.from_pod(CLIENT_IFINDEX, &syn(port, (EXTERNAL, 443)));
        if run.action == Action::Drop {
            run.dropped(DropReason::NoSnatPort);
        } else {
            ports.push(run.to_uplink(&[Outcome::Masqueraded]).sport());
        }
    }
    ports.sort_unstable();
    assert_eq!(ports, [61_000, 61_001]);
    // Another remote host has the ports for itself.
    let other = datapath.from_pod(CLIENT_IFINDEX, &syn(1, (ROUTER, 443)));
    other.to_uplink(&[Outcome::Masqueraded]);
}

#[test]
fn snat_ports_are_spread_over_their_whole_range() {
    let datapath = Datapath::node();
    datapath.snat_ports(61_000, 61_015);
    let mut seen = [false; 16];
    for n in 0..400u16 {
        let to = ([203, 0, (n >> 8) as u8, n as u8], 443);
        let run = datapath.from_pod(CLIENT_IFINDEX, &syn(40_000, to));
        let port = run.to_uplink(&[Outcome::Masqueraded]).sport();
        seen[usize::from(port - 61_000)] = true;
    }
    // One of 16 ports is missed by 400 draws once in ten billion runs.
    assert_eq!(seen, [true; 16]);
}

#[test]
fn ports_of_closed_connections_are_kept_while_others_are_free() {
    let datapath = Datapath::node();
    datapath.snat_ports(61_000, 61_001);
    for n in 0..20 {
        let to = ([203, 0, 113, n], 443);
        let open = |port, flags| {
            let packet = Packet::tcp((CLIENT, port), to, flags, b"");
            let run = datapath.from_pod(CLIENT_IFINDEX, &packet);
            run.to_uplink(&[Outcome::Masqueraded]).sport()
        };
        let closed = open(1, SYN);
        open(1, RST);
        datapath.age_flows(3);
        // The peer may keep the closed connection in TIME_WAIT for 60 s.
        assert_ne!(open(2, SYN), closed, "remote host {n}");
    }
}

#[test]
fn orphan_fragments_wait_63_times_and_are_dropped() {
    let datapath = Datapath::node();
    datapath.service(7, (VIP, 53, proto::UDP), &[(SERVER, 5353)]);
    let whole = Packet::udp((CLIENT, PORT), (VIP, 53), &[7; 3000]);
    let later = || datapath.from_pod(CLIENT_IFINDEX, &whole.fragment(1480, 1480));
    for n in 1..=63 {
        assert!(later().is_requeued(), "fragment {n}");
    }
    later().dropped(DropReason::FragmentUnknown);
    later().dropped(DropReason::FragmentUnknown);
    // The first fragment ends the wait.
    let first = datapath.from_pod(CLIENT_IFINDEX, &whole.fragment(0, 1480));
    assert_eq!(first.to_pod(&[Outcome::Translated]).dst, SERVER);
    assert_eq!(later().to_pod(&[Outcome::Translated]).dst, SERVER);
    // The count restarts when the ports are lost again, and for each datagram.
    let fragments = datapath.map::<FragmentKey, FragmentPorts>(map::FRAGMENTS);
    for (key, _) in fragments.entries().unwrap() {
        fragments.delete(&key).unwrap();
    }
    assert!(later().is_requeued());
    let mut other = whole.clone();
    other.id = 99;
    assert!(datapath.from_pod(CLIENT_IFINDEX, &other.fragment(1480, 1480)).is_requeued());
}

#[test]
fn orphan_fragments_to_the_node_wait_63_times_and_go_to_the_stack() {
    let datapath = Datapath::node();
    let whole = Packet::udp((EXTERNAL, 53), (NODE, 5000), &[7; 3000]);
    let later = || datapath.from_netdev(&whole.fragment(1480, 1480));
    for n in 1..=63 {
        assert!(later().is_requeued(), "fragment {n}");
    }
    later().passed();
}

#[test]
fn orphan_fragments_at_egress_hooks_are_dropped() {
    let datapath = Datapath::node();
    datapath.service(7, (VIP, 53, proto::UDP), &[(SERVER, 5353)]);
    let whole = Packet::udp((NODE, PORT), (VIP, 53), &[7; 3000]);
    // An egress hook has no queue to put the fragment into.
    datapath.to_netdev(&whole.fragment(1480, 1480)).dropped(DropReason::FragmentUnknown);
}

/// A conntrack entry that no test packet matches.
fn unrelated_flow(n: u16) -> (FlowKey, FlowEntry) {
    let key = FlowKey {
        src: v4([192, 0, 2, 1]),
        dst: v4([192, 0, 2, 2]),
        sport: PortBe::new(n),
        dport: PortBe::new(1),
        proto: proto::TCP,
        pad: [0; 3],
    };
    (key, FlowEntry::default())
}

#[test]
fn translation_without_a_free_conntrack_entry_drops() {
    // With no entry left the claim of the reply direction fails; with one left, the entry of the
    // forward direction.
    for free in [0, 1] {
        let datapath =
            Datapath::load_with(Options { conntrack_hash: Some(4), ..Options::default() });
        datapath.configure_node();
        for n in 0..4 - free {
            let (key, entry) = unrelated_flow(n);
            datapath.conntrack().update(&key, &entry).unwrap();
        }
        let run = datapath.from_pod(CLIENT_IFINDEX, &syn(1, (EXTERNAL, 443)));
        run.dropped(DropReason::ConntrackFull);
        // A packet that needs no translation needs no entry.
        datapath.from_pod(CLIENT_IFINDEX, &syn(1, (SERVER, 80))).to_pod(&[]);
    }
}

#[test]
fn a_taken_tuple_is_not_reported_as_a_full_map() {
    let datapath = Datapath::load_with(Options { conntrack_hash: Some(64), ..Options::default() });
    datapath.configure_node();
    datapath.snat_ports(61_000, 61_000);
    let masqueraded = datapath.from_pod(CLIENT_IFINDEX, &syn(1, (EXTERNAL, 443)));
    masqueraded.to_uplink(&[Outcome::Masqueraded]);
    let run = datapath.from_pod(CLIENT_IFINDEX, &syn(2, (EXTERNAL, 443)));
    run.dropped(DropReason::NoSnatPort);
}
