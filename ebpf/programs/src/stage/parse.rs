//! Bytes to a tuple. IP options, fragments and malformed packets are decided on here and nowhere
//! else.

use sluice_abi::{Addr, FlowKey, PortBe, proto};
use sluice_packet::{
    eth,
    ipv4::Ipv4,
    l4::{self, Kind},
};
use zerocopy::transmute_mut;

use crate::{
    frame::Frame,
    packet::{HEAD_LEN, Packet, part},
};

/// Why there is no tuple.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Unparsed {
    /// Not IPv4: ARP, VLAN-tagged frames, other protocols.
    NotIp,
    /// IPv6.
    Ipv6,
    /// Cut short, or the headers contradict each other.
    Malformed,
}

/// Fills the packet's fields from the frame.
#[inline(always)]
pub fn packet(f: &Frame, p: &mut Packet) -> Result<(), Unparsed> {
    p.done = 0;
    p.translate = 0;
    p.flow_flags = 0;
    p.backend = 0;
    p.tcp_flags = 0;
    p.key = FlowKey::default();
    p.len = f.len();
    p.ifindex = f.ifindex();

    if f.is_tagged() {
        return Err(Unparsed::NotIp);
    }
    let head: &mut [u8; HEAD_LEN] = transmute_mut!(&mut p.head);
    let whole = f.load(0, head);
    if !whole && !f.load(0, &mut p.head.eth) {
        return Err(Unparsed::NotIp);
    }
    match [p.head.eth[12], p.head.eth[13]] {
        eth::IPV4 if whole => ipv4(f, p),
        eth::IPV4 => Err(Unparsed::Malformed),
        eth::IPV6 => Err(Unparsed::Ipv6),
        _ => Err(Unparsed::NotIp),
    }
}

#[inline(always)]
fn ipv4(f: &Frame, p: &mut Packet) -> Result<(), Unparsed> {
    let ip = Ipv4::parse(&p.head.ip).ok_or(Unparsed::Malformed)?;
    let room = p.len - eth::LEN as u32;
    p.l3_len = if ip.total_len == 0 { room } else { u32::from(ip.total_len) };
    p.header_len = ip.header_len;
    p.l4_offset = eth::LEN as u32 + u32::from(ip.header_len);
    p.ttl = ip.ttl;
    if p.l3_len > room || p.l3_len < u32::from(ip.header_len) {
        return Err(Unparsed::Malformed);
    }
    p.part = match (ip.fragment_offset, ip.more_fragments) {
        (0, false) => part::WHOLE,
        (0, true) => part::FIRST,
        _ => part::UNKNOWN,
    };
    p.key.src = Addr::v4(ip.src);
    p.key.dst = Addr::v4(ip.dst);
    p.key.proto = ip.proto;
    p.fragment.id = u32::from(u16::from_ne_bytes(ip.id));

    if p.part == part::UNKNOWN {
        // An ICMP error is too short to be cut into fragments; echo is what has later ones.
        p.kind = l4::kind(ip.proto, sluice_packet::icmp::ECHO_REQUEST) as u8;
    } else {
        ports(f, p)?;
    }
    p.wire_len = match f.segment_len() {
        0 => p.l3_len,
        payload => payload + u32::from(p.header_len) + u32::from(l4::min_len(ip.proto)),
    };
    p.out = p.key;
    Ok(())
}

#[inline(always)]
fn ports(f: &Frame, p: &mut Packet) -> Result<(), Unparsed> {
    let need = l4::min_len(p.key.proto);
    if p.l3_len < u32::from(p.header_len) + u32::from(need) {
        return Err(Unparsed::Malformed);
    }
    if need == 0 {
        p.kind = Kind::Other as u8;
        return Ok(());
    }
    let loaded = match p.l4.first_chunk_mut::<8>() {
        Some(first) if p.key.proto != proto::TCP => f.load(p.l4_offset, first),
        _ => f.load(p.l4_offset, &mut p.l4),
    };
    if !loaded {
        return Err(Unparsed::Malformed);
    }
    let b = &p.l4;
    let kind = l4::kind(p.key.proto, b[0]);
    let first = [b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7]];
    let (sport, dport): (PortBe, PortBe) = l4::ports(kind, &first);
    if kind == Kind::Tcp {
        p.tcp_flags = b[13];
    }
    p.key.sport = sport;
    p.key.dport = dport;
    p.kind = kind as u8;
    Ok(())
}

/// Whether an IPv6 packet stays on its link: neighbour discovery and the like, which pass even
/// where pods have no IPv6.
#[inline(always)]
pub fn ipv6_stays_on_link(f: &Frame) -> bool {
    let mut dst = [0u8; 2];
    if !f.load(eth::LEN as u32 + 24, &mut dst) {
        return false;
    }
    // fe80::/10 and multicast of link-local scope.
    (dst[0] == 0xfe && dst[1] & 0xc0 == 0x80) || (dst[0] == 0xff && dst[1] & 0x0f == 2)
}
