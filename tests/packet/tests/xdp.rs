//! The XDP program: which packets leave by it, and what it leaves to tc.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test ends where it fails")]

use std::collections::BTreeMap;

use packet_tests::topology::{
    HOST_MAC, LOW_MTU_HOST, OTHER_NODE_MAC, ROUTER_MAC, SECOND_HOST, SECOND_IFINDEX,
    SECOND_ROUTER_MAC,
};
use packet_tests::*;
use sluice_abi::{
    DropReason, Frontend, NodeConfig, Outcome, PolicyDirection, PolicyPorts, frontend_flags,
    node_flags, proto, ticks,
};
use sluice_bpf::test_run::XdpAction;

const SYN: u8 = 2;
const SYN_ACK: u8 = 18;
const ACK: u8 = 16;
const ANY_NODE: [u8; 4] = [0; 4];
const NODE_PORT: u16 = 30_080;

/// The node of `topology.rs` with XDP.
fn datapath() -> Datapath {
    let mut datapath = Datapath::node();
    datapath.use_xdp();
    datapath
}

/// Makes a NodePort of a Service port with these backends.
fn node_port(datapath: &Datapath, port: u16, proto: u8, backends: &[Endpoint]) {
    let service = u32::from(port) % 100 + 1;
    let sets = Sets { cluster: backends.to_vec(), ..Sets::default() };
    datapath.service_port(service, proto, &sets);
    let frontend = Frontend { service, flags: frontend_flags::EXTERNAL };
    datapath.frontend((ANY_NODE, port, proto), frontend);
}

/// Runs the program over a frame from the uplink and asserts that it passes unchanged and uncounted.
#[track_caller]
fn pass(datapath: &Datapath, frame: &[u8]) {
    let run = datapath.xdp(UPLINK_IFINDEX, frame);
    assert_eq!((run.action, &run.data[..]), (XdpAction::Pass, frame), "{}", show(frame));
    assert_eq!(run.counters, Counters::new());
}

/// Runs the program over a packet from the uplink that it sends back to it; returns the packet, after
/// its link-layer header.
#[track_caller]
fn tx(datapath: &Datapath, packet: &Packet, to: [u8; 6], others: &[Outcome]) -> Packet {
    let frame = packet.bytes_from_wire();
    let run = datapath.xdp(UPLINK_IFINDEX, &frame);
    assert_eq!(run.action, XdpAction::Tx, "{packet:?}");
    assert_eq!(run.data[..12], [to, HOST_MAC].concat(), "hardware addresses");
    let mut expected: Vec<_> = others.iter().map(|outcome| outcome.label()).collect();
    expected.push(Outcome::ToUplinkByXdp.label());
    expected.sort_unstable();
    let counted: Vec<_> = run.counters.keys().copied().collect();
    assert_eq!(counted, expected);
    assert!(run.counters.values().all(|c| (c.packets, c.bytes) == (1, frame.len() as u64)));
    let sent = Packet::read(&run.data).unwrap_or_else(|e| panic!("{e} in {}", show(&run.data)));
    assert_eq!(sent.ttl, packet.ttl - 1);
    sent
}

const FORWARD: [Outcome; 2] = [Outcome::Translated, Outcome::Masqueraded];

/// Opens a connection to [`NODE_PORT`]; returns the source port of its translated packets.
#[track_caller]
fn connect(datapath: &Datapath, port: u16) -> u16 {
    let (client, node) = ((EXTERNAL, port), (NODE, NODE_PORT));
    let sent = tx(datapath, &Packet::tcp(client, node, SYN, b""), OTHER_NODE_MAC, &FORWARD);
    assert_eq!((sent.src, sent.dst, sent.dport()), (NODE, FAR_POD, 8080));
    let answer = Packet::tcp((FAR_POD, 8080), (NODE, sent.sport()), SYN_ACK, b"");
    let back = tx(datapath, &answer, ROUTER_MAC, &[Outcome::Restored]);
    assert_eq!((back.src, back.sport(), back.dst, back.dport()), (NODE, NODE_PORT, EXTERNAL, port));
    let ack = tx(datapath, &Packet::tcp(client, node, ACK, b"x"), OTHER_NODE_MAC, &FORWARD);
    assert_eq!(ack.sport(), sent.sport());
    sent.sport()
}

#[test]
fn connection_to_a_remote_backend_leaves_by_xdp_in_both_directions() {
    let datapath = datapath();
    node_port(&datapath, NODE_PORT, proto::TCP, &[(FAR_POD, 8080)]);
    connect(&datapath, 5000);
    let [flow] = &datapath.flows()[..] else { panic!("one flow") };
    assert!(flow.is_replied());
}

#[test]
fn datagrams_with_and_without_checksum_leave_by_xdp() {
    let datapath = datapath();
    node_port(&datapath, 30_053, proto::UDP, &[(FAR_POD, 53)]);
    node_port(&datapath, 30_054, proto::SCTP, &[(FAR_POD, 54)]);
    for (n, checksum) in [(0, L4Checksum::Computed), (1, L4Checksum::Zero)] {
        let mut packet = Packet::udp((EXTERNAL, 5000 + n), (NODE, 30_053), b"query");
        packet.checksum = checksum;
        let sent = tx(&datapath, &packet, OTHER_NODE_MAC, &FORWARD);
        assert_eq!((sent.dst, sent.dport(), sent.checksum), (FAR_POD, 53, checksum));
    }
    let packet = Packet::sctp((EXTERNAL, 5000), (NODE, 30_054), &[1; 20]);
    tx(&datapath, &packet, OTHER_NODE_MAC, &FORWARD);
}

#[test]
fn backend_behind_another_uplink_is_redirected_to_if_both_have_xdp() {
    let datapath = datapath();
    node_port(&datapath, NODE_PORT, proto::TCP, &[(SECOND_HOST, 8080)]);
    let frame = Packet::tcp((EXTERNAL, 5000), (NODE, NODE_PORT), SYN, b"").bytes_from_wire();
    let run = datapath.xdp(UPLINK_IFINDEX, &frame);
    assert_eq!(run.action, XdpAction::Redirect);
    assert_eq!(run.data[..12], [SECOND_ROUTER_MAC, HOST_MAC].concat());
    let mut without_xdp = datapath;
    without_xdp.xdp_off();
    without_xdp.device(SECOND_IFINDEX, [192, 168, 9, 2], sluice_abi::device_flags::MANAGED);
    pass(&without_xdp, &frame);
}

#[test]
fn packets_that_need_the_stack_or_tc_pass() {
    let datapath = datapath();
    node_port(&datapath, NODE_PORT, proto::TCP, &[(FAR_POD, 8080)]);
    connect(&datapath, 5000);
    let good = Packet::tcp((EXTERNAL, 5000), (NODE, NODE_PORT), ACK, &[7; 100]);
    let mut options = good.clone();
    options.options = vec![1; 4];
    let mut long = Packet::tcp((EXTERNAL, 5000), (NODE, NODE_PORT), ACK, &[7; 1461]);
    long.dont_fragment = true;
    let error = Packet::icmp_error(ROUTER, NODE, (3, 4, 1400), &good, 8);
    for packet in [
        good.clone().ttl(1),
        options,
        long,
        good.fragment(0, 40),
        good.fragment(40, 40),
        error,
        Packet::echo(EXTERNAL, NODE, 8, 7, b""),
    ] {
        pass(&datapath, &packet.bytes_from_wire());
    }
    let frame = good.bytes_from_wire();
    for len in 14..frame.len() {
        pass(&datapath, &frame[..len]);
    }
    // VLAN tags, IPv6, ARP, other versions and header lengths.
    for (at, to) in [(12, 0x81), (12, 0x86), (13, 6), (14, 0x65), (14, 0x44), (14, 0x4f)] {
        let mut frame = frame.clone();
        frame[at] = to;
        pass(&datapath, &frame);
    }
    tx(&datapath, &good, OTHER_NODE_MAC, &FORWARD);
}

#[test]
fn frame_to_another_hardware_address_passes_also_from_a_known_sender() {
    let datapath = datapath();
    node_port(&datapath, NODE_PORT, proto::TCP, &[(FAR_POD, 8080)]);
    connect(&datapath, 5000);
    let good = Packet::tcp((EXTERNAL, 5000), (NODE, NODE_PORT), ACK, &[7; 100]);
    for at in 0..6 {
        tx(&datapath, &good, OTHER_NODE_MAC, &FORWARD);
        let mut frame = good.bytes_from_wire();
        frame[at] ^= 0x10;
        pass(&datapath, &frame);
    }
}

#[test]
fn packet_whose_checksum_a_device_would_complete_passes() {
    let datapath = datapath();
    node_port(&datapath, NODE_PORT, proto::TCP, &[(FAR_POD, 8080)]);
    node_port(&datapath, 30_053, proto::UDP, &[(FAR_POD, 53)]);
    node_port(&datapath, 30_054, proto::SCTP, &[(FAR_POD, 54)]);
    let (client, node) = ((EXTERNAL, 5000), NODE);
    for (packet, at) in [
        (Packet::tcp(client, (node, NODE_PORT), SYN, b"abc"), 34 + 16),
        (Packet::udp(client, (node, 30_053), b"abc"), 34 + 6),
    ] {
        let mut frame = packet.bytes_from_wire();
        let mut pseudo = [&EXTERNAL[..], &NODE[..], &[0, packet.proto]].concat();
        pseudo.extend((packet.body.len() as u16).to_be_bytes());
        let sum = !checksum::internet(&pseudo);
        frame[at..at + 2].copy_from_slice(&sum.to_be_bytes());
        pass(&datapath, &frame);
    }
    let mut sctp = Packet::sctp(client, (node, 30_054), &[1; 20]);
    sctp.checksum = L4Checksum::Zero;
    pass(&datapath, &sctp.bytes_from_wire());
    assert_eq!(datapath.flows(), [], "tc opens the flows");
}

#[test]
fn mtu_of_the_route_is_respected() {
    let datapath = datapath();
    node_port(&datapath, NODE_PORT, proto::TCP, &[(LOW_MTU_HOST, 8080)]);
    let packet = |len: usize| {
        let payload = vec![0; len - 40];
        Packet::tcp((EXTERNAL, 5000), (NODE, NODE_PORT), SYN, &payload).bytes_from_wire()
    };
    assert_eq!(datapath.xdp(UPLINK_IFINDEX, &packet(1300)).action, XdpAction::Redirect);
    pass(&datapath, &packet(1301));
}

/// The flow is opened by XDP, and tc delivers the packet without another choice.
#[test]
fn packet_to_a_local_backend_passes_and_tc_delivers_it() {
    let datapath = datapath();
    node_port(&datapath, NODE_PORT, proto::TCP, &[(SERVER, 8080)]);
    let syn = Packet::tcp((EXTERNAL, 5000), (NODE, NODE_PORT), SYN, b"");
    pass(&datapath, &syn.bytes_from_wire());
    let [flow] = datapath.flows()[..] else { panic!("one flow") };
    let sent = datapath.from_netdev(&syn).to_pod(&FORWARD);
    assert_eq!((sent.dst, sent.dport()), (SERVER, 8080));
    assert_eq!((sent.sport(), 1), (flow.tuple.sport.get(), datapath.flows().len()));
}

#[test]
fn packet_to_an_isolated_backend_opens_no_flow_and_tc_drops_it() {
    const OUTSIDE: u64 = 7;
    let datapath = datapath();
    node_port(&datapath, NODE_PORT, proto::TCP, &[(SERVER, 8080)]);
    datapath.network_class(EXTERNAL, 32, OUTSIDE);
    let admit = |rules: &[(u64, PolicyPorts)]| {
        datapath.isolate(SERVER, PolicyDirection::Ingress, rules, PolicyPorts::NONE);
    };
    let web = PolicyPorts::range(proto::TCP, 8080, 8080);
    let packet = |flags| Packet::tcp((EXTERNAL, 5000), (NODE, NODE_PORT), flags, b"");
    admit(&[]);
    pass(&datapath, &packet(SYN).bytes_from_wire());
    assert!(datapath.flows().is_empty());
    datapath.from_netdev(&packet(SYN)).dropped(DropReason::PolicyIngress);
    admit(&[(OUTSIDE, web)]);
    pass(&datapath, &packet(SYN).bytes_from_wire());
    let sent = datapath.from_netdev(&packet(SYN)).to_pod(&FORWARD);
    let reply = Packet::tcp((SERVER, 8080), (sent.src, sent.sport()), SYN_ACK, b"");
    datapath.from_pod(SERVER_IFINDEX, &reply).to_uplink(&[Outcome::Restored]);
    // The rule goes, and with it the open flow.
    admit(&[]);
    pass(&datapath, &packet(ACK).bytes_from_wire());
    datapath.from_netdev(&packet(ACK)).dropped(DropReason::PolicyIngress);
}

/// Bound of chi-square with 9 degrees of freedom at one in a million: 49.
#[test]
fn new_connections_are_spread_evenly_over_local_and_remote_backends() {
    let datapath = datapath();
    let far = (1..=5).map(|n| ([10, 244, 2, n], 8080));
    let near = (1..=5).map(|n| (SERVER, 9000 + n));
    let backends: Vec<Endpoint> = far.chain(near).collect();
    node_port(&datapath, NODE_PORT, proto::TCP, &backends);
    let mut chosen = BTreeMap::new();
    const CONNECTIONS: u16 = 2000;
    for port in 10_000..10_000 + CONNECTIONS {
        let syn = Packet::tcp((EXTERNAL, port), (NODE, NODE_PORT), SYN, b"");
        let run = datapath.xdp(UPLINK_IFINDEX, &syn.bytes_from_wire());
        let sent = match run.action {
            XdpAction::Tx => Packet::read(&run.data).unwrap(),
            _ => datapath.from_netdev(&syn).to_pod(&FORWARD),
        };
        *chosen.entry((sent.dst, sent.dport())).or_insert(0u32) += 1;
    }
    let expected = f64::from(CONNECTIONS) / backends.len() as f64;
    let square = |backend| (f64::from(*chosen.get(backend).unwrap_or(&0)) - expected).powi(2);
    let chi_square: f64 = backends.iter().map(|b| square(b) / expected).sum();
    println!("{chosen:?}: {chi_square:.1}");
    assert!(chi_square < 49.0, "{chosen:?}: {chi_square:.1}");
}

/// The flow is opened by XDP, so that tc finds it and chooses no other backend.
#[test]
fn backend_on_the_node_itself_is_chosen_once() {
    let datapath = datapath();
    node_port(&datapath, NODE_PORT, proto::TCP, &[(NODE, 8080)]);
    let syn = Packet::tcp((EXTERNAL, 5000), (NODE, NODE_PORT), SYN, b"");
    pass(&datapath, &syn.bytes_from_wire());
    let flows = datapath.flows();
    assert!(flows.iter().any(|flow| flow.tuple.dport.get() == 8080), "{flows:?}");
}

#[test]
fn programs_that_are_not_in_charge_pass_every_packet() {
    let datapath = datapath();
    node_port(&datapath, NODE_PORT, proto::TCP, &[(FAR_POD, 8080)]);
    connect(&datapath, 5000);
    let known = Packet::tcp((EXTERNAL, 5000), (NODE, NODE_PORT), ACK, b"").bytes_from_wire();
    let new = Packet::tcp((EXTERNAL, 5001), (NODE, NODE_PORT), SYN, b"").bytes_from_wire();
    let flags = |flags| datapath.node_config(&NodeConfig { flags, ..node_config() });
    for off in [0, node_flags::READY | node_flags::HANDED_OVER] {
        flags(off);
        pass(&datapath, &known);
        pass(&datapath, &new);
    }
    // The predecessor may have the flow: only tc can ask.
    flags(node_flags::READY | node_flags::LOOK_BACK);
    pass(&datapath, &new);
    assert_eq!(datapath.xdp(UPLINK_IFINDEX, &known).action, XdpAction::Tx);
}

#[test]
fn flows_of_pods_and_of_the_node_are_refreshed_and_pass() {
    let datapath = datapath();
    let sent = datapath
        .from_pod(CLIENT_IFINDEX, &Packet::tcp((CLIENT, PORT), (EXTERNAL, 443), SYN, b""))
        .to_uplink(&[Outcome::Masqueraded]);
    datapath.age_flows(5);
    let before = datapath.flows();
    let reply = Packet::tcp((EXTERNAL, 443), (NODE, sent.sport()), SYN_ACK, b"");
    pass(&datapath, &reply.bytes_from_wire());
    let ([old], [new]) = (&before[..], &datapath.flows()[..]) else { panic!("one flow") };
    assert!(new.seen >= old.seen + ticks(4) && new.is_replied());
    // Neither does a packet without a flow, or one to a pod's own address, change anything.
    let before = datapath.flows();
    for packet in [
        Packet::tcp((EXTERNAL, 443), (NODE, sent.sport() ^ 1), ACK, b""),
        Packet::udp((EXTERNAL, 443), (NODE, sent.sport()), b"x"),
        Packet::tcp((EXTERNAL, 5000), (CLIENT, 80), SYN, b""),
    ] {
        pass(&datapath, &packet.bytes_from_wire());
    }
    assert_eq!(datapath.flows(), before);
}

#[test]
fn unknown_hardware_address_of_the_next_hop_is_left_to_tc() {
    let datapath = datapath();
    node_port(&datapath, NODE_PORT, proto::TCP, &[([172, 18, 0, 99], 8080)]);
    let syn = Packet::tcp((EXTERNAL, 5000), (NODE, NODE_PORT), SYN, b"");
    pass(&datapath, &syn.bytes_from_wire());
    datapath.from_netdev(&syn).to_uplink(&FORWARD);
}

#[test]
fn neighbour_entry_of_a_next_hop_is_used_by_the_stack_now_and_then() {
    cpu::stay();
    let mut datapath = datapath();
    node_port(&datapath, NODE_PORT, proto::TCP, &[(FAR_POD, 8080)]);
    connect(&datapath, 5000);
    datapath.age_neighbour_uses(40);
    // Another client, whose next hop this CPU does not keep.
    let syn = Packet::tcp(([198, 51, 100, 8], 5000), (NODE, NODE_PORT), SYN, b"");
    pass(&datapath, &syn.bytes_from_wire());
    datapath.from_netdev(&syn).to_uplink(&FORWARD);
    tx(&datapath, &syn, OTHER_NODE_MAC, &FORWARD);
}

#[test]
fn packet_of_a_known_flow_rebuilds_an_evicted_alias() {
    let datapath = datapath();
    let sent = datapath
        .from_pod(CLIENT_IFINDEX, &Packet::tcp((CLIENT, PORT), (EXTERNAL, 443), SYN, b""))
        .to_uplink(&[Outcome::Masqueraded]);
    datapath.age_flows(5);
    let key = tuple(proto::TCP, (CLIENT, PORT), (EXTERNAL, 443)).sorted();
    let lost = datapath.entry(&key).unwrap();
    assert!(datapath.remove_entry(&key));
    let reply = Packet::tcp((EXTERNAL, 443), (NODE, sent.sport()), ACK, b"");
    pass(&datapath, &reply.bytes_from_wire());
    let rebuilt = datapath.entry(&key).unwrap();
    assert_eq!(
        (rebuilt.tuple, rebuilt.other, rebuilt.kind, rebuilt.client, rebuilt.is_alias()),
        (lost.tuple, lost.other, lost.kind, lost.client, true)
    );
}

/// tc answers it, with the flow tables as XDP has left them.
#[test]
fn contract_5_9_a_segment_of_an_unknown_connection_is_left_to_tc_and_opens_no_flow() {
    let datapath = datapath();
    node_port(&datapath, NODE_PORT, proto::TCP, &[(FAR_POD, 8080)]);
    let segment = Packet::tcp((EXTERNAL, 5000), (NODE, NODE_PORT), ACK, b"x");
    pass(&datapath, &segment.bytes_from_wire());
    assert!(datapath.flows().is_empty());
    datapath.from_netdev(&segment).rejected(DropReason::NotTracked);
}
