//! What becomes of a packet.

use sluice_abi::DropReason;

/// The end of a packet's way through one program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Not ours: on to the next program, not counted.
    Pass,
    /// Up the node's stack (on egress: on its way), or on to the next program.
    ToStack,
    /// Into the pod behind this host interface.
    ToPod {
        /// Interface index of the host end of the pod's veth pair.
        ifindex: u32,
    },
    /// Out of this interface.
    ToUplink {
        /// Interface index.
        ifindex: u32,
        /// Next router or the destination itself, bytes in network order; the kernel resolves its
        /// hardware address.
        next_hop: [u8; 4],
    },
    /// Once more through the same hook, behind what is queued there: a later fragment that came
    /// before its first one. Where a hook cannot do that, gone.
    Requeue,
    /// Gone, and the sender is told by ICMP.
    Reject(DropReason),
    /// Gone.
    Drop(DropReason),
}
