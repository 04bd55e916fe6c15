//! XDP on the uplink: packets of Services that leave the node again.
//!
//! ```text
//! packet ── TCP, UDP, SCTP; whole; no IP options; to this device ──> flow of a Service to another host
//!              │ no                                                    │ no          │ yes
//!              └────────────────────────> tc, unchanged <──────────────┘             └──> a device
//! ```
//! The stages are those of `from_netdev`. A flow of a Service is opened here, also if its backend is
//! on this node: tc finds it, so that the backend is chosen once. What this program does to flows is
//! what tc does to them again: nothing happens twice.

use aya_ebpf::programs::XdpContext;
use sluice_abi::PodRef;
use sluice_packet::l4::Kind;

use crate::frame::Xdp;
use crate::hook::ingress;
use crate::packet::{FragmentState, Packet};
use crate::scratch::Scratch;
use crate::stage::policy::{self, Ends};
use crate::stage::{antispoof, conntrack, forward, nat, parse};
use crate::verdict::{Bypass, Verdict};
use crate::{exit, handover, maps};

/// The packet is left to tc.
const FOR_TC: Verdict = Verdict::Bypass(Bypass::ForTc);

/// Packets from the uplink, before the stack allocates memory for them.
#[inline(always)]
pub fn netdev(ctx: &XdpContext) -> u32 {
    // SAFETY: the only call of this run.
    let Some(s) = (unsafe { Scratch::take(ctx) }) else { return exit::XDP_PASS };
    // SAFETY: the context of the running program.
    let f = unsafe { Xdp::new(ctx.ctx) };
    let verdict = match stages(&f, s) {
        Ok(verdict) | Err(verdict) => verdict,
    };
    exit::xdp(s, verdict)
}

#[inline(always)]
fn stages(f: &Xdp, s: &mut Scratch) -> Result<Verdict, Verdict> {
    let node = handover::enter_xdp().ok_or(Verdict::Bypass(Bypass::NotReady))?;
    if parse::frame(f, &mut s.packet, &mut s.headers).is_err() || !is_usual(&s.packet) {
        return Err(FOR_TC);
    }
    let is_recent = antispoof::is_recent_sender(&s.packet, &s.headers);
    if !(is_recent || is_for_host(s)) || !nat::is_checksum_complete(f, &s.packet) {
        return Err(FOR_TC);
    }
    let class = ingress::packet_from_netdev(f, s, node, is_recent)?;
    if !s.flow.kind.is_service() {
        return Err(FOR_TC);
    }
    let ends = Ends { source: PodRef::NONE, destination: class.local_pod(&s.destination) };
    let judged = policy::judge(s, ends)?;
    class.require_owner()?;
    conntrack::open(f, &s.packet, &mut s.flow, &s.destination)?;
    if !class.leaves_node() {
        return Err(FOR_TC);
    }
    forward::out_of_xdp(f, s, judged)?.ok_or(FOR_TC)
}

/// Whether a frame has the hardware address of its device as receiver.
#[inline(always)]
fn is_for_host(s: &Scratch) -> bool {
    maps::device(s.packet.ifindex).is_some_and(|device| device.mac == s.headers.link.destination())
}

/// Whether only this packet has to be considered, and the stack would not answer it.
#[inline(always)]
fn is_usual(packet: &Packet) -> bool {
    const WITHOUT_OPTIONS: u8 = 20;
    matches!(packet.kind, Kind::Tcp | Kind::Udp | Kind::Sctp)
        && packet.fragment == FragmentState::Whole
        && packet.header_len == WITHOUT_OPTIONS
        && packet.hop_limit > 1
}
