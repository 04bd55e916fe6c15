//! XDP on the uplink.
//!
//! Not attached by the agent yet. The hook parses packets and refreshes the entries of their flows
//! by the same stages as tc, and passes every packet on; forwarding follows with NodePort.

use aya_ebpf::programs::XdpContext;

use crate::{
    config,
    flow::Origin,
    frame::Xdp,
    scratch::Scratch,
    stage::{
        conntrack::{self, Lookup},
        fragment, parse,
    },
};

/// `XDP_PASS`.
const PASS: u32 = 2;

/// Packets from the uplink, before the stack allocates memory for them.
#[inline(always)]
pub fn netdev(ctx: &XdpContext) -> u32 {
    // SAFETY: the only call of this run.
    let Some(s) = (unsafe { Scratch::take(ctx) }) else { return PASS };
    // SAFETY: the context of the running program.
    let f = unsafe { Xdp::new(ctx.ctx) };
    if config::node().is_none() || parse::frame(&f, &mut s.packet, &mut s.headers).is_err() {
        return PASS;
    }
    fragment::resolve_ports(&mut s.packet);
    s.flow.reset(&s.packet.tuple, Origin::Wire);
    match conntrack::find(&s.packet, &s.headers, &mut s.entry, &mut s.flow, &mut s.destination) {
        Lookup::Known | Lookup::New | Lookup::Spoofed => PASS,
    }
}
