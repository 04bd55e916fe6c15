//! The XDP program: direct packet access parses frames and finds flows by the stages of tc.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test ends where it fails")]

use packet_tests::*;
use sluice_abi::{FlowEntry, FlowKey, Outcome, program, proto, tcp_state};
use sluice_bpf::test_run::{self, XdpAction};

const SYN: u8 = 2;
const ACK: u8 = 16;
const FIN_ACK: u8 = 17;

/// The node of `topology.rs`, with the XDP program loaded as well.
fn datapath() -> Datapath {
    let mut datapath = Datapath::node();
    datapath.load_xdp_program();
    datapath
}

/// Runs the program over a frame and asserts that it passes unchanged.
#[track_caller]
fn pass(datapath: &Datapath, frame: &[u8]) {
    let run = test_run::run_xdp(datapath.fd(program::XDP_NETDEV), frame, 0, 1).unwrap();
    assert_eq!((run.action, &run.data[..]), (XdpAction::Pass, frame), "{}", show(frame));
}

/// The flows, each with a last packet `seconds` before its real one.
fn age(datapath: &Datapath, seconds: u64) -> Vec<(FlowKey, FlowEntry)> {
    datapath.age_flows(seconds);
    datapath.flows()
}

fn entry(datapath: &Datapath, key: &FlowKey) -> FlowEntry {
    datapath.conntrack().lookup(key).unwrap().unwrap()
}

/// A masqueraded TCP connection; returns its packet on the uplink.
fn connect(datapath: &Datapath) -> Packet {
    datapath
        .from_pod(CLIENT_IFINDEX, &Packet::tcp((CLIENT, PORT), (EXTERNAL, 443), SYN, b""))
        .to_uplink(&[Outcome::Masqueraded])
}

#[test]
fn packet_of_a_known_flow_refreshes_its_entry() {
    for options in [vec![], vec![1; 8], vec![1; 40]] {
        let datapath = datapath();
        let sent = connect(&datapath);
        let before = age(&datapath, 5);
        let mut reply = Packet::tcp((EXTERNAL, 443), (NODE, sent.sport()), FIN_ACK, b"payload");
        reply.options = options;
        pass(&datapath, &reply.bytes());
        let (key, old) = before.iter().find(|(key, _)| key.src == v4(EXTERNAL)).unwrap();
        let new = entry(&datapath, key);
        assert!(new.last_seen_ns > old.last_seen_ns + 4_000_000_000);
        assert_eq!((old.tcp, new.tcp), (0, tcp_state::FIN));
        let (key, old) = before.iter().find(|(key, _)| key.src == v4(CLIENT)).unwrap();
        assert_eq!(entry(&datapath, key), *old, "the other direction is not touched");
    }
}

#[test]
fn packet_of_a_known_flow_rebuilds_an_evicted_reverse_entry() {
    let datapath = datapath();
    let sent = connect(&datapath);
    let before = age(&datapath, 5);
    let (forward, lost) = *before.iter().find(|(key, _)| key.src == v4(CLIENT)).unwrap();
    datapath.conntrack().delete(&forward).unwrap();
    pass(&datapath, &Packet::tcp((EXTERNAL, 443), (NODE, sent.sport()), ACK, b"").bytes());
    let rebuilt = entry(&datapath, &forward);
    assert_eq!(
        (rebuilt.translated, rebuilt.kind, rebuilt.direction),
        (lost.translated, lost.kind, lost.direction)
    );
}

#[test]
fn packets_of_other_flows_change_no_entry() {
    let datapath = datapath();
    datapath.service(7, (VIP, 80, proto::TCP), &[(FAR_POD, 8080)]);
    let sent = connect(&datapath);
    let before = age(&datapath, 5);
    let sport = sent.sport();
    let counters = datapath.counters();
    let mut later = Packet::udp((EXTERNAL, 443), (NODE, sport), &[7; 3000]).fragment(1480, 1480);
    later.id = 7;
    for packet in [
        Packet::tcp((EXTERNAL, 443), (NODE, sport ^ 1), ACK, b""),
        Packet::udp((EXTERNAL, 443), (NODE, sport), b"x"),
        Packet::tcp((EXTERNAL, 5000), (VIP, 80), SYN, b""),
        Packet::echo(EXTERNAL, NODE, 0, 7, b""),
        later,
    ] {
        pass(&datapath, &packet.bytes());
        assert_eq!(datapath.flows(), before);
    }
    assert_eq!(datapath.counters(), counters, "no counter moves");
}

#[test]
fn truncated_and_other_frames_pass() {
    let datapath = datapath();
    let sent = connect(&datapath);
    let before = age(&datapath, 5);
    let good = Packet::tcp((EXTERNAL, 443), (NODE, sent.sport()), ACK, b"").bytes();
    // From the Ethernet header alone to one byte less than the packet.
    for len in 14..good.len() {
        pass(&datapath, &good[..len]);
    }
    for (at, to) in [(12, 0x86), (12, 0x81), (14, 0x44), (14, 0x4f), (14, 0x65), (16, 0x7f)] {
        let mut frame = good.clone();
        frame[at] = to;
        pass(&datapath, &frame);
    }
    assert_eq!(datapath.flows(), before);
}
