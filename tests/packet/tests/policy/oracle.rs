//! Random clusters: the compiled tables through the programs agree with the oracle.

use std::collections::BTreeMap;

use packet_tests::Datapath;
use packet_tests::random::{Random, cases, minimize};
use proptest::strategy::{Strategy, ValueTree};
use sluice_abi::DropReason;
use sluice_core::generate::{self, lease_lines, manifests, shrink};
use sluice_core::model::Object;
use sluice_core::oracle::NewFlow;
use sluice_core::policy::LocalPod;

use super::world::{From, World, forget_flows, reason, runner, write};

/// Flows that are judged in an ordinary run; `CASES` has another number.
const CASES: usize = 10_000;
/// Flows for each cluster.
const FLOWS: usize = 50;

/// What has to occur, in a thousandth of the flows: agreement on what never occurs shows nothing.
const SHARES: [(From, Option<DropReason>, usize); 8] = [
    (From::Pod, None, 20),
    (From::Pod, Some(DropReason::PolicyEgress), 20),
    (From::Pod, Some(DropReason::PolicyIngress), 3),
    (From::Pod, Some(DropReason::PolicyPending), 10),
    (From::Netdev, None, 20),
    (From::Netdev, Some(DropReason::PolicyIngress), 10),
    (From::Netdev, Some(DropReason::PolicyPending), 10),
    (From::Node, None, 10),
];
/// As [`SHARES`]: flows of the node to its pods that pass, but would not from another host.
const OF_NODE_ONLY: usize = 2;
/// As [`SHARES`]: flows of a protocol without ports, of those that pass and of those that do not.
const WITHOUT_PORTS: usize = 3;

#[test]
fn verdicts_of_the_programs_are_those_of_the_oracle() {
    let cases = cases(CASES);
    let mut random = Random::from_environment();
    let mut runner = runner(&mut random);
    let worlds = (generate::policy_objects(), generate::leases());
    let datapath = Datapath::node();
    let mut shares: BTreeMap<String, usize> = BTreeMap::new();
    let share_of = |hook: From, reason: Option<DropReason>| format!("{hook:?}: {reason:?}");
    // Flows of the node that would be dropped if another host opened them.
    let mut exempt = 0;
    // Flows of a protocol without ports that are dropped, and that pass.
    let mut without_ports = [0; 2];
    let mut judged = 0;
    let mut sport = 1024;
    while judged < cases {
        let (objects, leases) = worlds.new_tree(&mut runner).unwrap().current();
        let world = World::new(objects, leases);
        write(&datapath, &world);
        for _ in 0..FLOWS {
            let Some(probe) = world.probe_of_any_protocol(&mut random) else { continue };
            if probe.flow.protocol == generate::GRE {
                forget_flows(&datapath);
            }
            sport = if sport == 60_000 { 1024 } else { sport + 1 };
            let denied = world.denied(probe.flow);
            let reason = reason(&datapath, &probe, sport);
            judged += 1;
            if probe.flow.protocol == generate::GRE {
                without_ports[usize::from(reason.is_none())] += 1;
            }
            *shares.entry(share_of(probe.hook, reason)).or_default() += 1;
            let as_another_host = NewFlow { own_node: false, ..probe.flow };
            exempt +=
                usize::from(probe.flow.own_node && world.denied(as_another_host).ingress.is_some());
            if denied.reason() == reason {
                continue;
            }
            // `datapath` keeps the state of the failure, for the artefacts.
            let other = Datapath::node();
            let verdicts = |objects: &[Object], leases: &[LocalPod]| {
                let world = World::new(objects.to_vec(), leases.to_vec());
                write(&other, &world);
                (world.denied(probe.flow), self::reason(&other, &probe, 1000))
            };
            let fails = |objects: &[Object], leases: &[LocalPod]| {
                let (denied, reason) = verdicts(objects, leases);
                denied.reason() != reason
            };
            let ends = |leases: &[LocalPod]| {
                let flow = probe.flow;
                let is_end = |l: &&LocalPod| [flow.source, flow.destination].contains(&l.address);
                leases.iter().filter(is_end).count()
            };
            let leases = minimize(&world.leases, |leases| {
                ends(leases) == ends(&world.leases) && fails(&world.objects, leases)
            });
            let smallest = shrink(&world.objects, |objects| fails(objects, &leases));
            let (denied, reason) = verdicts(&smallest, &leases);
            let NewFlow { source, destination, protocol, port, .. } = probe.flow;
            let comment = format!(
                "protocol {protocol}, {source} > {destination} port {port}, from {:?}\n\
                 expected: {:?} ({denied:?})\nfound: {reason:?}\n{}",
                probe.hook,
                denied.reason(),
                lease_lines(&leases)
            );
            panic!("\n{}", manifests(&smallest, &comment));
        }
    }
    if cases >= CASES {
        println!("{shares:#?}, of the node only: {exempt}");
        for (hook, reason, least) in SHARES {
            let share = shares.get(&share_of(hook, reason)).copied().unwrap_or_default();
            assert!(share * 1000 > cases * least, "{hook:?}, {reason:?}: {share} of {shares:?}");
        }
        assert!(
            without_ports.iter().all(|n| n * 1000 > cases * WITHOUT_PORTS),
            "{without_ports:?}"
        );
        assert!(exempt * 1000 > cases * OF_NODE_ONLY, "{exempt} of the node only");
    }
}
