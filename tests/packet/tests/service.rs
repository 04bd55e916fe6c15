//! ClusterIP Services on the tc path.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test ends where it fails")]

use packet_tests::*;
use sluice_abi::{DropReason, Outcome, frontend_flags, program, proto};

const SYN: u8 = 2;
const ACK: u8 = 16;
const SYN_ACK: u8 = 18;
const FIN_ACK: u8 = 17;

fn web(backends: &[([u8; 4], u16)]) -> Kernel {
    let kernel = Kernel::world();
    kernel.service(7, (VIP, 80, proto::TCP), backends);
    kernel
}

#[test]
fn dnat_1_forward_2_reply_3_next() {
    let kernel = web(&[(SERVER, 8080)]);
    let seen = kernel.from_pod(&Packet::tcp((CLIENT, PORT), (VIP, 80), SYN, b""));
    seen.outcome(Outcome::Translated).outcome(Outcome::ToPod);
    assert_eq!(seen.ran.action, Action::Redirect);
    assert_eq!(
        seen.packet(),
        Packet::read(&Packet::tcp((CLIENT, PORT), (SERVER, 8080), SYN, b"").ttl(63).bytes())
            .unwrap()
    );

    // The backend answers from its own veth; the client must see the Service.
    kernel.endpoint(SERVER, CLIENT_IFINDEX);
    let seen = kernel.from_pod(&Packet::tcp((SERVER, 8080), (CLIENT, PORT), SYN_ACK, b""));
    seen.outcome(Outcome::Restored).outcome(Outcome::ToPod);
    let reply = seen.packet();
    assert_eq!((reply.src, reply.sport()), (VIP, 80));
    assert_eq!((reply.dst, reply.dport()), (CLIENT, PORT));

    let seen = kernel.from_pod(&Packet::tcp((CLIENT, PORT), (VIP, 80), ACK, b"GET / HTTP/1.1"));
    assert_eq!((seen.packet().dst, seen.packet().dport()), (SERVER, 8080));
    assert_eq!(kernel.flows().len(), 2, "one flow, two keys");
    let ns = kernel.time(
        program::FROM_POD,
        &Packet::tcp((CLIENT, PORT), (VIP, 80), ACK, b"GET / HTTP/1.1"),
        CLIENT_IFINDEX,
    );
    println!("from_pod, established flow to a Service: {} ns", ns.as_nanos());
}

#[test]
fn udp_without_a_checksum_stays_without() {
    let kernel = Kernel::world();
    kernel.service(7, (VIP, 53, proto::UDP), &[(SERVER, 5353)]);
    let mut frame = Packet::udp((CLIENT, PORT), (VIP, 53), b"question").bytes();
    frame[40..42].fill(0);
    let seen = kernel.run(program::FROM_POD, &frame, CLIENT_IFINDEX);
    let packet = seen.packet();
    assert_eq!((packet.dst, packet.dport()), (SERVER, 5353));
    assert_eq!(packet.body[6..8], [0, 0]);
}

#[test]
fn without_an_endpoint_the_client_gets_port_unreachable() {
    let kernel = web(&[]);
    let asked = Packet::tcp((CLIENT, PORT), (VIP, 80), SYN, b"");
    let seen = kernel.from_pod(&asked);
    assert_eq!(seen.ran.action, Action::Redirect, "back to the pod: {:?}", seen.counted);
    assert!(seen.counted.contains(&(DropReason::NoEndpoint.label(), 1)), "{:?}", seen.counted);
    let error = seen.packet();
    assert_eq!((error.proto, error.src, error.dst), (proto::ICMP, VIP, CLIENT));
    assert_eq!(error.body[..2], [3, 3], "RFC 792: destination unreachable, port");
    // What was asked comes along: its header as it was, and the ports.
    assert_eq!(error.body[8..36], asked.ip_bytes()[..28]);
}

#[test]
fn an_unknown_port_of_a_live_address_is_refused_and_ping_does_not_loop() {
    let kernel = web(&[(SERVER, 8080)]);
    for asked in [
        Packet::tcp((CLIENT, PORT), (VIP, 81), SYN, b""),
        Packet::udp((CLIENT, PORT), (VIP, 80), b"x"),
        Packet::echo(CLIENT, VIP, 8, 7),
    ] {
        let seen = kernel.from_pod(&asked);
        assert!(
            seen.counted.contains(&(DropReason::UnknownServicePort.label(), 1)),
            "{:?}",
            seen.counted
        );
        assert_eq!(seen.packet().body[..2], [3, 3]);
    }
}

#[test]
fn a_free_address_of_the_service_range_is_dropped() {
    let kernel = web(&[(SERVER, 8080)]);
    kernel
        .from_pod(&Packet::tcp((CLIENT, PORT), ([10, 96, 0, 99], 80), SYN, b""))
        .dropped(DropReason::NoSuchService);
}

#[test]
fn a_local_policy_without_a_local_endpoint_drops() {
    let kernel = web(&[]);
    let frontend =
        sluice_abi::Frontend { service: 7, flags: frontend_flags::DROP, ..Default::default() };
    kernel.frontend((VIP, 80, proto::TCP), frontend);
    kernel
        .from_pod(&Packet::tcp((CLIENT, PORT), (VIP, 80), SYN, b""))
        .dropped(DropReason::NoLocalEndpoint);
}

#[test]
fn hairpin_1_forward_2_reply() {
    let kernel = web(&[(CLIENT, 8080)]);
    let forward = kernel.from_pod(&Packet::tcp((CLIENT, PORT), (VIP, 80), SYN, b"")).packet();
    assert_eq!(
        (forward.src, forward.dst, forward.dport()),
        (NODE, CLIENT, 8080),
        "the pod sees the node"
    );
    assert!(forward.sport() >= 61_000);
    let reply = kernel
        .from_pod(&Packet::tcp((CLIENT, 8080), (NODE, forward.sport()), SYN_ACK, b""))
        .packet();
    assert_eq!((reply.src, reply.sport(), reply.dst, reply.dport()), (VIP, 80, CLIENT, PORT));
}

#[test]
fn two_services_one_backend_one_client_port_both_live() {
    let other = [10, 96, 0, 51];
    let kernel = web(&[(SERVER, 8080)]);
    kernel.service(8, (other, 80, proto::TCP), &[(SERVER, 8080)]);
    let first = kernel.from_pod(&Packet::tcp((CLIENT, PORT), (VIP, 80), SYN, b"")).packet();
    let second = kernel.from_pod(&Packet::tcp((CLIENT, PORT), (other, 80), SYN, b"")).packet();
    assert_eq!(first.sport(), PORT);
    assert_ne!(second.sport(), PORT, "the backend could not tell them apart");
    kernel.endpoint(SERVER, CLIENT_IFINDEX);
    for (sport, service) in [(first.sport(), VIP), (second.sport(), other)] {
        let reply =
            kernel.from_pod(&Packet::tcp((SERVER, 8080), (CLIENT, sport), SYN_ACK, b"")).packet();
        assert_eq!((reply.src, reply.sport(), reply.dport()), (service, 80, PORT));
    }
}

#[test]
fn a_backend_asked_directly_from_a_port_that_its_service_knows() {
    let kernel = web(&[(SERVER, 8080)]);
    kernel.endpoint(SERVER, CLIENT_IFINDEX);
    let answer = |sport| {
        let reply = Packet::tcp((SERVER, 8080), (CLIENT, sport), SYN_ACK, b"");
        kernel.from_pod(&reply).packet()
    };
    let direct = Packet::tcp((CLIENT, PORT), (SERVER, 8080), SYN, b"");
    kernel.from_pod(&Packet::tcp((CLIENT, PORT), (VIP, 80), SYN, b""));
    // Both at once: the backend must be able to tell them apart.
    let second = kernel.from_pod(&direct).packet();
    assert_ne!(second.sport(), PORT);
    let reply = answer(second.sport());
    assert_eq!((reply.src, reply.sport(), reply.dport()), (SERVER, 8080, PORT));
    assert_eq!(answer(PORT).src, VIP);

    // One after the other: what is closed hinders nobody.
    let kernel = web(&[(SERVER, 8080)]);
    kernel.endpoint(SERVER, CLIENT_IFINDEX);
    for flags in [SYN, 4] {
        kernel.from_pod(&Packet::tcp((CLIENT, PORT), (VIP, 80), flags, b""));
    }
    let sport = kernel.from_pod(&direct).packet().sport();
    let reply = Packet::tcp((SERVER, 8080), (CLIENT, sport), SYN_ACK, b"");
    let reply = kernel.from_pod(&reply).packet();
    assert_eq!((reply.src, reply.sport(), reply.dport()), (SERVER, 8080, PORT));
}

#[test]
fn new_connections_spread_evenly() {
    let backends =
        [(SERVER, 8080), (FAR_POD, 8080), ([10, 244, 2, 21], 8080), ([10, 244, 2, 22], 8080)];
    let kernel = web(&backends);
    let mut hits = [0u32; 4];
    for port in 20_000..24_000 {
        let packet = kernel.from_pod(&Packet::tcp((CLIENT, port), (VIP, 80), SYN, b"")).packet();
        hits[backends.iter().position(|b| b.0 == packet.dst).unwrap()] += 1;
    }
    // 4,000 draws of 1/4: six standard deviations are 164.
    assert!(hits.iter().all(|&n| n.abs_diff(1000) < 164), "{hits:?}");
}

#[test]
fn a_syn_that_meets_a_closed_flow_is_a_new_one() {
    let kernel = web(&[(SERVER, 8080)]);
    let send = |flags| kernel.from_pod(&Packet::tcp((CLIENT, PORT), (VIP, 80), flags, b""));
    send(SYN);
    send(4);
    // The backend is gone meanwhile, another serves: only a new choice finds it.
    kernel.service(7, (VIP, 80, proto::TCP), &[(FAR_POD, 8080)]);
    assert_eq!(send(SYN).packet().dst, FAR_POD);
}

#[test]
fn both_fins_close_a_flow_and_one_does_not() {
    let kernel = web(&[(SERVER, 8080)]);
    let send = |flags| kernel.from_pod(&Packet::tcp((CLIENT, PORT), (VIP, 80), flags, b""));
    let answer = |flags| {
        kernel.endpoint(SERVER, CLIENT_IFINDEX);
        kernel.from_pod(&Packet::tcp((SERVER, 8080), (CLIENT, PORT), flags, b""))
    };
    send(SYN);
    answer(SYN_ACK);
    send(FIN_ACK);
    kernel.service(7, (VIP, 80, proto::TCP), &[(FAR_POD, 8080)]);
    assert_eq!(send(SYN).packet().dst, SERVER, "half closed is still open");
    answer(FIN_ACK);
    assert_eq!(send(SYN).packet().dst, FAR_POD);
}

#[test]
fn a_udp_flow_moves_on_when_its_backend_is_gone() {
    let kernel = Kernel::world();
    kernel.service(7, (VIP, 53, proto::UDP), &[(SERVER, 53)]);
    let ask = || kernel.from_pod(&Packet::udp((CLIENT, PORT), (VIP, 53), b"q")).packet().dst;
    assert_eq!(ask(), SERVER);
    kernel.service(9, (VIP, 53, proto::UDP), &[(FAR_POD, 53)]);
    assert_eq!(ask(), SERVER, "still serving elsewhere: the flow stays");
    kernel.map::<u32, sluice_abi::Backend>(sluice_abi::map::BACKENDS).delete(&701).unwrap();
    assert_eq!(ask(), FAR_POD);
}

#[test]
fn the_tail_of_an_unknown_flow_is_not_given_to_a_random_backend() {
    let kernel = web(&[(SERVER, 8080)]);
    kernel
        .from_pod(&Packet::tcp((CLIENT, PORT), (VIP, 80), ACK, b"tail"))
        .dropped(DropReason::NotTracked);
}

#[test]
fn either_half_of_a_flow_rebuilds_the_other() {
    let kernel = web(&[(SERVER, 8080)]);
    kernel.from_pod(&Packet::tcp((CLIENT, PORT), (VIP, 80), SYN, b""));
    let flows = kernel.flows();
    let map = kernel.map::<sluice_abi::FlowKey, sluice_abi::FlowEntry>(sluice_abi::map::CONNTRACK);
    let (reply, _) = flows.iter().find(|(key, _)| key.src == v4(SERVER)).unwrap();
    map.delete(reply).unwrap();
    // The refresh is due once a second at most: make the entry old instead of waiting.
    let (forward, mut entry) = *flows.iter().find(|(key, _)| key.src == v4(CLIENT)).unwrap();
    entry.last_seen_ns = 0;
    map.update(&forward, &entry).unwrap();
    kernel.from_pod(&Packet::tcp((CLIENT, PORT), (VIP, 80), ACK, b""));
    assert!(map.lookup(reply).unwrap().is_some(), "{:?}", kernel.flows());
}

#[test]
fn a_cluster_ip_from_outside_is_served_and_answered_through_this_node() {
    let kernel = web(&[(FAR_POD, 8080)]);
    let there = kernel.from_wire(&Packet::tcp((OUTSIDE, 5000), (VIP, 80), SYN, b"")).packet();
    assert_eq!((there.src, there.dst, there.dport()), (NODE, FAR_POD, 8080));
    let back = kernel
        .from_wire(&Packet::tcp((FAR_POD, 8080), (NODE, there.sport()), SYN_ACK, b""))
        .packet();
    assert_eq!((back.src, back.sport(), back.dst, back.dport()), (VIP, 80, OUTSIDE, 5000));
}

#[test]
fn the_nodes_own_packet_to_a_service_is_translated_on_its_way_out() {
    let kernel = web(&[(FAR_POD, 8080)]);
    let there = kernel.to_uplink(&Packet::tcp((NODE, PORT), (VIP, 80), SYN, b"")).packet();
    assert_eq!((there.src, there.dst, there.dport()), (NODE, FAR_POD, 8080));
    let back = kernel
        .from_wire(&Packet::tcp((FAR_POD, 8080), (NODE, there.sport()), SYN_ACK, b""))
        .packet();
    assert_eq!((back.src, back.sport(), back.dst, back.dport()), (VIP, 80, NODE, PORT));
}
