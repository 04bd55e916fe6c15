//! Route lookups that a CPU remembers for a tick.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test ends where it fails")]

use std::process::Command;
use std::time::{Duration, Instant};

use packet_tests::*;
use sluice_abi::Outcome;

fn ip(arguments: &str) {
    let status = Command::new("ip").args(arguments.split(' ')).status().unwrap();
    assert!(status.success(), "ip {arguments}");
}

fn send(datapath: &Datapath, to: [u8; 4], bytes: usize) -> Run {
    datapath.from_pod(CLIENT_IFINDEX, &Packet::udp((CLIENT, PORT), (to, 53), &vec![b'x'; bytes]))
}

/// More destinations than a CPU remembers, half of which have no route.
#[test]
fn each_destination_has_its_own_route() {
    let datapath = Datapath::node();
    ip("route replace unreachable 203.0.112.0/24");
    for round in 0..2 {
        for n in 0..=255 {
            for third in [112, 113, 114, 116, 129] {
                let run = send(&datapath, [203, 0, third, n], 1);
                match (third, round) {
                    (112, _) => drop(run.to_stack(&[])),
                    _ => drop(run.to_uplink(&[Outcome::Masqueraded])),
                }
            }
        }
    }
}

#[test]
fn a_changed_route_is_used_within_two_ticks() {
    let datapath = Datapath::node();
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
        while !is_changed(send(&datapath, to, 1)) {
            assert!(start.elapsed() < Duration::from_millis(2200), "{change}");
        }
    }
}

/// The lookup of a short packet does not let a long one pass.
#[test]
fn a_remembered_route_has_its_mtu() {
    let datapath = Datapath::node();
    ip("route replace 203.0.117.0/24 via 172.18.0.1 mtu lock 1300");
    let to = [203, 0, 117, 7];
    send(&datapath, to, 1).to_uplink(&[Outcome::Masqueraded]);
    send(&datapath, to, 1300 - 28).to_uplink(&[Outcome::Masqueraded]);
    send(&datapath, to, 1301 - 28).to_stack(&[]);
}
