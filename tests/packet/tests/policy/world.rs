//! A node with random pods and policies: its rows in the maps, the verdicts that the oracle expects, and
//! packets to try.

use std::net::{IpAddr, Ipv4Addr};

use packet_tests::random::Random;
use packet_tests::*;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use sluice_abi::{
    Addr, DropReason, FlowEntry, FlowKey, LocalPod, NetworkKey, PodFlows, PolicyPeerKey,
    PolicyPortKey, PolicyPorts, map, namespace_id, proto,
};
use sluice_core::generate;
use sluice_core::model::{Change, Object};
use sluice_core::oracle::{Cluster, NewFlow, Sandbox, Side, allows, side_allows};
use sluice_core::policy::{self, Policies, PolicyRows};
use sluice_core::{Index, PolicyDirty};

use super::SYN;

/// A node's pods and objects.
#[derive(Clone)]
pub struct World {
    pub objects: Vec<Object>,
    pub leases: Vec<policy::LocalPod>,
    pub rows: PolicyRows,
}

/// A packet, the hook that it arrives at, and the flow that it opens.
#[derive(Clone, Copy, Debug)]
pub struct Probe {
    pub hook: From,
    pub flow: NewFlow,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum From {
    Pod,
    Netdev,
    Node,
}

/// Why an end of a flow denies it.
#[derive(Clone, Copy, Debug)]
pub enum Cause {
    /// By the rules of its policies.
    Rules,
    /// Its policies are not known: it has no row.
    Pending,
}

/// The ends of a flow that deny it, as the oracle says.
#[derive(Clone, Copy, Debug)]
pub struct Denied {
    pub egress: Option<Cause>,
    pub ingress: Option<Cause>,
}

impl Denied {
    /// The reason for which the programs drop a packet. The client is judged first.
    pub fn reason(self) -> Option<DropReason> {
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
pub const REASONS: [DropReason; 3] =
    [DropReason::PolicyEgress, DropReason::PolicyIngress, DropReason::PolicyPending];

impl World {
    pub fn new(objects: Vec<Object>, leases: Vec<policy::LocalPod>) -> World {
        let (_, policies) = compiled(&objects, &leases);
        World { objects, leases, rows: policies.rows() }
    }

    /// The ends that deny a flow. The rows decide only whether an end that denies it is not known yet.
    pub fn denied(&self, flow: NewFlow) -> Denied {
        let sandboxes: Vec<Sandbox> = self.leases.iter().map(generate::sandbox).collect();
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

    pub fn has(&self, address: Ipv4Addr) -> bool {
        self.leases.iter().any(|lease| lease.address == IpAddr::from(address))
    }

    /// Whether an address of the node's range is that of no pod.
    pub fn is_free(&self, address: Ipv4Addr) -> bool {
        address.octets()[..3] == CLIENT[..3] && !self.has(address)
    }

    /// The IPv4 addresses of the pods of the node.
    pub fn pods(&self) -> Vec<Ipv4Addr> {
        self.leases.iter().filter_map(|lease| ipv4(lease.address)).collect()
    }

    /// A flow from or to a pod of the node. [`generate::GRE`] is left out: all packets between two addresses are one
    /// flow.
    pub fn probe(&self, random: &mut Random) -> Option<Probe> {
        self.probe_of_any_protocol(random).filter(|probe| probe.flow.protocol != generate::GRE)
    }

    /// A flow from or to a pod of the node.
    pub fn probe_of_any_protocol(&self, random: &mut Random) -> Option<Probe> {
        let (pods, peers) = (self.pods(), peers());
        if pods.is_empty() {
            return None;
        }
        let (pod, peer) = (*random.pick(&pods), *random.pick(&peers));
        let service = *random.pick(&generate::policy_probes());
        let is_outgoing = random.below(2) == 0;
        let (source, destination) = if is_outgoing { (pod, peer) } else { (peer, pod) };
        self.probe_of(source, destination, service)
    }

    /// The probe of a flow from or to a pod of the node, by protocol and port.
    fn probe_of(
        &self,
        source: Ipv4Addr,
        destination: Ipv4Addr,
        (protocol, port): (u8, u16),
    ) -> Option<Probe> {
        let hook = match source {
            source if self.has(source) => From::Pod,
            source if source.octets() == NODE => From::Node,
            _ => From::Netdev,
        };
        // Free addresses of the node's range send nothing; what a pod sends to itself stays in the pod.
        let is_of_pod = self.has(source) || self.has(destination);
        if source == destination || self.is_free(source) || !is_of_pod {
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

    /// Whether the packets of a probe are still those of its flow, with these pods.
    pub fn has_probe(&self, probe: Probe) -> bool {
        let NewFlow { source, destination, protocol, port, .. } = probe.flow;
        let (IpAddr::V4(source), IpAddr::V4(destination)) = (source, destination) else {
            return false;
        };
        let now = self.probe_of(source, destination, (protocol, port));
        now.is_some_and(|now| now.hook == probe.hook)
    }
}

/// The IPv4 addresses of possible peers.
pub fn peers() -> Vec<Ipv4Addr> {
    generate::policy_peers().into_iter().filter_map(ipv4).collect()
}

fn ipv4(address: IpAddr) -> Option<Ipv4Addr> {
    match address {
        IpAddr::V4(address) => Some(address),
        IpAddr::V6(_) => None,
    }
}

/// A source of random values of proptest.
pub fn runner(random: &mut Random) -> TestRunner {
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &random.seed());
    TestRunner::new_with_rng(Config::default(), rng)
}

/// The objects in an index, and what the compiler makes of them.
pub fn compiled(objects: &[Object], leases: &[policy::LocalPod]) -> (Index, Policies) {
    let mut index = Index::new(generate::THIS_NODE);
    Change::lists(objects.iter()).into_iter().for_each(|change| index.apply(change));
    index.take_policy_dirty();
    let mut policies = Policies::default();
    policies.update(&index, &PolicyDirty::everything(), leases);
    (index, policies)
}

/// Removes all flows.
pub fn forget_flows(datapath: &Datapath) {
    for name in map::FLOW_TABLES {
        let table = datapath.map::<FlowKey, FlowEntry>(name);
        for (key, _) in table.entries().unwrap() {
            table.delete(&key).unwrap();
        }
    }
}

/// Writes all pods and policy rows, instead of those of another world.
pub fn write(datapath: &Datapath, world: &World) {
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
    forget_flows(datapath);
    let (pods, policies) = (datapath.map(map::PODS), datapath.map(map::POD_POLICY));
    let limits = datapath.map::<u32, PodFlows>(map::POD_FLOWS);
    for index in 0..64u32 {
        pods.update(&index, &LocalPod::default()).unwrap();
        policies.update(&index, &rows.pods.get(&index).copied().unwrap_or_default()).unwrap();
        limits.update(&index, &PodFlows::default()).unwrap();
    }
    replace::<Addr, LocalPod>(datapath, map::LOCAL_PODS, []);
    for lease in &world.leases {
        put_pod(datapath, lease);
    }
}

/// Writes the rows of a pod, as its ADD does.
pub fn put_pod(datapath: &Datapath, lease: &policy::LocalPod) {
    let IpAddr::V4(address) = lease.address else { return };
    let pod = LocalPod {
        namespace: lease.name.as_ref().map_or(0, |name| namespace_id(&name.namespace)),
        ifindex: CLIENT_IFINDEX,
        pod_mac: topology::pod_mac(address.octets()),
        host_mac: topology::HOST_MAC,
        index: lease.index,
        generation: lease.generation,
        pad: 0,
    };
    datapath.map(map::PODS).update(&u32::from(lease.index), &pod).unwrap();
    datapath.map(map::LOCAL_PODS).update(&v4(address.octets()), &pod).unwrap();
}

/// Removes the rows of a pod, as its DEL does.
pub fn remove_pod(datapath: &Datapath, lease: &policy::LocalPod) {
    let local = datapath.map::<Addr, LocalPod>(map::LOCAL_PODS);
    local.delete(&Addr::from(lease.address)).unwrap();
    datapath.map(map::PODS).update(&u32::from(lease.index), &LocalPod::default()).unwrap();
}

/// The first packet of a flow.
pub fn first_packet(flow: NewFlow, sport: u16) -> Packet {
    let (IpAddr::V4(source), IpAddr::V4(destination)) = (flow.source, flow.destination) else {
        panic!("{flow:?}")
    };
    let (from, to) = ((source.octets(), sport), (destination.octets(), flow.port));
    match flow.protocol {
        proto::TCP => Packet::tcp(from, to, SYN, b""),
        proto::UDP => Packet::udp(from, to, b"x"),
        proto::SCTP => Packet::sctp(from, to, &[1, 0, 0, 4]),
        generate::GRE => Packet::new(from.0, to.0, generate::GRE, vec![0, 0, 8, 0]),
        _ => Packet::echo(from.0, to.0, 8, sport, b"x"),
    }
}

/// Sends a packet at a hook.
pub fn send(datapath: &Datapath, hook: From, packet: &Packet) -> Run {
    match hook {
        From::Pod => {
            let frame = packet.frame(topology::HOST_MAC, topology::pod_mac(packet.src));
            datapath.run(sluice_abi::program::FROM_POD, &frame, CLIENT_IFINDEX)
        }
        From::Netdev => datapath.from_netdev(packet),
        From::Node => datapath.to_pod(CLIENT_IFINDEX, packet),
    }
}

/// The reason of policies for which a packet was dropped.
pub fn reason_of(run: &Run) -> Option<DropReason> {
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

/// The reason of policies for which the first packet of a probe is dropped.
pub fn reason(datapath: &Datapath, probe: &Probe, sport: u16) -> Option<DropReason> {
    reason_of(&send(datapath, probe.hook, &first_packet(probe.flow, sport)))
}
