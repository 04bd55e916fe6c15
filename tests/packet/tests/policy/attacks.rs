//! Packets that are made to pass a policy: forged sources, replies and errors, fragments, source routes.

use packet_tests::topology::{HOST_MAC, ROUTER_MAC, pod_mac};
use packet_tests::*;
use sluice_abi::PolicyDirection::{Egress, Ingress};
use sluice_abi::{DropReason, PolicyPorts, program, proto};

use super::{ACK, NONE, SYN_ACK, WEB, ack, error, syn, web_port};

const RST: u8 = 4;
const FIN_ACK: u8 = 17;
/// Another pod of the other node.
const FAR_OTHER: [u8; 4] = [10, 244, 2, 33];

/// SERVER receives TCP 80 from WEB, which FAR_POD is and CLIENT is not.
fn node() -> Datapath {
    let datapath = Datapath::node();
    datapath.class(FAR_POD, Some(WEB));
    datapath.rejudge(CLIENT);
    datapath.isolate(SERVER, Ingress, &[(WEB, web_port())], NONE);
    datapath
}

fn from_router(datapath: &Datapath, packet: &Packet) -> Run {
    datapath.run(program::FROM_NETDEV, &packet.frame(HOST_MAC, ROUTER_MAC), UPLINK_IFINDEX)
}

#[test]
fn forged_sources_that_a_policy_admits_do_not_pass() {
    let datapath = node();
    // A host outside is admitted too, and processes of the node always are.
    datapath.network_class(EXTERNAL, 32, WEB);
    let to = (SERVER, 80);
    let forged = |source| {
        let packet = syn((source, PORT), to);
        datapath.from_pod(CLIENT_IFINDEX, &packet).dropped(DropReason::Spoofed);
        // With the hardware address of the pod whose address it is.
        let frame = packet.frame(HOST_MAC, pod_mac(source));
        datapath.run(program::FROM_POD, &frame, CLIENT_IFINDEX).dropped(DropReason::Spoofed);
    };
    let sources = [FAR_POD, EXTERNAL, NODE, GATEWAY, SERVER, VIP];
    sources.into_iter().for_each(forged);
    // By a neighbour that is not the next hop to that pod, and from the node's own addresses.
    for source in [FAR_POD, NODE, GATEWAY, CLIENT, SERVER] {
        from_router(&datapath, &syn((source, PORT), to)).dropped(DropReason::Spoofed);
    }
    // Into a connection that is open.
    datapath.from_netdev(&syn((FAR_POD, PORT), to)).to_pod(&[]);
    datapath
        .from_pod(SERVER_IFINDEX, &Packet::tcp(to, (FAR_POD, PORT), SYN_ACK, b""))
        .to_uplink(&[]);
    sources.into_iter().for_each(forged);
    let segment = ack((FAR_POD, PORT), to);
    datapath.from_pod(CLIENT_IFINDEX, &segment).dropped(DropReason::Spoofed);
    from_router(&datapath, &segment).dropped(DropReason::Spoofed);
    datapath.from_netdev(&segment).to_pod(&[]);
}

#[test]
fn segments_without_a_flow_do_not_reach_an_isolated_pod() {
    let datapath = node();
    for flags in [SYN_ACK, ACK, RST, FIN_ACK] {
        let segment = |from| Packet::tcp((from, 80), (SERVER, PORT), flags, b"data");
        datapath.from_pod(CLIENT_IFINDEX, &segment(CLIENT)).dropped(DropReason::PolicyIngress);
        for source in [FAR_POD, EXTERNAL] {
            datapath.from_netdev(&segment(source)).dropped(DropReason::PolicyIngress);
        }
    }
    let answer = Packet::udp((CLIENT, 53), (SERVER, PORT), b"answer");
    datapath.from_pod(CLIENT_IFINDEX, &answer).dropped(DropReason::PolicyIngress);
    let echo_reply = Packet::echo(CLIENT, SERVER, 0, 7, b"x");
    datapath.from_pod(CLIENT_IFINDEX, &echo_reply).dropped(DropReason::PolicyIngress);
    assert!(datapath.flows().is_empty());
    // The pod opens a connection: only its own reply passes.
    datapath.from_pod(SERVER_IFINDEX, &syn((SERVER, PORT), (FAR_POD, 443))).to_uplink(&[]);
    let reply = |from, port| Packet::tcp(from, (SERVER, port), SYN_ACK, b"");
    for (from, port) in
        [((FAR_POD, 443), PORT + 1), ((FAR_POD, 444), PORT), ((FAR_OTHER, 443), PORT)]
    {
        datapath.from_netdev(&reply(from, port)).dropped(DropReason::PolicyIngress);
    }
    let other = Packet::tcp((CLIENT, 443), (SERVER, PORT), SYN_ACK, b"");
    datapath.from_pod(CLIENT_IFINDEX, &other).dropped(DropReason::PolicyIngress);
    datapath.from_netdev(&reply((FAR_POD, 443), PORT)).to_pod(&[]);
}

#[test]
fn forged_errors_do_not_reach_an_isolated_pod() {
    let datapath = node();
    datapath.from_pod(SERVER_IFINDEX, &syn((SERVER, PORT), (FAR_POD, 443))).to_uplink(&[]);
    let own = syn((SERVER, PORT), (FAR_POD, 443));
    let other = syn((SERVER, PORT), (FAR_POD, 444));
    // A pod is not a router: it reports nothing about flows of other pods, whatever the source.
    for about in [&own, &other] {
        let forged = error(CLIENT, SERVER, 4, about);
        datapath.from_pod(CLIENT_IFINDEX, &forged).dropped(DropReason::NotTracked);
    }
    datapath
        .from_pod(CLIENT_IFINDEX, &error(FAR_POD, SERVER, 4, &own))
        .dropped(DropReason::Spoofed);
    // On the uplink: about no flow, and about one whose packets the receiver has not sent.
    datapath.from_netdev(&error(EXTERNAL, SERVER, 4, &other)).dropped(DropReason::NotTracked);
    let reverse = syn((FAR_POD, 443), (SERVER, PORT));
    datapath.from_netdev(&error(EXTERNAL, SERVER, 4, &reverse)).dropped(DropReason::NotTracked);
    datapath.from_netdev(&error(FAR_POD, SERVER, 4, &own)).to_pod(&[]);
    // About a flow that policies do not allow any more.
    datapath.isolate(SERVER, Egress, &[], NONE);
    datapath.from_netdev(&error(FAR_POD, SERVER, 4, &own)).dropped(DropReason::PolicyEgress);
}

#[test]
fn fragments_that_overlap_are_judged_by_their_own_ports() {
    let datapath = node();
    datapath.class(CLIENT, Some(WEB));
    let dns = PolicyPorts::range(proto::UDP, 53, 53);
    datapath.isolate(SERVER, Ingress, &[(WEB, dns)], NONE);
    let datagram = |port| Packet::udp((CLIENT, PORT), (SERVER, port), &[7; 3000]);
    let send = |packet: &Packet| datapath.from_pod(CLIENT_IFINDEX, packet);
    send(&datagram(53).fragment(0, 1480)).to_pod(&[]);
    // A second first fragment, of the same datagram and with another port: whole, and as short as
    // possible.
    send(&datagram(54).fragment(0, 1480)).dropped(DropReason::PolicyIngress);
    send(&datagram(53).fragment(1480, 1480)).dropped(DropReason::PolicyIngress);
    send(&datagram(54).fragment(0, 8)).dropped(DropReason::PolicyIngress);
    send(&datagram(53).fragment(0, 8)).to_pod(&[]);
    // One over its data: the ports are in the first 8 bytes, which no later fragment has.
    send(&datagram(53).fragment(8, 1472)).to_pod(&[]);
}

#[test]
fn fragments_do_not_hide_ports_or_flags() {
    let datapath = node();
    datapath.class(CLIENT, Some(WEB));
    let send = |packet: &Packet| datapath.from_pod(CLIENT_IFINDEX, packet);
    // The first fragment has the ports, the second the flags (RFC 1858), or not even all ports.
    for bytes in [0, 2, 4, 8, 16] {
        let tiny = syn((CLIENT, PORT), (SERVER, 80)).fragment(0, bytes);
        send(&tiny).dropped(DropReason::Malformed);
    }
    for bytes in [0, 4] {
        let tiny = Packet::udp((CLIENT, PORT), (SERVER, 80), b"data").fragment(0, bytes);
        send(&tiny).dropped(DropReason::Malformed);
    }
    // With another protocol number than the first fragment, or another sender's identification.
    let whole = Packet::tcp((CLIENT, PORT), (SERVER, 80), ACK, &[7; 3000]);
    send(&whole.fragment(0, 1480)).to_pod(&[]);
    let mut later = whole.fragment(1480, 1480);
    later.proto = proto::UDP;
    assert!(send(&later).is_requeued());
    let mut later = whole.fragment(1480, 1480);
    (later.src, later.proto) = (FAR_OTHER, proto::TCP);
    assert!(datapath.from_netdev(&later).is_requeued());
    send(&whole.fragment(1480, 1480)).to_pod(&[]);
}

/// The IP option for a loose route by this address (RFC 791).
fn routed(mut packet: Packet, by: [u8; 4]) -> Packet {
    packet.options = [&[131, 7, 4][..], &by, &[0]].concat();
    packet
}

#[test]
fn source_routes_do_not_lead_around_policies() {
    let datapath = node();
    datapath.network_class(NODE, 32, 5);
    datapath.isolate(CLIENT, Egress, &[(5, PolicyPorts::ALL)], NONE);
    let from = (CLIENT, PORT);
    // The option changes nothing of what is judged.
    let to_server = routed(syn(from, (SERVER, 80)), NODE);
    datapath.from_pod(CLIENT_IFINDEX, &to_server).dropped(DropReason::PolicyEgress);
    datapath
        .from_pod(CLIENT_IFINDEX, &routed(syn(from, (EXTERNAL, 80)), NODE))
        .dropped(DropReason::PolicyEgress);
    // By the node, which the policy admits: its stack refuses the option, or if it is configured to follow
    // it, the next program judges the destination that the stack has set.
    let by_node = routed(syn(from, (NODE, 80)), SERVER);
    datapath.from_pod(CLIENT_IFINDEX, &by_node).to_stack(&[]);
    let forwarded = routed(syn(from, (SERVER, 80)), NODE).bytes();
    let to_pod = |received_by| {
        datapath.run_received(program::TO_POD, &forwarded, SERVER_IFINDEX, received_by)
    };
    to_pod(CLIENT_IFINDEX).dropped(DropReason::PolicyEgress);
    datapath.release(CLIENT, Egress);
    to_pod(CLIENT_IFINDEX).dropped(DropReason::PolicyIngress);
    datapath.isolate(CLIENT, Egress, &[(5, PolicyPorts::ALL)], NONE);
    let outside = routed(syn(from, (EXTERNAL, 80)), NODE);
    datapath.to_netdev(&outside).dropped(DropReason::PolicyEgress);
    // From outside, by the node.
    let forwarded = routed(syn((EXTERNAL, PORT), (SERVER, 80)), NODE).bytes();
    datapath
        .run_received(program::TO_POD, &forwarded, SERVER_IFINDEX, UPLINK_IFINDEX)
        .dropped(DropReason::PolicyIngress);
}
