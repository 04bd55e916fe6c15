//! What the stages know of the packet they work on, and the notes they leave for each other.
//!
//! One per CPU in a map, because 512 bytes of stack hold no more than two flows.

use sluice_abi::{FlowEntry, FlowKey, FragmentKey, LocalPod};
use sluice_packet::{eth, ipv4};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Which part of a datagram a packet is.
pub mod part {
    /// All of it.
    pub const WHOLE: u8 = 0;
    /// The fragment with the ports.
    pub const FIRST: u8 = 1;
    /// A later fragment whose ports are known from the first one.
    pub const LATER: u8 = 2;
    /// A later fragment whose first one was never seen.
    pub const UNKNOWN: u8 = 3;
}

/// Bits of [`Packet::done`]: what is counted beside the verdict.
pub mod done {
    /// A Service translated it to a backend.
    pub const TRANSLATED: u8 = 1;
    /// Masqueraded with the node's address.
    pub const MASQUERADED: u8 = 2;
    /// A reply or an ICMP error translated back.
    pub const RESTORED: u8 = 4;
}

/// Ethernet header, and IPv4 header without options.
#[repr(C)]
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Head {
    /// Destination and source hardware address, EtherType.
    pub eth: [u8; eth::LEN],
    /// The IPv4 header without options.
    pub ip: [u8; ipv4::MIN_LEN],
}

/// Room for the longest IPv4 header and the longest layer 4 header that an ICMP error of ours
/// quotes, and then some (see [`crate::frame::Frame::load_quote`]).
pub const QUOTE_LEN: usize = 84;

/// Bytes of [`Head`].
pub const HEAD_LEN: usize = size_of::<Head>();

/// One packet on its way through one program.
#[repr(C)]
pub struct Packet {
    /// The first 34 bytes; changed here and written back as a whole.
    pub head: Head,
    /// The first bytes after the IPv4 header, up to TCP's flags.
    pub l4: [u8; 14],
    /// The tuple as the packet came in.
    pub key: FlowKey,
    /// The tuple with which it goes on.
    pub out: FlowKey,
    /// The conntrack entry that is being written.
    pub entry: FlowEntry,
    /// Key of the partner entry; for an ICMP error, the tuple that would answer the quoted packet.
    pub partner_key: FlowKey,
    /// The pod of this node that `out.dst` belongs to, if [`crate::stage::place::of`] said so.
    pub pod: LocalPod,
    /// Key of this datagram's fragments.
    pub fragment: FragmentKey,
    /// The tuple that a packet quoted in an ICMP error had before we translated it.
    pub quoted: FlowKey,
    /// Its IPv4 header without options.
    pub quoted_ip: [u8; ipv4::MIN_LEN],
    /// Its first bytes after that.
    pub quoted_l4: [u8; 8],
    /// Room for a packet that we quote.
    pub quote: [u8; QUOTE_LEN],
    /// `bpf_ktime_get_boot_ns`, or 0 while nobody has asked.
    pub now_ns: u64,
    /// Length of the frame.
    pub len: u32,
    /// Interface index of the hook.
    pub ifindex: u32,
    /// Length from the IPv4 header to the packet's end.
    pub l3_len: u32,
    /// Offset of the layer 4 header in the frame.
    pub l4_offset: u32,
    /// Length of the packet as other machines will see it: of one segment, where the kernel cuts.
    pub wire_len: u32,
    /// Backend id that the Service stage chose.
    pub backend: u32,
    /// A [`sluice_packet::l4::Kind`].
    pub kind: u8,
    /// TCP flags.
    pub tcp_flags: u8,
    /// Time to live as it came in.
    pub ttl: u8,
    /// One of [`part`].
    pub part: u8,
    /// Bits of [`done`].
    pub done: u8,
    /// Bits of [`sluice_abi::flow_flags`]: of the flow's entry, or for the one being made.
    pub flow_flags: u8,
    /// 1 once [`Packet::out`] differs from [`Packet::key`].
    pub translate: u8,
    /// IPv4 header length in bytes.
    pub header_len: u8,
    /// Start of the current window of drop events on this CPU.
    pub events_since_ns: u64,
    /// Events in the current window.
    pub events: u64,
}

impl Packet {
    /// Source address as it stands in the header.
    #[inline(always)]
    pub fn src(&self) -> [u8; 4] {
        v4(&self.key.src.0)
    }

    /// Destination address as it stands in the header.
    #[inline(always)]
    pub fn dst(&self) -> [u8; 4] {
        v4(&self.key.dst.0)
    }
}

/// The last four bytes of a v4-mapped address.
#[inline(always)]
pub fn v4(a: &[u8; 16]) -> [u8; 4] {
    [a[12], a[13], a[14], a[15]]
}
