//! The result of parsing.

use sluice_abi::{Family, FlowKey, FragmentKey, proto};
use sluice_packet::l4::Kind;
use sluice_packet::tcp_state;

/// Fragment state: whether the ports of a packet, which only the first fragment has, are available.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum FragmentState {
    /// Not a fragment.
    Whole = 0,
    /// The fragment with the ports.
    First = 1,
    /// A later fragment with the ports of the first.
    Later = 2,
    /// A later fragment whose first fragment has not arrived: the ports are 0.
    Unresolved = 3,
}

/// A parsed packet. Constant from [`crate::stage::fragment`] on; translation changes the headers.
#[repr(C)]
pub struct Packet {
    /// The tuple before translation.
    pub tuple: FlowKey,
    /// Identification of the datagram.
    pub fragment_id: u32,
    /// Length of the frame.
    pub len: u32,
    /// Interface index of the hook.
    pub ifindex: u32,
    /// Length from the IP header to the end of the packet.
    pub l3_len: u32,
    /// Offset of the layer 4 header in the frame.
    pub l4_offset: u32,
    /// Length from the IP header of the longest packet on the wire: of one segment, if the kernel
    /// segments this one.
    pub wire_len: u32,
    /// [`sluice_abi::tick`] when the packet was parsed: one read of the clock for packets of known flows.
    pub tick: u32,
    /// Address family.
    pub family: Family,
    /// Layer 4 class.
    pub kind: Kind,
    /// TCP flags. SCTP packets with an INIT have SYN, others none.
    pub tcp_flags: u8,
    /// Hop limit.
    pub hop_limit: u8,
    /// Fragment state.
    pub fragment: FragmentState,
    /// Length of the IP header, options included.
    pub header_len: u8,
    /// Zero.
    pub pad: [u8; 6],
}

impl Packet {
    /// Whether this is the first segment of a TCP connection.
    #[inline(always)]
    pub fn is_syn(&self) -> bool {
        self.tuple.proto == proto::TCP && tcp_state::is_syn(self.tcp_flags)
    }

    /// Whether this is the first packet of a TCP connection or an SCTP association.
    #[inline(always)]
    pub fn opens_connection(&self) -> bool {
        tcp_state::is_syn(self.tcp_flags)
    }

    /// Whether this is a segment of a TCP connection other than the first.
    #[inline(always)]
    pub fn is_mid_stream(&self) -> bool {
        self.tuple.proto == proto::TCP && !tcp_state::is_syn(self.tcp_flags)
    }

    /// Whether this is the second segment of a TCP connection: a reply by itself.
    #[inline(always)]
    pub fn is_syn_ack(&self) -> bool {
        self.tuple.proto == proto::TCP && tcp_state::is_syn_ack(self.tcp_flags)
    }

    /// Whether the ports are unknown.
    #[inline(always)]
    pub fn is_unresolved(&self) -> bool {
        self.fragment == FragmentState::Unresolved
    }

    /// Key of the datagram that a fragment belongs to.
    #[inline(always)]
    pub fn fragment_key(&self) -> FragmentKey {
        FragmentKey {
            src: self.tuple.src,
            dst: self.tuple.dst,
            id: self.fragment_id,
            proto: self.tuple.proto,
            pad: [0; 3],
        }
    }
}
