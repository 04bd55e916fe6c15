//! What becomes of open flows, and of pods whose policies are not known.

use packet_tests::*;
use sluice_abi::PolicyDirection::{Egress, Ingress};
use sluice_abi::{DropReason, map, proto};

use super::{ACK, NONE, SYN_ACK, WEB, ack, error, open, syn, web_port};

/// The address of a pod of the other node, and later of a pod of this node.
const MOVED: [u8; 4] = [10, 244, 2, 33];

/// A node whose pods are not isolated, and whose policies are known.
fn node() -> Datapath {
    let datapath = Datapath::node();
    datapath.rejudge(CLIENT);
    datapath.rejudge(SERVER);
    datapath
}

#[test]
fn a_first_policy_cuts_no_connection_that_it_allows() {
    let datapath = node();
    open(&datapath, PORT);
    datapath.class(CLIENT, Some(WEB));
    datapath.isolate(SERVER, Ingress, &[(WEB, web_port())], NONE);
    datapath.isolate(CLIENT, Ingress, &[], NONE);
    // The reply comes first: the flow is judged as the client opened it.
    datapath.from_pod(SERVER_IFINDEX, &ack((SERVER, 80), (CLIENT, PORT))).to_pod(&[]);
    datapath.from_pod(CLIENT_IFINDEX, &ack((CLIENT, PORT), (SERVER, 80))).to_pod(&[]);
}

#[test]
fn a_removed_allow_ends_open_flows_in_both_directions() {
    for first in [CLIENT, SERVER] {
        let datapath = node();
        datapath.class(CLIENT, Some(WEB));
        datapath.isolate(SERVER, Ingress, &[(WEB, web_port())], NONE);
        open(&datapath, PORT);
        datapath.isolate(SERVER, Ingress, &[], NONE);
        let forward = || datapath.from_pod(CLIENT_IFINDEX, &ack((CLIENT, PORT), (SERVER, 80)));
        let reply = || datapath.from_pod(SERVER_IFINDEX, &ack((SERVER, 80), (CLIENT, PORT)));
        for _ in 0..3 {
            let (one, two) =
                if first == CLIENT { (forward(), reply()) } else { (reply(), forward()) };
            one.dropped(DropReason::PolicyIngress);
            two.dropped(DropReason::PolicyIngress);
        }
        // Also after the time in which an entry is refreshed.
        datapath.age_flows(30);
        reply().dropped(DropReason::PolicyIngress);
        forward().dropped(DropReason::PolicyIngress);
        let related = error(SERVER, CLIENT, 4, &ack((CLIENT, PORT), (SERVER, 80)));
        datapath.from_pod(SERVER_IFINDEX, &related).dropped(DropReason::PolicyIngress);
        // A new connection from the same port.
        let again = syn((CLIENT, PORT), (SERVER, 80));
        datapath.from_pod(CLIENT_IFINDEX, &again).dropped(DropReason::PolicyIngress);
        // Allowed again: the connection goes on.
        datapath.isolate(SERVER, Ingress, &[(WEB, web_port())], NONE);
        reply().to_pod(&[]);
        forward().to_pod(&[]);
    }
}

#[test]
fn packets_that_are_denied_change_nothing_of_their_flow() {
    let datapath = node();
    datapath.class(CLIENT, Some(WEB));
    datapath.isolate(SERVER, Ingress, &[(WEB, web_port())], NONE);
    open(&datapath, PORT);
    datapath.isolate(SERVER, Ingress, &[], NONE);
    datapath.age_flows(40);
    let before = datapath.flows_in(map::FLOWS);
    assert_eq!(before.len(), 1);
    // A reset, which the server does not see, would make its next segment the first of another flow.
    for flags in [4, 17] {
        let end = Packet::tcp((CLIENT, PORT), (SERVER, 80), flags, b"");
        datapath.from_pod(CLIENT_IFINDEX, &end).dropped(DropReason::PolicyIngress);
    }
    let end = Packet::tcp((SERVER, 80), (CLIENT, PORT), 4, b"");
    datapath.from_pod(SERVER_IFINDEX, &end).dropped(DropReason::PolicyIngress);
    assert_eq!(datapath.flows_in(map::FLOWS), before, "time and state as before");
}

#[test]
fn the_first_packet_after_a_change_counts_for_its_flow() {
    let datapath = node();
    let (client, server) = ((CLIENT, PORT), (SERVER, 80));
    datapath.from_pod(CLIENT_IFINDEX, &syn(client, server)).to_pod(&[]);
    datapath.rejudge(CLIENT);
    let reply = Packet::tcp(server, client, SYN_ACK, b"");
    datapath.from_pod(SERVER_IFINDEX, &reply).to_pod(&[]);
    let flow = datapath.flows()[0];
    assert!(flow.is_replied() && flow.tcp == [1, 1], "{flow:?}");
    datapath.from_pod(CLIENT_IFINDEX, &ack(client, server)).to_pod(&[]);
    assert_eq!(datapath.flows_in(map::FLOWS).len(), 1, "confirmed");
}

#[test]
fn a_moved_label_ends_open_flows() {
    let datapath = node();
    datapath.class(CLIENT, Some(WEB));
    datapath.isolate(SERVER, Ingress, &[(WEB, web_port())], NONE);
    open(&datapath, PORT);
    datapath.class(CLIENT, Some(WEB + 1));
    datapath.rejudge(SERVER);
    datapath
        .from_pod(CLIENT_IFINDEX, &ack((CLIENT, PORT), (SERVER, 80)))
        .dropped(DropReason::PolicyIngress);
    datapath
        .from_pod(SERVER_IFINDEX, &ack((SERVER, 80), (CLIENT, PORT)))
        .dropped(DropReason::PolicyIngress);
}

#[test]
fn a_flow_is_judged_once_per_change() {
    let datapath = node();
    datapath.class(CLIENT, Some(WEB));
    datapath.isolate(SERVER, Ingress, &[(WEB, web_port())], NONE);
    let judged = || datapath.flows().iter().map(|flow| flow.judged).collect::<Vec<_>>();
    datapath.from_pod(CLIENT_IFINDEX, &syn((CLIENT, PORT), (SERVER, 80))).to_pod(&[]);
    assert_eq!(judged(), [datapath.policy_epoch()], "with its first packet");
    open(&datapath, PORT);
    assert_eq!(judged(), [datapath.policy_epoch()]);
    // A change of other pods' policies does not concern the flow: its class is not looked at again.
    datapath.class(CLIENT, None);
    datapath.isolate([10, 244, 1, 99], Ingress, &[], NONE);
    let packet = ack((CLIENT, PORT), (SERVER, 80));
    datapath.from_pod(CLIENT_IFINDEX, &packet).to_pod(&[]);
    assert_eq!(judged(), [datapath.policy_epoch() - 1]);
    datapath.class(CLIENT, Some(WEB));
    datapath.rejudge(CLIENT);
    datapath.from_pod(CLIENT_IFINDEX, &packet).to_pod(&[]);
    assert_eq!(judged(), [datapath.policy_epoch()]);
}

#[test]
fn a_pod_without_row_is_closed_unless_its_namespace_is_open() {
    let datapath = Datapath::node();
    let (to, from) = (syn((CLIENT, 1), (SERVER, 80)), syn((EXTERNAL, 1), (CLIENT, 80)));
    datapath.from_pod(CLIENT_IFINDEX, &to).to_pod(&[]);
    datapath.from_netdev(&from).to_pod(&[]);
    datapath.open_namespace(false);
    // The open flows too: without a row nothing shows that they are allowed.
    datapath.from_pod(CLIENT_IFINDEX, &to).dropped(DropReason::PolicyPending);
    datapath.from_netdev(&from).dropped(DropReason::PolicyPending);
    let reply = Packet::tcp((SERVER, 80), (CLIENT, 1), SYN_ACK, b"");
    datapath.from_pod(SERVER_IFINDEX, &reply).dropped(DropReason::PolicyPending);
    // Processes of the node reach it.
    datapath.to_pod(CLIENT_IFINDEX, &syn((NODE, 1), (CLIENT, 80))).passed();
    // A row opens it, whatever its namespace.
    datapath.rejudge(CLIENT);
    datapath.from_netdev(&from).to_pod(&[]);
    datapath.from_pod(CLIENT_IFINDEX, &to).dropped(DropReason::PolicyPending);
    datapath.rejudge(SERVER);
    datapath.from_pod(CLIENT_IFINDEX, &to).to_pod(&[]);
    // The row of an earlier pod does not count.
    datapath.local_pod_of_generation(CLIENT, CLIENT_IFINDEX, 2);
    datapath.from_netdev(&from).dropped(DropReason::PolicyPending);
    datapath.open_namespace(true);
    datapath.from_netdev(&from).to_pod(&[]);
}

#[test]
fn the_event_of_a_denied_packet_has_the_judged_tuple() {
    let mut datapath = node();
    datapath.service(7, (VIP, 80, proto::TCP), &[(SERVER, 8080)]);
    datapath.isolate(SERVER, Ingress, &[], NONE);
    let packet = syn((CLIENT, PORT), (VIP, 80));
    datapath.from_pod(CLIENT_IFINDEX, &packet).dropped(DropReason::PolicyIngress);
    let events = datapath.events();
    assert_eq!(events.len(), 1);
    assert_eq!(events[0].flow, tuple(proto::TCP, (CLIENT, PORT), (SERVER, 8080)));
    assert_eq!((events[0].reason, events[0].is_reply), (DropReason::PolicyIngress as u8, 0));
}

#[test]
fn the_event_of_a_denied_reply_has_the_judged_tuple_and_is_marked() {
    let mut datapath = node();
    open(&datapath, PORT);
    datapath.isolate(SERVER, Ingress, &[], NONE);
    let reply = ack((SERVER, 80), (CLIENT, PORT));
    datapath.from_pod(SERVER_IFINDEX, &reply).dropped(DropReason::PolicyIngress);
    let event = datapath.events()[0];
    assert_eq!(event.flow, tuple(proto::TCP, (CLIENT, PORT), (SERVER, 80)));
    assert_eq!((event.ifindex, event.is_reply), (SERVER_IFINDEX, 1));
    // ICMP errors about a packet of the client, and about a reply.
    let request = ack((CLIENT, PORT), (SERVER, 80));
    for (from, to, quoted, ifindex, is_reply) in
        [(SERVER, CLIENT, &request, SERVER_IFINDEX, 1), (CLIENT, SERVER, &reply, CLIENT_IFINDEX, 0)]
    {
        let error = error(from, to, 4, quoted);
        datapath.from_pod(ifindex, &error).dropped(DropReason::PolicyIngress);
        let event = datapath.events()[0];
        assert_eq!(event.flow, tuple(proto::TCP, (CLIENT, PORT), (SERVER, 80)));
        assert_eq!((event.ifindex, event.is_reply), (ifindex, is_reply));
    }
    // A reply that no policy drops has its own tuple.
    let spoofed = ack((SERVER, 80), (CLIENT, PORT));
    datapath.from_pod(CLIENT_IFINDEX, &spoofed).dropped(DropReason::Spoofed);
    let event = datapath.events()[0];
    assert_eq!((event.flow, event.is_reply), (tuple(proto::TCP, (SERVER, 80), (CLIENT, PORT)), 0));
}

#[test]
fn a_released_pod_is_open() {
    let datapath = node();
    datapath.isolate(SERVER, Ingress, &[], NONE);
    let packet = syn((CLIENT, 1), (SERVER, 80));
    datapath.from_pod(CLIENT_IFINDEX, &packet).dropped(DropReason::PolicyIngress);
    datapath.release(SERVER, Ingress);
    datapath.from_pod(CLIENT_IFINDEX, &packet).to_pod(&[]);
}

#[test]
fn open_flows_are_judged_again_when_the_epoch_wraps() {
    // Changes of other pods between the verdict and the change of its pod.
    for others in 0..3 {
        let datapath = Datapath::node();
        datapath.class(CLIENT, Some(WEB));
        datapath.set_policy_epoch(u32::MAX - 4);
        datapath.rejudge(CLIENT);
        datapath.rejudge(SERVER);
        datapath.isolate(SERVER, Ingress, &[(WEB, web_port())], NONE);
        open(&datapath, PORT);
        let judged = || datapath.flows().iter().map(|flow| flow.judged).collect::<Vec<_>>();
        assert_eq!(judged(), [u32::MAX - 1]);
        let forward = || datapath.from_pod(CLIENT_IFINDEX, &ack((CLIENT, PORT), (SERVER, 80)));
        let reply = || datapath.from_pod(SERVER_IFINDEX, &ack((SERVER, 80), (CLIENT, PORT)));
        for _ in 0..others {
            datapath.isolate([10, 244, 1, 99], Ingress, &[], NONE);
        }
        forward().to_pod(&[]);
        assert_eq!(judged(), [u32::MAX - 1], "{others} changes of other pods");
        for _ in 0..3 {
            datapath.isolate(SERVER, Ingress, &[], NONE);
            forward().dropped(DropReason::PolicyIngress);
            reply().dropped(DropReason::PolicyIngress);
            datapath.isolate(SERVER, Ingress, &[(WEB, web_port())], NONE);
            forward().to_pod(&[]);
            assert_eq!(judged(), [datapath.policy_epoch()]);
            reply().to_pod(&[]);
        }
        assert!(datapath.policy_epoch() < 10, "the epoch has wrapped");
    }
}

#[test]
fn a_server_that_becomes_a_pod_of_this_node_has_its_policies_on_open_flows() {
    let datapath = node();
    datapath.class(CLIENT, Some(WEB));
    let (client, server) = ((CLIENT, PORT), (MOVED, 80));
    datapath.from_pod(CLIENT_IFINDEX, &syn(client, server)).to_uplink(&[]);
    datapath.from_netdev(&Packet::tcp(server, client, SYN_ACK, b"")).to_pod(&[]);
    let forward = || datapath.from_pod(CLIENT_IFINDEX, &ack(client, server));
    forward().to_uplink(&[]);
    datapath.local_pod(MOVED, SERVER_IFINDEX);
    datapath.isolate(MOVED, Ingress, &[], NONE);
    // The destination of a flow is determined once per tick.
    datapath.age_flows(2);
    for _ in 0..3 {
        forward().dropped(DropReason::PolicyIngress);
    }
    datapath.isolate(MOVED, Ingress, &[(WEB, web_port())], NONE);
    forward().to_pod(&[]);
}

#[test]
fn a_client_that_becomes_a_pod_of_this_node_has_its_policies_on_replies() {
    let datapath = node();
    datapath.class(SERVER, Some(WEB));
    let (client, server) = ((MOVED, PORT), (SERVER, 80));
    datapath.from_netdev(&syn(client, server)).to_pod(&[]);
    let reply = |flags| {
        let segment = Packet::tcp(server, client, flags, b"");
        datapath.from_pod(SERVER_IFINDEX, &segment)
    };
    reply(SYN_ACK).to_uplink(&[]);
    datapath.from_netdev(&ack(client, server)).to_pod(&[]);
    datapath.local_pod(MOVED, CLIENT_IFINDEX);
    datapath.isolate(MOVED, Egress, &[], NONE);
    datapath.age_flows(2);
    for _ in 0..3 {
        reply(ACK).dropped(DropReason::PolicyEgress);
    }
    datapath.isolate(MOVED, Egress, &[(WEB, web_port())], NONE);
    reply(ACK).to_pod(&[]);
}
