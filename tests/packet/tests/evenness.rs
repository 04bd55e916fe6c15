//! New connections are spread evenly over the backends of a Service.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test ends where it fails")]

use std::collections::BTreeMap;
use std::net::SocketAddr;

use packet_tests::*;
use sluice_abi::{PodFlows, map, program, proto};
use sluice_bpf::test_run;

const SERVICE: u32 = 7;
const SYN: u8 = 2;
const BACKENDS: usize = 100;
const CONNECTIONS: usize = 100_000;
/// Largest chi-square statistic with 99 degrees of freedom: a uniform choice exceeds it with
/// probability 9.5e-7. A choice that prefers half of the backends by 5 % adds 250 to the mean of 99.
const BOUND: f64 = 181.0;

/// Backends on another node.
fn backends() -> Vec<Endpoint> {
    (0..BACKENDS).map(|n| ([10, 244, 2, 20 + n as u8], 8080)).collect()
}

/// The chi-square statistic of the connections of each backend against a uniform choice.
fn chi_square(counts: &BTreeMap<SocketAddr, usize>) -> f64 {
    let total: usize = counts.values().sum();
    assert_eq!((counts.len(), total), (BACKENDS, CONNECTIONS));
    let expected = total as f64 / BACKENDS as f64;
    counts.values().map(|count| (*count as f64 - expected).powi(2) / expected).sum()
}

#[track_caller]
fn assert_even(what: &str, counts: &BTreeMap<SocketAddr, usize>) {
    let statistic = chi_square(counts);
    println!("{what}: chi-square {statistic:.1}, {BACKENDS} backends, {CONNECTIONS} connections");
    assert!(statistic <= BOUND, "{what}: chi-square {statistic:.1}: {counts:?}");
}

#[test]
fn contract_10_8_connections_of_pods_are_spread_within_the_chi_square_bound() {
    let datapath = Datapath::node();
    datapath.service(SERVICE, (VIP, 80, proto::TCP), &backends());
    let mut counts: BTreeMap<SocketAddr, usize> = BTreeMap::new();
    let pods = [(CLIENT, CLIENT_IFINDEX), (SERVER, SERVER_IFINDEX)];
    for (pod, ifindex) in pods {
        for n in 0..CONNECTIONS / pods.len() {
            let port = 1024 + n as u16;
            // Returns the tokens of new flows, as confirmed flows do.
            if n % 4_096 == 0 {
                let index = u32::from(pod[3]);
                datapath.map(map::POD_FLOWS).update(&index, &PodFlows::default()).unwrap();
            }
            let frame = Packet::tcp((pod, port), (VIP, 80), SYN, b"").bytes_from_pod(ifindex);
            // Without the counters, which `Datapath::run` reads for each packet.
            let ran = test_run::run(datapath.fd(program::FROM_POD), &frame, ifindex, 0, 1).unwrap();
            assert_eq!(ran.action, Action::Redirect, "port {port}");
            let packet = Packet::read(&ran.data).unwrap();
            *counts.entry(SocketAddr::from((packet.dst, packet.dport()))).or_default() += 1;
        }
    }
    assert_even("packets", &counts);
}

#[test]
fn connections_of_sockets_are_spread_within_the_chi_square_bound() {
    let mut datapath = Datapath::node();
    datapath.service(SERVICE, (VIP, 53, proto::UDP), &backends());
    // Without `getpeername` programs a connected socket shows its backend.
    let _cgroup = InCgroup::enter(&mut datapath, &["connect4"]);
    let mut counts: BTreeMap<SocketAddr, usize> = BTreeMap::new();
    for _ in 0..CONNECTIONS {
        *counts.entry(udp_peer((VIP, 53)).unwrap()).or_default() += 1;
    }
    assert_even("sockets", &counts);
}

/// The statistic is that of the definition, and the bound is below that of a skewed choice.
#[test]
fn bound_rejects_a_choice_that_prefers_half_of_the_backends() {
    let skewed = |by: usize| {
        let count = |n: usize| if n.is_multiple_of(2) { 1_000 + by } else { 1_000 - by };
        let of = |(n, (address, port))| (SocketAddr::from((address, port)), count(n));
        backends().into_iter().enumerate().map(of).collect()
    };
    assert_eq!(chi_square(&skewed(0)), 0.0);
    assert!((chi_square(&skewed(10)) - 10.0).abs() < 1e-9);
    assert!(chi_square(&skewed(50)) > BOUND);
}
