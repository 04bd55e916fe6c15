//! Flows that need loops or statistics: port exhaustion, spread of connections, full maps.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test ends where it fails")]

use std::time::Instant;

use packet_tests::*;
use sluice_abi::{
    DropReason, FlowEntry, FlowKey, Frontend, Outcome, PodFlows, frontend_flags, map, program,
    proto,
};
use sluice_bpf::test_run;
use sluice_packet::budget;

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
        // From here on, a flow would take the port if no other were free.
        datapath.age_flows(5);
        // The peer may keep the closed connection in TIME_WAIT for 60 s.
        assert_ne!(open(2, SYN), closed, "remote host {n}");
    }
}

#[test]
fn orphan_fragments_at_egress_hooks_are_dropped() {
    let datapath = Datapath::node();
    datapath.service(7, (VIP, 53, proto::UDP), &[(SERVER, 5353)]);
    let whole = Packet::udp((NODE, PORT), (VIP, 53), &[7; 3000]);
    // An egress hook has no queue to put the fragment into.
    datapath.to_netdev(&whole.fragment(1480, 1480)).dropped(DropReason::FragmentUnknown);
}

/// A flow that no test packet belongs to.
fn unrelated_flow(n: u16) -> (FlowKey, FlowEntry) {
    let tuple = tuple(proto::TCP, ([192, 0, 2, 1], n), ([192, 0, 2, 2], 1));
    (tuple.sorted(), FlowEntry { tuple, other: tuple, ..FlowEntry::default() })
}

#[test]
fn packets_without_a_free_flow_entry_are_dropped() {
    // A translated flow takes two entries, others take one.
    for (free, to, fits) in
        [(0, EXTERNAL, false), (1, EXTERNAL, false), (0, SERVER, false), (1, SERVER, true)]
    {
        let options = Options { new_flows_hash: Some(4), ..Options::default() };
        let datapath = Datapath::load_with(options);
        datapath.configure_node();
        for n in 0..4 - free {
            let (key, entry) = unrelated_flow(n);
            datapath.map(map::FLOWS_NEW_POD).update(&key, &entry).unwrap();
        }
        let run = datapath.from_pod(CLIENT_IFINDEX, &syn(1, (to, 443)));
        if fits {
            run.to_pod(&[]);
        } else {
            run.dropped(DropReason::ConntrackFull);
            assert_eq!(datapath.flows().len(), 4 - usize::from(free), "half a flow is left");
        }
    }
}

#[test]
fn a_taken_tuple_is_not_reported_as_a_full_map() {
    let options = Options { new_flows_hash: Some(64), ..Options::default() };
    let datapath = Datapath::load_with(options);
    datapath.configure_node();
    datapath.snat_ports(61_000, 61_000);
    let masqueraded = datapath.from_pod(CLIENT_IFINDEX, &syn(1, (EXTERNAL, 443)));
    masqueraded.to_uplink(&[Outcome::Masqueraded]);
    let run = datapath.from_pod(CLIENT_IFINDEX, &syn(2, (EXTERNAL, 443)));
    run.dropped(DropReason::NoSnatPort);
}

const ACK: u8 = 16;
const SYN_ACK: u8 = 18;

/// Opens a masqueraded TCP connection of CLIENT; returns its port on the uplink.
fn connect(datapath: &Datapath, port: u16) -> u16 {
    let to = (EXTERNAL, 443);
    let sent = datapath.from_pod(CLIENT_IFINDEX, &syn(port, to));
    let snat = sent.to_uplink(&[Outcome::Masqueraded]).sport();
    let reply = Packet::tcp(to, (NODE, snat), SYN_ACK, b"");
    assert_eq!(datapath.from_netdev(&reply).to_pod(&[Outcome::Restored]).dport(), port);
    let ack = Packet::tcp((CLIENT, port), to, ACK, b"");
    datapath.from_pod(CLIENT_IFINDEX, &ack).to_uplink(&[Outcome::Masqueraded]);
    snat
}

/// Asserts that both directions of a connection that [`connect`] has opened work.
fn assert_open(datapath: &Datapath, port: u16, snat: u16) {
    let to = (EXTERNAL, 443);
    let ack = Packet::tcp((CLIENT, port), to, ACK, b"data");
    let sent = datapath.from_pod(CLIENT_IFINDEX, &ack).to_uplink(&[Outcome::Masqueraded]);
    assert_eq!(sent.sport(), snat);
    let reply = Packet::tcp(to, (NODE, snat), ACK, b"data");
    assert_eq!(datapath.from_netdev(&reply).to_pod(&[Outcome::Restored]).dport(), port);
}

/// Scans by SERVER, which send one packet to each of many destinations: more than the table of new flows has
/// entries for, if the pod had all of it.
const SCANS: [(Option<u32>, u8, u32); 3] = [
    (None, proto::UDP, 20_000),
    (Some(map::FLOWS_MAX / 10), proto::TCP, 20_000),
    (Some(map::FLOWS_MAX / 10), proto::UDP, 1_000_000),
];

/// Sends the packet of a scan to its destination number `n`. Returns whether it was sent on.
fn probe(datapath: &Datapath, protocol: u8, n: u32) -> bool {
    let [_, a, b, c] = n.to_be_bytes();
    let (from, to) = ((SERVER, 4000), ([203, a, b, c], 9));
    let packet = match protocol {
        proto::TCP => Packet::tcp(from, to, SYN, b""),
        _ => Packet::udp(from, to, b"x"),
    };
    let frame = packet.bytes_from_pod(SERVER_IFINDEX);
    // Without the counters and the record of every packet, of which there are many.
    let ran = test_run::run(datapath.fd(program::FROM_POD), &frame, SERVER_IFINDEX, 0, 1).unwrap();
    match ran.action {
        Action::Redirect => true,
        Action::Drop => false,
        other => panic!("{other:?} for destination {n}"),
    }
}

#[test]
fn a_scan_by_one_pod_leaves_confirmed_flows_and_new_flows_of_other_pods() {
    for (flows, protocol, destinations) in SCANS {
        let datapath = Datapath::load_with(Options { flows, ..Options::default() });
        datapath.configure_node();
        datapath.prepare(program::FROM_POD);
        let mut connections = vec![(1000, connect(&datapath, 1000))];
        let start = Instant::now();
        let mut passes = 0;
        for n in 0..destinations {
            passes += u64::from(probe(&datapath, protocol, n));
            if n % (destinations / 10) == 0 {
                let port = 1001 + connections.len() as u16;
                connections.push((port, connect(&datapath, port)));
            }
        }
        let returned = start.elapsed().as_secs() + 2;
        let limit = u64::from(budget::TOKENS) + returned * u64::from(budget::RETURNED_PER_TICK);
        assert!((u64::from(budget::TOKENS)..=limit).contains(&passes), "{passes} in {returned} s");
        let dropped = datapath.counters()[DropReason::TooManyNewFlows.label()].packets;
        assert_eq!(dropped, u64::from(destinations) - passes);
        for (port, snat) in connections {
            assert_open(&datapath, port, snat);
        }
        println!("{destinations} destinations in {:?}", start.elapsed());
    }
}

#[test]
fn a_flood_from_the_wire_leaves_confirmed_flows_and_new_flows_of_pods() {
    for flows in [None, Some(map::FLOWS_MAX / 10)] {
        let datapath = Datapath::load_with(Options { flows, ..Options::default() });
        datapath.configure_node();
        let snat = connect(&datapath, 1000);
        for n in 0..20_000u32 {
            let [_, a, b, c] = n.to_be_bytes();
            let attack = Packet::tcp(([203, a, b, c], 4000), (SERVER, 80), SYN, b"");
            datapath.from_netdev(&attack).to_pod(&[]);
            // The pod answers each SYN, which proves nothing about its sender.
            let answer = Packet::tcp((SERVER, 80), ([203, a, b, c], 4000), SYN_ACK, b"");
            datapath.from_pod(SERVER_IFINDEX, &answer).to_uplink(&[]);
        }
        let confirmed = datapath.flows_in(map::FLOWS);
        assert_eq!(confirmed.len(), 1, "{confirmed:?}");
        assert_open(&datapath, 1000, snat);
        let other = connect(&datapath, 1001);
        assert_open(&datapath, 1001, other);
    }
}

#[test]
fn flows_beyond_the_limit_of_a_pod_work_unconfirmed() {
    let datapath = Datapath::node();
    let config = sluice_abi::NodeConfig { flows_per_pod: 4, ..node_config() };
    datapath.node_config(&config);
    let ports: Vec<(u16, u16)> = (1000..1010).map(|p| (p, connect(&datapath, p))).collect();
    // Two entries per flow.
    assert_eq!(datapath.flows_in(map::FLOWS).len(), 2);
    for (port, snat) in ports {
        assert_open(&datapath, port, snat);
    }
}

#[test]
fn contract_10_5_an_idle_tcp_connection_lives_for_a_day() {
    let datapath = Datapath::node();
    datapath.service(7, (VIP, 80, proto::TCP), &[(SERVER, 8080)]);
    let masqueraded = connect(&datapath, 1000);
    let to_service = |flags| {
        let packet = Packet::tcp((CLIENT, 2000), (VIP, 80), flags, b"");
        datapath.from_pod(CLIENT_IFINDEX, &packet)
    };
    let reply = Packet::tcp((SERVER, 8080), (CLIENT, 2000), SYN_ACK, b"");
    to_service(SYN).to_pod(&[Outcome::Translated]);
    datapath.from_pod(SERVER_IFINDEX, &reply).to_pod(&[Outcome::Restored]);
    to_service(ACK).to_pod(&[Outcome::Translated]);
    datapath.service(7, (VIP, 80, proto::TCP), &[(FAR_POD, 8080)]);
    datapath.age_flows(86_000);
    assert_open(&datapath, 1000, masqueraded);
    assert_eq!(to_service(ACK).to_pod(&[Outcome::Translated]).dst, SERVER);
    // After the limit, the connection does not exist any more.
    datapath.age_flows(87_000);
    to_service(ACK).rejected(DropReason::NotTracked);
}

#[test]
fn a_pod_with_the_address_of_a_removed_one_does_not_continue_its_flows() {
    let datapath = Datapath::node();
    let snat = connect(&datapath, 1000);
    datapath.local_pod_of_generation(CLIENT, CLIENT_IFINDEX, 2);
    let reply = Packet::tcp((EXTERNAL, 443), (NODE, snat), ACK, b"data");
    datapath.from_netdev(&reply).passed();
}

const FIN_ACK: u8 = 17;

#[test]
fn confirmation_returns_the_token_and_a_closed_connection_leaves_the_confirmed_flows() {
    let datapath = Datapath::node();
    let limits = || {
        let index = u32::from(CLIENT[3]);
        let flows: PodFlows = datapath.map(map::POD_FLOWS).lookup(&index).unwrap().unwrap();
        (flows.tokens_used, flows.confirmed)
    };
    let unanswered = datapath.from_pod(CLIENT_IFINDEX, &syn(999, (EXTERNAL, 443)));
    unanswered.to_uplink(&[Outcome::Masqueraded]);
    assert_eq!(limits(), (1, 0));
    let snat = connect(&datapath, 1000);
    // The token of the first flow may have been returned by time.
    assert!(limits().0 <= 1, "{:?}", limits());
    assert_eq!(limits().1, 2, "a translated flow takes two entries");
    assert_eq!(datapath.flows_in(map::FLOWS).len(), 1);

    let to = (EXTERNAL, 443);
    let from_pod = |flags| {
        let packet = Packet::tcp((CLIENT, 1000), to, flags, b"");
        datapath.from_pod(CLIENT_IFINDEX, &packet).to_uplink(&[Outcome::Masqueraded]).sport()
    };
    from_pod(FIN_ACK);
    assert_eq!(datapath.flows_in(map::FLOWS).len(), 1, "half closed");
    let fin = Packet::tcp(to, (NODE, snat), FIN_ACK, b"");
    datapath.from_netdev(&fin).to_pod(&[Outcome::Restored]);
    assert_eq!(datapath.flows_in(map::FLOWS), []);
    assert_eq!(datapath.flows_in(map::FLOWS_NEW_POD).len(), 2);
    assert_eq!(limits().1, 0);
    // The last segments still belong to it.
    assert_eq!(from_pod(ACK), snat);
}

#[test]
fn unconfirmed_entries_of_one_flow_are_in_one_table() {
    let datapath = Datapath::node();
    // A connection of the node to a pod, closed after it was confirmed.
    let (node, pod) = ((NODE, 40_000), (SERVER, 80));
    let to_pod = |flags| datapath.to_pod(SERVER_IFINDEX, &Packet::tcp(node, pod, flags, b""));
    to_pod(SYN).passed();
    let reply = Packet::tcp(pod, node, SYN | ACK, b"");
    datapath.from_pod(SERVER_IFINDEX, &reply).to_stack(&[]);
    to_pod(ACK).passed();
    assert_eq!(datapath.flows_in(map::FLOWS).len(), 1);
    to_pod(RST).passed();
    let counts = || map::FLOW_TABLES.map(|table| datapath.flows_in(table).len());
    assert_eq!(counts(), [0, 1, 0], "closed");

    // A flow from the wire whose alias is lost, and written again by a reply that does not confirm it.
    datapath.service(7, (VIP, 80, proto::TCP), &[(FAR_POD, 80)]);
    let syn = Packet::tcp((EXTERNAL, 1000), (VIP, 80), SYN, b"");
    datapath.from_netdev(&syn).to_uplink(&[Outcome::Translated, Outcome::Masqueraded]);
    assert_eq!(counts(), [0, 1, 1], "a flow from the wire");
    let sport = datapath.flows_in(map::FLOWS_NEW_WIRE)[0].tuple.sport.get();
    let alias = tuple(proto::TCP, (EXTERNAL, 1000), (VIP, 80)).sorted();
    assert!(datapath.remove_entry(&alias));
    datapath.age_flows(3);
    let reply = Packet::tcp((FAR_POD, 80), (NODE, sport), SYN | ACK, b"");
    datapath.from_netdev(&reply).to_uplink(&[Outcome::Restored]);
    let has_alias =
        |table: &&str| datapath.map::<FlowKey, FlowEntry>(table).lookup(&alias).unwrap().is_some();
    let tables: Vec<&str> = map::FLOW_TABLES.into_iter().filter(has_alias).collect();
    assert_eq!(tables, [map::FLOWS_NEW_WIRE]);
}

#[test]
fn a_client_keeps_both_entries_of_its_flow_alive() {
    let datapath = Datapath::node();
    datapath.service(7, (VIP, 80, proto::TCP), &[(SERVER, 8080)]);
    let to_service = |flags| {
        let packet = Packet::tcp((CLIENT, 2000), (VIP, 80), flags, b"");
        datapath.from_pod(CLIENT_IFINDEX, &packet).to_pod(&[Outcome::Translated]);
    };
    let reply = Packet::tcp((SERVER, 8080), (CLIENT, 2000), SYN_ACK, b"");
    to_service(SYN);
    datapath.from_pod(SERVER_IFINDEX, &reply).to_pod(&[Outcome::Restored]);
    to_service(ACK);
    let main = tuple(proto::TCP, (CLIENT, 2000), (SERVER, 8080)).sorted();
    let alias = tuple(proto::TCP, (CLIENT, 2000), (VIP, 80)).sorted();
    let seen = || [main, alias].map(|key| datapath.entry(&key).expect("an entry").seen);
    datapath.age_flows(50_000);
    let aged = seen();
    to_service(ACK);
    for (seen, aged) in seen().into_iter().zip(aged) {
        assert!(seen.wrapping_sub(aged) > 40_000, "{seen} {aged}");
    }
}

/// A flow to the port of a NodePort at another host is not one to the NodePort, whose backend goes.
#[test]
fn contract_5_6_flows_to_other_hosts_with_the_port_of_a_node_port_keep_their_source_port() {
    const NODE_PORT: u16 = 30_053;
    let datapath = Datapath::node();
    datapath.service(7, (VIP, 53, proto::UDP), &[(SERVER, 53)]);
    let frontend = Frontend { service: 7, flags: frontend_flags::EXTERNAL };
    datapath.frontend(([0; 4], NODE_PORT, proto::UDP), frontend);
    let send =
        |to| datapath.from_pod(CLIENT_IFINDEX, &Packet::udp((CLIENT, PORT), (to, NODE_PORT), b"x"));
    let port = send(EXTERNAL).to_uplink(&[Outcome::Masqueraded]).sport();
    send(NODE).to_pod(&[Outcome::Translated]);
    datapath.service(7, (VIP, 53, proto::UDP), &[(FAR_POD, 53)]);
    assert_eq!(send(NODE).to_uplink(&[Outcome::Translated]).dst, FAR_POD);
    assert_eq!(send(EXTERNAL).to_uplink(&[Outcome::Masqueraded]).sport(), port);
}
