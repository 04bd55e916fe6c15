//! Frames that are not well-formed IPv4 packets, and random ones.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test ends where it fails")]

use std::collections::BTreeMap;

use packet_tests::random::Random;
use packet_tests::topology::{NAMES, pod_mac};
use packet_tests::*;
use sluice_abi::{Counter, DropReason, Frontend, Outcome, frontend_flags, program, proto};

const SYN: u8 = 2;
/// Bytes that `BPF_PROG_TEST_RUN` requires of an IPv4 frame: both headers.
const MIN_LEN: usize = 34;
/// Random frames of one run.
const FRAMES: usize = 20_000;

#[test]
fn malformed_packets_are_dropped_at_the_pod_and_passed_at_the_uplink() {
    let datapath = Datapath::node();
    let good = Packet::tcp((CLIENT, PORT), (SERVER, 80), SYN, b"").bytes();
    let mut bad: Vec<Vec<u8>> = [34, 36, 44].map(|len| good[..len].to_vec()).into();
    for (at, value) in [
        (14, 0x44), // header length below the minimum
        (14, 0x4f), // header longer than the packet
        (14, 0x55), // version 5 in an IPv4 frame
        (16, 0x7f), // total length beyond the frame
        (17, 10),   // total length below the header's
    ] {
        let mut frame = good.clone();
        frame[at] = value;
        bad.push(frame);
    }
    for frame in bad {
        let run = datapath.run(program::FROM_POD, &frame, CLIENT_IFINDEX);
        run.dropped(DropReason::Malformed);
        datapath.run(program::FROM_NETDEV, &frame, UPLINK_IFINDEX).passed();
        datapath.run(program::TO_NETDEV, &frame, UPLINK_IFINDEX).passed();
        let run = datapath.run(program::TO_POD, &frame, CLIENT_IFINDEX);
        run.dropped(DropReason::Malformed);
    }
}

#[test]
fn packets_too_short_for_their_protocol_are_malformed() {
    let datapath = Datapath::node();
    for (proto, len) in [(proto::TCP, 20), (proto::UDP, 8), (proto::SCTP, 12), (proto::ICMP, 8)] {
        let packet = |len| Packet::new(CLIENT, SERVER, proto, vec![0; len]);
        let run = datapath.from_pod(CLIENT_IFINDEX, &packet(len - 1));
        run.dropped(DropReason::Malformed);
        datapath.from_pod(CLIENT_IFINDEX, &packet(len)).counted(&[Outcome::ToPod.label()]);
    }
}

#[test]
fn tcp_options_count_for_the_mtu() {
    let datapath = Datapath::node();
    // Segments of 20 + 20 + 12 + 1448 bytes fill the MTU.
    let mut packet = Packet::tcp((CLIENT, PORT), (FAR_POD, 80), 16, b"");
    packet.body[12] = 8 << 4;
    packet.body.extend([1; 12]);
    packet.body.extend([7; 3000]);
    let frame = packet.bytes_from_pod(CLIENT_IFINDEX);
    let run = |gso| datapath.run_gso(program::FROM_POD, &frame, CLIENT_IFINDEX, gso);
    run(1448).to_uplink(&[]);
    run(1449).to_stack(&[]);
}

#[test]
fn a_pod_sends_arp_about_its_own_address_only() {
    let datapath = Datapath::node();
    let mac = pod_mac(CLIENT);
    for (frame, valid) in [
        (arp(mac, 1, mac, CLIENT, GATEWAY), true),
        (arp(mac, 2, mac, CLIENT, GATEWAY), true),
        (arp(mac, 1, mac, [0; 4], CLIENT), true),
        (arp(mac, 1, mac, [0; 4], SERVER), false),
        (arp(mac, 1, mac, SERVER, GATEWAY), false),
        (arp(mac, 2, mac, GATEWAY, CLIENT), false),
        (arp(mac, 2, pod_mac(SERVER), CLIENT, GATEWAY), false),
        (arp(pod_mac(SERVER), 2, mac, CLIENT, GATEWAY), false),
    ] {
        let run = datapath.run(program::FROM_POD, &frame, CLIENT_IFINDEX);
        if valid {
            run.passed();
        } else {
            run.dropped(DropReason::Spoofed);
        }
        datapath.run(program::TO_POD, &frame, CLIENT_IFINDEX).passed();
        datapath.run(program::FROM_NETDEV, &frame, UPLINK_IFINDEX).passed();
    }
    let request = arp(mac, 3, mac, CLIENT, GATEWAY);
    let run = datapath.run(program::FROM_POD, &request, CLIENT_IFINDEX);
    run.dropped(DropReason::Malformed);
}

/// Inserts VLAN tags after the hardware addresses.
fn with_tags(frame: &[u8], tags: &[[u8; 4]]) -> Vec<u8> {
    [&frame[..12], &tags.concat(), &frame[12..]].concat()
}

#[test]
fn vlan_frames_do_not_pass_a_pods_device() {
    let datapath = Datapath::node();
    let spoofed = |source| Packet::udp((source, PORT), (SERVER, 80), b"x").bytes_from_pod(101);
    for frame in [CLIENT, EXTERNAL, VIP, SERVER].map(spoofed) {
        for tags in [
            &[[0x81, 0, 0, 0]][..],
            &[[0x81, 0, 0xe0, 0]],
            &[[0x81, 0, 0, 5]],
            &[[0x88, 0xa8, 0, 0]],
            &[[0x88, 0xa8, 0, 0], [0x81, 0, 0, 0]],
            &[[0x81, 0, 0, 0], [0x81, 0, 0, 0]],
        ] {
            let frame = with_tags(&frame, tags);
            for name in [program::FROM_POD, program::TO_POD] {
                datapath.run(name, &frame, CLIENT_IFINDEX).dropped(DropReason::Unsupported);
            }
            for name in [program::FROM_NETDEV, program::TO_NETDEV] {
                datapath.run(name, &frame, UPLINK_IFINDEX).passed();
            }
        }
    }
}

#[test]
fn ipv6_does_not_pass_a_pods_device() {
    let datapath = Datapath::node();
    let mut frame = vec![2, 0, 0, 0, 1, 0xee, 2, 0, 0, 0, 1, 0x0a, 0x86, 0xdd];
    frame.extend([0x60, 0, 0, 0, 0, 8, 58, 255]);
    frame.extend([0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
    frame.extend([0; 16]);
    // A router advertisement.
    frame.extend([134, 0, 0, 0, 0, 0, 0, 0]);
    for destination in [[0xff, 0x02], [0xfe, 0x80], [0x20, 0x01]] {
        frame[38..40].copy_from_slice(&destination);
        for name in [program::FROM_POD, program::TO_POD] {
            datapath.run(name, &frame, CLIENT_IFINDEX).dropped(DropReason::Unsupported);
        }
        datapath.run(program::FROM_NETDEV, &frame, UPLINK_IFINDEX).passed();
    }
}

#[test]
fn bytes_after_the_ip_packet_are_not_part_of_a_quote() {
    let datapath = Datapath::node();
    let packet = Packet::udp((CLIENT, PORT), (EXTERNAL, 53), b"x");
    let sent = datapath.from_pod(CLIENT_IFINDEX, &packet).to_uplink(&[Outcome::Masqueraded]);
    let error = |bytes| Packet::icmp_error(ROUTER, NODE, (11, 0, 0), &sent, bytes);
    for (bytes, known) in [(7, false), (8, true)] {
        let mut frame = error(bytes).bytes_from_wire();
        frame.extend([0xff; 12]);
        let run = datapath.run(program::FROM_NETDEV, &frame, UPLINK_IFINDEX);
        if known {
            run.to_pod(&[Outcome::Restored]);
        } else {
            run.passed();
        }
    }
}

#[test]
fn an_alias_without_main_entry_does_not_admit_another_pod() {
    let datapath = Datapath::node();
    let packet = Packet::udp((CLIENT, PORT), (EXTERNAL, 53), b"x");
    let sent = datapath.from_pod(CLIENT_IFINDEX, &packet).to_uplink(&[Outcome::Masqueraded]);
    let main = tuple(proto::UDP, (NODE, sent.sport()), (EXTERNAL, 53)).sorted();
    assert!(datapath.remove_entry(&main));
    datapath
        .run(program::FROM_POD, &packet.bytes_from_pod(CLIENT_IFINDEX), SERVER_IFINDEX)
        .dropped(DropReason::Spoofed);
    datapath
        .run(program::FROM_POD, &packet.bytes_from_pod(SERVER_IFINDEX), SERVER_IFINDEX)
        .dropped(DropReason::Spoofed);
    // The pod itself continues with the same translation.
    let again = datapath.from_pod(CLIENT_IFINDEX, &packet).to_uplink(&[Outcome::Masqueraded]);
    assert_eq!(again.sport(), sent.sport());
}

#[test]
fn a_pod_sends_from_its_own_hardware_address_only() {
    let datapath = Datapath::node();
    let packet = Packet::udp((CLIENT, PORT), (SERVER, 80), b"x");
    // The second packet has a flow.
    for _ in 0..2 {
        datapath.from_pod(CLIENT_IFINDEX, &packet).to_pod(&[]);
        datapath
            .run(program::FROM_POD, &packet.bytes_from_pod(SERVER_IFINDEX), CLIENT_IFINDEX)
            .dropped(DropReason::Spoofed);
        datapath
            .run(program::FROM_POD, &packet.bytes_from_pod(CLIENT_IFINDEX), SERVER_IFINDEX)
            .dropped(DropReason::Spoofed);
    }
}

const HOOKS: [(&str, u32); 4] = [
    (program::FROM_POD, CLIENT_IFINDEX),
    (program::TO_POD, CLIENT_IFINDEX),
    (program::FROM_NETDEV, UPLINK_IFINDEX),
    (program::TO_NETDEV, UPLINK_IFINDEX),
];

/// A random packet between known addresses and few ports, so that flows, Services and fragments
/// coincide.
fn random_packet(random: &mut Random) -> Packet {
    const PORTS: [u16; 6] = [53, 80, 81, 40_000, 61_000, 61_500];
    let address = |random: &mut Random| match random.below(12) {
        0 => [random.bits() as u8, random.bits() as u8, random.bits() as u8, 1],
        1 => [10, 96, 0, random.below(60) as u8],
        2 => [10, 244, 1, random.below(30) as u8],
        _ => random.pick(&NAMES).1,
    };
    let (src, dst) = (address(random), address(random));
    let (from, to) = ((src, *random.pick(&PORTS)), (dst, *random.pick(&PORTS)));
    let payload: Vec<u8> = (0..random.below(60)).map(|_| random.bits() as u8).collect();
    let id = *random.pick(&PORTS);
    let mut packet = match random.below(10) {
        0..=2 => Packet::tcp(from, to, *random.pick(&[2, 16, 18, 17, 4]), &payload),
        3..=5 => Packet::udp(from, to, &payload),
        6 => Packet::sctp(from, to, &payload),
        7 => Packet::echo(src, dst, *random.pick(&[0, 8, 13]), id, &payload),
        8 => {
            let quoted = Packet::udp(to, from, b"quoted");
            let kind = *random.pick(&[3, 4, 5, 11, 12]);
            Packet::icmp_error(src, dst, (kind, random.below(5) as u8, 0), &quoted, random.below(9))
        }
        _ => Packet::new(src, dst, random.bits() as u8, payload),
    };
    packet.ttl = *random.pick(&[0, 1, 2, 64, 255]);
    packet.options = vec![1; random.pick(&[0, 0, 0, 4, 40]).to_owned()];
    if random.below(6) == 0 && packet.body.len() > 16 {
        packet = packet.fragment(random.below(3) as u16 * 8, 8 + random.below(16));
    }
    packet
}

/// A frame without IPv4: ARP between known addresses, IPv6, another protocol.
fn random_other_frame(random: &mut Random) -> Vec<u8> {
    let mac = |random: &mut Random| pod_mac(*random.pick(&[CLIENT, CLIENT, SERVER]));
    let address = |random: &mut Random| *random.pick(&[CLIENT, CLIENT, SERVER, GATEWAY, [0; 4]]);
    let (source, sender) = (mac(random), mac(random));
    let operation = 1 + random.below(3) as u8;
    let mut frame = arp(source, operation, sender, address(random), address(random));
    match random.below(4) {
        0 => {
            // The header of an IPv6 packet, then random bytes.
            frame[12..15].copy_from_slice(&[0x86, 0xdd, 0x60]);
            frame.resize(14 + 40 + random.below(40), random.bits() as u8);
        }
        1 => frame[12..14].copy_from_slice(&(random.bits() as u16).to_be_bytes()),
        _ => {}
    }
    frame
}

/// A random packet, one with some bytes changed, cut off or added, or a frame without IPv4.
fn random_frame(random: &mut Random, program: &str) -> Vec<u8> {
    if random.below(10) == 0 {
        return random_other_frame(random);
    }
    let packet = random_packet(random);
    let mut frame = match program {
        program::FROM_POD => packet.bytes_from_pod(CLIENT_IFINDEX),
        _ => packet.bytes_from_wire(),
    };
    match random.below(6) {
        4 => return with_tags(&frame, &[[0x81, 0, 0, random.below(3) as u8]]),
        5 => {
            for _ in 0..1 + random.below(4) {
                let at = random.below(14);
                frame[at] = random.bits() as u8;
            }
        }
        0 => {
            for _ in 0..1 + random.below(4) {
                let at = 14 + random.below(frame.len().min(60) - 14);
                frame[at] = random.bits() as u8;
            }
        }
        1 => frame.truncate(14 + random.below(frame.len() - 13)),
        2 => frame.resize(frame.len() + random.below(20), 0),
        _ => {}
    }
    frame
}

/// Whether the lengths in the IPv4 header fit the frame.
fn has_valid_lengths(frame: &[u8]) -> bool {
    let header = usize::from(frame[14] & 15) * 4;
    let total = usize::from(u16::from_be_bytes([frame[16], frame[17]]));
    frame[14] >> 4 == 4
        && header >= 20
        && (total == 0 || header <= total)
        && 14 + total <= frame.len()
}

/// Whether a frame is IPv4 from CLIENT's addresses, or ARP about them: a probe for its own address has no
/// sender's (RFC 5227).
fn is_from_client(frame: &[u8]) -> bool {
    let mac = pod_mac(CLIENT);
    let is_own = match frame[12..14] {
        [8, 0] => frame[26..30] == CLIENT,
        [8, 6] => {
            let (sender, target) = (&frame[28..32], &frame[38..42]);
            frame[22..28] == mac && (sender == CLIENT || (sender == [0; 4] && target == CLIENT))
        }
        _ => false,
    };
    is_own && frame[6..12] == mac
}

/// Asserts what holds for every frame; returns the label of its final outcome.
fn check(run: &Run, name: &str) -> &'static str {
    let once = Counter { packets: 1, bytes: run.frame.len() as u64 };
    let labels: Vec<&'static str> = run.counters.keys().copied().collect();
    run.counted(&labels);
    assert!(run.counters.values().all(|counter| *counter == once));
    let outcomes = [Outcome::ToPod, Outcome::ToUplink, Outcome::ToStack].map(Outcome::label);
    let finals: Vec<&'static str> =
        labels.iter().copied().filter(|label| outcomes.contains(label)).collect();
    let reasons: Vec<&'static str> = DropReason::ALL
        .iter()
        .map(|reason| reason.label())
        .filter(|label| labels.contains(label))
        .collect();
    let rejected = labels.contains(&Outcome::Rejected.label());
    let context = || format!("{name}: {:?} {labels:?} for {}", run.action, show(&run.frame));
    let (outcome, valid) = match (run.action, &finals[..], &reasons[..]) {
        (Action::Drop, [], [reason]) => (*reason, !rejected),
        (Action::Redirect, [], [_]) => ("rejected", rejected),
        (Action::Redirect, [outcome], []) => (*outcome, *outcome != "to_stack" && !rejected),
        (Action::Next, ["to_stack"], []) => ("to_stack", !rejected),
        (Action::Redirect, [], []) => ("requeued", labels.is_empty() && run.data == run.frame),
        (Action::Next, [], []) => ("passed", labels.is_empty() && run.data == run.frame),
        _ => ("", false),
    };
    assert!(valid, "{}", context());
    if name == program::FROM_POD && ["to_pod", "to_uplink", "to_stack", "passed"].contains(&outcome)
    {
        assert!(is_from_client(&run.frame), "{}", context());
    }
    if outcome == "to_pod" {
        assert!(has_valid_lengths(&run.data), "{} to {}", context(), show(&run.data));
        if Packet::read(&run.frame).is_ok() {
            let read = Packet::read(&run.data);
            assert!(read.is_ok(), "{read:?}: {} to {}", context(), show(&run.data));
        }
    }
    outcome
}

#[test]
fn random_frames_have_one_outcome_and_reach_pods_intact() {
    let mut random = Random::from_environment();
    let datapath = Datapath::node();
    let everywhere = [(SERVER, 8080), (FAR_POD, 8080), (CLIENT, 8080), (NODE, 8080)];
    datapath.service(1, (VIP, 80, proto::TCP), &everywhere);
    datapath.service(2, (VIP, 53, proto::UDP), &everywhere);
    datapath.service(3, (VIP, 81, proto::SCTP), &everywhere);
    datapath.service(4, ([10, 96, 0, 51], 80, proto::TCP), &[]);
    datapath.service_port(5, proto::UDP, &Sets { cluster: vec![(FAR_POD, 53)], ..Sets::default() });
    let local = Frontend { service: 5, flags: frontend_flags::LOCAL };
    datapath.frontend(([10, 96, 0, 51], 53, proto::UDP), local);
    let mut outcomes: BTreeMap<&str, usize> = BTreeMap::new();
    let mut arp_passed = 0;
    for _ in 0..FRAMES {
        let (name, ifindex) = *random.pick(&HOOKS);
        let frame = random_frame(&mut random, name);
        let gso_size = if random.below(20) == 0 { 8 + random.below(1500) as u32 } else { 0 };
        match datapath.try_run(name, &frame, ifindex, gso_size) {
            Ok(run) => {
                let outcome = check(&run, name);
                let is_arp = frame.get(12..14) == Some(&[8, 6]);
                let of_pod = name == program::FROM_POD && outcome == "passed";
                arp_passed += usize::from(is_arp && of_pod);
                *outcomes.entry(outcome).or_default() += 1;
            }
            Err(e) if e.raw_os_error() == Some(libc::EINVAL) && frame.len() < MIN_LEN => {
                *outcomes.entry("too short to run").or_default() += 1;
            }
            Err(e) => panic!("{name}: {e} for {}", show(&frame)),
        }
    }
    println!("{outcomes:?}");
    assert!(arp_passed > 0, "no ARP message of the pod passed");
    for outcome in ["to_pod", "to_uplink", "to_stack", "rejected", "requeued", "passed"] {
        assert!(outcomes.contains_key(outcome), "no frame was {outcome}: {outcomes:?}");
    }
}
