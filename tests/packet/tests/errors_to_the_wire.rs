//! What the programs answer to other hosts: numbers of resets, and the limit of errors.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test ends where it fails")]

use std::time::Instant;

use packet_tests::*;
use sluice_abi::{DropReason, Frontend, Outcome, frontend_flags, proto};
use sluice_packet::error_limit::{BURST, PER_SECOND};

const NODE_PORT: u16 = 30_080;

/// A NodePort of this protocol.
fn node_port(datapath: &Datapath, proto: u8, backends: &[Endpoint]) {
    let sets = Sets { cluster: backends.to_vec(), ..Sets::default() };
    datapath.service_port(u32::from(proto), proto, &sets);
    let frontend = Frontend { service: u32::from(proto), flags: frontend_flags::EXTERNAL };
    datapath.frontend(([0; 4], NODE_PORT, proto), frontend);
}

/// RFC 9293 section 3.10.7.1.
#[test]
fn contract_5_9_a_reset_has_the_sequence_number_that_the_segment_acknowledges() {
    let datapath = Datapath::node();
    node_port(&datapath, proto::TCP, &[(FAR_POD, 8080)]);
    let mut segment = Packet::tcp((EXTERNAL, 5000), (NODE, NODE_PORT), 16, b"12345");
    segment.body[4..8].copy_from_slice(&1000u32.to_be_bytes());
    segment.body[8..12].copy_from_slice(&77_000u32.to_be_bytes());
    let reset = |segment: &Packet| {
        let packet = datapath.from_netdev(segment).rejected(DropReason::NotTracked);
        assert_eq!((packet.src, packet.dst), (NODE, EXTERNAL));
        let number = |at: usize| u32::from_be_bytes(packet.body[at..at + 4].try_into().unwrap());
        (number(4), number(8), packet.body[13])
    };
    assert_eq!(reset(&segment), (77_000, 0, 4));
    // PSH alone.
    segment.body[13] = 8;
    assert_eq!(reset(&segment), (0, 1005, 4 | 16));
}

/// A flood of a port without endpoints, from forged addresses, is not reflected.
#[test]
fn errors_to_other_hosts_have_a_limit_and_those_to_pods_have_none() {
    const PACKETS: u32 = 5 * BURST as u32;
    cpu::stay();
    let datapath = Datapath::node();
    node_port(&datapath, proto::UDP, &[]);
    node_port(&datapath, proto::TCP, &[(FAR_POD, 8080)]);
    let count = |outcome: Outcome| {
        datapath.counters().get(outcome.label()).map_or(0, |counter| counter.packets)
    };
    let start = Instant::now();
    for n in 0..PACKETS {
        let from = ([198, 51, (n >> 8) as u8, n as u8], 5000);
        let packet = if n % 2 == 0 {
            Packet::udp(from, (NODE, NODE_PORT), b"x")
        } else {
            Packet::tcp(from, (NODE, NODE_PORT), 16, b"x")
        };
        let run = datapath.from_netdev(&packet);
        let labels = run.labels();
        let is_limited = labels.contains(&Outcome::ErrorLimited.label());
        assert_eq!(run.action, if is_limited { Action::Drop } else { Action::Redirect });
        assert_eq!(labels.len(), 2, "{labels:?}");
    }
    let by_time = start.elapsed().as_millis() as u64 * PER_SECOND / 1_000 + 1;
    let (sent, limited) = (count(Outcome::Rejected), count(Outcome::ErrorLimited));
    assert_eq!(sent + limited, u64::from(PACKETS));
    assert!((BURST..=BURST + by_time).contains(&sent), "{sent} sent in {:?}", start.elapsed());
    assert!(limited > 0, "the machine was too slow for this test: {:?}", start.elapsed());

    // Packets that get no answer do not count.
    let reset = Packet::tcp((EXTERNAL, 5000), (NODE, NODE_PORT), 4, b"");
    datapath.from_netdev(&reset).dropped(DropReason::NotTracked);
    // Pods and processes of the node.
    let own = Packet::udp((CLIENT, 5000), (NODE, NODE_PORT), b"x");
    for _ in 0..BURST + 500 {
        datapath.from_pod(CLIENT_IFINDEX, &own).rejected(DropReason::NoEndpoint);
    }
    let of_node = Packet::tcp((NODE, 5000), (OTHER_NODE, 80), 16, b"x");
    datapath.frontend(
        (OTHER_NODE, 80, proto::TCP),
        Frontend { service: u32::from(proto::TCP), flags: frontend_flags::EXTERNAL },
    );
    datapath.to_netdev(&of_node).rejected(DropReason::NotTracked);
    // "Fragmentation needed": its sender waits for it.
    node_port(&datapath, proto::UDP, &[(topology::SECOND_HOST, 53)]);
    let long = Packet::udp((EXTERNAL, 5000), (NODE, NODE_PORT), &[0; 1450]);
    for _ in 0..BURST + 500 {
        datapath.from_netdev(&long).rejected(DropReason::TooLong);
    }
}
