//! Fragments whose first one has not arrived.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test ends where it fails")]

use std::time::{Duration, Instant};

use packet_tests::*;
use sluice_abi::{DropReason, FragmentKey, FragmentPorts, Outcome, map, program, proto};
use sluice_packet::lifetime;

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

/// Replies to a pod that uses a Service have its address before and after translation: a later fragment does not
/// show whether it is one.
#[test]
fn orphan_reply_fragments_to_a_client_of_a_service_wait_twice_and_are_dropped() {
    let datapath = Datapath::node();
    datapath.service(7, (VIP, 53, proto::UDP), &[(FAR_POD, 5353)]);
    datapath.service(8, (VIP, 54, proto::UDP), &[(SERVER, 5353)]);
    let from_wire = |packet: &Packet| datapath.from_netdev(packet);
    let from_server = |packet: &Packet| datapath.from_pod(SERVER_IFINDEX, packet);
    let send_as = |backend, packet: &Packet| {
        if backend == SERVER { from_server(packet) } else { from_wire(packet) }
    };
    for (port, backend) in [(53, FAR_POD), (54, SERVER)] {
        let request = Packet::udp((CLIENT, PORT), (VIP, port), b"x");
        let run = datapath.from_pod(CLIENT_IFINDEX, &request);
        let delivered = if backend == SERVER { Outcome::ToPod } else { Outcome::ToUplink };
        run.counted(&[Outcome::Translated.label(), delivered.label()]);
        let reply = Packet::udp((backend, 5353), (CLIENT, PORT), &[7; 3000]);
        let send = |packet: &Packet| send_as(backend, packet);
        let later = || send(&reply.fragment(1480, 1480));
        for n in 1..=2 {
            assert!(later().is_requeued(), "fragment {n} of {backend:?}");
        }
        later().dropped(DropReason::FragmentUnknown);
        // After the first fragment, all have the address of the Service.
        for fragment in [reply.fragment(0, 1480), reply.fragment(1480, 1480)] {
            assert_eq!(send(&fragment).to_pod(&[Outcome::Restored]).src, VIP);
        }
    }
}

#[test]
fn orphan_fragments_to_a_pod_that_uses_no_service_pass() {
    let datapath = Datapath::node();
    datapath.service(7, (VIP, 53, proto::UDP), &[(FAR_POD, 5353)]);
    let request = Packet::udp((CLIENT, PORT), (VIP, 53), b"x");
    datapath.from_pod(CLIENT_IFINDEX, &request).to_uplink(&[Outcome::Translated]);
    let orphan = |to, id| {
        let mut whole = Packet::udp((FAR_POD, 5000), (to, PORT), &[7; 3000]);
        whole.id = id;
        datapath.from_netdev(&whole.fragment(1480, 1480))
    };
    orphan(SERVER, 1).to_pod(&[]);
    assert!(orphan(CLIENT, 2).is_requeued());
    // An SCTP association lives for five minutes; every packet renews that time.
    let clients = datapath.map::<u32, u64>("SERVICE_CLIENTS");
    let client = u32::from(CLIENT[3]);
    let last = clients.lookup(&client).unwrap().unwrap();
    let age = |seconds| {
        let tick = (last as u32).wrapping_sub(sluice_abi::ticks(seconds));
        clients.update(&client, &((last >> 32 << 32) | u64::from(tick))).unwrap();
    };
    age(lifetime::SCTP - 10);
    assert!(orphan(CLIENT, 3).is_requeued());
    age(lifetime::SCTP + 10);
    orphan(CLIENT, 4).to_pod(&[]);
    datapath.age_flows(2);
    datapath.from_pod(CLIENT_IFINDEX, &request).to_uplink(&[Outcome::Translated]);
    assert!(orphan(CLIENT, 5).is_requeued());
    // Not of an earlier pod with the index.
    datapath.local_pod_of_generation(CLIENT, CLIENT_IFINDEX, 2);
    orphan(CLIENT, 6).to_pod(&[]);
}
