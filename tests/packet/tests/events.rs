//! Drop events: content, the bound of 100 per CPU and 100 ms, and the counters of those that are lost.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test ends where it fails")]

use std::time::{Duration, Instant};

use nix::time::{ClockId, clock_gettime};
use packet_tests::*;
use sluice_abi::{DropEvent, DropReason, EventLoss, program};

/// Bound of events in one window.
const EVENTS: usize = 100;
/// Length of a window.
const WINDOW: Duration = Duration::from_millis(100);

fn spoof(datapath: &Datapath) {
    let packet = Packet::udp((SERVER, PORT), (CLIENT, 53), b"x");
    datapath.from_pod(CLIENT_IFINDEX, &packet).dropped(DropReason::Spoofed);
}

/// Drops several packets in one call, so that a busy machine does not spread them over windows.
fn spoof_times(datapath: &Datapath, times: usize) {
    let packet = Packet::udp((SERVER, PORT), (CLIENT, 53), b"x");
    let (frame, times) = (packet.bytes_from_pod(CLIENT_IFINDEX), times as u32);
    let run = datapath.run_times(program::FROM_POD, &frame, CLIENT_IFINDEX, times);
    run.dropped_times(DropReason::Spoofed, times);
}

#[test]
fn a_drop_event_has_tuple_reason_hook_device_and_length() {
    let mut datapath = Datapath::node();
    spoof(&datapath);
    let events = datapath.events();
    let packet = Packet::udp((SERVER, PORT), (CLIENT, 53), b"x");
    let flow = tuple(packet.proto, (SERVER, PORT), (CLIENT, 53));
    let since_boot = Duration::from(clock_gettime(ClockId::CLOCK_BOOTTIME).unwrap());
    let age = since_boot.checked_sub(Duration::from_nanos(events[0].at_ns));
    assert!(age.is_some_and(|age| age < Duration::from_secs(60)), "{age:?}");
    let expected = DropEvent {
        at_ns: events[0].at_ns,
        flow,
        ifindex: CLIENT_IFINDEX,
        len: packet.bytes().len() as u32,
        reason: DropReason::Spoofed as u8,
        hook: program::Hook::FromPod as u8,
        is_reply: 0,
        is_mid_stream: 0,
        pad: [0; 4],
    };
    assert_eq!(events, [expected]);

    let packet = Packet::tcp((EXTERNAL, 1), ([10, 244, 1, 99], 2), 2, b"");
    datapath.from_netdev(&packet).dropped(DropReason::NoSuchPod);
    let event = datapath.events()[0];
    assert_eq!(
        (event.reason, event.hook),
        (DropReason::NoSuchPod as u8, program::Hook::FromNetdev as u8)
    );
    assert_eq!(event.ifindex, UPLINK_IFINDEX);
}

/// Dropped packets without an event, for this reason.
fn lost(datapath: &Datapath, loss: EventLoss) -> u64 {
    datapath.lost_events().get(loss.label()).map_or(0, |counter| counter.packets)
}

fn drops(datapath: &Datapath) -> u64 {
    datapath.counters()[DropReason::Spoofed.label()].packets
}

#[test]
fn a_window_has_100_events_and_the_counters_have_every_drop_and_every_loss() {
    cpu::stay();
    // The drops of one window have to fit into it, also on a busy machine: try again if not.
    for _ in 0..20 {
        let mut datapath = Datapath::node();
        datapath.prepare(program::FROM_POD);
        let start = Instant::now();
        spoof_times(&datapath, EVENTS + 50);
        if start.elapsed() >= WINDOW {
            continue;
        }
        let events = datapath.events();
        assert_eq!(events.len(), EVENTS);
        assert_eq!(lost(&datapath, EventLoss::RateLimit), 50);
        let bytes = datapath.lost_events()[EventLoss::RateLimit.label()].bytes;
        assert_eq!(bytes, 50 * u64::from(events[0].len));
        // The next event is in the next window.
        let deadline = Instant::now() + Duration::from_secs(5);
        let next = loop {
            spoof(&datapath);
            if let Some(event) = datapath.events().first() {
                break *event;
            }
            assert!(Instant::now() < deadline, "no event in the next window");
        };
        let gap = Duration::from_nanos(next.at_ns - events[0].at_ns);
        assert!(gap > WINDOW, "{gap:?}");
        if gap < WINDOW * 2 {
            let counted = drops(&datapath);
            assert!(counted > (EVENTS + 50) as u64, "{counted}");
            assert_eq!(EVENTS as u64 + 1 + lost(&datapath, EventLoss::RateLimit), counted);
            assert_eq!(lost(&datapath, EventLoss::BufferFull), 0);
            return;
        }
    }
    panic!("no run of {} drops within {WINDOW:?}", EVENTS + 50);
}

#[test]
fn a_flood_of_one_flow_does_not_hide_the_drops_of_others() {
    cpu::stay();
    // As above.
    for _ in 0..20 {
        let mut datapath = Datapath::node();
        datapath.prepare(program::FROM_POD);
        datapath.prepare(program::FROM_NETDEV);
        let start = Instant::now();
        spoof_times(&datapath, EVENTS + 50);
        let mut others = Vec::new();
        for n in 0..4 {
            // Other sources and destinations, then another reason as well.
            let forged = Packet::udp(([10, 9, 9, n], PORT), ([10, 9, 8, n], 99), b"x");
            datapath.from_pod(CLIENT_IFINDEX, &forged).dropped(DropReason::Spoofed);
            others.push((DropReason::Spoofed, forged));
        }
        let free = Packet::tcp((EXTERNAL, 1), ([10, 244, 1, 99], 2), 2, b"");
        datapath.from_netdev(&free).dropped(DropReason::NoSuchPod);
        others.push((DropReason::NoSuchPod, free));
        if start.elapsed() >= WINDOW {
            continue;
        }
        let events = datapath.events();
        // The event of one in 4,096 is missing: it has the numbers of others.
        let has = |(reason, packet): &&(DropReason, Packet)| {
            let flow =
                tuple(packet.proto, (packet.src, packet.sport()), (packet.dst, packet.dport()));
            events.iter().any(|event| event.reason == *reason as u8 && event.flow == flow)
        };
        let found = others.iter().filter(has).count();
        assert!(found + 1 >= others.len(), "{found} of {}", others.len());
        assert!(has(&&others[4]), "{:?}", others[4].0);
        assert_eq!(events.len(), EVENTS + found);
        assert_eq!(lost(&datapath, EventLoss::RateLimit), (50 + others.len() - found) as u64);
        return;
    }
    panic!("no run of {} drops within {WINDOW:?}", EVENTS + 55);
}

#[test]
fn events_that_a_full_buffer_refuses_are_counted() {
    /// Bytes of the ring buffer: a page is the least.
    const BYTES: u32 = 4096;
    /// Events that fit, each with the header of its record.
    const FIT: u64 = BYTES as u64 / (size_of::<DropEvent>() as u64 + 8);
    let mut datapath = Datapath::load_with(Options { events: Some(BYTES), ..Options::default() });
    datapath.configure_node();
    spoof_times(&datapath, EVENTS + 50);
    let refused = lost(&datapath, EventLoss::BufferFull);
    // All in one window, unless the machine is busy.
    assert!(refused >= EVENTS as u64 - FIT, "{refused}");
    assert_eq!(datapath.events().len() as u64, FIT);
    assert_eq!(FIT + refused + lost(&datapath, EventLoss::RateLimit), drops(&datapath));

    // The buffer takes events again once it was read.
    let deadline = Instant::now() + Duration::from_secs(5);
    while datapath.events().is_empty() {
        assert!(Instant::now() < deadline, "no event after the buffer was read");
        spoof(&datapath);
    }
    assert_eq!(lost(&datapath, EventLoss::BufferFull), refused);
}

#[test]
fn each_cpu_has_a_window_of_its_own() {
    let cpus = cpu::usable();
    let [first, second, ..] = cpus[..] else {
        skip("one CPU");
        return;
    };
    // Both runs have to fit into the window of the first CPU: try again if not.
    for _ in 0..20 {
        let mut datapath = Datapath::node();
        datapath.prepare(program::FROM_POD);
        let start = Instant::now();
        let mut events = Vec::new();
        for cpu in [first, second] {
            cpu::stay_on(cpu);
            spoof_times(&datapath, EVENTS + 20);
            events.push(datapath.events().len());
        }
        if start.elapsed() < WINDOW {
            assert_eq!(events, [EVENTS, EVENTS]);
            return;
        }
    }
    panic!("no run of {} drops within {WINDOW:?}", 2 * (EVENTS + 20));
}
