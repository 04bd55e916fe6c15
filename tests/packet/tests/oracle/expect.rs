//! The expected result of a pod's packet, derived from the objects without the compiler.

use std::collections::BTreeSet;
use std::net::IpAddr;

use packet_tests::{Action, GATEWAY, NODE, Run};
use sluice_abi::{DropReason, Outcome};
use sluice_core::generate::THIS_NODE;
use sluice_core::model::{NodeContext, Object, parse_cidr};
use sluice_core::oracle::{Answer, Client, DestinationClass, Packet, World, answer, network};

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

/// A packet from the first of [`PODS`], as the oracle sees it.
pub fn question(dst: [u8; 4], port: u16, protocol: u8) -> Packet {
    let (src, dst) = (IpAddr::from(PODS[0]), IpAddr::from(dst));
    Packet { client: Client::Pod, src, dst, port, protocol }
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

/// Delivery to an address, after translation to it if `translated`.
fn delivery(objects: &[Object], (address, port): ([u8; 4], u16), translated: bool) -> Expected {
    let class = class(objects, address);
    let reason = match class {
        Class::FreePod => Some(DropReason::NoSuchPod),
        Class::Services => Some(DropReason::NoSuchService),
        _ => None,
    };
    if let Some(reason) = reason {
        return drop_with(reason);
    }
    let (action, outcome) = match class {
        Class::Pod => (Action::Redirect, Outcome::ToPod),
        Class::ThisNode => (Action::Next, Outcome::ToStack),
        _ => (Action::Redirect, Outcome::ToUplink),
    };
    let mut counters = BTreeSet::from([outcome.label()]);
    if translated {
        counters.insert(Outcome::Translated.label());
    }
    let hairpin = address == PODS[0];
    if hairpin || class == Class::External {
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

/// Every permitted result of a packet from the first of [`PODS`].
pub fn expected(objects: &[Object], dst: [u8; 4], port: u16, protocol: u8) -> Vec<Expected> {
    match answer(world(objects, &context()), question(dst, port, protocol)) {
        Answer::NotAService => vec![delivery(objects, (dst, port), false)],
        Answer::Rejected => {
            [DropReason::NoEndpoint, DropReason::UnknownServicePort].map(rejection).into()
        }
        Answer::Dropped => vec![drop_with(DropReason::NoLocalEndpoint)],
        Answer::SourceNotAllowed => unreachable!("no Service has a load balancer"),
        Answer::Backends { endpoints, .. } => endpoints
            .iter()
            .filter_map(|(address, port)| match address {
                IpAddr::V4(address) => Some((address.octets(), *port)),
                IpAddr::V6(_) => None,
            })
            .map(|backend| delivery(objects, backend, true))
            .collect(),
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
