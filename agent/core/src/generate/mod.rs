//! Generators of random valid objects. Names and addresses come from small sets, so that objects
//! collide: Services share addresses, slices share endpoints, nodes have overlapping pod ranges.

mod external;
mod policy;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

pub use external::{NODE_PORTS, clients, external_addresses, node_port_addresses};
use ipnet::IpNet;
pub use policy::{
    GRE, NodeChange, PolicyEdit, PolicySequence, SequenceStep, lease_lines, leases, manifests,
    network_policy, policy_change, policy_edit, policy_objects, policy_peers, policy_pod,
    policy_probes, readable, sandbox, shrink,
};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::{Index as Pick, select};

use crate::model::{
    AddressType, Change, Endpoint, EndpointPort, EndpointSlice, Hints, Kind, Node, NodeContext,
    Object, ObjectName, Pod, Port, Protocol, Service, ServiceCidr, ServicePort, TrafficPolicy, Uid,
    parse_cidr,
};

/// Name of the node under test.
pub const THIS_NODE: &str = "n1";
/// Objects of a set, before those of equal names are removed.
const MOST_OBJECTS: usize = 24;
const NAMESPACES: [&str; 2] = ["shop", "test"];
const NODES: [&str; 3] = [THIS_NODE, "n2", "n3"];
const ZONES: [&str; 2] = ["z1", "z2"];
/// Port numbers in use.
pub const PORTS: [u16; 3] = [53, 80, 443];

/// Service addresses in use.
pub fn service_addresses() -> Vec<IpAddr> {
    let v4 = (1..=4).map(|n| IpAddr::V4(Ipv4Addr::new(10, 96, 0, n)));
    let v6 = (1..=2).map(|n| IpAddr::V6(Ipv6Addr::new(0xfd00, 0x96, 0, 0, 0, 0, 0, n)));
    v4.chain(v6).collect()
}

fn name() -> impl Strategy<Value = ObjectName> {
    (select(&NAMESPACES[..]), select(&["a", "b", "c"][..]))
        .prop_map(|(namespace, name)| ObjectName::new(namespace, name))
}

fn strings(from: &'static [&'static str]) -> impl Strategy<Value = Vec<String>> {
    prop_oneof![
        2 => Just(Vec::new()),
        1 => vec(select(from).prop_map(String::from), 1..3),
    ]
}

fn port() -> impl Strategy<Value = Port> {
    select(&PORTS[..]).prop_filter_map("a port", Port::new)
}

/// Skewed, so that Services and slices often match.
fn protocol() -> impl Strategy<Value = Protocol> {
    prop_oneof![4 => Just(Protocol::Tcp), 4 => Just(Protocol::Udp), 1 => Just(Protocol::Sctp)]
}

/// Skewed like the protocol.
fn port_name() -> impl Strategy<Value = String> {
    prop_oneof![4 => Just("http"), 1 => Just("dns"), 1 => Just("")].prop_map(String::from)
}

fn rarely() -> impl Strategy<Value = bool> {
    prop_oneof![9 => Just(false), 1 => Just(true)]
}

/// A Node. Pod ranges of different nodes may be equal, nested or disjoint.
pub fn node() -> impl Strategy<Value = Node> {
    let zone = option::weighted(0.8, select(&ZONES[..]).prop_map(String::from));
    let bits = prop_oneof![6 => Just(24u8), 1 => Just(16), 1 => Just(25)];
    (select(&NODES[..]), 2..5u8, (1..4u8, bits), any::<bool>(), zone).prop_map(
        |(name, host, (net, bits), dual, zone)| {
            let mut internal_ips = vec![IpAddr::V4(Ipv4Addr::new(172, 18, 0, host))];
            let mut pod_cidrs = Vec::new();
            pod_cidrs.extend(parse_cidr(&format!("10.244.{net}.0/{bits}")));
            if dual {
                let host = Ipv6Addr::new(0xfc00, 0, 0, 0, 0, 0, 0, host.into());
                internal_ips.push(IpAddr::V6(host));
                pod_cidrs.extend(parse_cidr(&format!("fd00:{net}::/64")));
            }
            // As many clouds translate it: also the address of a load balancer.
            let external_ips = if dual { vec![IpAddr::from([203, 0, 113, 2])] } else { Vec::new() };
            let name = name.into();
            Node {
                name,
                internal_ips,
                external_ips,
                pod_cidrs,
                zone,
                leaving: false,
                ..Node::default()
            }
        },
    )
}

/// Addresses to classify: of nodes, pods and Services, free ones, and outside ones.
pub fn destinations() -> Vec<IpAddr> {
    let mut addresses = service_addresses();
    addresses.extend((1..=5).map(|n| IpAddr::from([172, 18, 0, n])));
    for net in 0..5 {
        addresses.extend([1, 200].map(|host| IpAddr::from([10, 244, net, host])));
    }
    addresses.extend([[10, 97, 0, 1], [10, 245, 0, 1], [198, 51, 100, 7]].map(IpAddr::from));
    for n in 0..5 {
        addresses.push(Ipv6Addr::new(0xfc00, 0, 0, 0, 0, 0, 0, n).into());
        addresses.push(Ipv6Addr::new(0xfd00, n, 0, 0, 0, 0, 0, 1).into());
    }
    addresses
}

/// Addresses and ServiceCIDRs of the node under test.
pub fn node_context() -> impl Strategy<Value = NodeContext> {
    let v4 = (2..5u8).prop_map(|host| IpAddr::from([172, 18, 0, host]));
    let v6 = (2..5u16).prop_map(|host| Ipv6Addr::new(0xfc00, 0, 0, 0, 0, 0, 0, host).into());
    let pod = Just(IpAddr::from([10, 244, 1, 1]));
    let service = Just(IpAddr::from([10, 96, 0, 3]));
    let addresses = vec(prop_oneof![3 => v4, 2 => v6, 1 => pod, 1 => service], 0..3);
    (addresses, vec(service_range(), 0..3), node_port_addresses()).prop_map(
        |(local_addresses, service_cidrs, node_ports)| NodeContext {
            local_addresses,
            service_cidrs,
            node_ports,
        },
    )
}

fn service_range() -> impl Strategy<Value = IpNet> {
    let cidrs = ["10.96.0.0/16", "10.96.0.0/30", "10.244.2.0/24", "10.244.1.0/28", "fd00:96::/108"];
    select(cidrs.to_vec()).prop_filter_map("a CIDR", parse_cidr)
}

/// A ServiceCIDR.
fn service_cidr() -> impl Strategy<Value = ServiceCidr> {
    (select(&["a", "b"][..]), vec(service_range(), 1..3))
        .prop_map(|(name, cidrs)| ServiceCidr { name: name.into(), cidrs: cidrs.into() })
}

/// Skewed, so that Services share addresses.
fn cluster_ip() -> impl Strategy<Value = IpAddr> {
    prop_oneof![1 => Just(IpAddr::from([10, 96, 0, 1])), 2 => select(service_addresses())]
}

/// A Service.
pub fn service() -> impl Strategy<Value = Service> {
    let ports = vec((port_name(), protocol(), port(), external::node_port()), 1..4);
    (
        name(),
        0..3i64,
        rarely(),
        rarely(),
        vec(cluster_ip(), 1..3),
        ports,
        option::of(1..100u32),
        traffic_policy(),
        external::access(),
    )
        .prop_map(
            |(
                name,
                created,
                hidden,
                external_name,
                cluster_ips,
                ports,
                affinity,
                policy,
                access,
            )| {
                Service {
                    name,
                    created,
                    hidden,
                    external_name,
                    cluster_ips: cluster_ips.into(),
                    ports: ports
                        .into_iter()
                        .map(|(name, protocol, port, node_port)| ServicePort {
                            name: name.into(),
                            protocol,
                            port,
                            node_port,
                        })
                        .collect(),
                    session_affinity: affinity,
                    // Not drawn, so that the shares of the other cases stay as they are.
                    publish_not_ready: created == 2,
                    internal_traffic_policy: policy,
                    external: access.map(Box::new),
                }
            },
        )
}

fn traffic_policy() -> impl Strategy<Value = TrafficPolicy> {
    prop_oneof![2 => Just(TrafficPolicy::Cluster), 1 => Just(TrafficPolicy::Local)]
}

/// Conditions ready, serving and terminating, mostly as the EndpointSlice controller sets them.
fn conditions() -> impl Strategy<Value = (bool, bool, bool)> {
    prop_oneof![
        4 => Just((true, true, false)),
        2 => Just((false, true, true)),
        1 => Just((false, false, false)),
        1 => any::<(bool, bool, bool)>(),
    ]
}

/// Which hints all endpoints of a slice have; otherwise each has any or none.
#[derive(Clone, Copy, Debug)]
enum Hinted {
    Any,
    Zones,
    Nodes,
}

fn endpoint() -> impl Strategy<Value = Endpoint> {
    let v4 = (1..5u8).prop_map(|n| IpAddr::V4(Ipv4Addr::new(10, 244, n % 3, n)));
    let v6 = (1..3u16).prop_map(|n| IpAddr::V6(Ipv6Addr::new(0xfd00, n, 0, 0, 0, 0, 0, n)));
    (
        prop_oneof![6 => v4, 1 => v6],
        conditions(),
        option::weighted(0.8, select(&NODES[..]).prop_map(String::from)),
        strings(&ZONES),
        strings(&NODES),
    )
        .prop_map(|(address, conditions, node_name, zones, nodes)| {
            let (ready, serving, terminating) = conditions;
            let node_name = node_name.map(Into::into);
            let given = !zones.is_empty() || !nodes.is_empty();
            let hints = given.then(|| Box::new(Hints { zones, nodes }));
            let target = target(address);
            Endpoint { address, ready, serving, terminating, node_name, hints, target }
        })
}

/// Half of the endpoints refer to a Pod by its UID.
fn target(address: IpAddr) -> Option<Uid> {
    let number = match address {
        IpAddr::V4(v4) => v4.octets()[3].into(),
        IpAddr::V6(v6) => v6.segments()[1],
    };
    uid(number).filter(|_| number % 2 == 1)
}

fn uid(number: u16) -> Option<Uid> {
    Uid::from_api(&format!("{number:032x}"))
}

/// A Pod; half have the UID of endpoints, and most end. All are in one namespace: no two have one UID.
fn pod() -> impl Strategy<Value = Pod> {
    (1..5u16, rarely(), proptest::bool::weighted(0.7)).prop_map(|(n, host_network, terminating)| {
        Pod {
            name: ObjectName::new(NAMESPACES[0], format!("p{n}")),
            uid: uid(n),
            terminating,
            host_network,
            ..Pod::default()
        }
    })
}

/// Pods with different names.
pub fn pods() -> impl Strategy<Value = Vec<Object>> {
    vec(pod().prop_map(Object::Pod), 0..9).prop_map(distinct)
}

/// Up to five endpoints.
fn endpoints() -> impl Strategy<Value = Vec<Endpoint>> {
    let hinted =
        prop_oneof![2 => Just(Hinted::Any), 1 => Just(Hinted::Zones), 1 => Just(Hinted::Nodes)];
    let places = vec((select(&ZONES[..]), select(&NODES[..])), 5);
    (vec(endpoint(), 0..6), hinted, places).prop_map(|(mut endpoints, hinted, places)| {
        for (endpoint, (zone, node)) in endpoints.iter_mut().zip(places) {
            match hinted {
                Hinted::Any => {}
                Hinted::Zones => {
                    let hints = Hints { zones: vec![zone.into()], nodes: vec![] };
                    endpoint.hints = Some(Box::new(hints));
                }
                Hinted::Nodes => {
                    endpoint.hints.get_or_insert_default().nodes = vec![node.into()];
                }
            }
        }
        endpoints
    })
}

/// An EndpointSlice.
pub fn endpoint_slice() -> impl Strategy<Value = EndpointSlice> {
    let slice_name = (select(&NAMESPACES[..]), select(&["s1", "s2", "s3", "s4"][..]))
        .prop_map(|(namespace, name)| ObjectName::new(namespace, name));
    let service = option::weighted(0.9, select(&["a", "b", "c"][..]).prop_map(Arc::<str>::from));
    let address_type = prop_oneof![
        5 => Just(AddressType::Ipv4),
        2 => Just(AddressType::Ipv6),
        1 => Just(AddressType::Other),
    ];
    // A port without a name has the empty name.
    let port_name = option::weighted(0.9, port_name()).prop_map(Option::unwrap_or_default);
    let ports = vec((port_name, protocol(), option::weighted(0.9, port())), 0..4);
    (slice_name, service, rarely(), address_type, ports, endpoints()).prop_map(
        |(name, service, hidden, address_type, ports, endpoints)| EndpointSlice {
            invalid: None,
            trigger: None,
            name,
            service,
            hidden,
            address_type,
            ports: ports
                .into_iter()
                .map(|(name, protocol, port)| EndpointPort { name: name.into(), protocol, port })
                .collect(),
            endpoints: endpoints.into(),
        },
    )
}

/// A Node, Service or EndpointSlice.
pub fn object() -> impl Strategy<Value = Object> {
    prop_oneof![
        2 => node().prop_map(Object::Node),
        3 => service().prop_map(Object::Service),
        4 => endpoint_slice().prop_map(Object::EndpointSlice),
    ]
}

/// An object of any kind that rows depend on.
fn any_object() -> impl Strategy<Value = Object> {
    prop_oneof![
        24 => object(),
        1 => service_cidr().prop_map(Object::ServiceCidr),
        2 => pod().prop_map(Object::Pod),
    ]
}

/// Objects that can exist together: names are unique per kind, and most slices belong to one of the
/// Services.
pub fn objects() -> impl Strategy<Value = Vec<Object>> {
    let owners = vec(option::weighted(0.75, any::<Pick>()), MOST_OBJECTS);
    (vec(object(), 0..MOST_OBJECTS), owners)
        .prop_map(|(objects, owners)| distinct(with_owners(objects, &owners)))
}

/// ServiceCIDRs with different names.
pub fn service_cidrs() -> impl Strategy<Value = Vec<Object>> {
    vec(service_cidr().prop_map(Object::ServiceCidr), 0..3).prop_map(distinct)
}

/// Gives each slice that has an owner the namespace, name, family and port names of that Service.
fn with_owners(mut objects: Vec<Object>, owners: &[Option<Pick>]) -> Vec<Object> {
    let service = |o: &Object| if let Object::Service(s) = o { Some(s.clone()) } else { None };
    let services: Vec<Service> = objects.iter().filter_map(service).collect();
    for (object, owner) in objects.iter_mut().zip(owners) {
        let (Object::EndpointSlice(slice), Some(owner)) = (object, owner) else { continue };
        if services.is_empty() {
            continue;
        }
        let service = owner.get(&services);
        slice.name.namespace.clone_from(&service.name.namespace);
        slice.service = Some(service.name.name.clone());
        let v4 = service.cluster_ips.first().is_none_or(IpAddr::is_ipv4);
        slice.address_type = if v4 { AddressType::Ipv4 } else { AddressType::Ipv6 };
        for (port, of_service) in slice.ports.iter_mut().zip(service.ports.iter().cycle()) {
            port.name = of_service.name.clone();
            port.protocol = of_service.protocol;
        }
    }
    objects
}

/// A change; the object may or may not exist.
pub fn change() -> impl Strategy<Value = Change> {
    let kinds = [Kind::Node, Kind::Service, Kind::EndpointSlice, Kind::ServiceCidr, Kind::Pod];
    let kind = select(kinds.to_vec());
    prop_oneof![
        6 => any_object().prop_map(Change::Apply),
        3 => any_object().prop_map(|o| Change::Delete(o.kind(), o.name())),
        1 => (kind, objects()).prop_map(|(kind, objects)| Change::Replace(kind, objects)),
    ]
}

/// The last object of each kind and name.
fn distinct(objects: Vec<Object>) -> Vec<Object> {
    let mut kept: Vec<Object> = Vec::new();
    for object in objects {
        kept.retain(|k| (k.kind(), k.name()) != (object.kind(), object.name()));
        kept.push(object);
    }
    kept
}
