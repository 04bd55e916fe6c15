//! Fragments whose first one has not arrived.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test ends where it fails")]

use std::time::{Duration, Instant};

use packet_tests::*;
use sluice_abi::{DropReason, FragmentKey, FragmentPorts, Outcome, map, program, proto};

#[test]
fn orphan_fragments_wait_twice_and_are_dropped() {
    let datapath = Datapath::node();
    datapath.service(7, (VIP, 53, proto::UDP), &[(SERVER, 5353)]);
    let whole = Packet::udp((CLIENT, PORT), (VIP, 53), &[7; 3000]);
    let later = || datapath.from_pod(CLIENT_IFINDEX, &whole.fragment(1480, 1480));
    for n in 1..=2 {
        assert!(later().is_requeued(), "fragment {n}");
    }
    later().dropped(DropReason::FragmentUnknown);
    later().dropped(DropReason::FragmentUnknown);
    // The first fragment ends the wait.
    let first = datapath.from_pod(CLIENT_IFINDEX, &whole.fragment(0, 1480));
    assert_eq!(first.to_pod(&[Outcome::Translated]).dst, SERVER);
    assert_eq!(later().to_pod(&[Outcome::Translated]).dst, SERVER);
    // The count restarts when the ports are lost again, and for each datagram.
    let fragments = datapath.map::<FragmentKey, FragmentPorts>(map::FRAGMENTS);
    for (key, _) in fragments.entries().unwrap() {
        fragments.delete(&key).unwrap();
    }
    assert!(later().is_requeued());
    let mut other = whole.clone();
    other.id = 99;
    assert!(datapath.from_pod(CLIENT_IFINDEX, &other.fragment(1480, 1480)).is_requeued());
}

#[test]
fn orphan_fragments_of_many_datagrams_have_a_budget_of_waits_per_window() {
    const BUDGET: u32 = 256;
    const WINDOW: Duration = Duration::from_millis(10);
    // Each CPU has a window of its own.
    cpu::stay();
    let datapath = Datapath::node();
    datapath.service(7, (VIP, 53, proto::UDP), &[(SERVER, 5353)]);
    let orphan = |id: u16| {
        let mut whole = Packet::udp((CLIENT, PORT), (VIP, 53), &[7; 3000]);
        whole.id = id;
        whole.fragment(1480, 1480)
    };
    datapath.prepare(program::FROM_POD);
    // All of it has to fit into one window, also on a busy machine: try again if not.
    for attempt in 0..50 {
        std::thread::sleep(WINDOW + Duration::from_millis(1));
        let start = Instant::now();
        let (one, other) = (orphan(3 * attempt + 1), orphan(3 * attempt + 2));
        // The third wait of one datagram is refused, and counts as the others do.
        assert!(datapath.from_pod(CLIENT_IFINDEX, &one).is_requeued());
        assert!(datapath.from_pod(CLIENT_IFINDEX, &one).is_requeued());
        let frame = one.bytes_from_pod(CLIENT_IFINDEX);
        let times = BUDGET - 2;
        let run = datapath.run_times(program::FROM_POD, &frame, CLIENT_IFINDEX, times);
        run.dropped_times(DropReason::FragmentUnknown, times);
        let beyond = datapath.from_pod(CLIENT_IFINDEX, &other);
        if start.elapsed() < WINDOW {
            beyond.dropped(DropReason::FragmentUnknown);
            // The next window has waits again.
            std::thread::sleep(WINDOW + Duration::from_millis(1));
            assert!(datapath.from_pod(CLIENT_IFINDEX, &orphan(3 * attempt + 3)).is_requeued());
            return;
        }
        let _ = beyond.is_requeued();
    }
    panic!("no run of {BUDGET} fragments within {WINDOW:?}");
}

#[test]
fn orphan_fragments_to_the_node_wait_twice_and_go_to_the_stack() {
    let datapath = Datapath::node();
    let whole = Packet::udp((EXTERNAL, 53), (NODE, 5000), &[7; 3000]);
    let later = || datapath.from_netdev(&whole.fragment(1480, 1480));
    for n in 1..=2 {
        assert!(later().is_requeued(), "fragment {n}");
    }
    later().passed();
}
