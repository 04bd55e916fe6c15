//! Translation of headers.

use sluice_abi::{Direction, DropReason, FlowKey, Outcome};
use sluice_packet::checksum::{self, Delta};
use sluice_packet::l4::{self, Kind};
use sluice_packet::{Headers, crc32c};

use crate::counters;
use crate::flow::{Flow, FlowState};
use crate::frame::{Changed, Frame};
use crate::packet::{FragmentState, Packet};
use crate::stage::outline::Outlined;
use crate::verdict::Verdict;

/// Translates a packet: addresses in `headers`, which the caller stores, and the layer 4 header in
/// the packet. `Ok(false)`: nothing has changed.
#[inline(always)]
pub fn apply<F: Outlined>(
    f: &F,
    packet: &Packet,
    flow: &Flow,
    headers: &mut Headers,
) -> Result<bool, Verdict> {
    match flow.state {
        FlowState::Untracked => return Ok(false),
        FlowState::Related => return Ok(true),
        FlowState::New | FlowState::Established => {}
    }
    if flow.translated == packet.tuple {
        return Ok(false);
    }
    count(packet, flow);
    if f.rewrite(packet, &flow.translated, headers) {
        Ok(true)
    } else {
        Err(Verdict::Drop(DropReason::NatFailed))
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

/// Rewrites addresses, ports and checksums. False if the packet is shorter than its headers say.
#[inline(always)]
pub fn rewrite<F: Frame>(
    f: &F,
    packet: &Packet,
    translated: &FlowKey,
    headers: &mut Headers,
) -> bool {
    let change = headers.ip.set_addresses(&translated.src, &translated.dst);
    if packet.fragment == FragmentState::Later {
        return true;
    }
    match packet.kind {
        Kind::Tcp => with_pseudo_header(f, packet, translated, Kind::Tcp, change.pseudo_header),
        Kind::Udp => with_pseudo_header(f, packet, translated, Kind::Udp, change.pseudo_header),
        Kind::Sctp => sctp(f, packet, translated),
        Kind::EchoRequest => echo(f, packet, packet.tuple.sport.0, translated.sport.0),
        Kind::EchoReply => echo(f, packet, packet.tuple.dport.0, translated.dport.0),
        Kind::IcmpError | Kind::Other => true,
    }
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
    kind: Kind,
    addresses: Delta,
) -> bool {
    let Some(offset) = l4::checksum_offset(kind) else { return false };
    let at = packet.l4_offset + offset;
    if !f.update_checksum(at, addresses, Changed::PseudoHeader, kind) {
        return false;
    }
    let (old, new) = (ports(&packet.tuple), ports(translated));
    old == new
        || (f.update_checksum(at, Delta::NONE.quad(old, new), Changed::Message, kind)
            && f.store(packet.l4_offset, &new))
}

#[inline(always)]
fn sctp<F: Frame>(f: &F, packet: &Packet, translated: &FlowKey) -> bool {
    let (old, new) = (ports(&packet.tuple), ports(translated));
    if old == new {
        return true;
    }
    let at = packet.l4_offset + l4::SCTP_CHECKSUM;
    let mut crc = [0u8; 4];
    if !f.load(at, &mut crc) {
        return false;
    }
    // Zero: the device computes the CRC on transmission.
    if crc != [0; 4] && packet.fragment == FragmentState::Whole {
        let len = packet.l3_len.saturating_sub(u32::from(packet.header_len)) as u16;
        let change = u32::from_ne_bytes(old) ^ u32::from_ne_bytes(new);
        let delta = nat_crc_delta(change, u32::from(len)).to_ne_bytes();
        let crc = [crc[0] ^ delta[0], crc[1] ^ delta[1], crc[2] ^ delta[2], crc[3] ^ delta[3]];
        if !f.store(at, &crc) {
            return false;
        }
    }
    f.store(packet.l4_offset, &new)
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
fn echo<F: Frame>(f: &F, packet: &Packet, old: [u8; 2], new: [u8; 2]) -> bool {
    let kind = Kind::EchoRequest;
    let Some(offset) = l4::checksum_offset(kind) else { return false };
    let delta = Delta::NONE.word(old, new);
    old == new
        || (f.update_checksum(packet.l4_offset + offset, delta, Changed::Message, kind)
            && f.store(packet.l4_offset + l4::ECHO_ID, &new))
}
