//! Frames that are not well-formed IPv4 packets, those of the corpus, and random ones.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test ends where it fails")]

mod mutation;
mod property;
mod random_frame;

use packet_tests::corpus::Frame;
use packet_tests::random::Random;
use packet_tests::topology::pod_mac;
use packet_tests::*;
use proptest::test_runner::{Config, RngAlgorithm, TestCaseError, TestError, TestRng, TestRunner};
use sluice_abi::{
    Addr, DropReason, Frontend, LocalPod, Outcome, frontend_flags, map, program, proto,
};

use crate::mutation::mutations;
use crate::property::{HOOKS, Property};
use crate::random_frame::{random_frame, with_tags};

const SYN: u8 = 2;
/// Random frames of one run.
const FRAMES: usize = 20_000;
/// Changed frames of the corpus in one run.
const MUTATIONS: u32 = 5_000;
/// Longest frame of the uplink.
const MTU: usize = 14 + 1500;
/// Payload bytes of the segments of longer frames.
const SEGMENT: u32 = 1460;

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

#[test]
fn a_pods_device_takes_packets_to_its_own_address_only() {
    let datapath = Datapath::node();
    let packet = Packet::tcp((NODE, PORT), (SERVER, 80), SYN, b"");
    // The second packet has a flow.
    for _ in 0..2 {
        datapath.to_pod(CLIENT_IFINDEX, &packet).dropped(DropReason::NoSuchPod);
        datapath.to_pod(SERVER_IFINDEX, &packet).passed();
    }
    // The pod was removed.
    assert!(datapath.map::<Addr, LocalPod>(map::LOCAL_PODS).delete(&v4(SERVER)).unwrap());
    for ifindex in [SERVER_IFINDEX, CLIENT_IFINDEX] {
        datapath.to_pod(ifindex, &packet).dropped(DropReason::NoSuchPod);
    }
}

/// Services of which the corpus and the random frames use the addresses and ports.
fn write_services(datapath: &Datapath) {
    let everywhere = [(SERVER, 8080), (FAR_POD, 8080), (CLIENT, 8080), (NODE, 8080)];
    datapath.service(1, (VIP, 80, proto::TCP), &everywhere);
    datapath.service(2, (VIP, 53, proto::UDP), &everywhere);
    datapath.service(3, (VIP, 81, proto::SCTP), &everywhere);
    datapath.service(4, ([10, 96, 0, 51], 80, proto::TCP), &[]);
    datapath.service_port(5, proto::UDP, &Sets { cluster: vec![(FAR_POD, 53)], ..Sets::default() });
    let local = Frontend { service: 5, flags: frontend_flags::LOCAL };
    datapath.frontend(([10, 96, 0, 51], 53, proto::UDP), local);
}

/// Every frame of the corpus at every hook; one that is longer than the MTU also as segments.
fn check_corpus(property: &Property<'_>, corpus: &[Frame]) {
    for Frame { name, bytes } in corpus {
        let sizes = if bytes.len() > MTU { &[0, SEGMENT][..] } else { &[0] };
        for (hook, gso_size) in
            HOOKS.into_iter().flat_map(|hook| sizes.iter().map(move |s| (hook, *s)))
        {
            let checked = property.check(hook, bytes, gso_size);
            checked.unwrap_or_else(|e| panic!("{name}: {e}"));
        }
    }
}

/// Random changes of the frames of the corpus.
fn check_mutations(property: &Property<'_>, corpus: &[Frame], random: &mut Random) {
    let config = Config {
        cases: MUTATIONS,
        max_shrink_iters: 500,
        failure_persistence: None,
        ..Config::default()
    };
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &random.seed());
    let checked = TestRunner::new_with_rng(config, rng)
        .run(&mutations(corpus), |(hook, frame, gso)| {
            property.check(hook, &frame, gso).map_err(TestCaseError::fail)
        });
    match checked {
        Ok(()) => {}
        Err(TestError::Fail(reason, _)) => panic!("{}", reason.message()),
        Err(e) => panic!("{e}"),
    }
}

#[test]
fn random_frames_have_one_outcome_and_reach_pods_intact() {
    let mut random = Random::from_environment();
    let datapath = Datapath::node();
    write_services(&datapath);
    let corpus = corpus::frames();
    let property = Property::new(&datapath);
    check_corpus(&property, &corpus);
    let dropped = [DropReason::Malformed, DropReason::Unsupported, DropReason::Spoofed];
    property.assert_occurred(&dropped.map(DropReason::label));
    property.assert_occurred(&["to_pod", "requeued", "passed"]);
    check_mutations(&property, &corpus, &mut random);
    // With counts of its own, so that the outcomes are those of random frames.
    let property = Property::new(&datapath);
    for _ in 0..FRAMES {
        let hook = *random.pick(&HOOKS);
        let frame = random_frame(&mut random, hook.0);
        let gso_size = if random.below(20) == 0 { 8 + random.below(1500) as u32 } else { 0 };
        property.check(hook, &frame, gso_size).unwrap_or_else(|e| panic!("{e}"));
    }
    property.assert_occurred(&[
        "to_pod",
        "to_uplink",
        "to_stack",
        "rejected",
        "requeued",
        "passed",
    ]);
}
