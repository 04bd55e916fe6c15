//! Services: destination translation of new flows.

use sluice_abi::{DropReason, Frontend, proto};
use sluice_packet::select::NoBackend;

use crate::{
    flow::Origin,
    kernel, maps,
    packet::Packet,
    stage::{
        backend::{self, Chosen},
        fragment,
    },
    verdict::Verdict,
};

/// Chooses a backend for a new flow. `Ok(None)`: the destination is not a Service.
#[inline(always)]
pub fn choose(packet: &Packet, origin: Origin) -> Result<Option<Chosen>, Verdict> {
    let Some(frontend) = frontend(packet) else { return Ok(None) };
    if packet.is_unresolved() {
        return Err(fragment::wait(packet));
    }
    let slots = backend::slots(&frontend, origin != Origin::Wire);
    match slots.and_then(|slots| backend::choose(slots, kernel::random())) {
        Err(NoBackend::UnknownPort) => Err(Verdict::Reject(DropReason::UnknownServicePort)),
        Err(NoBackend::NoEndpoint) => Err(Verdict::Reject(DropReason::NoEndpoint)),
        Err(NoBackend::NoLocalEndpoint) => Err(Verdict::Drop(DropReason::NoLocalEndpoint)),
        _ if packet.is_mid_stream() => Err(Verdict::Drop(DropReason::NotTracked)),
        Ok(chosen) if chosen.backend.addr.family() == packet.family => Ok(Some(chosen)),
        Ok(_) | Err(NoBackend::TableIncomplete) => Err(Verdict::Drop(DropReason::TableIncomplete)),
    }
}

/// The frontend of the packet's destination. Only the wildcard matches packets without ports.
#[inline(always)]
fn frontend(packet: &Packet) -> Option<Frontend> {
    let tuple = &packet.tuple;
    if tuple.proto == proto::ICMP || packet.is_unresolved() {
        maps::wildcard_frontend(&tuple.dst)
    } else {
        backend::frontend(&tuple.dst, tuple.dport, tuple.proto)
    }
}
