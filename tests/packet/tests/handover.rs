//! Programs of two versions that pass packets on to each other.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test ends where it fails")]

use packet_tests::*;
use sluice_abi::node_flags::{HANDED_OVER, LOOK_BACK, READY};
use sluice_abi::{NodeConfig, Outcome, map, program};

const SYN: u8 = 2;

/// Two versions that know each other as predecessor and successor.
fn versions() -> (Datapath, Datapath) {
    let (one, other) = (Datapath::node(), Datapath::node());
    for array in [map::PREDECESSORS, map::SUCCESSORS] {
        one.set_programs(array, &other);
        other.set_programs(array, &one);
    }
    (one, other)
}

fn set_flags(datapath: &Datapath, flags: u32) {
    datapath.node_config(&NodeConfig { flags, ..node_config() });
}

/// Sends a segment of a new connection from a pod to another one by the programs of `attached`. Returns the
/// number of flows of both versions.
fn send(attached: &Datapath, other: &Datapath, port: u16) -> [usize; 2] {
    let segment = Packet::tcp((CLIENT, port), (SERVER, 80), SYN, b"");
    let run =
        attached.run(program::FROM_POD, &segment.bytes_from_pod(CLIENT_IFINDEX), CLIENT_IFINDEX);
    let counted: Vec<_> = run.counters.keys().copied().collect();
    // The version that delivers the packet counts it.
    assert!(counted.iter().all(|label| *label == Outcome::ToPod.label()), "{counted:?}");
    run.counted(&counted);
    assert_eq!(run.action, Action::Redirect, "{:?}", other.counters());
    [attached.flows().len(), other.flows().len()]
}

#[test]
fn packets_continue_in_the_programs_that_took_over() {
    let (one, other) = versions();
    assert_eq!(send(&one, &other, 1), [1, 0]);
    // The flow is handled by the version that has it, a new one by the version in charge.
    set_flags(&one, READY | HANDED_OVER);
    set_flags(&other, READY | LOOK_BACK);
    assert_eq!(send(&one, &other, 1), [1, 0]);
    assert_eq!(send(&one, &other, 2), [1, 1]);
    assert_eq!(send(&other, &one, 3), [2, 1]);
    let delivered = |datapath: &Datapath| datapath.counters()[Outcome::ToPod.label()].packets;
    assert_eq!((delivered(&one), delivered(&other)), (2, 2));
}

/// An agent takes back from a version whose agent ended before it had copied the flows: between two writes,
/// both versions are in charge and look back.
#[test]
fn versions_that_both_look_back_drop_nothing() {
    let (one, other) = versions();
    for datapath in [&one, &other] {
        set_flags(datapath, READY | LOOK_BACK);
    }
    let [mine, theirs] = send(&one, &other, 1);
    assert_eq!(mine + theirs, 1);
    // The flow is known to both now.
    let [mine, theirs] = send(&one, &other, 1);
    assert_eq!(mine + theirs, 1);
    let [theirs, mine] = send(&other, &one, 1);
    assert_eq!(mine + theirs, 1);
}
