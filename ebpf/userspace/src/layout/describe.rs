//! The layouts of this version, from the structs themselves: a field that is not named here does not
//! compile.

use std::mem::offset_of;

use sluice_abi::{
    Addr, Affinity, AffinityKey, Backend, BackendRow, Counter, Device, FlowEntry, FlowKey,
    FragmentKey, FragmentPorts, Frontend, FrontendKey, HostPortKey, LocalPod, Network, NetworkKey,
    NodeConfig, PodFlows, PodNetns, PodPolicy, PodRef, PolicyEnd, PolicyPeerKey, PolicyPortKey,
    PolicyPorts, PortBe, PortRange, ServicePort, SlotRange, SocketOrigin, SocketOrigins,
    SourceRangeKey, UdpSocket, map,
};

use super::{Field, FieldKind, Layouts, MapLayout};

/// What a type consists of.
#[derive(Clone, Copy)]
enum Shape {
    /// Bytes of one kind.
    Plain(usize, FieldKind),
    /// Elements.
    Array(usize, &'static Shape),
    /// Name, offset and type of each field, and the size of all.
    Struct(&'static [(&'static str, usize, Shape)], usize),
}

/// A type with a known layout.
trait Described {
    const SHAPE: Shape;
}

macro_rules! plain {
    ($kind:ident: $($type:ty),+) => {
        $(impl Described for $type {
            const SHAPE: Shape = Shape::Plain(size_of::<$type>(), FieldKind::$kind);
        })+
    };
}

plain!(Integer: u8, u16, u32, u64);
plain!(Bytes: Addr, PortBe);

impl<T: Described, const N: usize> Described for [T; N] {
    const SHAPE: Shape = Shape::Array(N, &T::SHAPE);
}

const fn shape_of<S, F: Described>(_: fn(&S) -> &F) -> Shape {
    F::SHAPE
}

impl Shape {
    const fn size(self) -> usize {
        match self {
            Shape::Plain(size, _) | Shape::Struct(_, size) => size,
            Shape::Array(count, element) => count * element.size(),
        }
    }
}

const fn sum(fields: &[(&'static str, usize, Shape)]) -> usize {
    let (mut sum, mut i) = (0, 0);
    while i < fields.len() {
        sum += fields[i].2.size();
        i += 1;
    }
    sum
}

macro_rules! described {
    ($($type:ident { $($(#[$cfg:meta])? $field:ident),+ $(,)? })+) => {
        $(impl Described for $type {
            const SHAPE: Shape = Shape::Struct(
                &[$($(#[$cfg])? (
                    stringify!($field),
                    offset_of!($type, $field),
                    shape_of::<$type, _>(|s| &s.$field),
                )),+],
                size_of::<$type>(),
            );
        }
        const _: () = {
            let Shape::Struct(fields, size) = <$type>::SHAPE else { unreachable!() };
            assert!(sum(fields) == size, "a field is missing");
        };)+
    };
}

described! {
    FlowKey { src, dst, sport, dport, proto, shadow, pad }
    FlowEntry {
        tuple, other, seen, backend, client, server, since, tcp, classes, kind, flags, judged, pad,
    }
    PodRef { index, generation }
    LocalPod { namespace, ifindex, pod_mac, host_mac, index, generation, pad }
    PodPolicy { generation, flags, revision, ends }
    PolicyEnd { table, otherwise }
    PolicyPorts { id, first, last, proto, kind, pad }
    PolicyPeerKey { table, class }
    PolicyPortKey { prefix_len, id, pad, proto, port }
    PodFlows { confirmed, unconfirmed, tokens_used, returned_at }
    NodeConfig { addrs, gateways, flags, mtu, snat_key, snat_ports, netns_cookie, flows_per_pod, flows_without_pod }
    PortRange { first, last }
    NetworkKey { prefix_len, addr }
    Network { kind }
    Device { addr, flags, mac, pad }
    Counter { packets, bytes }
    FrontendKey { addr, port, proto, pad }
    Frontend { service, flags }
    SlotRange { offset, len }
    ServicePort { cluster, local, affinity_seconds }
    Backend { addr, port, proto, pad }
    BackendRow { addr, port, proto, pad, service }
    FragmentKey { src, dst, id, proto, pad }
    FragmentPorts { sport, dport }
    AffinityKey { client, service }
    Affinity { backend, at }
    SourceRangeKey { prefix_len, service, addr }
    PodNetns { addrs }
    SocketOrigin { backend, frontend, backend_port, frontend_port, backend_id }
    SocketOrigins { next, origins }
    UdpSocket { netns_cookie, backend, frontend, backend_port, frontend_port, backend_id }
}

/// A value that is one field.
const VALUE: &str = "value";

fn flatten(path: &str, offset: usize, shape: &Shape, fields: &mut Vec<Field>) {
    let mut push = |size, count, kind| {
        let path = if path.is_empty() { VALUE } else { path };
        fields.push(Field { path: path.to_owned(), offset, size, count, kind });
    };
    match *shape {
        Shape::Plain(size, kind) => push(size, 1, kind),
        Shape::Array(count, Shape::Plain(size, kind)) => push(*size, count, *kind),
        Shape::Array(count, element) => {
            for n in 0..count {
                flatten(&format!("{path}.{n}"), offset + n * element.size(), element, fields);
            }
        }
        Shape::Struct(members, _) => {
            for (name, at, shape) in members {
                let path =
                    if path.is_empty() { (*name).to_owned() } else { format!("{path}.{name}") };
                flatten(&path, offset + at, shape, fields);
            }
        }
    }
}

fn fields<T: Described>() -> Vec<Field> {
    let mut fields = Vec::new();
    flatten("", 0, &T::SHAPE, &mut fields);
    fields
}

/// The layouts of the maps of this version. Maps that are not described are private to the programs
/// of one load. Where a field keeps its name and changes its meaning, the map's revision is raised.
pub fn current() -> Layouts {
    fn of<K: Described, V: Described>(name: &str, revision: u32) -> (String, MapLayout) {
        (name.to_owned(), MapLayout { revision, key: fields::<K>(), value: fields::<V>() })
    }
    let layouts = [
        of::<Addr, LocalPod>(map::LOCAL_PODS, 1),
        of::<u32, LocalPod>(map::PODS, 1),
        of::<u32, PodFlows>(map::POD_FLOWS, 1),
        of::<NetworkKey, Network>(map::NETWORKS, 1),
        of::<FrontendKey, Frontend>(map::FRONTENDS, 1),
        of::<u32, ServicePort>(map::SERVICES, 1),
        of::<u32, u32>(map::SLOTS, 1),
        of::<u32, BackendRow>(map::BACKENDS, 1),
        of::<AffinityKey, Affinity>(map::AFFINITY, 1),
        of::<SourceRangeKey, u32>(map::SOURCE_RANGES, 1),
        of::<u64, PodNetns>(map::POD_NETNS, 1),
        of::<HostPortKey, Backend>(map::HOST_PORTS, 1),
        of::<u32, PodPolicy>(map::POD_POLICY, 1),
        of::<Addr, u64>(map::POLICY_CLASSES, 1),
        of::<NetworkKey, u64>(map::POLICY_NETWORKS, 1),
        of::<PolicyPeerKey, PolicyPorts>(map::POLICY_PEERS, 1),
        of::<PolicyPortKey, u32>(map::POLICY_PORTS, 1),
        of::<u64, u32>(map::OPEN_NAMESPACES, 1),
        of::<u32, u32>(map::POLICY_EPOCH, 1),
        of::<FlowKey, FlowEntry>(map::FLOWS, 1),
        of::<FlowKey, FlowEntry>(map::FLOWS_NEW_POD, 1),
        of::<FlowKey, FlowEntry>(map::FLOWS_NEW_WIRE, 1),
        of::<FragmentKey, FragmentPorts>(map::FRAGMENTS, 1),
        of::<u32, SocketOrigins>(map::SOCKET_ORIGINS, 1),
        of::<u64, UdpSocket>(map::UDP_SOCKETS, 1),
        of::<u32, NodeConfig>(map::NODE_CONFIG, 1),
        of::<u32, Device>(map::DEVICES, 1),
        of::<u32, Counter>(map::COUNTERS, 1),
    ];
    Layouts(layouts.into_iter().collect())
}
