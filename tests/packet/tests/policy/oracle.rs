//! Random clusters: the compiled tables through the programs agree with the oracle.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use packet_tests::random::{Random, cases, minimize};
use packet_tests::*;
use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use sluice_abi::{
    Addr, DropReason, FlowEntry, FlowKey, LocalPod, NetworkKey, PodFlows, PolicyPeerKey,
    PolicyPortKey, PolicyPorts, map, namespace_id, proto,
};
use sluice_core::Index;
use sluice_core::generate;
use sluice_core::model::{Change, Object};
use sluice_core::oracle::{Cluster, NewFlow, Sandbox, Side, allows, side_allows};
use sluice_core::policy::{self, Policies, PolicyRows};

use super::SYN;

/// Flows that are judged in an ordinary run; `CASES` has another number.
const CASES: usize = 10_000;
/// Flows for each cluster.
const FLOWS: usize = 50;

/// A node's pods and objects.
struct World {
    objects: Vec<Object>,
    leases: Vec<policy::LocalPod>,
    rows: PolicyRows,
}

/// A packet, the hook that it arrives at, and the flow that it opens.
struct Probe {
    hook: From,
    flow: NewFlow,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum From {
    Pod,
    Netdev,
    Node,
}

/// Why an end of a flow denies it.
#[derive(Clone, Copy, Debug)]
enum Cause {
    /// By the rules of its policies.
    Rules,
    /// Its policies are not known: it has no row.
    Pending,
}

/// The ends of a flow that deny it, as the oracle says.
#[derive(Clone, Copy, Debug)]
struct Denied {
    egress: Option<Cause>,
    ingress: Option<Cause>,
}

impl Denied {
    /// The reason for which the programs drop a packet. The client is judged first.
    fn reason(self) -> Option<DropReason> {
        match (self.egress, self.ingress) {
            (Some(Cause::Pending), _) | (None, Some(Cause::Pending)) => {
                Some(DropReason::PolicyPending)
            }
            (Some(Cause::Rules), _) => Some(DropReason::PolicyEgress),
            (None, Some(Cause::Rules)) => Some(DropReason::PolicyIngress),
            (None, None) => None,
        }
    }
}

/// The reasons of policies to drop a packet.
const REASONS: [DropReason; 3] =
    [DropReason::PolicyEgress, DropReason::PolicyIngress, DropReason::PolicyPending];

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

impl World {
    fn new(objects: Vec<Object>, leases: Vec<policy::LocalPod>) -> World {
        let mut index = Index::new(generate::THIS_NODE);
        for change in Change::lists(objects.iter()) {
            index.apply(change);
        }
        let mut policies = Policies::default();
        let mut dirty = index.take_policy_dirty();
        dirty.all = true;
        policies.update(&index, &dirty, &leases);
        World { objects, leases, rows: policies.rows() }
    }

    fn sandboxes(&self) -> Vec<Sandbox> {
        let sandbox = |lease: &policy::LocalPod| Sandbox {
            address: lease.address,
            name: lease.name.clone(),
            uid: lease.uid,
        };
        self.leases.iter().map(sandbox).collect()
    }

    /// The ends that deny a flow. The rows decide only whether an end that denies it is not known yet.
    fn denied(&self, flow: NewFlow) -> Denied {
        let sandboxes = self.sandboxes();
        let cluster = Cluster { objects: &self.objects, sandboxes: &sandboxes };
        let NewFlow { source, destination, protocol, port, own_node } = flow;
        let cause = |address, side, peer| {
            let (sandbox, lease) =
                sandboxes.iter().zip(&self.leases).find(|s| s.0.address == address)?;
            if side_allows(cluster, sandbox, side, peer, protocol, port) {
                return None;
            }
            let row = self.rows.pods.get(&u32::from(lease.index));
            let has_row = row.is_some_and(|row| row.generation == lease.generation);
            Some(if has_row { Cause::Rules } else { Cause::Pending })
        };
        let denied = Denied {
            egress: cause(source, Side::Egress, destination),
            ingress: if own_node { None } else { cause(destination, Side::Ingress, source) },
        };
        assert_eq!(allows(cluster, flow), denied.reason().is_none(), "{flow:?}");
        denied
    }

    fn has(&self, address: Ipv4Addr) -> bool {
        self.leases.iter().any(|lease| lease.address == IpAddr::from(address))
    }

    /// A flow from or to a pod of the node.
    fn probe(&self, random: &mut Random) -> Option<Probe> {
        let v4 = |address: IpAddr| match address {
            IpAddr::V4(address) => Some(address),
            IpAddr::V6(_) => None,
        };
        let pods: Vec<Ipv4Addr> = self.leases.iter().filter_map(|l| v4(l.address)).collect();
        let peers: Vec<Ipv4Addr> = generate::policy_peers().into_iter().filter_map(v4).collect();
        if pods.is_empty() {
            return None;
        }
        let (pod, peer) = (*random.pick(&pods), *random.pick(&peers));
        let (protocol, port) = *random.pick(&generate::policy_probes());
        let is_outgoing = random.below(2) == 0;
        let hook = match (is_outgoing, peer) {
            (true, _) => From::Pod,
            (false, peer) if self.has(peer) => From::Pod,
            (false, peer) if peer.octets() == NODE => From::Node,
            (false, _) => From::Netdev,
        };
        let (source, destination) = if is_outgoing { (pod, peer) } else { (peer, pod) };
        // Free addresses of the node's range send nothing; what a pod sends to itself stays in the pod.
        let is_free = source.octets()[..3] == CLIENT[..3] && !self.has(source);
        if source == destination || is_free {
            return None;
        }
        let flow = NewFlow {
            source: source.into(),
            destination: destination.into(),
            protocol,
            port,
            own_node: hook == From::Node,
        };
        Some(Probe { hook, flow })
    }
}

/// Writes all pods and policy rows, instead of those of another world.
fn write(datapath: &Datapath, world: &World) {
    fn replace<K, V>(datapath: &Datapath, name: &str, rows: impl IntoIterator<Item = (K, V)>)
    where
        K: zerocopy::FromBytes + zerocopy::IntoBytes + zerocopy::Immutable + Copy,
        V: zerocopy::FromBytes + zerocopy::IntoBytes + zerocopy::Immutable,
    {
        let table = datapath.map::<K, V>(name);
        for (key, _) in table.entries().unwrap() {
            table.delete(&key).unwrap();
        }
        for (key, value) in rows {
            table.update(&key, &value).unwrap();
        }
    }
    let rows = world.rows.clone();
    replace(datapath, map::POLICY_CLASSES, rows.classes);
    replace::<NetworkKey, u64>(datapath, map::POLICY_NETWORKS, rows.networks);
    replace::<PolicyPeerKey, PolicyPorts>(datapath, map::POLICY_PEERS, rows.peers);
    replace::<PolicyPortKey, u32>(datapath, map::POLICY_PORTS, rows.ports);
    replace::<u64, u32>(datapath, map::OPEN_NAMESPACES, rows.open_namespaces);
    for name in map::FLOW_TABLES {
        replace::<FlowKey, FlowEntry>(datapath, name, []);
    }
    let (pods, policies) = (datapath.map(map::PODS), datapath.map(map::POD_POLICY));
    let limits = datapath.map::<u32, PodFlows>(map::POD_FLOWS);
    for index in 0..64u32 {
        pods.update(&index, &LocalPod::default()).unwrap();
        policies.update(&index, &rows.pods.get(&index).copied().unwrap_or_default()).unwrap();
        limits.update(&index, &PodFlows::default()).unwrap();
    }
    replace::<Addr, LocalPod>(datapath, map::LOCAL_PODS, []);
    for lease in &world.leases {
        let IpAddr::V4(address) = lease.address else { continue };
        let pod = LocalPod {
            namespace: lease.name.as_ref().map_or(0, |name| namespace_id(&name.namespace)),
            ifindex: CLIENT_IFINDEX,
            pod_mac: topology::pod_mac(address.octets()),
            host_mac: topology::HOST_MAC,
            index: lease.index,
            generation: lease.generation,
            pad: 0,
        };
        pods.update(&u32::from(lease.index), &pod).unwrap();
        datapath.map(map::LOCAL_PODS).update(&v4(address.octets()), &pod).unwrap();
    }
}

/// The reason of policies for which the packet of a probe is dropped.
fn reason(datapath: &Datapath, probe: &Probe, sport: u16) -> Option<DropReason> {
    let (IpAddr::V4(source), IpAddr::V4(destination)) = (probe.flow.source, probe.flow.destination)
    else {
        panic!("{:?}", probe.flow)
    };
    let (from, to) = ((source.octets(), sport), (destination.octets(), probe.flow.port));
    let packet = match probe.flow.protocol {
        proto::TCP => Packet::tcp(from, to, SYN, b""),
        proto::UDP => Packet::udp(from, to, b"x"),
        proto::SCTP => Packet::sctp(from, to, &[1, 0, 0, 4]),
        _ => Packet::echo(from.0, to.0, 8, sport, b"x"),
    };
    let run = match probe.hook {
        From::Pod => {
            let frame = packet.frame(topology::HOST_MAC, topology::pod_mac(from.0));
            datapath.run(sluice_abi::program::FROM_POD, &frame, CLIENT_IFINDEX)
        }
        From::Netdev => datapath.from_netdev(&packet),
        From::Node => datapath.to_pod(CLIENT_IFINDEX, &packet),
    };
    let labels: Vec<_> = run.counters.keys().copied().collect();
    run.counted(&labels);
    let mut reasons = REASONS.into_iter().filter(|reason| labels.contains(&reason.label()));
    let reason = reasons.next();
    assert_eq!(reasons.next(), None, "{labels:?}");
    // Whatever else drops it is not the subject, but a free address of the node's range is the only one.
    let is_explained = reason.is_some() || labels == ["no_such_pod"];
    assert!(run.action != Action::Drop || is_explained, "{labels:?}");
    reason
}

#[test]
fn verdicts_of_the_programs_are_those_of_the_oracle() {
    let cases = cases(CASES);
    let mut random = Random::from_environment();
    let seed: Vec<u8> = (0..4).flat_map(|_| random.bits().to_ne_bytes()).collect();
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &seed);
    let mut runner = TestRunner::new_with_rng(Config::default(), rng);
    let worlds = (generate::policy_objects(), generate::leases());
    let datapath = Datapath::node();
    let mut shares: BTreeMap<String, usize> = BTreeMap::new();
    let share_of = |hook: From, reason: Option<DropReason>| format!("{hook:?}: {reason:?}");
    // Flows of the node that would be dropped if another host opened them.
    let mut exempt = 0;
    let mut judged = 0;
    let mut sport = 1024;
    while judged < cases {
        let (objects, leases) = worlds.new_tree(&mut runner).unwrap().current();
        let world = World::new(objects, leases);
        write(&datapath, &world);
        for _ in 0..FLOWS {
            let Some(probe) = world.probe(&mut random) else { continue };
            sport = if sport == 60_000 { 1024 } else { sport + 1 };
            let denied = world.denied(probe.flow);
            let reason = reason(&datapath, &probe, sport);
            judged += 1;
            *shares.entry(share_of(probe.hook, reason)).or_default() += 1;
            let as_another_host = NewFlow { own_node: false, ..probe.flow };
            exempt +=
                usize::from(probe.flow.own_node && world.denied(as_another_host).ingress.is_some());
            if denied.reason() == reason {
                continue;
            }
            let minimal = {
                // `datapath` keeps the state of the failure, for the artefacts.
                let datapath = Datapath::node();
                minimize(&world.objects, |objects| {
                    let world = World::new(objects.to_vec(), world.leases.clone());
                    write(&datapath, &world);
                    let reason = self::reason(&datapath, &probe, 1000);
                    world.denied(probe.flow).reason() != reason
                })
            };
            panic!(
                "{:?} from {:?}: {reason:?}, {denied:?}\n{minimal:#?}\n{:#?}",
                probe.flow, probe.hook, world.leases
            );
        }
    }
    if cases >= CASES {
        println!("{shares:#?}, of the node only: {exempt}");
        for (hook, reason, least) in SHARES {
            let share = shares.get(&share_of(hook, reason)).copied().unwrap_or_default();
            assert!(share * 1000 > cases * least, "{hook:?}, {reason:?}: {share} of {shares:?}");
        }
        assert!(exempt * 1000 > cases * OF_NODE_ONLY, "{exempt} of the node only");
    }
}
