//! Only the first fragment of a datagram carries ports; the others borrow them.

use sluice_abi::{DropReason, FragmentPorts};
use sluice_packet::Verdict;

use crate::{
    maps::{FRAGMENT_WAITS, FRAGMENTS},
    packet::{Packet, part},
};

/// How often the fragments of one datagram may wait in all: enough for 64 KiB in reverse order,
/// little enough not to keep a CPU busy with fragments that have no first one.
const WAITS: u32 = 64;

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
        let _ = FRAGMENT_WAITS.remove(&p.fragment);
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

/// What becomes of a later fragment that needs ports and has none yet: it goes to the end of the
/// queue, where its first one may be waiting, for a bounded number of times.
#[inline(always)]
pub fn wait(p: &Packet) -> Verdict {
    if may_wait(p) { Verdict::Requeue } else { Verdict::Drop(DropReason::FragmentUnknown) }
}

/// Counts one more time of waiting.
#[inline(always)]
pub fn may_wait(p: &Packet) -> bool {
    if let Some(ptr) = FRAGMENT_WAITS.get_ptr_mut(&p.fragment) {
        // SAFETY: one integer; two CPUs that count at a time lose a count.
        let waits = unsafe { &mut *ptr };
        *waits += 1;
        return *waits < WAITS;
    }
    FRAGMENT_WAITS.insert(&p.fragment, 1u32, 0).is_ok()
}
