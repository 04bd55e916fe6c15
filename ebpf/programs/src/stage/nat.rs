//! Translation of headers.

use sluice_abi::{Direction, DropReason, FlowKey, Outcome};
use sluice_packet::checksum::{self, Delta};
use sluice_packet::l4::{self, Kind};
use sluice_packet::{Headers, crc32c, ip};

use crate::counters;
use crate::flow::{Flow, FlowState};
use crate::frame::{Changed, Frame};
use crate::packet::{FragmentState, Packet};
use crate::stage::outline::Outlined;
use crate::verdict::Verdict;

/// What a translation has changed in the [`Headers`], which the caller stores. The numbers are results of a
/// global function.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Change {
    /// Nothing.
    None = 0,
    /// Link-layer and network-layer header.
    Headers = 1,
    /// These and the ports in [`Headers::next`].
    HeadersAndPorts = 2,
    /// The packet is shorter than its headers say.
    Failed = 3,
}

impl Change {
    /// From the number that a global function has returned.
    #[inline(always)]
    pub fn from_number(n: u32) -> Change {
        match n {
            1 => Change::Headers,
            2 => Change::HeadersAndPorts,
            _ => Change::Failed,
        }
    }

    /// [`Change::Headers`], unless something has failed.
    #[inline(always)]
    fn of_headers(succeeded: bool) -> Change {
        if succeeded { Change::Headers } else { Change::Failed }
    }
}

/// Translates a packet: addresses and ports in `headers`, which the caller stores, and what is not in them in
/// the packet.
#[inline(always)]
pub fn apply<F: Outlined>(
    f: &F,
    packet: &Packet,
    flow: &Flow,
    headers: &mut Headers,
) -> Result<Change, Verdict> {
    match flow.state {
        FlowState::Untracked => return Ok(Change::None),
        FlowState::Related => return Ok(Change::Headers),
        FlowState::New | FlowState::Established => {}
    }
    if flow.translated == packet.tuple {
        return Ok(Change::None);
    }
    count(packet, flow);
    match f.rewrite(packet, &flow.translated, headers) {
        Change::Failed => Err(Verdict::Drop(DropReason::NatFailed)),
        change => Ok(change),
    }
}

#[inline(always)]
fn count(packet: &Packet, flow: &Flow) {
    if flow.direction == Direction::Reply {
        counters::outcome(Outcome::Restored, packet.len);
        return;
    }
    if flow.kind.is_service() {
        counters::outcome(Outcome::Translated, packet.len);
    }
    if flow.translated.src != packet.tuple.src {
        counters::outcome(Outcome::Masqueraded, packet.len);
    }
}

/// Rewrites addresses, ports and checksums.
#[inline(always)]
pub fn rewrite<F: Frame>(
    f: &F,
    packet: &Packet,
    translated: &FlowKey,
    headers: &mut Headers,
) -> Change {
    let sum = headers.ip.set_addresses(&translated.src, &translated.dst).pseudo_header;
    if packet.fragment == FragmentState::Later {
        return Change::Headers;
    }
    match packet.kind {
        Kind::Tcp => with_pseudo_header(f, packet, translated, headers, Kind::Tcp, sum),
        Kind::Udp => with_pseudo_header(f, packet, translated, headers, Kind::Udp, sum),
        Kind::Sctp => sctp(f, packet, translated, headers),
        Kind::EchoRequest => echo(f, packet, packet.tuple.sport.0, translated.sport.0),
        Kind::EchoReply => echo(f, packet, packet.tuple.dport.0, translated.dport.0),
        Kind::IcmpError | Kind::Other => Change::Headers,
    }
}

/// Puts the ports into the headers, or, of a packet with IP options, into the packet.
#[inline(always)]
fn set_ports<F: Frame>(f: &F, packet: &Packet, ports: &[u8; 4], headers: &mut Headers) -> Change {
    if usize::from(packet.header_len) == ip::LEN {
        headers.set_ports(*ports);
        return Change::HeadersAndPorts;
    }
    Change::of_headers(f.store(packet.l4_offset, ports))
}

#[inline(always)]
fn ports(tuple: &FlowKey) -> [u8; 4] {
    [tuple.sport.0[0], tuple.sport.0[1], tuple.dport.0[0], tuple.dport.0[1]]
}

#[inline(always)]
fn with_pseudo_header<F: Frame>(
    f: &F,
    packet: &Packet,
    translated: &FlowKey,
    headers: &mut Headers,
    kind: Kind,
    addresses: Delta,
) -> Change {
    let Some(offset) = l4::checksum_offset(kind) else { return Change::Failed };
    let at = packet.l4_offset + offset;
    if !f.update_checksum(at, addresses, Changed::PseudoHeader, kind) {
        return Change::Failed;
    }
    let (old, new) = (ports(&packet.tuple), ports(translated));
    if old == new {
        return Change::Headers;
    }
    if !f.update_checksum(at, Delta::NONE.quad(old, new), Changed::Message, kind) {
        return Change::Failed;
    }
    set_ports(f, packet, &new, headers)
}

#[inline(always)]
fn sctp<F: Frame>(f: &F, packet: &Packet, translated: &FlowKey, headers: &mut Headers) -> Change {
    let (old, new) = (ports(&packet.tuple), ports(translated));
    if old == new {
        return Change::Headers;
    }
    let at = packet.l4_offset + l4::SCTP_CHECKSUM;
    let mut crc = [0u8; 4];
    if !f.load(at, &mut crc) {
        return Change::Failed;
    }
    // Zero: the device computes the CRC on transmission.
    if crc != [0; 4] && packet.fragment == FragmentState::Whole {
        let len = packet.l3_len.saturating_sub(u32::from(packet.header_len)) as u16;
        let change = u32::from_ne_bytes(old) ^ u32::from_ne_bytes(new);
        let delta = nat_crc_delta(change, u32::from(len)).to_ne_bytes();
        let crc = [crc[0] ^ delta[0], crc[1] ^ delta[1], crc[2] ^ delta[2], crc[3] ^ delta[3]];
        if !f.store(at, &crc) {
            return Change::Failed;
        }
    }
    set_ports(f, packet, &new, headers)
}

/// Whether the checksum in a packet is that of the whole packet. A packet from another program of the
/// same machine may have one that a device would complete, of which only the stack knows.
///
/// The field of such a packet holds the sum of the pseudo header (SCTP: 0). A complete checksum has
/// the same value by chance once in 65,536 packets.
#[inline(always)]
pub fn is_checksum_complete<F: Frame>(f: &F, packet: &Packet) -> bool {
    let tuple = &packet.tuple;
    if packet.kind == Kind::Sctp {
        let mut crc = [0u8; 4];
        return f.load(packet.l4_offset + l4::SCTP_CHECKSUM, &mut crc) && crc != [0; 4];
    }
    let Some(offset) = l4::checksum_offset(packet.kind) else { return true };
    let len = packet.l3_len.saturating_sub(u32::from(packet.header_len)) as u16;
    let mut field = [0u8; 2];
    f.load(packet.l4_offset + offset, &mut field)
        && field != checksum::pseudo_header_sum(&tuple.src, &tuple.dst, tuple.proto, len)
}

/// The change of the CRC for a change of the ports in a packet of `len` bytes.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn nat_crc_delta(change: u32, len: u32) -> u32 {
    u32::from_ne_bytes(crc32c::ports_delta([0; 4], change.to_ne_bytes(), len as u16))
}

#[inline(always)]
fn echo<F: Frame>(f: &F, packet: &Packet, old: [u8; 2], new: [u8; 2]) -> Change {
    let kind = Kind::EchoRequest;
    let Some(offset) = l4::checksum_offset(kind) else { return Change::Failed };
    let delta = Delta::NONE.word(old, new);
    Change::of_headers(
        old == new
            || (f.update_checksum(packet.l4_offset + offset, delta, Changed::Message, kind)
                && f.store(packet.l4_offset + l4::ECHO_ID, &new)),
    )
}
