//! The expected result of a packet, derived from the objects without the compiler.

use std::collections::BTreeSet;
use std::net::IpAddr;

use packet_tests::{Action, GATEWAY, NODE, Packet as Sent, Run, XdpRun, show};
use sluice_abi::{DropReason, Outcome};
use sluice_core::generate::THIS_NODE;
use sluice_core::model::{NodeContext, NodePortAddresses, Object, parse_cidr};
use sluice_core::oracle::{
    Answer, Client, DestinationClass, Packet, Source, World, answer, network,
};

/// The node's configured ServiceCIDR.
const SERVICE_CIDR: &str = "10.96.0.0/16";

/// Pods of this node; the first one sends.
pub const PODS: [[u8; 4]; 2] = [[10, 244, 1, 1], [10, 244, 2, 2]];

/// Destination, port and protocol of a packet.
pub type Destination = ([u8; 4], u16, u8);

/// What an address is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Class {
    Pod,
    FreePod,
    ThisNode,
    OtherNode,
    RemotePod,
    Services,
    External,
}

/// A permitted result of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expected {
    action: Action,
    counters: BTreeSet<&'static str>,
    /// The packet that comes out; `None` where it is not delivered.
    delivered: Option<Delivered>,
}

/// Source address and destination of a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Delivered {
    source: [u8; 4],
    destination: ([u8; 4], u16),
}

/// A set of objects, and what the node knows about itself.
#[derive(Clone, Debug)]
pub struct Case {
    /// The objects of the cluster.
    pub objects: Vec<Object>,
    /// Addresses of this node, its ranges of Services, and the addresses that serve NodePorts.
    pub context: NodeContext,
}

impl Case {
    /// A case whose node serves NodePorts on these addresses.
    pub fn new(objects: Vec<Object>, node_ports: NodePortAddresses) -> Case {
        let context = NodeContext {
            local_addresses: vec![IpAddr::from(NODE)],
            service_cidrs: parse_cidr(SERVICE_CIDR).into_iter().collect(),
            node_ports,
        };
        Case { objects, context }
    }

    /// The case with other objects.
    pub fn with(&self, objects: &[Object]) -> Case {
        Case { objects: objects.to_vec(), context: self.context.clone() }
    }

    /// The verdict of the oracle.
    pub fn answer(&self, from: From, (dst, port, protocol): Destination) -> Answer {
        let (client, src) = match from {
            From::Pod => (Client::Pod, PODS[0]),
            From::Node => (Client::Node, NODE),
            From::Netdev(src) => (Client::Other, src),
        };
        let packet = Packet { client, src: src.into(), dst: dst.into(), port, protocol };
        answer(World { objects: &self.objects, node: THIS_NODE, context: &self.context }, packet)
    }

    /// Whether an address is in the range of pods of this node, and free.
    pub fn is_free_pod(&self, address: [u8; 4]) -> bool {
        self.class(address) == Class::FreePod
    }

    /// The class of an address: pods and the node's own addresses by `topology.rs`, all others by the
    /// oracle.
    fn class(&self, address: [u8; 4]) -> Class {
        if PODS.contains(&address) {
            return Class::Pod;
        }
        if [NODE, GATEWAY].contains(&address) {
            return Class::ThisNode;
        }
        match network(&self.objects, THIS_NODE, &self.context, IpAddr::from(address)) {
            DestinationClass::ThisNode => Class::ThisNode,
            DestinationClass::LocalPods => Class::FreePod,
            DestinationClass::OtherNode => Class::OtherNode,
            DestinationClass::RemotePods => Class::RemotePod,
            DestinationClass::Services => Class::Services,
            DestinationClass::Outside => Class::External,
        }
    }
}

/// Where a packet comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum From {
    /// The first of [`PODS`].
    Pod,
    /// The node, from its own address.
    Node,
    /// Another host with this address.
    Netdev([u8; 4]),
}

/// Delivery to an address, after translation to it if `translated` is the source that it sees.
fn delivery(
    case: &Case,
    from: From,
    (address, port): ([u8; 4], u16),
    translated: Option<Source>,
) -> Expected {
    let class = case.class(address);
    let is_left_to_stack = match from {
        From::Pod => false,
        From::Node => translated.is_none(),
        From::Netdev(_) => {
            translated.is_none() && !matches!(class, Class::Pod | Class::FreePod | Class::Services)
        }
    };
    if is_left_to_stack {
        let (action, counters) = (Action::Next, BTreeSet::new());
        return Expected { action, counters, delivered: None };
    }
    let reason = match class {
        Class::FreePod => Some(DropReason::NoSuchPod),
        Class::Services => Some(DropReason::NoSuchService),
        _ => None,
    };
    if let Some(reason) = reason {
        return drop_with(reason);
    }
    if from == From::Node && class == Class::ThisNode {
        // The packet has left the stack, and cannot return to it.
        return rejection(DropReason::NoEndpoint);
    }
    let (action, outcome) = match class {
        Class::Pod => (Action::Redirect, Outcome::ToPod),
        Class::ThisNode => (Action::Next, Outcome::ToStack),
        _ => (Action::Redirect, Outcome::ToUplink),
    };
    let mut counters = BTreeSet::from([outcome.label()]);
    if translated.is_some() {
        counters.insert(Outcome::Translated.label());
    }
    let is_masqueraded = match from {
        From::Pod => address == PODS[0] || class == Class::External,
        // It has an address of the node.
        From::Node => false,
        // The stack accepts no packet from an address of its own.
        From::Netdev(_) => translated == Some(Source::Node) && class != Class::ThisNode,
    };
    if is_masqueraded {
        counters.insert(Outcome::Masqueraded.label());
    }
    let source = match from {
        _ if is_masqueraded => NODE,
        From::Pod => PODS[0],
        From::Node => NODE,
        From::Netdev(address) => address,
    };
    let delivered = Some(Delivered { source, destination: (address, port) });
    Expected { action, counters, delivered }
}

fn drop_with(reason: DropReason) -> Expected {
    let counters = BTreeSet::from([reason.label()]);
    Expected { action: Action::Drop, counters, delivered: None }
}

fn rejection(reason: DropReason) -> Expected {
    let counters = BTreeSet::from([reason.label(), Outcome::Rejected.label()]);
    Expected { action: Action::Redirect, counters, delivered: None }
}

/// Every permitted result of a packet.
pub fn expected(case: &Case, from: From, to: Destination) -> Vec<Expected> {
    let (dst, port, _) = to;
    // An address of a pod of this node, whatever the ranges of pods are.
    if PODS.contains(&dst) {
        return vec![delivery(case, from, (dst, port), None)];
    }
    match case.answer(from, to) {
        Answer::NotAService => vec![delivery(case, from, (dst, port), None)],
        Answer::Rejected => {
            [DropReason::NoEndpoint, DropReason::UnknownServicePort].map(rejection).into()
        }
        Answer::Dropped => vec![drop_with(DropReason::NoLocalEndpoint)],
        Answer::SourceNotAllowed => vec![drop_with(DropReason::SourceNotAllowed)],
        Answer::Backends { endpoints, source, .. } => endpoints
            .iter()
            .filter_map(|(address, port)| match address {
                IpAddr::V4(address) => Some((address.octets(), *port)),
                IpAddr::V6(_) => None,
            })
            .map(|backend| delivery(case, from, backend, Some(source)))
            .collect(),
    }
}

/// The result of a run of XDP that has sent the packet, in the same form: as from tc.
pub fn observed_by_xdp(run: &XdpRun, has_ports: bool) -> Expected {
    let as_by_tc = |label: &&'static str| {
        if *label == Outcome::ToUplinkByXdp.label() { Outcome::ToUplink.label() } else { label }
    };
    let packet = Sent::read(&run.data).unwrap_or_else(|e| panic!("{e} in {}", show(&run.data)));
    Expected {
        action: Action::Redirect,
        counters: run.counters.keys().map(as_by_tc).collect(),
        delivered: Some(ends(&packet, has_ports)),
    }
}

/// The result of a run, in the same form. ICMP and packets without ports have port 0.
pub fn observed(run: &Run, has_ports: bool) -> Expected {
    let labels: Vec<&'static str> = run.counters.keys().copied().collect();
    run.counted(&labels);
    let is_delivered = [Outcome::ToPod, Outcome::ToUplink, Outcome::ToStack]
        .iter()
        .any(|outcome| labels.contains(&outcome.label()));
    let delivered = is_delivered.then(|| ends(&run.packet(), has_ports));
    Expected { action: run.action, counters: labels.into_iter().collect(), delivered }
}

fn ends(packet: &Sent, has_ports: bool) -> Delivered {
    let destination = (packet.dst, if has_ports { packet.dport() } else { 0 });
    Delivered { source: packet.src, destination }
}
