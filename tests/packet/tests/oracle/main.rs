//! The oracle of `sluice_core` against the real programs: random objects, compiled and written into
//! the maps, and random packets from a pod, from the node, from other hosts (by XDP, and by tc if it passes them), and
//! from sockets.
//!
//! `CASES=n` (`cargo xtask test --cases n`) runs n sets of objects (sockets: n / 4) instead of 2,000; `SEED=n` repeats a run. A failure prints the
//! objects, without those that it does not need.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test ends where it fails")]

mod expect;
mod realize;
mod sockets;

use std::collections::BTreeMap;
use std::net::IpAddr;

use packet_tests::random::{Random, cases, minimize};
use packet_tests::topology::{HOST_MAC, pod_mac};
use packet_tests::*;
use proptest::prelude::any;
use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use sluice_abi::{NodeConfig, program, proto};
use sluice_bpf::test_run::XdpAction;
use sluice_core::generate::{self, NODE_PORTS, PORTS};
use sluice_core::model::{NodePortAddresses, Object};
use sluice_core::oracle::Answer;

use crate::expect::{Case, Destination, Expected, From, PODS, expected, observed, observed_by_xdp};
use crate::realize::Realized;

/// Packets for each set of objects.
const PACKETS: usize = 6;

/// Sets of objects in an ordinary run.
const CASES: usize = 2_000;

fn runner(random: &mut Random) -> TestRunner {
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &random.seed());
    TestRunner::new_with_rng(Config::default(), rng)
}

/// Objects, Pods of which some end, ServiceCIDRs, and the addresses of NodePorts.
fn cases_of_objects() -> impl Strategy<Value = Case> {
    let others = (generate::pods(), generate::service_cidrs());
    // Half of the cases have the defaults, so that few of their frontends are hidden.
    let changed = (any::<bool>(), generate::node_port_addresses());
    (generate::objects(), others, changed).prop_map(|(mut objects, others, (changed, ports))| {
        if !changed {
            return Case::new(objects, NodePortAddresses::All);
        }
        objects.extend(others.0.into_iter().chain(others.1));
        Case::new(objects, ports)
    })
}

/// The frontends of the Services: addresses with ports, and NodePorts of this node.
fn frontends(objects: &[Object]) -> Vec<Destination> {
    let mut frontends = Vec::new();
    for object in objects {
        let Object::Service(service) = object else { continue };
        let external = service.external.iter();
        let addresses = external
            .flat_map(|external| external.ips.iter().chain(&external.load_balancer_ips))
            .chain(&service.cluster_ips);
        let addresses: Vec<[u8; 4]> = addresses
            .filter_map(|address| match address {
                IpAddr::V4(address) => Some(address.octets()),
                IpAddr::V6(_) => None,
            })
            .collect();
        for port in &service.ports {
            let protocol = port.protocol.number();
            let at = |address: &[u8; 4]| (*address, port.port.get(), protocol);
            frontends.extend(addresses.iter().map(at));
            frontends.extend(port.node_port.map(|number| (NODE, number.get(), protocol)));
        }
    }
    frontends
}

/// A random destination: of one half of the packets any, of the others that of eight which has the rarest answer.
fn destination(random: &mut Random, case: &Case, from: From) -> Destination {
    let draws = *random.pick(&[1, 8]);
    let drawn: Vec<Destination> =
        (0..draws).map(|_| any_destination(random, &case.objects)).collect();
    let commonness = |to: &Destination| match case.answer(from, *to) {
        Answer::Dropped => 0,
        Answer::SourceNotAllowed => 1,
        Answer::Backends { .. } => 2,
        Answer::Rejected => 3,
        Answer::NotAService => 4,
    };
    drawn.into_iter().min_by_key(commonness).expect("one draw or more")
}

/// Of one half of the packets, a frontend of a Service. Of the others, a Service address, internal or external,
/// one without a Service, a pod, a node or an external host.
fn any_destination(random: &mut Random, objects: &[Object]) -> Destination {
    let frontends = frontends(objects);
    if !frontends.is_empty() && random.below(2) == 0 {
        return *random.pick(&frontends);
    }
    let services: Vec<[u8; 4]> = generate::service_addresses()
        .into_iter()
        .chain(generate::external_addresses())
        .filter_map(|address| match address {
            IpAddr::V4(address) => Some(address.octets()),
            IpAddr::V6(_) => None,
        })
        .collect();
    let address = match random.below(10) {
        0 => [10, 244, random.below(5) as u8, random.below(5) as u8],
        1 => [172, 18, 0, 2 + random.below(4) as u8],
        2 => *random.pick(&[[10, 96, 0, 200], GATEWAY, EXTERNAL, [10, 97, 0, 1]]),
        _ => *random.pick(&services),
    };
    let protocol = *random.pick(&[proto::TCP, proto::TCP, proto::UDP, proto::UDP, proto::SCTP]);
    match random.below(12) {
        0 => (address, 0, proto::ICMP),
        1 => (address, 9999, protocol),
        2..=4 => (address, *random.pick(&NODE_PORTS), protocol),
        _ => (address, *random.pick(&PORTS), protocol),
    }
}

/// Where a packet comes from. A pod of another node is one only while this node does not have its address: a
/// packet with such a source is dropped, unless it was accepted in the same tick (`spoofed_source` and others show it).
fn source(random: &mut Random, case: &Case) -> From {
    let sources: &[From] = &[
        From::Pod,
        From::Pod,
        From::Node,
        From::Netdev(EXTERNAL),
        From::Netdev(EXTERNAL),
        From::Netdev(OTHER_NODE),
        From::Netdev(FAR_POD),
    ];
    let sources = if case.is_free_pod(FAR_POD) { &sources[..sources.len() - 1] } else { sources };
    *random.pick(sources)
}

fn packet(src: [u8; 4], (dst, port, protocol): Destination, sport: u16) -> Packet {
    let (from, to) = ((src, sport), (dst, port));
    match protocol {
        proto::TCP => Packet::tcp(from, to, 2, b""),
        proto::UDP => Packet::udp(from, to, b"x"),
        proto::SCTP => Packet::sctp(from, to, b"data"),
        _ => Packet::echo(src, dst, 8, sport, b"x"),
    }
}

/// The difference between the oracle and the programs for one packet, if there is one.
fn difference(
    datapath: &Datapath,
    case: &Case,
    from: From,
    to: Destination,
    sport: u16,
) -> Option<String> {
    let _realized = Realized::write(datapath, case);
    compare(datapath, case, from, to, sport).err()
}

/// Runs the programs over the first packet of a flow, and with session affinity over that of another flow of
/// the client, which has the next source port. Returns whether the first one has left by XDP.
///
/// # Errors
/// The difference between the oracle and the programs.
fn compare(
    datapath: &Datapath,
    case: &Case,
    from: From,
    to: Destination,
    sport: u16,
) -> Result<bool, String> {
    let (first, left_by_xdp) = run(datapath, from, to, sport)?;
    let expected = expected(case, from, to);
    if !expected.contains(&first) {
        return Err(format!("{first:?} is none of {expected:?}"));
    }
    if has_affinity(&case.answer(from, to)) {
        let (second, _) = run(datapath, from, to, sport + 1)?;
        if second != first {
            return Err(format!("{second:?} follows {first:?}: no session affinity"));
        }
    }
    Ok(left_by_xdp)
}

/// Whether the next flow of a client has the endpoint of this one.
fn has_affinity(answer: &Answer) -> bool {
    matches!(answer, Answer::Backends { affinity: Some(_), .. })
}

/// Runs the programs over a packet. Returns whether it has left by XDP, too.
///
/// # Errors
/// XDP has changed or counted a packet that it passes.
fn run(
    datapath: &Datapath,
    from: From,
    to: Destination,
    sport: u16,
) -> Result<(Expected, bool), String> {
    let has_ports = to.2 != proto::ICMP;
    let mut left_by_xdp = false;
    let observed = match from {
        From::Pod => {
            let frame = packet(PODS[0], to, sport).frame(HOST_MAC, pod_mac(PODS[0]));
            observed(&datapath.run(program::FROM_POD, &frame, CLIENT_IFINDEX), has_ports)
        }
        From::Node => observed(&datapath.to_netdev(&packet(NODE, to, sport)), has_ports),
        From::Netdev(src) => {
            let packet = packet(src, to, sport);
            let run = datapath.xdp(UPLINK_IFINDEX, &packet.bytes_from_wire());
            left_by_xdp = run.action != XdpAction::Pass;
            if left_by_xdp {
                observed_by_xdp(&run, has_ports)
            } else if run.data == packet.bytes_from_wire() && run.counters.is_empty() {
                observed(&datapath.from_netdev(&packet), has_ports)
            } else {
                return Err(format!(
                    "changed or counted by XDP, which passes it: {:?}",
                    run.counters
                ));
            }
        }
    };
    Ok((observed, left_by_xdp))
}

/// How often each answer was expected: agreement on answers that never occur shows nothing.
#[derive(Debug, Default)]
struct Shares(BTreeMap<&'static str, usize>);

impl Shares {
    fn add(&mut self, answer: &Answer) {
        let kind = match answer {
            Answer::NotAService => "not a Service",
            Answer::Rejected => "rejected",
            Answer::Dropped => "dropped",
            Answer::SourceNotAllowed => "source not allowed",
            Answer::Backends { endpoints, .. } if endpoints.len() == 1 => "one endpoint",
            Answer::Backends { .. } => "several endpoints",
        };
        *self.0.entry(kind).or_default() += 1;
    }

    /// Fails if one of these answers did not occur. In a run with fewer cases than usual, an answer can be
    /// missing by chance.
    fn assert_all(&self, kinds: &[&str]) {
        if cases(CASES) < CASES {
            return;
        }
        for kind in kinds {
            assert!(self.0.contains_key(kind), "{kind}: never; {self:?}");
        }
    }

    /// As [`Shares::assert_all`], with the least number of each in a run of the usual length.
    fn assert_least(&self, kinds: &[(&str, usize)]) {
        let cases = cases(CASES);
        for (kind, least) in kinds {
            let found = self.0.get(kind).copied().unwrap_or_default();
            assert!(cases < CASES || found * CASES >= least * cases, "{kind}: {found}; {self:?}");
        }
    }
}

/// Answers of which a run of the usual length has at least one. The chance that a run lacks one of them, or has fewer of
/// an answer than the least number of its test, is below 1e-8. (The numbers of each answer in the sets of objects of a
/// run are independent: their distribution in eight runs, convolved. Most likely to fail are the sockets: 72 packets are
/// expected to be dropped, from 35 of 500 sets, and fewer than 10 are in 1e-9 of all runs.)
const FREQUENT: [&str; 5] =
    ["not a Service", "rejected", "source not allowed", "one endpoint", "several endpoints"];

fn datapath() -> Datapath {
    let mut datapath = Datapath::load();
    datapath.node_config(&NodeConfig { netns_cookie: netns_cookie(), ..node_config() });
    datapath.use_xdp();
    datapath.open_namespace(true);
    datapath.local_pod(PODS[0], CLIENT_IFINDEX);
    datapath.local_pod(PODS[1], SERVER_IFINDEX);
    datapath
}

#[test]
fn packets_go_where_the_oracle_expects_them() {
    let mut random = Random::from_environment();
    let mut runner = runner(&mut random);
    let object_sets = cases_of_objects();
    let mut datapath = self::datapath();
    let mut sport = 1024;
    let mut shares = Shares::default();
    for _ in 0..cases(CASES) {
        let case = object_sets.new_tree(&mut runner).unwrap().current();
        let realized = Realized::write(&datapath, &case);
        let mut failed = None;
        for _ in 0..PACKETS {
            let from = source(&mut random, &case);
            let to = destination(&mut random, &case, from);
            sport += 2;
            let answer = case.answer(from, to);
            shares.add(&answer);
            // With one endpoint, nothing shows that the second flow has that of the first.
            let has_choice =
                matches!(&answer, Answer::Backends { endpoints, .. } if endpoints.len() > 1);
            let is_sticky = has_choice && has_affinity(&answer);
            *shares.0.entry("affinity").or_default() += usize::from(is_sticky);
            match compare(&datapath, &case, from, to, sport) {
                Ok(true) => {
                    *shares.0.entry("left by XDP").or_default() += 1;
                    *shares.0.entry("affinity by XDP").or_default() += usize::from(is_sticky);
                }
                Ok(false) => {}
                Err(difference) => {
                    failed = Some((from, to, difference));
                    break;
                }
            }
        }
        if let Some((from, to, difference)) = failed {
            let minimal = minimize(&case.objects, |objects| {
                let datapath = self::datapath();
                self::difference(&datapath, &case.with(objects), from, to, 1).is_some()
            });
            panic!("{from:?} to {to:?}: {difference}\n{:#?}", case.with(&minimal));
        }
        drop(realized);
        // Each packet has a source port of its own, so that it is the first one of its flow.
        if sport > 60_000 {
            (datapath, sport) = (self::datapath(), 1024);
        }
    }
    shares.assert_all(&FREQUENT);
    println!("{shares:?}");
    // A third of the usual numbers, see [`FREQUENT`].
    let least =
        [("dropped", 140), ("left by XDP", 130), ("one endpoint", 290), ("several endpoints", 300)];
    shares.assert_least(&least);
    // Flows with session affinity among several endpoints.
    shares.assert_least(&[("affinity", 140), ("affinity by XDP", 25)]);
}
