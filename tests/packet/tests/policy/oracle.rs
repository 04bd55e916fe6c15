//! Random clusters: the compiled tables through the programs agree with the oracle.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use packet_tests::random::{Random, cases, minimize};
use packet_tests::*;
use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use sluice_abi::{
    Addr, FlowEntry, FlowKey, LocalPod, NetworkKey, PodFlows, PolicyPeerKey, PolicyPortKey,
    PolicyPorts, map, namespace_id, proto,
};
use sluice_core::Index;
use sluice_core::generate;
use sluice_core::model::{Change, Object};
use sluice_core::oracle::{Cluster, NewFlow, Sandbox, allows};
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

impl World {
    fn rows(&self) -> PolicyRows {
        let mut index = Index::new(generate::THIS_NODE);
        for change in Change::lists(self.objects.iter()) {
            index.apply(change);
        }
        let mut policies = Policies::default();
        let mut dirty = index.take_policy_dirty();
        dirty.all = true;
        policies.update(&index, &dirty, &self.leases);
        policies.rows()
    }

    fn sandboxes(&self) -> Vec<Sandbox> {
        let sandbox = |lease: &policy::LocalPod| Sandbox {
            address: lease.address,
            name: lease.name.clone(),
            uid: lease.uid,
        };
        self.leases.iter().map(sandbox).collect()
    }

    fn allows(&self, flow: NewFlow) -> bool {
        allows(Cluster { objects: &self.objects, sandboxes: &self.sandboxes() }, flow)
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
    let rows = world.rows();
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

/// Whether the packet of a probe is dropped by policies.
fn is_denied(datapath: &Datapath, probe: &Probe, sport: u16) -> bool {
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
    let denied = labels.iter().any(|label| label.starts_with("policy_"));
    // Whatever else drops it is not the subject, but a free address of the node's range is the only one.
    assert!(run.action != Action::Drop || denied || labels == ["no_such_pod"], "{labels:?}");
    denied
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
    let mut shares: BTreeMap<(From, bool), usize> = BTreeMap::new();
    let mut judged = 0;
    let mut sport = 1024;
    while judged < cases {
        let (objects, leases) = worlds.new_tree(&mut runner).unwrap().current();
        let world = World { objects, leases };
        write(&datapath, &world);
        for _ in 0..FLOWS {
            let Some(probe) = world.probe(&mut random) else { continue };
            sport = if sport == 60_000 { 1024 } else { sport + 1 };
            let expected = !world.allows(probe.flow);
            judged += 1;
            *shares.entry((probe.hook, expected)).or_default() += 1;
            if is_denied(&datapath, &probe, sport) == expected {
                continue;
            }
            let minimal = {
                // `datapath` keeps the state of the failure, for the artefacts.
                let datapath = Datapath::node();
                minimize(&world.objects, |objects| {
                    let world = World { objects: objects.to_vec(), leases: world.leases.clone() };
                    write(&datapath, &world);
                    is_denied(&datapath, &probe, 1000) == world.allows(probe.flow)
                })
            };
            panic!(
                "{:?} from {:?}: denied is {}\n{minimal:#?}\n{:#?}",
                probe.flow, probe.hook, !expected, world.leases
            );
        }
    }
    if cases >= CASES {
        for hook in [From::Pod, From::Netdev] {
            for denied in [false, true] {
                let share = shares.get(&(hook, denied)).copied().unwrap_or_default();
                assert!(share > cases / 50, "{hook:?}, denied {denied}: {share} of {shares:?}");
            }
        }
    }
}
