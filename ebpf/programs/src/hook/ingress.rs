//! Flow and destination of packets from the uplink.

use sluice_abi::{FlowKind, LocalPod, network_kind};
use sluice_packet::l4::Kind;

use crate::{
    config::Node,
    flow::Flow,
    maps,
    packet::Packet,
    scratch::Scratch,
    stage::{
        class::{self, DestinationClass},
        conntrack::{self, Lookup},
        fragment, icmp,
        outline::Outlined,
        service,
    },
    verdict::{Bypass, Verdict},
};

/// Finds the flow of a packet from the uplink; returns its destination class.
#[inline(always)]
pub fn from_netdev<F: Outlined>(
    f: &F,
    s: &mut Scratch,
    node: Node,
) -> Result<DestinationClass, Verdict> {
    s.flow.reset(&s.packet.tuple);
    let known = if s.packet.kind == Kind::IcmpError {
        icmp::find(f, s)
    } else {
        conntrack::find(&s.packet, &mut s.flow) == Lookup::Known
    };
    let class = class::of(&s.flow.translated.dst, &mut s.pod);
    if known { Ok(class) } else { new_from_netdev(&s.packet, &mut s.flow, &mut s.pod, class, node) }
}

#[inline(always)]
fn new_from_netdev(
    packet: &Packet,
    flow: &mut Flow,
    pod: &mut LocalPod,
    class: DestinationClass,
    node: Node,
) -> Result<DestinationClass, Verdict> {
    match class {
        DestinationClass::LocalPod => {
            if is_external_client(packet, node) {
                flow.remember(FlowKind::ExternalClient);
            }
            Ok(class)
        }
        DestinationClass::FreePodAddress => Ok(class),
        DestinationClass::ServiceRange | DestinationClass::Outside => {
            match service::choose(packet)? {
                Some(chosen) => {
                    flow.translate_to(chosen.id, &chosen.backend);
                    // Replies have to return through this node.
                    flow.masquerade();
                    Ok(class::of(&flow.translated.dst, pod))
                }
                None if class == DestinationClass::ServiceRange => Ok(class),
                None => Err(Verdict::Bypass(Bypass::NodeTraffic)),
            }
        }
        // Possibly a reply to a masqueraded flow. At the limit of waits it is passed to the stack.
        DestinationClass::Node if packet.is_unresolved() && fragment::may_wait(packet) => {
            Err(Verdict::Requeue)
        }
        DestinationClass::Node
        | DestinationClass::RemotePod
        | DestinationClass::OtherNode
        | DestinationClass::Link => Err(Verdict::Bypass(Bypass::NodeTraffic)),
    }
}

/// Whether this packet opens a flow from a client outside the cluster to a pod's own address (by a
/// route to this node), whose replies must not be masqueraded. Packets whose hop limit ends here do
/// not reach the pod.
#[inline(always)]
fn is_external_client(packet: &Packet, node: Node) -> bool {
    node.masquerades()
        && packet.hop_limit > 1
        && packet.kind != Kind::IcmpError
        && !packet.is_mid_stream()
        && !packet.is_unresolved()
        && packet.tuple.src != node.addr(&packet.tuple.src)
        && maps::network_kind(&packet.tuple.src) == network_kind::OUTSIDE
}
