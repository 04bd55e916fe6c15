//! Only the first fragment of a datagram carries ports; the others borrow them.

use sluice_abi::FragmentPorts;

use crate::{
    maps::FRAGMENTS,
    packet::{Packet, part},
};

/// Remembers the ports of a first fragment and gives them to later ones. A later fragment whose
/// first one was never seen stays [`part::UNKNOWN`].
#[inline(always)]
pub fn ports(p: &mut Packet) {
    if p.part == part::WHOLE {
        return;
    }
    p.fragment.src = p.key.src;
    p.fragment.dst = p.key.dst;
    p.fragment.proto = p.key.proto;
    p.fragment.pad = [0; 3];
    if p.part == part::FIRST {
        let ports = FragmentPorts { sport: p.key.sport, dport: p.key.dport };
        // A full map evicts the oldest; a failed insert only costs this datagram.
        let _ = FRAGMENTS.insert(&p.fragment, ports, 0);
        return;
    }
    if let Some(ptr) = FRAGMENTS.get_ptr(&p.fragment) {
        // SAFETY: two ports, copied at once.
        let ports = unsafe { *ptr };
        p.key.sport = ports.sport;
        p.key.dport = ports.dport;
        p.out = p.key;
        p.part = part::LATER;
    }
}
