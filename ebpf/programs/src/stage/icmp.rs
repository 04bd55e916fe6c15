//! ICMP errors about translated flows (RFC 5508 section 4): the receiver has to find its own packet
//! quoted, not the translated one.

use sluice_abi::{FlowEntry, FlowKey, Outcome};
use sluice_packet::Headers;
use sluice_packet::checksum::Delta;
use sluice_packet::ip::Fragment;
use sluice_packet::l4::{self, Kind, TCP_CHECKSUM};

use crate::flow::FlowState;
use crate::frame::{Changed, Frame};
use crate::packet::{FragmentState, Packet};
use crate::scratch::{Quoted, Scratch};
use crate::stage::conntrack::work::{self, Key};
use crate::stage::outline::Outlined;
use crate::{counters, maps};

/// Reverses the translation of the quoted packet, and translates the addresses of the error in the
/// headers, which the caller stores. False: the error is not about a known flow, or quotes too little
/// of the packet.
#[inline(always)]
pub fn find<F: Outlined>(f: &F, s: &mut Scratch) -> bool {
    if s.packet.fragment != FragmentState::Whole {
        return false;
    }
    if !f.restore_error(&s.packet, &mut s.headers, &mut s.quoted, &mut s.flow.translated) {
        return false;
    }
    s.flow.state = FlowState::Related;
    // The error about a flow that is not translated stays as it is.
    if s.quoted.original != s.quoted.sent {
        counters::outcome(Outcome::Restored, s.packet.len);
    }
    true
}

/// The body of [`find`]: rewrites the quote in the packet, the addresses in `headers` and the
/// tuple of the error in `translated`.
#[inline(always)]
pub fn restore<F: Frame>(
    f: &F,
    packet: &Packet,
    headers: &mut Headers,
    quoted: &mut Quoted,
    translated: &mut FlowKey,
) -> bool {
    let at = packet.l4_offset + sluice_packet::icmp::LEN as u32;
    if !f.load(at, &mut quoted.ip.0) {
        return false;
    }
    let Some(fields) = quoted.ip.parse() else { return false };
    let l4_at = at + u32::from(fields.header_len);
    // Bytes after the end of the IP packet are not part of the quote, and not of its checksum.
    let end = packet.l4_offset - u32::from(packet.header_len) + packet.l3_len;
    if fields.fragment == Fragment::Later
        || l4_at + quoted.l4.len() as u32 > end
        || !f.load(l4_at, &mut quoted.l4)
    {
        return false;
    }
    let kind = l4::kind(fields.proto, quoted.l4[0]);
    let (sport, dport) = l4::ports(kind, &quoted.l4);

    // The error is sent to the sender of the quoted packet: an error to another receiver is forged.
    if packet.tuple.dst != fields.src {
        return false;
    }
    let sent = &mut quoted.sent;
    *sent = FlowKey::default();
    sent.src = fields.src;
    sent.dst = fields.dst;
    sent.sport = sport;
    sent.dport = dport;
    sent.proto = fields.proto;
    if icmp_find_original(quoted) == 0 {
        return false;
    }

    // `delta` collects all changes of bytes that the checksum of the error covers.
    let change = quoted.ip.set_addresses(&quoted.original.src, &quoted.original.dst);
    let mut delta = change.header;
    if !f.store(at, &quoted.ip.0) {
        return false;
    }
    let old = quoted.l4;
    let ports = restore_ports(kind, &quoted.original, &mut quoted.l4);
    delta = delta.plus(ports);
    let quoted_checksum = ports.plus(change.pseudo_header);
    let first = &mut quoted.l4;
    match kind {
        Kind::Udp => {
            let sum = quoted_checksum.apply_udp([old[6], old[7]]);
            first[6] = sum[0];
            first[7] = sum[1];
            delta = delta.word([old[6], old[7]], sum);
        }
        Kind::EchoRequest | Kind::EchoReply => {
            let sum = ports.apply([old[2], old[3]]);
            first[2] = sum[0];
            first[3] = sum[1];
            delta = delta.word([old[2], old[3]], sum);
        }
        Kind::Tcp | Kind::Sctp | Kind::IcmpError | Kind::Other => {}
    }
    if !f.store(l4_at, first) {
        return false;
    }
    // TCP's checksum is outside the 8 bytes that an error has to quote.
    let mut sum = [0u8; 2];
    if kind == Kind::Tcp
        && l4_at + TCP_CHECKSUM + 2 <= end
        && f.load(l4_at + TCP_CHECKSUM, &mut sum)
    {
        let new = quoted_checksum.apply(sum);
        delta = delta.word(sum, new);
        if !f.store(l4_at + TCP_CHECKSUM, &new) {
            return false;
        }
    }
    if !f.update_checksum(packet.l4_offset + 2, delta, Changed::Message, Kind::IcmpError) {
        return false;
    }

    // The error is sent to the sender of the quoted packet. Its source is translated only if it is
    // the destination of the quoted packet; a router in between keeps its address.
    if packet.tuple.src == fields.dst {
        translated.src = quoted.original.dst;
    }
    translated.dst = quoted.original.src;
    headers.ip.set_addresses(&translated.src, &translated.dst);
    true
}

/// Sets the tuple before translation of the quoted packet. Returns 0 if it belongs to no flow.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn icmp_find_original(quoted: *mut Quoted) -> u32 {
    // SAFETY: the caller passes a reference; the verifier requires the check for null.
    let Some(quoted) = (unsafe { quoted.as_mut() }) else { return 0 };
    // SAFETY: used in this function only. Memory of an argument cannot be a key before Linux 6.4.
    let Some(key) = (unsafe { work::key(Key::Quoted) }) else { return 0 };
    key.sort(&quoted.sent);
    let Some(entry) = maps::any_flow(key) else { return 0 };
    entry.copy(&mut quoted.entry);
    if is_reply_to_other(&quoted.entry, &quoted.sent) {
        // The quoted packet may be a translated reply of a flow with a shadowed alias.
        key.reverse_of(&quoted.sent);
        key.shadow = 1;
        if let Some(alias) = maps::any_flow(key) {
            alias.copy(&mut quoted.entry);
        }
    }
    if quoted.entry.is_alias() {
        // The main entry may have been evicted, and another flow may have its port by now.
        key.sort(&quoted.entry.other);
        let Some(main) = maps::any_flow(key) else { return 0 };
        if main.is_alias() || !main.has_other(&quoted.entry.tuple) {
            return 0;
        }
    }
    u32::from(original_of(&quoted.entry, &quoted.sent, &mut quoted.original))
}

/// Whether a packet with the tuple `sent` has the tuple of a reply to the flow of this main entry,
/// whose replies have another tuple after translation.
#[inline(always)]
fn is_reply_to_other(entry: &FlowEntry, sent: &FlowKey) -> bool {
    !entry.is_alias() && sent.is_reverse_of(&entry.tuple) && !sent.is_reverse_of(&entry.other)
}

/// The tuple before translation of a packet that was sent with the tuple `sent`. False: it does not
/// belong to the flow of this entry.
#[inline(always)]
fn original_of(entry: &FlowEntry, sent: &FlowKey, original: &mut FlowKey) -> bool {
    let is_forward = maps::same_tuple(&entry.tuple, sent);
    if !is_forward && !sent.is_reverse_of(&entry.tuple) {
        return false;
    }
    // Packets after translation have the tuple of a main entry in the flow's direction, and that of
    // an alias in the opposite one. A packet in another direction was not translated.
    match (entry.is_alias(), is_forward) {
        (false, true) => *original = entry.other,
        (true, false) => original.reverse_of(&entry.other),
        (false, false) | (true, true) => *original = *sent,
    }
    true
}

/// Writes the ports of `original`, or its identifier, into the first bytes of a layer 4 header.
#[inline(always)]
fn restore_ports(kind: Kind, original: &FlowKey, b: &mut [u8; 8]) -> Delta {
    let (s, d) = (original.sport.0, original.dport.0);
    match kind {
        Kind::Tcp | Kind::Udp | Kind::Sctp => {
            let delta = Delta::NONE.quad([b[0], b[1], b[2], b[3]], [s[0], s[1], d[0], d[1]]);
            b[0] = s[0];
            b[1] = s[1];
            b[2] = d[0];
            b[3] = d[1];
            delta
        }
        Kind::EchoRequest | Kind::EchoReply => {
            let id = if kind == Kind::EchoRequest { s } else { d };
            let delta = Delta::NONE.word([b[4], b[5]], id);
            b[4] = id[0];
            b[5] = id[1];
            delta
        }
        Kind::IcmpError | Kind::Other => Delta::NONE,
    }
}
