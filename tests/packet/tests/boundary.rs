//! Addresses that a neighbour on the nodes' network forges: of this node, of pods of other nodes, and loopback
//! addresses.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test ends where it fails")]

use packet_tests::topology::{HOST_MAC, OTHER_NODE_MAC, ROUTER_MAC};
use packet_tests::*;
use sluice_abi::{DropReason, Outcome, program, proto};

const SYN: u8 = 2;
const RST: u8 = 4;
const ACK: u8 = 16;
/// An address of this node's pod range without a pod.
const FREE: [u8; 4] = [10, 244, 1, 99];

/// A node with a Service on a local pod (80) and one on a remote pod (81).
fn node() -> Datapath {
    let datapath = Datapath::node();
    datapath.service(7, (VIP, 80, proto::TCP), &[(SERVER, 8080)]);
    datapath.service(8, (VIP, 81, proto::TCP), &[(FAR_POD, 8080)]);
    datapath
}

/// A packet that the uplink receives from this hardware address.
fn from_wire(datapath: &Datapath, packet: &Packet, mac: [u8; 6]) -> Run {
    datapath.run(program::FROM_NETDEV, &packet.frame(HOST_MAC, mac), UPLINK_IFINDEX)
}

/// Asserts that this packet from the wire is dropped, also as a reset, and changes no flow.
#[track_caller]
fn assert_forged(datapath: &Datapath, from: ([u8; 4], u16), to: ([u8; 4], u16), mac: [u8; 6]) {
    // So that a packet of the flow would change the time of its entry too.
    datapath.age_flows(3);
    let before = datapath.flows();
    for flags in [ACK, SYN, RST] {
        let run = from_wire(datapath, &Packet::tcp(from, to, flags, b"forged"), mac);
        run.dropped(DropReason::Spoofed);
    }
    assert_eq!(datapath.flows(), before);
}

#[test]
fn addresses_of_this_node_open_no_flow_from_the_wire() {
    let datapath = node();
    for source in [NODE, GATEWAY, CLIENT, FREE] {
        for to in [(SERVER, 8080), (VIP, 80), (VIP, 81), (NODE, 10_250)] {
            for mac in [ROUTER_MAC, OTHER_NODE_MAC, HOST_MAC] {
                assert_forged(&datapath, (source, 1000), to, mac);
            }
        }
    }
    assert!(datapath.flows().is_empty());
}

#[test]
fn pods_of_other_nodes_open_flows_by_their_next_hop_only() {
    for to in [(SERVER, 8080), (VIP, 80)] {
        let datapath = node();
        for mac in [ROUTER_MAC, HOST_MAC] {
            assert_forged(&datapath, (FAR_POD, 1000), to, mac);
        }
        assert!(datapath.flows().is_empty());
        let syn = Packet::tcp((FAR_POD, 1000), to, SYN, b"");
        let run = from_wire(&datapath, &syn, OTHER_NODE_MAC);
        let labels: Vec<_> = run.counters.keys().copied().collect();
        run.counted(&labels);
        assert_eq!((run.action, run.packet().dst), (Action::Redirect, SERVER));
        assert_eq!(datapath.flows().len(), 1);
    }
}

#[test]
fn flows_between_pods_of_this_node_take_no_packets_from_the_wire() {
    let datapath = node();
    let direct = Packet::tcp((CLIENT, 1000), (SERVER, 9090), SYN, b"");
    datapath.from_pod(CLIENT_IFINDEX, &direct).to_pod(&[]);
    let service = Packet::tcp((CLIENT, 1001), (VIP, 80), SYN, b"");
    datapath.from_pod(CLIENT_IFINDEX, &service).to_pod(&[Outcome::Translated]);
    for (from, to) in [
        ((CLIENT, 1000), (SERVER, 9090)),
        ((SERVER, 9090), (CLIENT, 1000)),
        ((CLIENT, 1001), (VIP, 80)),
        ((CLIENT, 1001), (SERVER, 8080)),
        ((SERVER, 8080), (CLIENT, 1001)),
    ] {
        assert_forged(&datapath, from, to, ROUTER_MAC);
        assert_forged(&datapath, from, to, OTHER_NODE_MAC);
    }
}

#[test]
fn flows_between_node_and_pod_take_no_packets_from_the_wire() {
    let datapath = node();
    let to_node = Packet::tcp((CLIENT, 1000), (NODE, 443), SYN, b"");
    datapath.from_pod(CLIENT_IFINDEX, &to_node).to_stack(&[]);
    let to_pod = Packet::tcp((NODE, 1001), (SERVER, 8080), SYN, b"");
    datapath.to_pod(SERVER_IFINDEX, &to_pod).passed();
    assert_eq!(datapath.flows().len(), 2);
    for mac in [ROUTER_MAC, OTHER_NODE_MAC, HOST_MAC] {
        assert_forged(&datapath, (NODE, 443), (CLIENT, 1000), mac);
        assert_forged(&datapath, (NODE, 1001), (SERVER, 8080), mac);
    }
}

#[test]
fn an_accepted_sender_is_accepted_for_its_own_address_only() {
    let datapath = node();
    let to_node = Packet::tcp((CLIENT, 1000), (NODE, 443), SYN, b"");
    datapath.from_pod(CLIENT_IFINDEX, &to_node).to_stack(&[]);
    // The sender of this address is remembered in the place of the node's address.
    let accepted = Packet::tcp(([10, 244, 2, 34], 1000), (SERVER, 8080), ACK, b"");
    let forged = Packet::tcp((NODE, 443), (CLIENT, 1000), ACK, b"");
    for _ in 0..20 {
        from_wire(&datapath, &accepted, OTHER_NODE_MAC).to_pod(&[]);
        from_wire(&datapath, &forged, OTHER_NODE_MAC).dropped(DropReason::Spoofed);
    }
}

#[test]
fn flows_with_pods_of_other_nodes_take_packets_of_their_next_hop_only() {
    let datapath = node();
    let direct = Packet::tcp((CLIENT, 1000), (FAR_POD, 9090), SYN, b"");
    datapath.from_pod(CLIENT_IFINDEX, &direct).to_uplink(&[]);
    let service = Packet::tcp((CLIENT, 1001), (VIP, 81), SYN, b"");
    datapath.from_pod(CLIENT_IFINDEX, &service).to_uplink(&[Outcome::Translated]);
    let inbound = Packet::tcp((FAR_POD, 1002), (SERVER, 8080), SYN, b"");
    from_wire(&datapath, &inbound, OTHER_NODE_MAC).to_pod(&[]);
    for (from, to, restored) in [
        ((FAR_POD, 9090), (CLIENT, 1000), false),
        ((FAR_POD, 8080), (CLIENT, 1001), true),
        ((FAR_POD, 1002), (SERVER, 8080), false),
    ] {
        // Before and after the flow is confirmed.
        for _ in 0..3 {
            assert_forged(&datapath, from, to, ROUTER_MAC);
            let outcomes: &[Outcome] = if restored { &[Outcome::Restored] } else { &[] };
            let packet = Packet::tcp(from, to, ACK, b"data");
            from_wire(&datapath, &packet, OTHER_NODE_MAC).to_pod(outcomes);
        }
        let error =
            Packet::icmp_error(from.0, to.0, (3, 3, 0), &Packet::tcp(to, from, ACK, b""), 20);
        from_wire(&datapath, &error, ROUTER_MAC).dropped(DropReason::Spoofed);
    }
}

#[test]
fn a_pod_address_by_another_next_hop_is_left_to_the_stack_if_the_node_is_the_destination() {
    let datapath = node();
    let packet = Packet::tcp((FAR_POD, 1000), (NODE, 10_250), SYN, b"");
    for mac in [OTHER_NODE_MAC, ROUTER_MAC] {
        from_wire(&datapath, &packet, mac).passed();
    }
}

/// The stack also accepts packets to its addresses in broadcast and multicast frames.
#[test]
fn loopback_addresses_are_dropped_in_frames_to_all_or_a_group_of_hosts() {
    let datapath = node();
    let loopback = [127, 0, 0, 1];
    let receive = |mac, from: [u8; 4], to: [u8; 4]| {
        let frame = Packet::udp((from, 1000), (to, 10_249), b"x").frame(mac, ROUTER_MAC);
        datapath.run(program::FROM_NETDEV, &frame, UPLINK_IFINDEX)
    };
    for mac in [[0xff; 6], [1, 0, 0x5e, 0, 0, 1], HOST_MAC] {
        receive(mac, EXTERNAL, loopback).dropped(DropReason::Malformed);
        receive(mac, loopback, NODE).dropped(DropReason::Spoofed);
        receive(mac, EXTERNAL, NODE).passed();
    }
    // The stack drops frames to another host.
    receive([2, 0, 0, 0, 9, 9], EXTERNAL, loopback).passed();
    assert!(datapath.flows().is_empty());
}
