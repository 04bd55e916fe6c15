//! What does not take the usual way of a packet is behind the verdict all the same: other protocols, hop
//! limits that end, packets that are too long or have no route, fragments, multicast and broadcast.

use std::process::Command;

use packet_tests::topology::{HOST_MAC, ROUTER_MAC};
use packet_tests::*;
use sluice_abi::PolicyDirection::{Egress, Ingress};
use sluice_abi::{DropReason, Outcome, PolicyPorts, program, proto};

use super::{NONE, WEB, error, syn};

/// A host without a route.
const UNREACHABLE: [u8; 4] = [203, 0, 119, 7];
const BROADCAST_MAC: [u8; 6] = [0xff; 6];
const MULTICAST_MAC: [u8; 6] = [1, 0, 0x5e, 0, 0, 251];

/// Sends a packet.
type Way<'a> = &'a dyn Fn(&Packet) -> Run;

fn node() -> Datapath {
    let datapath = Datapath::node();
    let arguments = ["route", "replace", "unreachable", "203.0.119.0/24"];
    command::output(Command::new("ip").args(arguments));
    datapath
}

/// Packets to `to` that are not usual: protocols without ports, longer than any MTU, the first and the other
/// fragment of a datagram.
fn unusual(from: [u8; 4], to: [u8; 4], id: u16) -> [Packet; 6] {
    let mut long = Packet::udp((from, 1), (to, 1), &[0; 3000]);
    long.id = id;
    [
        Packet::new(from, to, 47, vec![0; 20]),
        Packet::echo(from, to, 8, 1, b"x"),
        Packet { dont_fragment: true, ..long.clone() },
        long.clone(),
        long.fragment(0, 1480),
        // It has the ports of the first one.
        long.fragment(1480, 1480),
    ]
}

/// A frame of another protocol than IPv4, to the node.
fn frame(ethertype: u16) -> Vec<u8> {
    let mut frame = [&HOST_MAC[..], &ROUTER_MAC, &ethertype.to_be_bytes()].concat();
    frame.resize(100, 0);
    if ethertype == 0x86dd {
        // Next header TCP.
        frame[14..22].copy_from_slice(&[0x60, 0, 0, 0, 0, 46, 6, 64]);
    }
    frame
}

#[test]
fn exits_of_what_an_isolated_pod_sends() {
    let datapath = node();
    datapath.isolate(CLIENT, Egress, &[], NONE);
    let denied = |packet: &Packet| {
        datapath.from_pod(CLIENT_IFINDEX, packet).dropped(DropReason::PolicyEgress);
    };
    for (id, to) in (1..).zip([SERVER, FAR_POD, EXTERNAL, UNREACHABLE, NODE, OTHER_NODE]) {
        unusual(CLIENT, to, id).iter().for_each(denied);
        denied(&syn((CLIENT, 1), (to, 80)).ttl(1));
    }
    denied(&Packet::udp((CLIENT, 1), ([224, 0, 0, 251], 5353), b"x"));
    denied(&Packet::udp((CLIENT, 1), ([255, 255, 255, 255], 67), b"x"));
    for ethertype in [0x86dd, 0x88cc, 0x8100] {
        let frame = frame(ethertype);
        let run = datapath.run(program::FROM_POD, &frame, CLIENT_IFINDEX);
        run.dropped(DropReason::Unsupported);
    }
}

#[test]
fn exits_of_a_pod_that_may_send_are_to_the_stack() {
    // Some of these packets, so that the drops above are those of the policy.
    let datapath = node();
    let send = |packet: &Packet| datapath.from_pod(CLIENT_IFINDEX, packet);
    send(&syn((CLIENT, 1), (EXTERNAL, 80)).ttl(1)).to_stack(&[]);
    send(&syn((CLIENT, 1), (UNREACHABLE, 80))).to_stack(&[]);
    send(&Packet::udp((CLIENT, 1), (FAR_POD, 1), &[0; 3000])).to_stack(&[]);
    send(&Packet::udp((CLIENT, 1), ([224, 0, 0, 251], 5353), b"x")).to_stack(&[]);
    send(&Packet::udp((CLIENT, 1), ([255, 255, 255, 255], 67), b"x")).to_stack(&[]);
}

#[test]
fn a_packet_whose_hop_limit_ends_is_judged_by_its_backend_and_not_translated() {
    let datapath = node();
    datapath.service(7, (VIP, 80, proto::TCP), &[(FAR_POD, 8080)]);
    datapath.service(8, (VIP, 81, proto::TCP), &[(OTHER_NODE, 8080)]);
    datapath.class(FAR_POD, Some(WEB));
    datapath.isolate(CLIENT, Egress, &[(WEB, PolicyPorts::ALL)], NONE);
    let ends = |port| datapath.from_pod(CLIENT_IFINDEX, &syn((CLIENT, 1), (VIP, port)).ttl(1));
    let run = ends(80);
    assert_eq!(run.data, run.frame);
    run.to_stack(&[]);
    ends(81).dropped(DropReason::PolicyEgress);
    assert!(datapath.flows().is_empty(), "{:?}", datapath.flows());
}

#[test]
fn contract_8_19_arp_passes_whatever_the_policies() {
    let datapath = node();
    datapath.isolate(CLIENT, Egress, &[], NONE);
    datapath.isolate(CLIENT, Ingress, &[], NONE);
    let mac = topology::pod_mac(CLIENT);
    for operation in [1, 2] {
        let sent = arp(mac, operation, mac, CLIENT, GATEWAY);
        datapath.run(program::FROM_POD, &sent, CLIENT_IFINDEX).passed();
        let received = arp(HOST_MAC, operation, HOST_MAC, GATEWAY, CLIENT);
        datapath.run(program::TO_POD, &received, CLIENT_IFINDEX).passed();
    }
}

#[test]
fn ways_to_an_isolated_pod_are_behind_its_verdict() {
    let datapath = node();
    datapath.isolate(SERVER, Ingress, &[], NONE);
    let from_pod = |packet: &Packet| datapath.from_pod(CLIENT_IFINDEX, packet);
    let from_wire = |packet: &Packet| datapath.from_netdev(packet);
    // The stack forwards it.
    let forwarded = |packet: &Packet| datapath.to_pod(SERVER_IFINDEX, packet);
    let ways: [(_, Way<'_>); 5] = [
        (CLIENT, &from_pod),
        (FAR_POD, &from_wire),
        (EXTERNAL, &from_wire),
        (EXTERNAL, &forwarded),
        (UNREACHABLE, &forwarded),
    ];
    for (id, (from, way)) in (100..).zip(ways) {
        for packet in unusual(from, SERVER, id) {
            way(&packet).dropped(DropReason::PolicyIngress);
        }
        way(&syn((from, 1), (SERVER, 80))).dropped(DropReason::PolicyIngress);
        if from != CLIENT {
            // The stack has decremented the hop limit of what it forwards.
            way(&syn((from, 1), (SERVER, 80)).ttl(1)).dropped(DropReason::PolicyIngress);
        }
    }
    // The stack would answer it, or forward it nevertheless.
    let ends = syn((CLIENT, 1), (SERVER, 80)).ttl(1);
    from_pod(&ends).dropped(DropReason::PolicyIngress);
    forwarded(&ends).dropped(DropReason::PolicyIngress);
    // About no flow of the pod.
    let about = syn((SERVER, 9), (EXTERNAL, 9));
    from_wire(&error(ROUTER, SERVER, 1, &about)).dropped(DropReason::NotTracked);
    forwarded(&error(ROUTER, SERVER, 1, &about)).dropped(DropReason::PolicyIngress);
    assert!(datapath.flows().is_empty(), "{:?}", datapath.flows());
}

#[test]
fn a_pod_receives_no_other_protocol_and_no_multicast_by_any_way() {
    let datapath = node();
    // Also if its policies admit everything.
    for isolates in [false, true] {
        if isolates {
            datapath.isolate(SERVER, Ingress, &[], NONE);
        }
        for ethertype in [0x86dd, 0x88cc, 0x8100] {
            let frame = frame(ethertype);
            // The stack decides about what is not IPv4, and cannot pass it to the pod.
            datapath.run(program::FROM_NETDEV, &frame, UPLINK_IFINDEX).passed();
            let run = datapath.run(program::TO_POD, &frame, SERVER_IFINDEX);
            run.dropped(DropReason::Unsupported);
        }
        for to in [[224, 0, 0, 251], [255; 4], [10, 244, 1, 255]] {
            let packet = Packet::udp((EXTERNAL, 1), (to, 5353), b"x");
            datapath.to_pod(SERVER_IFINDEX, &packet).dropped(DropReason::NoSuchPod);
            let of_pod = Packet::udp((CLIENT, 1), (to, 5353), b"x");
            datapath.to_pod(SERVER_IFINDEX, &of_pod).dropped(DropReason::NoSuchPod);
        }
    }
    // Addressed to the pod in a frame to everyone: the stack may forward it.
    let packet = Packet::udp((EXTERNAL, 1), (SERVER, 5353), b"x");
    for mac in [BROADCAST_MAC, MULTICAST_MAC] {
        let frame = packet.frame(mac, ROUTER_MAC);
        datapath.run(program::FROM_NETDEV, &frame, UPLINK_IFINDEX).passed();
    }
    datapath.to_pod(SERVER_IFINDEX, &packet).dropped(DropReason::PolicyIngress);
    // And a pod sends it as any other packet.
    let of_pod = Packet::udp((CLIENT, 1), (SERVER, 5353), b"x");
    let frame = of_pod.frame(BROADCAST_MAC, topology::pod_mac(CLIENT));
    let run = datapath.run(program::FROM_POD, &frame, CLIENT_IFINDEX);
    run.dropped(DropReason::PolicyIngress);
}

#[test]
fn exits_of_translated_packets_are_behind_the_verdict() {
    // A Service with an endpoint on this node and one without a route.
    let datapath = node();
    datapath.service(7, (VIP, 80, proto::TCP), &[(SERVER, 80)]);
    datapath.service(8, (VIP, 81, proto::TCP), &[(UNREACHABLE, 80)]);
    let reply_to_none = |port| datapath.from_pod(CLIENT_IFINDEX, &syn((CLIENT, 2), (VIP, port)));
    reply_to_none(81).to_stack(&[]);
    datapath.isolate(CLIENT, Egress, &[], NONE);
    reply_to_none(80).dropped(DropReason::PolicyEgress);
    reply_to_none(81).dropped(DropReason::PolicyEgress);
    datapath.release(CLIENT, Egress);
    datapath.isolate(SERVER, Ingress, &[(WEB, NONE)], NONE);
    reply_to_none(80).dropped(DropReason::PolicyIngress);
    // Its hop limit ends at the node, as the stack sees it.
    let from_node = datapath.to_netdev(&syn((EXTERNAL, 2), (VIP, 80)).ttl(1));
    from_node.dropped(DropReason::PolicyIngress);
    let node = datapath.to_netdev(&syn((NODE, 2), (VIP, 80)).ttl(1));
    node.to_pod(&[Outcome::Translated]);
}
