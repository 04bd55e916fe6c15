//! What is rare on the wire and must be right all the same.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test ends where it fails")]

use packet_tests::*;
use sluice_abi::{DropReason, FlowEntry, FlowKey, Outcome, map, program, proto, tcp_state};

const SYN: u8 = 2;
const RST: u8 = 4;
const SYN_ACK: u8 = 18;
const FIN_ACK: u8 = 17;
const ACK: u8 = 16;

/// CRC32c bit by bit, as RFC 9260 appendix A says.
fn crc32c(message: &[u8]) -> [u8; 4] {
    let mut crc = !0u32;
    for byte in message {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = if crc & 1 == 1 { (crc >> 1) ^ 0x82f6_3b78 } else { crc >> 1 };
        }
    }
    (!crc).to_le_bytes()
}

fn sctp(from: ([u8; 4], u16), to: ([u8; 4], u16), chunk: &[u8]) -> Packet {
    let mut packet = Packet::sctp(from, to, [0; 4], chunk);
    let crc = crc32c(&packet.body);
    packet.body[8..12].copy_from_slice(&crc);
    packet
}

#[test]
fn sctp_1_forward_2_reply_with_their_crc() {
    let kernel = Kernel::world();
    kernel.service(7, (VIP, 3868, proto::SCTP), &[(SERVER, 13868)]);
    for len in [4, 20, 333, 1400] {
        let chunk = vec![0x5a; len];
        let there = kernel.from_pod(&sctp((CLIENT, PORT), (VIP, 3868), &chunk)).packet();
        let expected = sctp((CLIENT, PORT), (SERVER, 13868), &chunk);
        assert_eq!((there.dst, &there.body), (SERVER, &expected.body), "{len} bytes");
        kernel.endpoint(SERVER, CLIENT_IFINDEX);
        let back = kernel.from_pod(&sctp((SERVER, 13868), (CLIENT, PORT), &chunk)).packet();
        let expected = sctp((VIP, 3868), (CLIENT, PORT), &chunk);
        assert_eq!((back.src, &back.body), (VIP, &expected.body), "{len} bytes");
    }
    // A sender that leaves the checksum to the device has 0 there.
    let there = kernel.from_pod(&Packet::sctp((CLIENT, 7), (VIP, 3868), [0; 4], b"data")).packet();
    assert_eq!((there.dport(), &there.body[8..12]), (13868, &[0; 4][..]));
}

#[test]
fn a_backend_on_the_node_itself_answers_through_the_stack() {
    let kernel = Kernel::world();
    kernel.service(1, (VIP, 443, proto::TCP), &[(NODE, 6443)]);
    let seen = kernel.from_pod(&Packet::tcp((CLIENT, PORT), (VIP, 443), SYN, b""));
    seen.outcome(Outcome::Translated).outcome(Outcome::ToStack);
    let there = seen.packet();
    assert_eq!(seen.ran.action, Action::Next);
    assert_eq!((there.src, there.dst, there.dport()), (CLIENT, NODE, 6443));
    let seen = kernel.to_pod(&Packet::tcp((NODE, 6443), (CLIENT, PORT), SYN_ACK, b""));
    seen.outcome(Outcome::Restored);
    assert_eq!(seen.ran.action, Action::Next);
    assert_eq!((seen.packet().src, seen.packet().sport()), (VIP, 443));
    // What the node sends of itself is nobody's reply.
    let probe = Packet::tcp((NODE, 50_000), (CLIENT, 8080), SYN, b"");
    let seen = kernel.to_pod(&probe);
    assert_eq!(
        (seen.ran.action, seen.ran.data, seen.counted.len()),
        (Action::Next, probe.bytes(), 0)
    );
}

#[test]
fn an_error_of_the_backend_names_the_service() {
    let kernel = Kernel::world();
    kernel.service(7, (VIP, 53, proto::UDP), &[(SERVER, 5353)]);
    let there = kernel.from_pod(&Packet::udp((CLIENT, PORT), (VIP, 53), b"question")).packet();
    kernel.endpoint(SERVER, CLIENT_IFINDEX);
    let seen = kernel.from_pod(&Packet::icmp_error(SERVER, CLIENT, (3, 3, 0), &there));
    seen.outcome(Outcome::Restored).outcome(Outcome::ToPod);
    let got = seen.packet();
    assert_eq!((got.src, got.dst), (VIP, CLIENT), "the one that was asked complains");
    let inner = &got.body[8..];
    assert_eq!((&inner[12..16], &inner[16..20]), (&CLIENT[..], &VIP[..]));
    assert_eq!(inner[20..24], [&PORT.to_be_bytes()[..], &53u16.to_be_bytes()[..]].concat());
    let asked = Packet::udp((CLIENT, PORT), (VIP, 53), b"question").ttl(63).ip_bytes();
    assert_eq!(inner, &asked[..28], "the whole quote is what the client sent, checksums too");
}

#[test]
fn an_error_about_a_ping_finds_its_pod() {
    let kernel = Kernel::world();
    let there = kernel.from_pod(&Packet::echo(CLIENT, OUTSIDE, 8, 7)).packet();
    let got =
        kernel.from_wire(&Packet::icmp_error([192, 0, 2, 9], NODE, (11, 0, 0), &there)).packet();
    assert_eq!(got.dst, CLIENT);
    let asked = Packet::echo(CLIENT, OUTSIDE, 8, 7).ttl(63).ip_bytes();
    assert_eq!(&got.body[8..], &asked[..28]);
}

#[test]
fn an_error_that_quotes_nothing_of_ours_is_left_alone() {
    let kernel = Kernel::world();
    let own = Packet::udp((NODE, 5000), (OUTSIDE, 53), b"x");
    let error = Packet::icmp_error([192, 0, 2, 9], NODE, (3, 1, 0), &own);
    let seen = kernel.from_wire(&error);
    assert_eq!((seen.ran.action, seen.ran.data), (Action::Next, error.bytes()));
    // A pod's error about a flow that nobody knows must not leave with the pod's address.
    let strange = Packet::udp((OUTSIDE, 53), (CLIENT, 5000), b"x");
    kernel
        .from_pod(&Packet::icmp_error(CLIENT, OUTSIDE, (3, 3, 0), &strange))
        .dropped(DropReason::NotTracked);
    // An error that quotes too little.
    let mut short = Packet::icmp_error([192, 0, 2, 9], NODE, (3, 1, 0), &own);
    short.body.truncate(12);
    assert_eq!(kernel.from_wire(&short).ran.action, Action::Next);
}

#[test]
fn ipv6_of_a_pod_stays_on_its_link() {
    let kernel = Kernel::world();
    let mut frame = vec![2, 0, 0, 0, 1, 0xee, 2, 0, 0, 0, 1, 0x10, 0x86, 0xdd];
    frame.extend([0x60, 0, 0, 0, 0, 8, 58, 255]);
    frame.extend([0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
    frame.extend([0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2]);
    frame.extend([133, 0, 0, 0, 0, 0, 0, 0]);
    let seen = kernel.run(program::FROM_POD, &frame, CLIENT_IFINDEX);
    assert_eq!((seen.ran.action, &seen.ran.data), (Action::Next, &frame));
    frame[38..40].copy_from_slice(&[0x20, 1]);
    kernel.run(program::FROM_POD, &frame, CLIENT_IFINDEX).dropped(DropReason::Unsupported);
    let seen = kernel.run(program::FROM_NETDEV, &frame, uplink_ifindex());
    assert_eq!(seen.ran.action, Action::Next);
}

#[test]
fn what_is_too_long_for_the_wire_goes_to_the_stack_as_the_pod_sent_it() {
    let kernel = Kernel::world();
    for dst in [OUTSIDE, FAR_POD] {
        let long = Packet::udp((CLIENT, PORT), (dst, 53), &[1; 1500]);
        let seen = kernel.from_pod(&long);
        assert_eq!((seen.ran.action, seen.ran.data), (Action::Next, long.bytes()), "{dst:?}");
    }
    // What the kernel will cut into segments that fit is not too long.
    let long = Packet::tcp((CLIENT, PORT), (FAR_POD, 80), ACK, &[1; 3000]);
    let seen = kernel.run_segmented(program::FROM_POD, &long.bytes(), CLIENT_IFINDEX, 1400);
    seen.outcome(Outcome::ToUplink);
    let seen = kernel.run_segmented(program::FROM_POD, &long.bytes(), CLIENT_IFINDEX, 1480);
    seen.outcome(Outcome::ToStack);
    // Between pods of one node length is no matter.
    let long = Packet::udp((CLIENT, PORT), (SERVER, 53), &[1; 3000]);
    kernel.from_pod(&long).outcome(Outcome::ToPod);
}

#[test]
fn a_pods_packet_that_went_through_the_stack_is_masqueraded_at_the_uplink() {
    let kernel = Kernel::world();
    let seen = kernel.to_uplink(&Packet::udp((CLIENT, PORT), (OUTSIDE, 53), b"x"));
    seen.outcome(Outcome::Masqueraded);
    assert_eq!(seen.packet().src, NODE);
    let seen = kernel.to_uplink(&Packet::udp((CLIENT, PORT), (FAR_POD, 53), b"x"));
    assert_eq!(seen.packet().src, CLIENT);
    let own = Packet::udp((NODE, PORT), (OUTSIDE, 53), b"x");
    let seen = kernel.to_uplink(&own);
    assert_eq!((seen.ran.action, seen.ran.data), (Action::Next, own.bytes()));
}

#[test]
fn who_was_called_from_outside_by_its_own_address_answers_from_it() {
    let kernel = Kernel::world();
    kernel.endpoint(SERVER, SERVER_IFINDEX);
    kernel
        .from_wire(&Packet::tcp((OUTSIDE, 5000), (CLIENT, 8080), SYN, b""))
        .outcome(Outcome::ToPod);
    let seen = kernel.from_pod(&Packet::tcp((CLIENT, 8080), (OUTSIDE, 5000), SYN_ACK, b""));
    seen.outcome(Outcome::ToUplink);
    assert_eq!((seen.packet().src, seen.packet().sport()), (CLIENT, 8080));
}

#[test]
fn other_protocols_leave_with_the_nodes_address_one_pod_at_a_time() {
    let kernel = Kernel::world();
    let gre = |src, dst| {
        let mut packet = Packet::echo(src, dst, 8, 7);
        packet.proto = 47;
        packet
    };
    assert_eq!(kernel.from_pod(&gre(CLIENT, OUTSIDE)).packet().src, NODE);
    assert_eq!(kernel.from_wire(&gre(OUTSIDE, NODE)).packet().dst, CLIENT);
    kernel.endpoint(SERVER, CLIENT_IFINDEX);
    kernel.from_pod(&gre(SERVER, OUTSIDE)).dropped(DropReason::NoSnatPort);
}

#[test]
fn an_echo_reply_to_nobody_is_dropped() {
    let kernel = Kernel::world();
    kernel.from_pod(&Packet::echo(CLIENT, OUTSIDE, 0, 7)).dropped(DropReason::NotTracked);
}

#[test]
fn a_refusal_is_never_refused() {
    let kernel = Kernel::world();
    kernel.service(7, (VIP, 80, proto::TCP), &[]);
    let seen = kernel.from_pod(&Packet::tcp((CLIENT, PORT), (VIP, 80), RST, b""));
    seen.dropped(DropReason::NoEndpoint);
    let about = Packet::udp((VIP, 80), (CLIENT, PORT), b"x");
    let seen = kernel.from_pod(&Packet::icmp_error(CLIENT, VIP, (3, 3, 0), &about));
    assert_eq!(seen.ran.action, Action::Drop, "{:?}", seen.counted);
}

#[test]
fn strangers_and_the_node_are_refused_too() {
    let kernel = Kernel::world();
    kernel.service(7, (VIP, 80, proto::TCP), &[]);
    for seen in [
        kernel.from_wire(&Packet::tcp((OUTSIDE, 5000), (VIP, 80), SYN, b"")),
        kernel.to_uplink(&Packet::tcp((NODE, 5000), (VIP, 80), SYN, b"")),
    ] {
        seen.outcome(Outcome::Rejected);
        assert_eq!(seen.ran.action, Action::Redirect);
        let error = seen.packet();
        assert_eq!((error.src, error.dport(), &error.body[..2]), (VIP, error.dport(), &[3, 3][..]));
    }
    // Options come along in the quote (RFC 792: the internet header).
    let mut asked = Packet::tcp((CLIENT, PORT), (VIP, 80), SYN, b"");
    asked.options = vec![1, 1, 1, 1, 1, 1, 1, 0];
    let error = kernel.from_pod(&asked).packet();
    assert_eq!(error.body[8..], asked.ip_bytes()[..48]);
}

/// Makes both entries of every flow this much older.
fn age(kernel: &Kernel, seconds: u64) {
    let map = kernel.map::<FlowKey, FlowEntry>(map::CONNTRACK);
    for (key, mut entry) in kernel.flows() {
        entry.last_seen_ns = entry.last_seen_ns.saturating_sub(seconds * 1_000_000_000);
        map.update(&key, &entry).unwrap();
    }
}

#[test]
fn ports_of_closed_connections_are_used_again_and_those_of_open_ones_are_not() {
    let kernel = Kernel::world();
    kernel.snat_ports(61_000, 61_000);
    let send =
        |port, flags| kernel.from_pod(&Packet::tcp((CLIENT, port), (OUTSIDE, 443), flags, b""));
    let answer = |flags| kernel.from_wire(&Packet::tcp((OUTSIDE, 443), (NODE, 61_000), flags, b""));
    send(1, SYN).outcome(Outcome::Masqueraded);
    answer(SYN_ACK).outcome(Outcome::Restored);
    send(1, ACK);
    age(&kernel, 3600);
    send(2, SYN).dropped(DropReason::NoSnatPort);
    send(1, FIN_ACK);
    age(&kernel, 180);
    send(2, SYN).dropped(DropReason::NoSnatPort);
    answer(FIN_ACK);
    send(2, SYN).dropped(DropReason::NoSnatPort);
    age(&kernel, 3);
    send(2, SYN).outcome(Outcome::Masqueraded);
    assert_eq!(answer(SYN_ACK).packet().dport(), 2);
    assert_eq!(kernel.flows().len(), 2, "the old flow is gone as a whole");
}

#[test]
fn a_reset_of_either_side_ends_the_flow() {
    let kernel = Kernel::world();
    kernel.from_pod(&Packet::tcp((CLIENT, PORT), (OUTSIDE, 443), SYN, b""));
    let port = kernel.from_pod(&Packet::tcp((CLIENT, PORT), (OUTSIDE, 443), ACK, b"")).packet();
    kernel.from_wire(&Packet::tcp((OUTSIDE, 443), (NODE, port.sport()), RST, b""));
    let states: Vec<u8> = kernel.flows().iter().map(|(_, entry)| entry.tcp).collect();
    assert!(states.contains(&tcp_state::RESET), "{states:?}");
    let again = kernel.from_pod(&Packet::tcp((CLIENT, PORT), (OUTSIDE, 443), SYN, b"")).packet();
    assert_ne!(again.sport(), port.sport(), "a new flow, and the old port rests");
}

#[test]
fn a_drop_is_told_with_its_tuple_reason_and_hook() {
    let mut kernel = Kernel::world();
    kernel.from_pod(&Packet::udp((SERVER, PORT), (CLIENT, 53), b"x"));
    let events = kernel.events();
    assert_eq!(events.len(), 1);
    let event = events[0];
    assert_eq!((event.flow.src, event.flow.dst), (v4(SERVER), v4(CLIENT)));
    assert_eq!((event.flow.sport.get(), event.flow.dport.get()), (PORT, 53));
    assert_eq!(
        (event.reason, event.hook, event.ifindex),
        (DropReason::Spoofed as u8, program::Hook::FromPod as u8, CLIENT_IFINDEX)
    );
    // A flood is counted, not told: at most 100 events in 100 ms and CPU.
    let start = std::time::Instant::now();
    for _ in 0..1_000 {
        kernel.from_pod(&Packet::udp((SERVER, PORT), (CLIENT, 53), b"x"));
    }
    let windows = 2 + start.elapsed().as_millis() as usize / 100;
    let cpus = std::thread::available_parallelism().unwrap().get();
    let told = kernel.events().len();
    assert!(told <= windows * cpus * 100, "{told} in {windows} windows");
}

#[test]
fn a_half_written_table_drops_instead_of_guessing() {
    let kernel = Kernel::world();
    kernel.service(7, (VIP, 80, proto::TCP), &[(SERVER, 8080)]);
    kernel.map::<u32, sluice_abi::Backend>(map::BACKENDS).delete(&701).unwrap();
    kernel
        .from_pod(&Packet::tcp((CLIENT, PORT), (VIP, 80), SYN, b""))
        .dropped(DropReason::TableIncomplete);
}

#[test]
fn multicast_and_broadcast_are_the_stacks() {
    let kernel = Kernel::world();
    for dst in [[224, 0, 0, 251], [255, 255, 255, 255]] {
        let packet = Packet::udp((CLIENT, 5353), (dst, 5353), b"x");
        let seen = kernel.from_pod(&packet);
        assert_eq!((seen.ran.action, seen.ran.data), (Action::Next, packet.bytes()), "{dst:?}");
        let seen = kernel.from_wire(&Packet::udp((OUTSIDE, 5353), (dst, 5353), b"x"));
        assert_eq!(seen.ran.action, Action::Next);
    }
}

#[test]
fn datagrams_that_were_there_before_the_service_find_it() {
    let kernel = Kernel::world();
    let later = [203, 0, 113, 5];
    let ask = || kernel.from_pod(&Packet::udp((CLIENT, PORT), (later, 53), b"q"));
    ask().outcome(Outcome::Masqueraded);
    kernel.service(7, (later, 53, proto::UDP), &[(SERVER, 5353)]);
    age(&kernel, 2);
    assert_eq!(ask().packet().dst, SERVER);
}
