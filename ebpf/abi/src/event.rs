//! Records of the ring buffer.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::FlowKey;

/// A packet that was dropped or rejected.
#[repr(C)]
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
pub struct DropEvent {
    /// `bpf_ktime_get_boot_ns`.
    pub at_ns: u64,
    /// The packet's tuple before translation. If a policy is the reason: the source of its flow before
    /// translation, and the destination after it.
    pub flow: FlowKey,
    /// Interface index of the hook.
    pub ifindex: u32,
    /// Length of the packet in bytes.
    pub len: u32,
    /// A [`crate::DropReason`]'s number.
    pub reason: u8,
    /// A [`crate::program::Hook`]'s number.
    pub hook: u8,
    /// 1 if a policy is the reason and the direction of the packet is the reverse of `flow`: a reply, or an
    /// ICMP error to the client.
    pub is_reply: u8,
    /// 1 if a policy is the reason and the packet belongs to no known flow, but opens none: a TCP segment
    /// other than a SYN, or an echo reply.
    pub is_mid_stream: u8,
    /// Zero.
    pub pad: [u8; 4],
}

const _: () = assert!(size_of::<DropEvent>() == 64);
