//! Service address to backend.

use sluice_abi::{
    DropReason, Frontend, FrontendKey, WILDCARD_PORT, WILDCARD_PROTO, flow_flags, frontend_flags,
    proto,
};
use sluice_packet::{Verdict, select, tcp_state};

use crate::{
    kernel,
    maps::{self, SLOTS},
    packet::{Packet, part},
    stage::fragment,
};

/// Chooses a backend for a new flow. `Ok(false)`: the destination is no Service.
#[inline(always)]
pub fn choose(p: &mut Packet) -> Result<bool, Verdict> {
    let Some(frontend) = frontend(p) else { return Ok(false) };
    if p.part == part::UNKNOWN {
        return Err(fragment::wait(p));
    }
    if frontend.flags & frontend_flags::WILDCARD != 0 {
        return Err(Verdict::Reject(DropReason::UnknownServicePort));
    }
    if frontend.slots_len == 0 {
        return Err(if frontend.flags & frontend_flags::DROP != 0 {
            Verdict::Drop(DropReason::NoLocalEndpoint)
        } else {
            Verdict::Reject(DropReason::NoEndpoint)
        });
    }
    if p.key.proto == proto::TCP && !tcp_state::opens(p.tcp_flags) {
        return Err(Verdict::Drop(DropReason::NotTracked));
    }
    let missing = Verdict::Drop(DropReason::TableIncomplete);
    let slot =
        select::slot(frontend.slots_offset, frontend.slots_len, kernel::random()).ok_or(missing)?;
    let id = *SLOTS.get(slot).ok_or(missing)?;
    let backend = maps::backend(id).ok_or(missing)?;
    if !backend.addr.is_v4() {
        return Err(missing);
    }
    p.out.dst = backend.addr;
    p.out.dport = backend.port;
    p.backend = id;
    p.flow_flags |= flow_flags::DNAT;
    p.translate = 1;
    Ok(true)
}

/// The frontend of the packet's destination: exact, or the one for all other ports.
#[inline(always)]
fn frontend(p: &Packet) -> Option<Frontend> {
    let mut key = FrontendKey { addr: p.key.dst, port: p.key.dport, proto: p.key.proto, pad: 0 };
    if p.key.proto != proto::ICMP
        && p.part != part::UNKNOWN
        && let Some(frontend) = maps::frontend(&key)
    {
        return Some(frontend);
    }
    key.port = WILDCARD_PORT;
    key.proto = WILDCARD_PROTO;
    maps::frontend(&key)
}
