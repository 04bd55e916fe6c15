//! The expected result of a packet, derived from the objects without the compiler.

use std::collections::BTreeSet;
use std::net::IpAddr;

use packet_tests::{Action, GATEWAY, NODE, Packet as Sent, Run, XdpRun, show};
use sluice_abi::{DropReason, Outcome};
use sluice_core::generate::THIS_NODE;
use sluice_core::model::{NodeContext, Object, parse_cidr};
use sluice_core::oracle::{
    Answer, Client, DestinationClass, Packet, Source, World, answer, network,
};

use crate::realize::SERVICE_CIDR;

/// Pods of this node; the first one sends.
pub const PODS: [[u8; 4]; 2] = [[10, 244, 1, 1], [10, 244, 2, 2]];

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
    /// Destination of the packet that comes out; `None` where it is not delivered.
    destination: Option<([u8; 4], u16)>,
}

/// What the node knows about itself.
pub fn context() -> NodeContext {
    NodeContext {
        local_addresses: vec![IpAddr::from(NODE)],
        service_cidrs: parse_cidr(SERVICE_CIDR).into_iter().collect(),
        ..NodeContext::default()
    }
}

/// What the oracle judges by.
pub fn world<'a>(objects: &'a [Object], context: &'a NodeContext) -> World<'a> {
    World { objects, node: THIS_NODE, context }
}

/// A packet, as the oracle sees it.
pub fn request(from: From, dst: [u8; 4], port: u16, protocol: u8) -> Packet {
    let (client, src) = match from {
        From::Pod => (Client::Pod, PODS[0]),
        From::Node => (Client::Node, NODE),
        From::Netdev(src) => (Client::Other, src),
    };
    Packet { client, src: src.into(), dst: dst.into(), port, protocol }
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

/// The class of an address: pods and the node's own addresses by `topology.rs`, all others by the
/// oracle.
fn class(objects: &[Object], address: [u8; 4]) -> Class {
    if PODS.contains(&address) {
        return Class::Pod;
    }
    if [NODE, GATEWAY].contains(&address) {
        return Class::ThisNode;
    }
    match network(objects, THIS_NODE, &context(), IpAddr::from(address)) {
        DestinationClass::ThisNode => Class::ThisNode,
        DestinationClass::LocalPods => Class::FreePod,
        DestinationClass::OtherNode => Class::OtherNode,
        DestinationClass::RemotePods => Class::RemotePod,
        DestinationClass::Services => Class::Services,
        DestinationClass::Outside => Class::External,
    }
}

/// Delivery to an address, after translation to it if `translated` is the source that it sees.
fn delivery(
    objects: &[Object],
    from: From,
    (address, port): ([u8; 4], u16),
    translated: Option<Source>,
) -> Expected {
    let class = class(objects, address);
    let is_left_to_stack = match from {
        From::Pod => false,
        From::Node => translated.is_none(),
        From::Netdev(_) => {
            translated.is_none() && !matches!(class, Class::Pod | Class::FreePod | Class::Services)
        }
    };
    if is_left_to_stack {
        let (action, counters) = (Action::Next, BTreeSet::new());
        return Expected { action, counters, destination: None };
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
    Expected { action, counters, destination: Some((address, port)) }
}

fn drop_with(reason: DropReason) -> Expected {
    let counters = BTreeSet::from([reason.label()]);
    Expected { action: Action::Drop, counters, destination: None }
}

fn rejection(reason: DropReason) -> Expected {
    let counters = BTreeSet::from([reason.label(), Outcome::Rejected.label()]);
    Expected { action: Action::Redirect, counters, destination: None }
}

/// Every permitted result of a packet.
pub fn expected(
    objects: &[Object],
    from: From,
    dst: [u8; 4],
    port: u16,
    protocol: u8,
) -> Vec<Expected> {
    let answer = answer(world(objects, &context()), request(from, dst, port, protocol));
    // An address of a pod of this node, whatever the ranges of pods are.
    if PODS.contains(&dst) {
        return vec![delivery(objects, from, (dst, port), None)];
    }
    match answer {
        Answer::NotAService => vec![delivery(objects, from, (dst, port), None)],
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
            .map(|backend| delivery(objects, from, backend, Some(source)))
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
        destination: Some((packet.dst, if has_ports { packet.dport() } else { 0 })),
    }
}

/// The result of a run, in the same form. ICMP and packets without ports have port 0.
pub fn observed(run: &Run, has_ports: bool) -> Expected {
    let labels: Vec<&'static str> = run.counters.keys().copied().collect();
    run.counted(&labels);
    let delivered = [Outcome::ToPod, Outcome::ToUplink, Outcome::ToStack]
        .iter()
        .any(|outcome| labels.contains(&outcome.label()));
    let destination = delivered.then(|| {
        let packet = run.packet();
        (packet.dst, if has_ports { packet.dport() } else { 0 })
    });
    Expected { action: run.action, counters: labels.into_iter().collect(), destination }
}
