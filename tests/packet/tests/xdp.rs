//! The XDP program: direct packet access parses frames and finds flows by the stages of tc.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test ends where it fails")]

use std::os::fd::AsFd;

use aya::programs::Xdp;
use packet_tests::*;
use sluice_abi::{FlowEntry, FlowKey, map, program, proto, tcp_state};
use sluice_bpf::test_run;

const SYN: u8 = 2;
const ACK: u8 = 16;
const FIN_ACK: u8 = 17;
/// `XDP_PASS`.
const PASS: u32 = 2;

/// Runs the program over a frame and asserts that it passes unchanged.
#[track_caller]
fn pass(kernel: &mut Kernel, frame: &[u8]) {
    let program: &Xdp = (&*kernel.program_mut(program::XDP_NETDEV)).try_into().unwrap();
    let (action, data) = test_run::run_xdp(program.fd().unwrap().as_fd(), frame).unwrap();
    assert_eq!((action, data), (PASS, frame.to_vec()), "{}", show(frame));
}

/// The flows, each with a last packet `seconds` before its real one.
fn age(kernel: &Kernel, seconds: u64) -> Vec<(FlowKey, FlowEntry)> {
    let map = kernel.map::<FlowKey, FlowEntry>(map::CONNTRACK);
    for (key, mut entry) in kernel.flows() {
        entry.last_seen_ns -= seconds * 1_000_000_000;
        map.update(&key, &entry).unwrap();
    }
    kernel.flows()
}

fn entry(kernel: &Kernel, key: &FlowKey) -> FlowEntry {
    kernel.map::<FlowKey, FlowEntry>(map::CONNTRACK).lookup(key).unwrap().unwrap()
}

/// A masqueraded TCP connection; returns its packet on the uplink.
fn connect(kernel: &Kernel) -> Packet {
    kernel.from_pod(&Packet::tcp((CLIENT, PORT), (OUTSIDE, 443), SYN, b"")).packet()
}

#[test]
fn packet_of_a_known_flow_refreshes_its_entry() {
    for options in [vec![], vec![1; 8], vec![1; 40]] {
        let mut kernel = Kernel::world();
        let sent = connect(&kernel);
        let before = age(&kernel, 5);
        let mut reply = Packet::tcp((OUTSIDE, 443), (NODE, sent.sport()), FIN_ACK, b"payload");
        reply.options = options;
        pass(&mut kernel, &reply.bytes());
        let (key, old) = before.iter().find(|(key, _)| key.src == v4(OUTSIDE)).unwrap();
        let new = entry(&kernel, key);
        assert!(new.last_seen_ns > old.last_seen_ns + 4_000_000_000);
        assert_eq!((old.tcp, new.tcp), (0, tcp_state::FIN));
        let (key, old) = before.iter().find(|(key, _)| key.src == v4(CLIENT)).unwrap();
        assert_eq!(entry(&kernel, key), *old, "the other direction is not touched");
    }
}

#[test]
fn packet_of_a_known_flow_rebuilds_an_evicted_reverse_entry() {
    let mut kernel = Kernel::world();
    let sent = connect(&kernel);
    let before = age(&kernel, 5);
    let (forward, lost) = *before.iter().find(|(key, _)| key.src == v4(CLIENT)).unwrap();
    kernel.map::<FlowKey, FlowEntry>(map::CONNTRACK).delete(&forward).unwrap();
    pass(&mut kernel, &Packet::tcp((OUTSIDE, 443), (NODE, sent.sport()), ACK, b"").bytes());
    let rebuilt = entry(&kernel, &forward);
    assert_eq!(
        (rebuilt.translated, rebuilt.kind, rebuilt.direction),
        (lost.translated, lost.kind, lost.direction)
    );
}

#[test]
fn packets_of_other_flows_change_no_entry() {
    let mut kernel = Kernel::world();
    kernel.service(7, (VIP, 80, proto::TCP), &[(FAR_POD, 8080)]);
    let sent = connect(&kernel);
    let before = age(&kernel, 5);
    let sport = sent.sport();
    let mut later = Packet::udp((OUTSIDE, 443), (NODE, sport), &[7; 3000]).fragment(1480, 1480);
    later.id = 7;
    for packet in [
        Packet::tcp((OUTSIDE, 443), (NODE, sport ^ 1), ACK, b""),
        Packet::udp((OUTSIDE, 443), (NODE, sport), b"x"),
        Packet::tcp((OUTSIDE, 5000), (VIP, 80), SYN, b""),
        Packet::echo(OUTSIDE, NODE, 0, 7),
        later,
    ] {
        pass(&mut kernel, &packet.bytes());
        assert_eq!(kernel.flows(), before);
    }
    assert!(kernel.counted().iter().all(|(label, _)| *label != "restored"), "nothing is counted");
}

#[test]
fn truncated_and_other_frames_pass() {
    let mut kernel = Kernel::world();
    let sent = connect(&kernel);
    let before = age(&kernel, 5);
    let good = Packet::tcp((OUTSIDE, 443), (NODE, sent.sport()), ACK, b"").bytes();
    // From the Ethernet header alone to one byte less than the packet.
    for len in 14..good.len() {
        pass(&mut kernel, &good[..len]);
    }
    for (at, to) in [(12, 0x86), (12, 0x81), (14, 0x44), (14, 0x4f), (14, 0x65), (16, 0x7f)] {
        let mut frame = good.clone();
        frame[at] = to;
        pass(&mut kernel, &frame);
    }
    assert_eq!(kernel.flows(), before);
}
