//! Policies: which flows pass on every path, and what happens to open flows after a change.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test ends where it fails")]

mod accept;
mod attacks;
mod changes;
mod exits;
mod frontends;
mod lookups;
mod oracle;
mod other_flows;
mod pressure;
mod sequences;
mod translated;
mod world;

use packet_tests::*;
use sluice_abi::PolicyDirection::{Egress, Ingress};
use sluice_abi::{DropReason, Frontend, Outcome, PolicyPorts, frontend_flags, program, proto};

const SYN: u8 = 2;
const ACK: u8 = 16;
const SYN_ACK: u8 = 18;
/// Class of a peer.
const WEB: u64 = 77;
const NONE: PolicyPorts = PolicyPorts::NONE;

fn web_port() -> PolicyPorts {
    PolicyPorts::range(proto::TCP, 80, 80)
}

/// A NodePort for TCP, 30080.
fn node_port(datapath: &Datapath, backends: &[Endpoint]) {
    let sets = Sets { cluster: backends.to_vec(), ..Sets::default() };
    datapath.service_port(7, proto::TCP, &sets);
    let frontend = Frontend { service: 7, flags: frontend_flags::EXTERNAL };
    datapath.frontend(([0; 4], 30_080, proto::TCP), frontend);
}

/// An ICMP error "destination unreachable".
fn error(from: [u8; 4], to: [u8; 4], code: u8, about: &Packet) -> Packet {
    Packet::icmp_error(from, to, (3, code, 0), about, 8)
}

fn syn(from: ([u8; 4], u16), to: ([u8; 4], u16)) -> Packet {
    Packet::tcp(from, to, SYN, b"")
}

fn ack(from: ([u8; 4], u16), to: ([u8; 4], u16)) -> Packet {
    Packet::tcp(from, to, ACK, b"")
}

/// Opens a TCP connection from CLIENT to SERVER, port 80, with three segments.
fn open(datapath: &Datapath, port: u16) {
    let (client, server) = ((CLIENT, port), (SERVER, 80));
    datapath.from_pod(CLIENT_IFINDEX, &syn(client, server)).to_pod(&[]);
    let reply = Packet::tcp(server, client, SYN_ACK, b"");
    datapath.from_pod(SERVER_IFINDEX, &reply).to_pod(&[]);
    datapath.from_pod(CLIENT_IFINDEX, &ack(client, server)).to_pod(&[]);
}

#[test]
fn a_pod_that_is_isolated_receives_what_its_rules_admit() {
    let datapath = Datapath::node();
    datapath.class(CLIENT, Some(WEB));
    datapath.isolate(SERVER, Ingress, &[(WEB, web_port())], NONE);
    let from = (CLIENT, PORT);
    datapath.from_pod(CLIENT_IFINDEX, &syn(from, (SERVER, 80))).to_pod(&[]);
    for port in [79, 81, 8080] {
        let denied = datapath.from_pod(CLIENT_IFINDEX, &syn(from, (SERVER, port)));
        denied.dropped(DropReason::PolicyIngress);
    }
    let udp = Packet::udp(from, (SERVER, 80), b"x");
    datapath.from_pod(CLIENT_IFINDEX, &udp).dropped(DropReason::PolicyIngress);
    let echo = Packet::echo(CLIENT, SERVER, 8, 80, b"x");
    datapath.from_pod(CLIENT_IFINDEX, &echo).dropped(DropReason::PolicyIngress);
    // What it sends is not affected.
    datapath.from_pod(SERVER_IFINDEX, &syn((SERVER, PORT), (CLIENT, 81))).to_pod(&[]);
    // Another class, and an address of none.
    datapath.class(CLIENT, Some(WEB + 1));
    datapath
        .from_pod(CLIENT_IFINDEX, &syn((CLIENT, 1), (SERVER, 80)))
        .dropped(DropReason::PolicyIngress);
    datapath.class(CLIENT, None);
    datapath
        .from_pod(CLIENT_IFINDEX, &syn((CLIENT, 1), (SERVER, 80)))
        .dropped(DropReason::PolicyIngress);
}

#[test]
fn both_ends_have_to_admit_a_flow_on_one_node() {
    let datapath = Datapath::node();
    datapath.class(CLIENT, Some(WEB));
    datapath.class(SERVER, Some(WEB + 1));
    let packet = |port| syn((CLIENT, port), (SERVER, 80));
    datapath.isolate(CLIENT, Egress, &[], NONE);
    datapath.isolate(SERVER, Ingress, &[(WEB, web_port())], NONE);
    datapath.from_pod(CLIENT_IFINDEX, &packet(1)).dropped(DropReason::PolicyEgress);
    datapath.isolate(CLIENT, Egress, &[(WEB + 1, web_port())], NONE);
    datapath.from_pod(CLIENT_IFINDEX, &packet(2)).to_pod(&[]);
    datapath.isolate(SERVER, Ingress, &[], NONE);
    datapath.from_pod(CLIENT_IFINDEX, &packet(3)).dropped(DropReason::PolicyIngress);
}

#[test]
fn ports_of_a_class_are_all_a_range_or_a_set() {
    let datapath = Datapath::node();
    datapath.class(CLIENT, Some(WEB));
    let admitted = |packet: &Packet| {
        let run = datapath.from_pod(CLIENT_IFINDEX, packet);
        match run.action {
            Action::Drop => run.dropped(DropReason::PolicyIngress),
            _ => drop(run.to_pod(&[])),
        }
        run.action != Action::Drop
    };
    let mut port = 1000;
    let mut of = |proto: u8, to: u16| {
        port += 1;
        let (from, to) = ((CLIENT, port), (SERVER, to));
        admitted(&match proto {
            proto::TCP => syn(from, to),
            proto::UDP => Packet::udp(from, to, b"x"),
            proto::SCTP => Packet::sctp(from, to, &[1, 0, 0, 4]),
            _ => Packet::echo(CLIENT, SERVER, 8, port, b"x"),
        })
    };
    datapath.isolate(SERVER, Ingress, &[(WEB, PolicyPorts::ALL)], NONE);
    for proto in [proto::TCP, proto::UDP, proto::SCTP, proto::ICMP] {
        assert!(of(proto, 7), "protocol {proto}");
    }
    datapath.isolate(SERVER, Ingress, &[(WEB, PolicyPorts::range(proto::UDP, 100, 200))], NONE);
    let udp: Vec<_> = [99, 100, 150, 200, 201].map(|to| of(proto::UDP, to)).into();
    assert_eq!(udp, [false, true, true, true, false]);
    assert!(!of(proto::TCP, 150) && !of(proto::SCTP, 150) && !of(proto::ICMP, 150));
    // A set: TCP 443, TCP 1024 to 1055, all of UDP.
    datapath.isolate(SERVER, Ingress, &[(WEB, PolicyPorts::set(9))], NONE);
    assert!(!of(proto::TCP, 443), "a set without ports");
    datapath.port_of_set(9, Some(proto::TCP), 443, 16);
    datapath.port_of_set(9, Some(proto::TCP), 1024, 11);
    datapath.port_of_set(9, Some(proto::UDP), 0, 0);
    datapath.port_of_set(10, None, 0, 0);
    let tcp: Vec<_> = [442, 443, 1023, 1024, 1055, 1056].map(|to| of(proto::TCP, to)).into();
    assert_eq!(tcp, [false, true, false, true, true, false]);
    assert!(of(proto::UDP, 1) && !of(proto::SCTP, 443) && !of(proto::ICMP, 443));
    // All protocols.
    datapath.isolate(SERVER, Ingress, &[(WEB, PolicyPorts::set(10))], NONE);
    assert!(of(proto::TCP, 1) && of(proto::SCTP, 443) && of(proto::ICMP, 443));
}

#[test]
fn peers_without_row_have_the_ports_of_the_others() {
    let datapath = Datapath::node();
    datapath.isolate(SERVER, Ingress, &[(WEB, NONE)], web_port());
    datapath.from_pod(CLIENT_IFINDEX, &syn((CLIENT, 1), (SERVER, 80))).to_pod(&[]);
    // A class that the table does not tell apart.
    datapath.class(CLIENT, Some(WEB + 1));
    datapath.from_pod(CLIENT_IFINDEX, &syn((CLIENT, 2), (SERVER, 80))).to_pod(&[]);
    datapath.class(CLIENT, Some(WEB));
    datapath
        .from_pod(CLIENT_IFINDEX, &syn((CLIENT, 3), (SERVER, 80)))
        .dropped(DropReason::PolicyIngress);
}

#[test]
fn the_longest_prefix_decides_the_class_of_other_addresses() {
    let datapath = Datapath::node();
    datapath.isolate(SERVER, Ingress, &[(1, web_port()), (2, NONE)], NONE);
    datapath.network_class([198, 51, 0, 0], 16, 1);
    datapath.network_class([198, 51, 101, 0], 24, 2);
    let from = |src| datapath.from_netdev(&syn((src, 1), (SERVER, 80)));
    from(EXTERNAL).to_pod(&[]);
    from([198, 51, 101, 7]).dropped(DropReason::PolicyIngress);
    from([198, 52, 0, 1]).dropped(DropReason::PolicyIngress);
    // A pod's class precedes those of networks, which the agent has combined with it.
    datapath.network_class([10, 244, 0, 0], 16, 1);
    datapath.class(CLIENT, Some(2));
    let packet = syn((CLIENT, 1), (SERVER, 80));
    datapath.from_pod(CLIENT_IFINDEX, &packet).dropped(DropReason::PolicyIngress);
}

#[test]
fn contract_8_9_egress_is_judged_after_service_translation() {
    let datapath = Datapath::node();
    datapath.service(7, (VIP, 80, proto::TCP), &[(SERVER, 8080)]);
    datapath.class(SERVER, Some(WEB));
    let packet = |port| syn((CLIENT, port), (VIP, 80));
    datapath.isolate(CLIENT, Egress, &[(WEB, web_port())], NONE);
    datapath.from_pod(CLIENT_IFINDEX, &packet(1)).dropped(DropReason::PolicyEgress);
    let target = PolicyPorts::range(proto::TCP, 8080, 8080);
    datapath.isolate(CLIENT, Egress, &[(WEB, target)], NONE);
    datapath.from_pod(CLIENT_IFINDEX, &packet(2)).to_pod(&[Outcome::Translated]);
    // At the backend the client is judged, not the Service.
    datapath.class(CLIENT, Some(WEB + 1));
    datapath.isolate(SERVER, Ingress, &[(WEB + 1, target)], NONE);
    datapath.from_pod(CLIENT_IFINDEX, &packet(3)).to_pod(&[Outcome::Translated]);
    datapath.isolate(SERVER, Ingress, &[(WEB + 1, web_port())], NONE);
    datapath.from_pod(CLIENT_IFINDEX, &packet(4)).dropped(DropReason::PolicyIngress);
}

#[test]
fn egress_to_outside_is_judged_before_masquerading() {
    let datapath = Datapath::node();
    datapath.network_class(EXTERNAL, 32, 5);
    datapath.isolate(CLIENT, Egress, &[(5, PolicyPorts::range(proto::TCP, 443, 443))], NONE);
    let to = |port, to| datapath.from_pod(CLIENT_IFINDEX, &syn((CLIENT, port), to));
    let sent = to(1, (EXTERNAL, 443)).to_uplink(&[Outcome::Masqueraded]);
    to(2, (EXTERNAL, 80)).dropped(DropReason::PolicyEgress);
    to(3, (ROUTER, 443)).dropped(DropReason::PolicyEgress);
    // The reply is part of the flow, also after a change that still admits it.
    let reply = Packet::tcp((EXTERNAL, 443), (NODE, sent.sport()), SYN_ACK, b"");
    datapath.from_netdev(&reply).to_pod(&[Outcome::Restored]);
    datapath.rejudge(CLIENT);
    datapath.from_netdev(&reply).to_pod(&[Outcome::Restored]);
}

#[test]
fn contract_8_10_the_original_client_of_a_node_port_is_judged() {
    let datapath = Datapath::node();
    node_port(&datapath, &[(SERVER, 80)]);
    datapath.network_class(EXTERNAL, 32, 5);
    let packet = |port| syn((EXTERNAL, port), (NODE, 30_080));
    let masqueraded = [Outcome::Translated, Outcome::Masqueraded];
    datapath.isolate(SERVER, Ingress, &[(5, web_port())], NONE);
    let delivered = datapath.from_netdev(&packet(1)).to_pod(&masqueraded);
    assert_ne!(delivered.src, EXTERNAL, "translated, and nevertheless judged by the client");
    // The node is not a client that may pass.
    datapath.network_class(EXTERNAL, 32, 6);
    datapath.from_netdev(&packet(2)).dropped(DropReason::PolicyIngress);
}

#[test]
fn processes_of_the_node_reach_its_pods_and_no_other_host_does_by_that_rule() {
    let datapath = Datapath::node();
    datapath.isolate(SERVER, Ingress, &[], NONE);
    let probe = syn((NODE, PORT), (SERVER, 80));
    datapath.to_pod(SERVER_IFINDEX, &probe).passed();
    let reply = Packet::tcp((SERVER, 80), (NODE, PORT), SYN_ACK, b"");
    datapath.from_pod(SERVER_IFINDEX, &reply).to_stack(&[]);
    // After a change as well.
    datapath.rejudge(SERVER);
    datapath.to_pod(SERVER_IFINDEX, &ack((NODE, PORT), (SERVER, 80))).passed();
    // Another node, and what the stack forwards.
    let other = syn((OTHER_NODE, PORT), (SERVER, 80));
    datapath.from_netdev(&other).dropped(DropReason::PolicyIngress);
    let forwarded = syn((EXTERNAL, PORT), (SERVER, 80));
    datapath.to_pod(SERVER_IFINDEX, &forwarded).dropped(DropReason::PolicyIngress);
    let echo = error(ROUTER, SERVER, 1, &ack((SERVER, 9), (EXTERNAL, 9)));
    datapath.to_pod(SERVER_IFINDEX, &echo).dropped(DropReason::PolicyIngress);
    // What a pod sends to the node is judged.
    datapath.isolate(CLIENT, Egress, &[], NONE);
    let to_node = syn((CLIENT, PORT), (NODE, 10_250));
    datapath.from_pod(CLIENT_IFINDEX, &to_node).dropped(DropReason::PolicyEgress);
}

#[test]
fn contract_8_13_replies_and_related_errors_pass() {
    let datapath = Datapath::node();
    datapath.class(CLIENT, Some(WEB));
    datapath.isolate(CLIENT, Ingress, &[], NONE);
    datapath.isolate(SERVER, Egress, &[], NONE);
    datapath.isolate(SERVER, Ingress, &[(WEB, web_port())], NONE);
    open(&datapath, PORT);
    let data = ack((SERVER, 80), (CLIENT, PORT));
    datapath.from_pod(SERVER_IFINDEX, &data).to_pod(&[]);
    let related = error(SERVER, CLIENT, 4, &ack((CLIENT, PORT), (SERVER, 80)));
    datapath.from_pod(SERVER_IFINDEX, &related).to_pod(&[]);
    // An error about no flow.
    let forged = error(SERVER, CLIENT, 4, &ack((CLIENT, 1), (SERVER, 80)));
    datapath.from_pod(SERVER_IFINDEX, &forged).dropped(DropReason::NotTracked);
    // What the server opens itself.
    let back = syn((SERVER, PORT), (CLIENT, 80));
    datapath.from_pod(SERVER_IFINDEX, &back).dropped(DropReason::PolicyEgress);
}

#[test]
fn fragments_without_ports_are_not_taken_for_an_admitted_port() {
    let datapath = Datapath::node();
    datapath.class(CLIENT, Some(WEB));
    datapath.isolate(SERVER, Ingress, &[(WEB, PolicyPorts::range(proto::UDP, 53, 53))], NONE);
    let datagram = |id, port| {
        let mut packet = Packet::udp((CLIENT, PORT), (SERVER, port), &[7; 3000]);
        packet.id = id;
        packet
    };
    let later = |packet: &Packet| datapath.from_pod(CLIENT_IFINDEX, &packet.fragment(1480, 1480));
    // The later fragment first: it waits for the ports.
    let admitted = datagram(1, 53);
    assert!(later(&admitted).is_requeued());
    datapath.from_pod(CLIENT_IFINDEX, &admitted.fragment(0, 1480)).to_pod(&[]);
    later(&admitted).to_pod(&[]);
    // The first fragment is denied: so are the others.
    let denied = datagram(2, 54);
    datapath.from_pod(CLIENT_IFINDEX, &denied.fragment(0, 1480)).dropped(DropReason::PolicyIngress);
    later(&denied).dropped(DropReason::PolicyIngress);
    // Nothing is known of the first one.
    let orphan = datagram(3, 53);
    assert!(later(&orphan).is_requeued() && later(&orphan).is_requeued());
    later(&orphan).dropped(DropReason::FragmentUnknown);
    // Whatever the ports.
    datapath.isolate(SERVER, Ingress, &[(WEB, PolicyPorts::ALL)], NONE);
    later(&datagram(4, 53)).to_pod(&[]);
}

#[test]
fn packets_that_pretend_to_be_replies_are_judged_as_what_the_pod_sends() {
    let datapath = Datapath::node();
    let denied = [DropReason::PolicyEgress.label(), Outcome::MidStream.label()];
    datapath.isolate(SERVER, Egress, &[], NONE);
    for (to, flags) in [(CLIENT, SYN_ACK), (CLIENT, ACK), (FAR_POD, SYN_ACK), (EXTERNAL, ACK)] {
        let forged = Packet::tcp((SERVER, 80), (to, PORT), flags, b"x");
        datapath.from_pod(SERVER_IFINDEX, &forged).counted(&denied);
    }
    let echo_reply = Packet::echo(SERVER, FAR_POD, 0, 7, b"x");
    datapath.from_pod(SERVER_IFINDEX, &echo_reply).counted(&denied);
    // Nothing else is counted so. `counted` and `dropped` would not show it.
    let datagram = Packet::udp((SERVER, PORT), (FAR_POD, 53), b"x");
    let echo = Packet::echo(SERVER, FAR_POD, 8, 7, b"x");
    for opening in [syn((SERVER, 80), (FAR_POD, PORT)), datagram, echo] {
        let run = datapath.from_pod(SERVER_IFINDEX, &opening);
        assert_eq!(run.labels(), [DropReason::PolicyEgress.label()]);
    }
    // Nor does a packet to it open the way back, if its ingress policies drop it.
    datapath.isolate(SERVER, Ingress, &[], NONE);
    let to = syn((FAR_POD, PORT), (SERVER, 80));
    datapath.from_netdev(&to).dropped(DropReason::PolicyIngress);
    let reply = Packet::tcp((SERVER, 80), (FAR_POD, PORT), SYN_ACK, b"");
    datapath.from_pod(SERVER_IFINDEX, &reply).dropped(DropReason::PolicyEgress);
}

#[test]
fn a_pod_reports_errors_about_its_own_flows_only() {
    let datapath = Datapath::node();
    datapath.isolate(SERVER, Egress, &[], NONE);
    datapath.from_pod(CLIENT_IFINDEX, &syn((CLIENT, PORT), (FAR_POD, 80))).to_uplink(&[]);
    let about = error(SERVER, CLIENT, 4, &syn((CLIENT, PORT), (FAR_POD, 80)));
    datapath.from_pod(SERVER_IFINDEX, &about).dropped(DropReason::NotTracked);
}

#[test]
fn what_the_stack_forwards_to_a_service_is_not_of_the_node() {
    let datapath = Datapath::node();
    datapath.service(7, (VIP, 80, proto::TCP), &[(SERVER, 80)]);
    datapath.isolate(SERVER, Ingress, &[], NONE);
    let from = |source| datapath.to_netdev(&syn((source, PORT), (VIP, 80)));
    from(EXTERNAL).dropped(DropReason::PolicyIngress);
    from(NODE).to_pod(&[Outcome::Translated]);
    // The address of the node, and a device has received the packet: something has translated it.
    let packet = syn((NODE, PORT), (SERVER, 80)).bytes();
    let run = datapath.run_received(program::TO_POD, &packet, SERVER_IFINDEX, UPLINK_IFINDEX);
    run.dropped(DropReason::PolicyIngress);
}

#[test]
fn a_pod_that_reaches_itself_is_judged_as_itself() {
    let datapath = Datapath::node();
    datapath.service(7, (VIP, 80, proto::TCP), &[(CLIENT, 8080)]);
    datapath.class(CLIENT, Some(WEB));
    let hairpin = [Outcome::Translated, Outcome::Masqueraded];
    let target = PolicyPorts::range(proto::TCP, 8080, 8080);
    for direction in [Egress, Ingress] {
        datapath.isolate(CLIENT, direction, &[(WEB, target)], NONE);
    }
    datapath.from_pod(CLIENT_IFINDEX, &syn((CLIENT, 1), (VIP, 80))).to_pod(&hairpin);
    datapath.isolate(CLIENT, Ingress, &[], NONE);
    let packet = syn((CLIENT, 2), (VIP, 80));
    datapath.from_pod(CLIENT_IFINDEX, &packet).dropped(DropReason::PolicyIngress);
}
