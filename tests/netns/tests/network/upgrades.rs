//! Upgrades and downgrades between two ABI versions, under traffic.

use netns_tests::{Topology, Version, agents, dataplane};
use sluice_abi::DropReason;

use crate::traffic::{Churn, Traffic, drops, vip, wait_alone};

#[test]
fn upgrades_and_downgrades_lose_nothing() {
    let topology = Topology::new();
    let (a, b) = (topology.node(1), topology.node(2));
    // Another version on the other node: a cluster that is upgraded by half.
    let mut other = b.agent_of(Version::Next);
    let mut agent = Some(a.agent());
    wait_alone(&b, &mut other, Version::Next);
    let traffic = Traffic::start(&topology, &a, &b);
    let pods = Churn::while_running(&a, &traffic.far.at(8080), |churn| {
        for version in [Version::Next, Version::This, Version::Next, Version::This] {
            churn.during(|| {
                agent.take().unwrap().kill();
                let mut next = a.agent_of(version);
                wait_alone(&a, &mut next, version);
                in_order(&next.log_of_this(), &SWITCH);
                agent = Some(next);
            });
        }
    });
    println!("    {pods} pods were added and deleted");
    for (what, host) in [("socket programs", &*traffic.client), ("tc programs", &traffic.packets)] {
        assert!(host.connect("tcp", &vip(80)).is_ok(), "{what}");
    }
    assert!(traffic.near.connect("tcp", &traffic.far.at(8080)).is_ok());
    traffic.finish();
    // A known limitation: a pod that the former CNI binary connects while the programs change over can
    // lose the packets of its first milliseconds.
    let (of_late_pods, others): (Vec<_>, Vec<_>) = drops(&a)
        .into_iter()
        .partition(|(reason, _)| matches!(reason, DropReason::NoSuchPod | DropReason::Spoofed));
    let lost: u64 = of_late_pods.iter().map(|(_, packets)| *packets).sum();
    println!("    {lost} packets of them were lost");
    // At most one pod is being connected at each of the four switches.
    assert!(others.is_empty() && lost <= 2 * 4, "{of_late_pods:?} {others:?} of {pods} pods");
    assert_eq!(dataplane::local_pods(&a), 3);
}

/// The CNI binary is replaced with the programs, before the flows are copied.
const SWITCH: [&str; 3] = [
    "programs of this version have taken over",
    "CNI binary replaced with the programs",
    "taken over from another version",
];

#[track_caller]
fn in_order(log: &str, lines: &[&str]) {
    let at = |words: &&str| log.find(words).unwrap_or_else(|| panic!("no {words:?} in: {log}"));
    let places: Vec<usize> = lines.iter().map(at).collect();
    assert!(places.is_sorted(), "{lines:?} at {places:?} in: {log}");
}

/// The last step of an agent's start.
const READY: &str = "ready: CNI ADD can succeed";

#[test]
fn agents_killed_during_a_migration_lose_nothing() {
    let topology = Topology::new();
    let (a, b) = (topology.node(1), topology.node(2));
    let [agent, _other] = agents([(&a, &[]), (&b, &[])]);
    let traffic = Traffic::start(&topology, &a, &b);
    agent.kill();
    // Each agent is killed at this line of its log; the next one has another version, or the same. An
    // agent can go some steps further before it is killed: then the next one has nothing left to do,
    // and is killed when it is ready.
    for (version, line) in [
        (Version::Next, "programs loaded"),
        (Version::Next, "programs of this version have taken over"),
        (Version::This, "programs loaded"),
        (Version::This, "programs of this version have taken over"),
        (Version::Next, "taken over from another version"),
        (Version::Next, READY),
        (Version::This, "programs of this version have taken over"),
        (Version::Next, "taken over from another version"),
        (Version::This, "CNI binary replaced with the programs"),
    ] {
        let agent = a.agent_of(version);
        println!("    {version:?} until {line:?}");
        agent.kill_at(&[line, READY]);
    }
    let mut agent = a.agent();
    wait_alone(&a, &mut agent, Version::This);
    assert!(traffic.near.connect("tcp", &traffic.far.at(8080)).is_ok());
    traffic.finish();
    assert_eq!(drops(&a), []);
}

#[test]
fn another_capacity_of_the_table_of_flows_keeps_the_flows() {
    let topology = Topology::new();
    let (a, b) = (topology.node(1), topology.node(2));
    let [mut agent, _other] = agents([(&a, &[]), (&b, &[])]);
    let traffic = Traffic::start(&topology, &a, &b);
    for entries in [400_000, 2048] {
        agent.kill();
        agent = a.agent_not_ready(&[&format!("--flows={entries}")]);
        wait_alone(&a, &mut agent, Version::This);
        assert_eq!(dataplane::capacity(&a, sluice_abi::map::FLOWS), entries);
    }
    traffic.finish();
    assert_eq!(drops(&a), []);
}
