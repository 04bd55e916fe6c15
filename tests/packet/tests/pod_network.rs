//! Pod to pod, to nodes, to the outside and back.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test ends where it fails")]

use packet_tests::*;
use sluice_abi::{DropReason, NodeConfig, Outcome, map, program, proto};

const SYN: u8 = 2;
const SYN_ACK: u8 = 18;

#[test]
fn a_pod_on_this_node_gets_the_packet_with_its_own_mac() {
    let kernel = Kernel::world();
    let asked = Packet::udp((CLIENT, PORT), (SERVER, 53), b"hello");
    let seen = kernel.from_pod(&asked);
    seen.outcome(Outcome::ToPod);
    assert_eq!(seen.ran.action, Action::Redirect);
    assert_eq!(
        seen.ran.data[..6],
        [2, 0, 0, 0, 1, 20],
        "the pod's MAC: older kernels do not fix the packet type"
    );
    assert_eq!(seen.ran.data[6..12], [2, 0, 0, 0, 1, 0xee]);
    let expected = Packet::read(&asked.ttl(63).bytes()).unwrap();
    assert_eq!(seen.packet(), expected);
    assert!(kernel.flows().is_empty(), "what nobody translates leaves no trace");
}

#[test]
fn another_nodes_pod_is_reached_over_the_uplink_unchanged() {
    let kernel = Kernel::world();
    let seen = kernel.from_pod(&Packet::udp((CLIENT, PORT), (FAR_POD, 53), b"hello"));
    seen.outcome(Outcome::ToUplink);
    assert_eq!(seen.ran.action, Action::Redirect);
    assert_eq!(seen.packet().src, CLIENT, "never masqueraded inside the cluster");
}

#[test]
fn nodes_see_the_pods_own_address() {
    let kernel = Kernel::world();
    let seen = kernel.from_pod(&Packet::tcp((CLIENT, PORT), (NODE, 10250), SYN, b""));
    assert_eq!(seen.ran.action, Action::Next, "this node: up the stack");
    seen.outcome(Outcome::ToStack);
    let seen = kernel.from_pod(&Packet::tcp((CLIENT, PORT), (OTHER_NODE, 10250), SYN, b""));
    assert_eq!(seen.packet().src, CLIENT);
}

#[test]
fn masquerade_1_forward_2_reply() {
    for (forward, answer) in [
        (Packet::tcp((CLIENT, PORT), (OUTSIDE, 443), SYN, b""), SYN_ACK),
        (Packet::udp((CLIENT, PORT), (OUTSIDE, 443), b"quic"), 0),
    ] {
        let kernel = Kernel::world();
        let seen = kernel.from_pod(&forward);
        seen.outcome(Outcome::Masqueraded).outcome(Outcome::ToUplink);
        let there = seen.packet();
        assert_eq!((there.src, there.dst, there.dport()), (NODE, OUTSIDE, 443));
        assert!(
            there.sport() >= 61_000,
            "a port that the node itself does not use: {}",
            there.sport()
        );
        let answer = if forward.proto == proto::TCP {
            Packet::tcp((OUTSIDE, 443), (NODE, there.sport()), answer, b"")
        } else {
            Packet::udp((OUTSIDE, 443), (NODE, there.sport()), b"answer")
        };
        let seen = kernel.from_wire(&answer);
        seen.outcome(Outcome::Restored).outcome(Outcome::ToPod);
        let back = seen.packet();
        assert_eq!((back.src, back.sport(), back.dst, back.dport()), (OUTSIDE, 443, CLIENT, PORT));
    }
}

#[test]
fn pings_of_two_pods_with_one_identifier_are_told_apart() {
    let kernel = Kernel::world();
    let one = kernel.from_pod(&Packet::echo(CLIENT, OUTSIDE, 8, 7)).packet();
    kernel.endpoint(SERVER, CLIENT_IFINDEX);
    let two = kernel.from_pod(&Packet::echo(SERVER, OUTSIDE, 8, 7)).packet();
    let id = |p: &Packet| u16::from_be_bytes([p.body[4], p.body[5]]);
    assert_eq!((one.src, two.src), (NODE, NODE));
    assert_ne!(id(&one), id(&two));
    for (sent, pod) in [(one, CLIENT), (two, SERVER)] {
        let back = kernel.from_wire(&Packet::echo(OUTSIDE, NODE, 0, id(&sent))).packet();
        assert_eq!((back.dst, id(&back)), (pod, 7));
    }
}

#[test]
fn a_reply_that_nobody_asked_for_goes_to_the_node() {
    let kernel = Kernel::world();
    let seen = kernel.from_wire(&Packet::tcp((OUTSIDE, 443), (NODE, 61_500), SYN_ACK, b""));
    assert_eq!(seen.ran.action, Action::Next);
}

#[test]
fn a_wire_packet_for_a_pod_goes_straight_to_it() {
    let kernel = Kernel::world();
    let seen = kernel.from_wire(&Packet::tcp((FAR_POD, 1000), (SERVER, 80), SYN, b""));
    seen.outcome(Outcome::ToPod);
    assert_eq!((seen.ran.action, seen.packet().ttl), (Action::Redirect, 63));
}

#[test]
fn what_is_not_the_pods_own_address_is_spoofed() {
    let kernel = Kernel::world();
    for source in [[10, 99, 99, 99], SERVER, NODE, [0, 0, 0, 0], [127, 0, 0, 1]] {
        kernel
            .from_pod(&Packet::udp((source, PORT), (SERVER, 53), b"x"))
            .dropped(DropReason::Spoofed);
    }
    kernel.from_wire(&Packet::udp((SERVER, PORT), (CLIENT, 53), b"x")).dropped(DropReason::Spoofed);
}

#[test]
fn free_addresses_of_the_nodes_range_end_here() {
    let kernel = Kernel::world();
    let free = ([10, 244, 1, 99], 80);
    let counted = |seen: &Seen| seen.counted.contains(&(DropReason::NoSuchPod.label(), 1));
    assert!(counted(&kernel.from_pod(&Packet::udp((CLIENT, PORT), free, b"x"))));
    assert!(counted(&kernel.from_wire(&Packet::udp((FAR_POD, PORT), free, b"x"))));
}

#[test]
fn nothing_passes_before_the_agent_has_written_its_tables() {
    let kernel = Kernel::empty();
    kernel.endpoint(CLIENT, CLIENT_IFINDEX);
    kernel.from_pod(&Packet::udp((CLIENT, PORT), (SERVER, 53), b"x")).dropped(DropReason::NotReady);
    let seen = kernel.from_wire(&Packet::udp((OUTSIDE, PORT), (NODE, 53), b"x"));
    assert_eq!(seen.ran.action, Action::Next, "the node itself lives on");
}

#[test]
fn a_lifetime_that_ends_here_goes_to_the_stack_which_answers() {
    let kernel = Kernel::world();
    for dst in [FAR_POD, OUTSIDE] {
        let seen = kernel.from_pod(&Packet::udp((CLIENT, PORT), (dst, 33434), b"trace").ttl(1));
        assert_eq!(seen.ran.action, Action::Next, "{dst:?}: {:?}", seen.counted);
        assert_eq!(seen.packet().src, CLIENT, "the answer has to find the pod");
    }
}

#[test]
fn frag_needed_about_a_masqueraded_flow_reaches_the_pod_with_its_own_tuple_inside() {
    let kernel = Kernel::world();
    let there = kernel.from_pod(&Packet::tcp((CLIENT, PORT), (OUTSIDE, 443), SYN, b"")).packet();
    let router = [192, 0, 2, 1];
    let error = Packet::icmp_error(router, NODE, (3, 4, 1300), &there);
    let seen = kernel.from_wire(&error);
    seen.outcome(Outcome::ToPod);
    let got = seen.packet();
    assert_eq!((got.src, got.dst), (router, CLIENT), "RFC 5508 section 4.2");
    assert_eq!(got.body[..2], [3, 4]);
    let inner = &got.body[8..];
    assert_eq!((&inner[12..16], &inner[16..20]), (&CLIENT[..], &OUTSIDE[..]));
    assert_eq!(inner[20..24], [&PORT.to_be_bytes()[..], &443u16.to_be_bytes()[..]].concat());
    assert_eq!(checksum(&inner[..20]), 0, "the inner header checksum is right too");
    assert_eq!(checksum(&got.body), 0);
}

#[test]
fn frag_needed_about_a_service_flow_names_the_service() {
    let kernel = Kernel::world();
    let vip_port = (VIP, 80, proto::TCP);
    kernel.service(7, vip_port, &[(FAR_POD, 8080)]);
    let there = kernel.from_pod(&Packet::tcp((CLIENT, PORT), (VIP, 80), SYN, b"")).packet();
    let got =
        kernel.from_wire(&Packet::icmp_error(OTHER_NODE, CLIENT, (3, 4, 1300), &there)).packet();
    assert_eq!(got.dst, CLIENT);
    let inner = &got.body[8..];
    assert_eq!((&inner[12..16], &inner[16..20]), (&CLIENT[..], &VIP[..]));
    assert_eq!(inner[22..24], 80u16.to_be_bytes());
}

#[test]
fn fragments_follow_the_first_one() {
    let kernel = Kernel::world();
    kernel.service(7, (VIP, 53, proto::UDP), &[(SERVER, 5353)]);
    for (dst, expected) in [(VIP, SERVER), (SERVER, SERVER), (FAR_POD, FAR_POD)] {
        let whole = Packet::udp((CLIENT, PORT), (dst, 53), &[7; 3000]);
        for (offset, bytes) in [(0, 1480), (1480, 1480), (2960, 1480)] {
            let seen = kernel.from_pod(&whole.fragment(offset, bytes));
            assert_eq!(
                seen.ran.action,
                Action::Redirect,
                "{dst:?} at {offset}: {:?}",
                seen.counted
            );
            let got = seen.packet();
            assert_eq!((got.src, got.dst, got.fragment_offset), (CLIENT, expected, offset));
        }
    }
}

#[test]
fn fragments_to_the_outside_all_carry_the_nodes_address_and_come_back() {
    let kernel = Kernel::world();
    let whole = Packet::echo(CLIENT, OUTSIDE, 8, 7);
    let mut big = whole.clone();
    big.body.resize(3000, 5);
    let first = kernel.from_pod(&big.fragment(0, 1480)).packet();
    assert_eq!(first.src, NODE);
    assert_eq!(kernel.from_pod(&big.fragment(1480, 1480)).packet().src, NODE);
    let id = u16::from_be_bytes([first.body[4], first.body[5]]);
    let mut answer = Packet::echo(OUTSIDE, NODE, 0, id);
    answer.body.resize(3000, 5);
    for offset in [0, 1480] {
        let got = kernel.from_wire(&answer.fragment(offset, 1480)).packet();
        assert_eq!(got.dst, CLIENT, "at {offset}");
    }
}

#[test]
fn a_later_fragment_waits_for_its_first_and_is_dropped_if_none_comes() {
    let kernel = Kernel::world();
    kernel.service(7, (VIP, 53, proto::UDP), &[(SERVER, 5353)]);
    let whole = Packet::udp((CLIENT, PORT), (VIP, 53), &[7; 3000]);
    let mut waited = 0;
    let last = loop {
        let seen = kernel.from_pod(&whole.fragment(1480, 1480));
        if seen.ran.action == Action::Drop {
            break seen;
        }
        let again = (Action::Redirect, whole.fragment(1480, 1480).bytes(), 0);
        assert_eq!((seen.ran.action, seen.ran.data, seen.counted.len()), again);
        waited += 1;
        assert!(waited < 100);
    };
    last.dropped(DropReason::FragmentUnknown);
    assert!(waited > 40, "64 KiB are 45 fragments: {waited}");
    // The first one comes after all: the next round finds the backend.
    assert_eq!(kernel.from_pod(&whole.fragment(0, 1480)).packet().dst, SERVER);
    assert_eq!(kernel.from_pod(&whole.fragment(1480, 1480)).packet().dst, SERVER);
    // A part of a datagram for the node itself waits as well, and goes up in the end.
    let own = Packet::udp((OUTSIDE, 53), (NODE, 5000), &[7; 3000]);
    let up =
        (0..100).any(|_| kernel.from_wire(&own.fragment(1480, 1480)).ran.action == Action::Next);
    assert!(up);
}

#[test]
fn ip_options_do_not_move_the_ports() {
    let kernel = Kernel::world();
    kernel.service(7, (VIP, 80, proto::TCP), &[(SERVER, 8080)]);
    let mut asked = Packet::tcp((CLIENT, PORT), (VIP, 80), SYN, b"");
    asked.options = vec![1, 1, 1, 1, 1, 1, 1, 0];
    let seen = kernel.from_pod(&asked);
    let got = seen.packet();
    assert_eq!((got.dst, got.dport(), got.options.len()), (SERVER, 8080, 8));
}

#[test]
fn short_and_malformed_packets_are_dropped_at_the_pod_and_left_alone_at_the_wire() {
    let kernel = Kernel::world();
    let good = Packet::tcp((CLIENT, PORT), (SERVER, 80), SYN, b"").bytes();
    // Shorter ones the kernel does not let a test run over.
    let mut bad = vec![good[..34].to_vec(), good[..36].to_vec(), good[..44].to_vec()];
    let mut spoil = |at: usize, to: u8| {
        let mut frame = good.clone();
        frame[at] = to;
        bad.push(frame);
    };
    spoil(14, 0x44); // header shorter than a header
    spoil(14, 0x4f); // header longer than the packet
    spoil(14, 0x55); // version 5 in an IPv4 frame
    spoil(16, 0x7f); // total length beyond the frame
    spoil(17, 10); // total length below the header
    for frame in bad {
        kernel.run(program::FROM_POD, &frame, CLIENT_IFINDEX).dropped(DropReason::Malformed);
        let wire = kernel.run(program::FROM_NETDEV, &frame, uplink_ifindex());
        assert_eq!(wire.ran.action, Action::Next, "{}", show(&frame));
        assert_eq!(wire.ran.data, frame);
    }
}

#[test]
fn arp_and_vlan_frames_pass_untouched() {
    let kernel = Kernel::world();
    let mut arp = Packet::udp((CLIENT, PORT), (SERVER, 80), b"x").bytes();
    arp[12..14].copy_from_slice(&[8, 6]);
    let mut vlan = arp.clone();
    vlan[12..14].copy_from_slice(&[0x81, 0]);
    for frame in [&arp, &vlan] {
        let seen = kernel.run(program::FROM_NETDEV, frame, uplink_ifindex());
        assert_eq!((seen.ran.action, &seen.ran.data), (Action::Next, frame));
    }
    let seen = kernel.run(program::FROM_POD, &arp, CLIENT_IFINDEX);
    assert_eq!((seen.ran.action, &seen.ran.data), (Action::Next, &arp));
}

#[test]
fn when_every_snat_port_is_taken_the_flow_is_dropped_and_counted() {
    let kernel = Kernel::world();
    let nodes = kernel.map::<u32, NodeConfig>(map::NODE_CONFIG);
    let mut config = nodes.lookup(&0).unwrap().unwrap();
    config.snat_port_max = config.snat_port_min + 1;
    nodes.update(&0, &config).unwrap();
    let mut ports = Vec::new();
    let mut refused = 0;
    for port in 0..50 {
        let seen = kernel.from_pod(&Packet::tcp((CLIENT, 20_000 + port), (OUTSIDE, 443), SYN, b""));
        if seen.ran.action == Action::Drop {
            seen.dropped(DropReason::NoSnatPort);
            refused += 1;
        } else {
            ports.push(seen.packet().sport());
        }
    }
    ports.sort_unstable();
    assert_eq!(ports, [61_000, 61_001]);
    assert_eq!(refused, 48);
}

#[test]
fn who_came_through_the_stack_is_answered_through_the_stack() {
    // hostPort by the portmap plugin: netfilter translated the node's port to the pod's, and only
    // it can translate back.
    let kernel = Kernel::world();
    for client in [OUTSIDE, FAR_POD, SERVER] {
        let seen = kernel.to_pod(&Packet::tcp((client, 5000), (CLIENT, 8080), SYN, b""));
        assert_eq!(seen.ran.action, Action::Next);
        let seen = kernel.from_pod(&Packet::tcp((CLIENT, 8080), (client, 5000), SYN_ACK, b""));
        assert_eq!(seen.ran.action, Action::Next, "{client:?}: {:?}", seen.counted);
        assert_eq!(seen.packet().src, CLIENT, "not masqueraded: netfilter knows this tuple");
    }
    // The node itself is answered through the stack anyway, and leaves no trace.
    let before = kernel.flows().len();
    kernel.to_pod(&Packet::tcp((NODE, 5000), (CLIENT, 10_250), SYN, b""));
    assert_eq!(kernel.flows().len(), before);
}

#[test]
fn times() {
    let kernel = Kernel::world();
    let cases = [
        (
            "from_pod, pod on this node",
            program::FROM_POD,
            Packet::udp((CLIENT, PORT), (SERVER, 53), b"x"),
            CLIENT_IFINDEX,
        ),
        (
            "from_netdev, pod on this node",
            program::FROM_NETDEV,
            Packet::udp((FAR_POD, PORT), (SERVER, 53), b"x"),
            uplink_ifindex(),
        ),
        (
            "to_netdev, the node's own",
            program::TO_NETDEV,
            Packet::udp((NODE, PORT), (OUTSIDE, 53), b"x"),
            uplink_ifindex(),
        ),
    ];
    for (what, program, packet, ifindex) in cases {
        println!("{what}: {} ns", kernel.time(program, &packet.ttl(255), ifindex).as_nanos());
    }
}
