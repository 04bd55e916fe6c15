//! Random clusters with NetworkPolicies and ClusterNetworkPolicies. Every field is drawn; names, labels and
//! addresses come from small sets, so that selectors match some pods and addresses are used again.

mod cluster;
mod edit;
mod manifest;
mod overlapping;
mod sequence;
mod shrink;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::{select, subsequence};

use self::cluster::cluster_network_policy;
pub use self::edit::{PolicyEdit, policy_edit};
pub use self::manifest::{lease_lines, manifests, readable};
pub use self::sequence::{NodeChange, PolicySequence, SequenceStep};
pub use self::shrink::shrink;
use super::{THIS_NODE, distinct, protocol, rarely};
use crate::model::{
    Change, ContainerPort, IpBlock, Kind, LabelSelector, Labels, Namespace, NetworkPolicy, Node,
    Object, ObjectName, Operator, Pod, PodPhase, PolicyPeer, PolicyPort, PolicyRule, Port,
    PortSpec, Protocol, Requirement, Uid, parse_ip,
};
use crate::oracle::Sandbox;
use crate::policy::LocalPod;

const NAMESPACES: [&str; 3] = ["shop", "test", "infra"];
const KEYS: [&str; 2] = ["app", "role"];
const VALUES: [&str; 3] = ["web", "db", ""];
const PORT_NAMES: [&str; 2] = ["http", "dns"];
const NUMBERS: [u16; 6] = [53, 80, 81, 443, 8080, 65_535];
/// Addresses of pods; the last two are in no pod range.
const POD_IPS: [&str; 9] = [
    "10.244.1.2",
    "10.244.1.3",
    "10.244.1.4",
    "10.244.2.2",
    "10.244.2.3",
    "fd00:1::2",
    "fd00:2::2",
    "10.99.0.1",
    "fd99::1",
];
/// Addresses of nodes.
const NODE_IPS: [&str; 3] = ["172.18.0.2", "172.18.0.3", "198.51.100.7"];
const BLOCKS: [&str; 12] = [
    "10.244.0.0/16",
    "10.244.1.0/24",
    "10.244.1.2/31",
    "10.244.1.3/32",
    "10.0.0.0/8",
    "0.0.0.0/0",
    "172.18.0.0/24",
    "198.51.100.0/24",
    "198.51.100.7/32",
    "::/0",
    "fd00:1::/64",
    "fd00::/8",
];

/// Pod ranges, some in others.
const RANGES: [&str; 5] =
    ["10.244.1.0/24", "10.244.2.0/24", "10.244.0.0/16", "10.244.1.0/25", "fd00:1::/64"];

/// A protocol without ports whose packets have nothing that tells flows apart: RFC 2784.
pub const GRE: u8 = 47;

/// Protocols and ports to probe.
pub fn policy_probes() -> Vec<(u8, u16)> {
    use sluice_abi::proto::{ICMP, SCTP, TCP, UDP};
    let ports = NUMBERS.into_iter().chain([0, 82]);
    let probes = ports.flat_map(|port| [TCP, UDP, SCTP].map(|protocol| (protocol, port)));
    probes.chain([(ICMP, 0), (GRE, 0)]).collect()
}

/// Addresses to probe: of pods, free ones, of nodes, outside ones.
pub fn policy_peers() -> Vec<IpAddr> {
    let others = [
        "10.244.1.200",
        "10.244.2.9",
        "10.9.9.9",
        "172.18.0.2",
        "172.18.0.3",
        "198.51.100.7",
        "198.51.100.8",
        "203.0.113.1",
        "fd00:1::9",
        "2001:db8::1",
    ];
    POD_IPS.into_iter().chain(others).filter_map(parse_ip).collect()
}

fn text(from: &'static [&'static str]) -> impl Strategy<Value = Arc<str>> {
    select(from).prop_map(Arc::from)
}

fn requirement() -> impl Strategy<Value = Requirement> {
    let values = || vec(text(&VALUES), 1..3).prop_map(Box::<[Arc<str>]>::from);
    let operator = prop_oneof![
        4 => values().prop_map(Operator::In),
        2 => values().prop_map(Operator::NotIn),
        1 => Just(Operator::Exists),
        1 => Just(Operator::DoesNotExist),
    ];
    (text(&KEYS), operator).prop_map(|(key, operator)| Requirement { key, operator })
}

/// A label selector, often without requirements.
fn selector() -> impl Strategy<Value = LabelSelector> {
    prop_oneof![
        2 => Just(LabelSelector::default()),
        5 => vec(requirement(), 1..3).prop_map(LabelSelector::from_iter),
    ]
}

fn net(from: &'static [&'static str]) -> impl Strategy<Value = IpNet> {
    select(from).prop_filter_map("a CIDR", |text| text.parse().ok())
}

/// A block; it may have host bits, and exceptions of any size.
fn block() -> impl Strategy<Value = IpBlock> {
    (net(&BLOCKS), vec(net(&BLOCKS), 0..3), any::<bool>()).prop_map(|(cidr, except, host)| {
        let host_bits = |net: IpNet| IpNet::new(net.broadcast(), net.prefix_len()).unwrap_or(net);
        let cidr = if host { host_bits(cidr) } else { cidr };
        IpBlock { cidr, except: except.into() }
    })
}

fn peer() -> impl Strategy<Value = PolicyPeer> {
    let pods = (option::of(selector()), selector());
    prop_oneof![
        12 => pods.prop_map(|(namespaces, pods)| PolicyPeer::Pods { namespaces, pods }),
        6 => block().prop_map(PolicyPeer::Block),
        1 => Just(PolicyPeer::Invalid("peer".into())),
    ]
}

fn number() -> impl Strategy<Value = Port> {
    select(&NUMBERS[..]).prop_filter_map("a port", Port::new)
}

fn policy_port() -> impl Strategy<Value = PolicyPort> {
    let ports = prop_oneof![
        1 => Just(PortSpec::All),
        4 => number().prop_map(PortSpec::Number),
        3 => (number(), number()).prop_map(|(first, last)| PortSpec::Range(first, last)),
        4 => text(&PORT_NAMES).prop_map(PortSpec::Name),
        1 => Just(PortSpec::Invalid("port".into())),
    ];
    (protocol(), ports).prop_map(|(protocol, ports)| PolicyPort { protocol, ports })
}

fn rule() -> impl Strategy<Value = PolicyRule> {
    (vec(peer(), 0..3), vec(policy_port(), 0..3))
        .prop_map(|(peers, ports)| PolicyRule { peers: peers.into(), ports: ports.into() })
}

fn rules() -> impl Strategy<Value = Option<Box<[PolicyRule]>>> {
    option::weighted(0.7, vec(rule(), 0..4).prop_map(Box::from))
}

fn name(names: &'static [&'static str]) -> impl Strategy<Value = ObjectName> {
    (select(&NAMESPACES[..]), select(names))
        .prop_map(|(namespace, name)| ObjectName::new(namespace, name))
}

/// A NetworkPolicy.
pub fn network_policy() -> impl Strategy<Value = NetworkPolicy> {
    (name(&["n1", "n2", "n3"]), selector(), rules(), rules()).prop_map(
        |(name, pod_selector, ingress, egress)| NetworkPolicy {
            name,
            pod_selector,
            ingress,
            egress,
            ..NetworkPolicy::default()
        },
    )
}

fn labels() -> impl Strategy<Value = Vec<(Arc<str>, Arc<str>)>> {
    vec((text(&KEYS), text(&VALUES)), 0..3)
}

fn pod_name() -> impl Strategy<Value = ObjectName> {
    name(&["p1", "p2", "p3"])
}

fn uid_of(number: u16) -> Option<Uid> {
    Uid::from_api(&format!("{number:032x}"))
}

fn uid() -> impl Strategy<Value = Option<Uid>> {
    let uid = select(&[1u16, 1, 1, 2][..]).prop_map(uid_of);
    prop_oneof![4 => uid, 1 => Just(None)]
}

fn phase() -> impl Strategy<Value = PodPhase> {
    prop_oneof![
        8 => Just(PodPhase::Running),
        1 => Just(PodPhase::Pending),
        1 => Just(PodPhase::Succeeded),
        1 => Just(PodPhase::Failed),
    ]
}

fn container_port() -> impl Strategy<Value = ContainerPort> {
    let protocol = prop_oneof![3 => Just(Protocol::Tcp), 1 => protocol()];
    (text(&PORT_NAMES), protocol, number()).prop_map(|(name, protocol, port)| ContainerPort {
        name,
        protocol,
        port,
    })
}

/// A Pod with an address that other Pods may have too.
pub fn policy_pod() -> impl Strategy<Value = Pod> {
    let ips = vec(select(&POD_IPS[..]).prop_filter_map("an address", parse_ip), 0..3);
    let ports = vec(container_port(), 0..3);
    (pod_name(), labels(), uid(), ips, ports, phase(), (rarely(), rarely())).prop_map(
        |(name, labels, uid, ips, ports, phase, (host_network, terminating))| Pod {
            name,
            uid,
            node: Some(THIS_NODE.into()),
            labels: labels.into_iter().collect::<Labels>(),
            ports: ports.into(),
            ips: ips.into_iter().collect(),
            phase,
            host_network,
            terminating,
        },
    )
}

fn namespace() -> impl Strategy<Value = Namespace> {
    (select(&NAMESPACES[..]), labels()).prop_map(|(name, labels)| {
        let labels = labels.into_iter().map(|(k, v)| (k.to_string(), v.to_string()));
        Namespace { name: name.into(), labels: labels.collect::<BTreeMap<_, _>>() }
    })
}

fn policy_node() -> impl Strategy<Value = Node> {
    let ip = || select(&NODE_IPS[..]).prop_filter_map("an address", parse_ip);
    let ips = (vec(ip(), 0..3), vec(ip(), 0..2));
    (select(&[THIS_NODE, "n2"][..]), vec(net(&RANGES), 0..3), labels(), ips).prop_map(
        |(name, pod_cidrs, labels, (internal_ips, external_ips))| Node {
            name: name.into(),
            pod_cidrs,
            internal_ips,
            external_ips,
            labels: labels.into_iter().collect(),
            ..Node::default()
        },
    )
}

fn policy_object() -> impl Strategy<Value = Object> {
    prop_oneof![
        3 => network_policy().prop_map(Object::NetworkPolicy),
        2 => cluster_network_policy().prop_map(Object::ClusterNetworkPolicy),
        4 => policy_pod().prop_map(Object::Pod),
        2 => namespace().prop_map(Object::Namespace),
        1 => policy_node().prop_map(Object::Node),
    ]
}

/// Objects that policies depend on; names are unique per kind. In two of three clusters,
/// policies overlap.
pub fn policy_objects() -> impl Strategy<Value = Vec<Object>> {
    let scattered = vec(policy_object(), 0..28).prop_map(distinct);
    prop_oneof![1 => scattered, 2 => overlapping::objects()]
}

/// A change of an object that policies depend on.
pub fn policy_change() -> impl Strategy<Value = Change> {
    let kinds =
        [Kind::NetworkPolicy, Kind::ClusterNetworkPolicy, Kind::Pod, Kind::Namespace, Kind::Node];
    prop_oneof![
        5 => policy_object().prop_map(Change::Apply),
        3 => overlapping::object().prop_map(Change::Apply),
        3 => policy_object().prop_map(|o| Change::Delete(o.kind(), o.name())),
        1 => select(kinds.to_vec()).prop_map(|kind| Change::Retain(kind, vec![])),
    ]
}

/// A pod of this node, as the oracle sees it.
pub fn sandbox(pod: &LocalPod) -> Sandbox {
    Sandbox { address: pod.address, name: pod.name.clone(), uid: pod.uid }
}

/// Leases of pods of this node with different indices, addresses and names.
pub fn leases() -> impl Strategy<Value = Vec<LocalPod>> {
    let addresses = prop_oneof![
        1 => subsequence(POD_IPS[..6].to_vec(), 0..=6),
        1 => subsequence(POD_IPS[..6].to_vec(), 4..=5),
    ];
    let pods = vec((1..4u16, option::weighted(0.9, pod_name()), uid()), 6);
    (addresses, pods).prop_map(|(addresses, pods)| {
        let mut leases: Vec<LocalPod> = Vec::new();
        for (at, (address, (generation, name, uid))) in addresses.iter().zip(pods).enumerate() {
            let known = name.is_some() && leases.iter().any(|lease| lease.name == name);
            let (Some(address), false) = (parse_ip(address), known) else { continue };
            let index = at as u16 * 7;
            leases.push(LocalPod { index, generation, address, name, uid });
        }
        leases
    })
}
