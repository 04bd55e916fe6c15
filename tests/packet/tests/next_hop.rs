//! Route lookups that a CPU keeps for a tick.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test ends where it fails")]

use std::process::Command;
use std::time::{Duration, Instant};

use packet_tests::*;
use sluice_abi::{DropReason, Frontend, Outcome, frontend_flags, proto};

fn ip(arguments: &str) {
    command::output(Command::new("ip").args(arguments.split(' ')));
}

fn send(datapath: &Datapath, to: [u8; 4], bytes: usize) -> Run {
    datapath.from_pod(CLIENT_IFINDEX, &Packet::udp((CLIENT, PORT), (to, 53), &vec![b'x'; bytes]))
}

/// The tests of this file stay on one CPU, whose lookups they are about.
fn node() -> Datapath {
    cpu::stay();
    Datapath::node()
}

fn tick() -> u32 {
    let clock = nix::time::ClockId::CLOCK_MONOTONIC_COARSE;
    let now = Duration::from(nix::time::clock_gettime(clock).unwrap());
    sluice_abi::tick(now.as_nanos() as u64)
}

/// More destinations than a CPU has slots for; one network of five has no route.
#[test]
fn each_destination_has_its_own_route() {
    let datapath = node();
    ip("route replace unreachable 203.0.112.0/24");
    for _ in 0..2 {
        for n in 0..=255 {
            for third in [112, 113, 114, 116, 129] {
                let run = send(&datapath, [203, 0, third, n], 1);
                if third == 112 {
                    run.to_stack(&[]);
                } else {
                    run.to_uplink(&[Outcome::Masqueraded]);
                }
            }
        }
    }
}

#[test]
fn a_changed_route_is_used_within_two_ticks() {
    let datapath = node();
    let to = [203, 0, 115, 7];
    for change in ["route replace unreachable 203.0.115.0/24", "route del 203.0.115.0/24"] {
        let is_changed = |run: Run| {
            let is_routed = run.action == Action::Redirect;
            let labels: Vec<_> = run.counters.keys().copied().collect();
            run.counted(&labels);
            is_routed == change.contains("del")
        };
        assert!(!is_changed(send(&datapath, to, 1)), "before {change}");
        ip(change);
        let start = Instant::now();
        loop {
            let sent = start.elapsed();
            if is_changed(send(&datapath, to, 1)) {
                break;
            }
            assert!(sent < Duration::from_millis(2200), "{change}");
        }
    }
}

#[test]
fn a_route_is_used_until_the_end_of_its_tick() {
    let datapath = node();
    let to = [203, 0, 118, 7];
    for _ in 0..10 {
        let before = tick();
        send(&datapath, to, 1).to_uplink(&[Outcome::Masqueraded]);
        ip("route replace unreachable 203.0.118.0/24");
        let run = send(&datapath, to, 1);
        let labels: Vec<_> = run.counters.keys().copied().collect();
        run.counted(&labels);
        ip("route del 203.0.118.0/24");
        if tick() == before {
            assert_eq!(run.action, Action::Redirect);
            return;
        }
        // The next lookup is in another tick than the one of the missing route.
    }
    panic!("no two packets within one tick");
}

/// The lookup of a short packet does not let a long one pass.
#[test]
fn a_kept_route_has_its_mtu() {
    let datapath = node();
    ip("route replace 203.0.117.0/24 via 172.18.0.1 mtu lock 1300");
    let to = [203, 0, 117, 7];
    send(&datapath, to, 1).to_uplink(&[Outcome::Masqueraded]);
    send(&datapath, to, 1300 - 28).to_uplink(&[Outcome::Masqueraded]);
    send(&datapath, to, 1301 - 28).to_stack(&[]);
}

fn node_port(datapath: &Datapath, service: u32, port: u16) {
    let frontend = Frontend { service, flags: frontend_flags::EXTERNAL };
    datapath.frontend(([0; 4], port, proto::UDP), frontend);
}

/// Untranslated, packets to an address of the node would end at its own sockets.
#[test]
fn packets_that_leave_an_address_of_the_node_without_a_route_are_dropped() {
    let datapath = node();
    ip("route replace unreachable 203.0.119.0/24");
    let (nowhere, remote) = ([203, 0, 119, 7], [203, 0, 120, 7]);
    datapath.service(7, (VIP, 53, proto::UDP), &[(nowhere, 53)]);
    node_port(&datapath, 7, 30_053);
    let request = |from| Packet::udp((from, 1000), (NODE, 30_053), b"x");
    for _ in 0..2 {
        datapath.from_netdev(&request(EXTERNAL)).dropped(DropReason::NoRoute);
        datapath.from_pod(CLIENT_IFINDEX, &request(CLIENT)).dropped(DropReason::NoRoute);
    }
    // The address of a Service is none of the node: the stack routes and answers.
    let to_service = Packet::udp((CLIENT, 1001), (VIP, 53), b"x");
    datapath.from_pod(CLIENT_IFINDEX, &to_service).to_stack(&[]);
    // A reply to a client whose route was removed.
    datapath.service(8, (VIP, 54, proto::UDP), &[(FAR_POD, 53)]);
    node_port(&datapath, 8, 30_054);
    let request = Packet::udp((remote, 1000), (NODE, 30_054), b"x");
    let to_backend = &[Outcome::Translated, Outcome::Masqueraded];
    let sport = datapath.from_netdev(&request).to_uplink(to_backend).sport();
    ip("route replace unreachable 203.0.120.0/24");
    let reply = Packet::udp((FAR_POD, 53), (NODE, sport), b"x");
    datapath.from_netdev(&reply).dropped(DropReason::NoRoute);
    ip("route del 203.0.120.0/24");
    datapath.from_netdev(&reply).to_uplink(&[Outcome::Restored]);
    ip("route del 203.0.119.0/24");
}
