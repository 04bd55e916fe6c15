//! Parsing: from bytes to a tuple. IP options, fragments and malformed packets are handled only
//! here.

use sluice_abi::{DropReason, Family, FlowKey, PortBe, proto};
use sluice_packet::ip::{self, Fields, Fragment};
use sluice_packet::l4::{self, Kind};
use sluice_packet::tcp_state::flag;
use sluice_packet::{Headers, L4_LEN, eth};
use zerocopy::transmute_mut;

use crate::frame::Frame;
use crate::kernel;
use crate::packet::{FragmentState, Packet};

/// Segment length of a packet whose segments have different lengths (include/linux/skbuff.h).
const GSO_BY_FRAGS: u32 = 0xffff;

/// Why a packet has no tuple.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Unparsed {
    /// ARP.
    Arp,
    /// Neither IP nor ARP: VLAN-tagged frames, other protocols.
    OtherProtocol,
    /// A family that is not supported yet.
    Ipv6,
    /// Truncated, or the headers contradict each other.
    Malformed,
}

impl Unparsed {
    /// Why the frame does not pass where only IPv4 may.
    #[inline(always)]
    pub fn reason(self) -> DropReason {
        match self {
            Unparsed::Malformed => DropReason::Malformed,
            Unparsed::Arp | Unparsed::OtherProtocol | Unparsed::Ipv6 => DropReason::Unsupported,
        }
    }
}

/// Parses a frame. On an error, `packet` holds the metadata, and the tuple as far as it is known.
#[inline(always)]
pub fn frame<F: Frame>(f: &F, packet: &mut Packet, headers: &mut Headers) -> Result<(), Unparsed> {
    packet.tcp_flags = 0;
    packet.len = f.len();
    packet.ifindex = f.ifindex();
    packet.tick = kernel::tick();
    let is_full = packet.len >= Headers::FULL_LEN as u32 && load_full(f, headers);
    match network_header(f, headers, is_full) {
        Ok(fields) => network(f, packet, headers, &fields, is_full),
        Err(unparsed) => {
            packet.tuple = FlowKey::default();
            Err(unparsed)
        }
    }
}

/// Reads the headers of most packets at once. Shorter ones, and the layer 4 header behind IP options, take
/// further reads.
#[inline(always)]
fn load_full<F: Frame>(f: &F, headers: &mut Headers) -> bool {
    let bytes: &mut [u8; Headers::FULL_LEN] = transmute_mut!(headers);
    f.load(0, bytes)
}

#[inline(always)]
fn network_header<F: Frame>(
    f: &F,
    headers: &mut Headers,
    is_full: bool,
) -> Result<Fields, Unparsed> {
    if f.has_vlan_tag() {
        return Err(Unparsed::OtherProtocol);
    }
    let complete = is_full || {
        let bytes: &mut [u8; Headers::FULL_LEN] = transmute_mut!(headers);
        bytes.first_chunk_mut::<{ Headers::LEN }>().is_some_and(|bytes| f.load(0, bytes))
    };
    if !complete && !f.load(0, &mut headers.link.0) {
        return Err(Unparsed::OtherProtocol);
    }
    match headers.link.family() {
        Some(Family::V4) if complete => headers.ip.parse().ok_or(Unparsed::Malformed),
        Some(Family::V4) => Err(Unparsed::Malformed),
        Some(Family::V6) => Err(Unparsed::Ipv6),
        None if headers.link.is_arp() => Err(Unparsed::Arp),
        None => Err(Unparsed::OtherProtocol),
    }
}

#[inline(always)]
fn network<F: Frame>(
    f: &F,
    packet: &mut Packet,
    headers: &Headers,
    fields: &Fields,
    is_full: bool,
) -> Result<(), Unparsed> {
    packet.tuple.src = fields.src;
    packet.tuple.dst = fields.dst;
    packet.tuple.sport = PortBe::new(0);
    packet.tuple.dport = PortBe::new(0);
    packet.tuple.proto = fields.proto;
    packet.family = Family::V4;
    packet.fragment_id = fields.fragment_id;
    packet.fragment = match fields.fragment {
        Fragment::Whole => FragmentState::Whole,
        Fragment::First => FragmentState::First,
        Fragment::Later => FragmentState::Unresolved,
    };
    let available = packet.len - eth::LEN as u32;
    packet.l3_len = if fields.total_len == 0 { available } else { u32::from(fields.total_len) };
    packet.header_len = fields.header_len;
    packet.l4_offset = eth::LEN as u32 + u32::from(fields.header_len);
    packet.hop_limit = fields.hop_limit;
    if packet.l3_len > available || packet.l3_len < u32::from(fields.header_len) {
        return Err(Unparsed::Malformed);
    }

    let l4_len = if packet.is_unresolved() {
        packet.kind = l4::kind_of_later_fragment(fields.proto);
        0
    } else {
        let is_loaded = is_full && usize::from(fields.header_len) == ip::LEN;
        transport(f, packet, is_loaded.then_some(&headers.next))?
    };
    packet.wire_len = match f.segment_len() {
        0 => packet.l3_len,
        // SCTP has made each segment for the path MTU.
        GSO_BY_FRAGS => u32::from(fields.header_len) + l4_len,
        payload => u32::from(fields.header_len) + l4_len + payload,
    };
    Ok(())
}

/// Parses the layer 4 header, whose first bytes may be `loaded`; returns its length, 0 for protocols without
/// ports.
#[inline(always)]
fn transport<F: Frame>(
    f: &F,
    packet: &mut Packet,
    loaded: Option<&[u8; L4_LEN]>,
) -> Result<u32, Unparsed> {
    let need = l4::min_len(packet.tuple.proto);
    if packet.l3_len < u32::from(packet.header_len) + u32::from(need) {
        return Err(Unparsed::Malformed);
    }
    if need == 0 {
        packet.kind = Kind::Other;
        return Ok(0);
    }
    // Up to TCP's flags; the other protocols have their ports in the first 8 bytes.
    let mut bytes = [0u8; L4_LEN];
    let b = match (loaded, bytes.first_chunk_mut::<8>()) {
        (Some(loaded), _) => loaded,
        (None, Some(first)) if packet.tuple.proto != proto::TCP => {
            if !f.load(packet.l4_offset, first) {
                return Err(Unparsed::Malformed);
            }
            &bytes
        }
        _ => {
            if !f.load(packet.l4_offset, &mut bytes) {
                return Err(Unparsed::Malformed);
            }
            &bytes
        }
    };
    let kind = l4::kind(packet.tuple.proto, b[0]);
    let first = [b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7]];
    let (sport, dport): (PortBe, PortBe) = l4::ports(kind, &first);
    packet.tuple.sport = sport;
    packet.tuple.dport = dport;
    packet.kind = kind;
    if kind == Kind::Tcp {
        packet.tcp_flags = b[13];
        return Ok(l4::tcp_header_len(b[12]));
    }
    if l4::is_sctp_init(kind, &first) {
        packet.tcp_flags = flag::SYN;
    }
    Ok(u32::from(need))
}
