//! The XDP program: direct packet access parses frames and finds flows by the stages of tc.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test ends where it fails")]

use packet_tests::*;
use sluice_abi::{FlowEntry, Outcome, program, proto, tcp_state, ticks};
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
fn age(datapath: &Datapath, seconds: u32) -> Vec<FlowEntry> {
    datapath.age_flows(seconds);
    datapath.flows()
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
        pass(&datapath, &reply.bytes_from_wire());
        let ([old], [new]) = (&before[..], &datapath.flows()[..]) else { panic!("one flow") };
        assert!(new.seen >= old.seen + ticks(4));
        assert_eq!(old.tcp, [tcp_state::SYN, 0]);
        assert_eq!(new.tcp, [tcp_state::SYN, tcp_state::FIN]);
        assert_eq!((old.is_replied(), new.is_replied()), (false, true));
    }
}

#[test]
fn packet_of_a_known_flow_rebuilds_an_evicted_alias() {
    let datapath = datapath();
    let sent = connect(&datapath);
    age(&datapath, 5);
    let key = tuple(proto::TCP, (CLIENT, PORT), (EXTERNAL, 443)).sorted();
    let lost = datapath.entry(&key).unwrap();
    assert!(datapath.remove_entry(&key));
    pass(
        &datapath,
        &Packet::tcp((EXTERNAL, 443), (NODE, sent.sport()), ACK, b"").bytes_from_wire(),
    );
    let rebuilt = datapath.entry(&key).unwrap();
    assert_eq!(
        (rebuilt.tuple, rebuilt.other, rebuilt.kind, rebuilt.client, rebuilt.is_alias()),
        (lost.tuple, lost.other, lost.kind, lost.client, true)
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
        pass(&datapath, &packet.bytes_from_wire());
        assert_eq!(datapath.flows(), before);
    }
    assert_eq!(datapath.counters(), counters, "no counter moves");
}

#[test]
fn truncated_and_other_frames_pass() {
    let datapath = datapath();
    let sent = connect(&datapath);
    let before = age(&datapath, 5);
    let good = Packet::tcp((EXTERNAL, 443), (NODE, sent.sport()), ACK, b"").bytes_from_wire();
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
