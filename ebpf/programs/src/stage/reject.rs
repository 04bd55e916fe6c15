//! Rejection, from the requested address: an ICMP "port unreachable" or "fragmentation needed", or a
//! TCP reset for senders on this node and for connections that have no flow.

use aya_ebpf::bindings::__sk_buff;
use sluice_abi::proto;
use sluice_packet::l4::{self, Kind};
use sluice_packet::tcp_state::flag;
use sluice_packet::{Headers, checksum, eth, icmp, ip, reset};

use crate::frame::{Frame, Skb};
use crate::packet::{FragmentState, Packet};
use crate::scratch::QUOTE_LEN;
use crate::stage::forward;
use crate::stage::nat::Change;

/// Longest part of a packet that an error quotes.
const QUOTE_MAX: u32 = 80;

/// Whether an error about a packet may be sent (RFC 1122 section 3.2.2).
#[inline(always)]
pub fn may_answer(packet: &Packet) -> bool {
    packet.kind != Kind::IcmpError
        && packet.fragment != FragmentState::Later
        && packet.fragment != FragmentState::Unresolved
        && !(packet.tuple.proto == proto::TCP && packet.tcp_flags & flag::RST != 0)
        && !ip::stays_on_link(&packet.tuple.src)
}

/// Replaces a packet that [may be answered](may_answer) by the error about it. False: the replacement failed; the packet
/// has to be dropped.
#[inline(always)]
pub fn answer(
    f: &Skb,
    packet: &Packet,
    headers: &mut Headers,
    quote: &mut [u8; QUOTE_LEN],
    error: icmp::Error,
) -> bool {
    skb_error(f.as_ptr(), packet, headers, quote, error.bits()) == 1
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn skb_error(
    skb: *mut __sk_buff,
    packet: *const Packet,
    headers: *mut Headers,
    quote: *mut [u8; QUOTE_LEN],
    error: u32,
) -> u32 {
    // SAFETY: the caller passes the context of the run, which is the only kind of pointer that the
    // verifier accepts here.
    let f = unsafe { Skb::new(skb) };
    // SAFETY: the caller passes references; the verifier requires the checks for null.
    let (Some(packet), Some(headers), Some(quote)) =
        (unsafe { (packet.as_ref(), headers.as_mut(), quote.as_mut()) })
    else {
        return 0;
    };
    // At least 8 bytes of the payload, and TCP and SCTP headers as a whole: the kernel does not
    // remove the part with a checksum that the device completes.
    let data = u32::from(l4::min_len(packet.tuple.proto)).max(8);
    let quoted = (u32::from(packet.header_len) + data).min(packet.l3_len).min(QUOTE_MAX);
    *quote = [0; QUOTE_LEN];
    if !f.load_quote(eth::LEN as u32, quote, quoted) {
        return 0;
    }
    let tuple = &packet.tuple;
    let sum = quoted_sum(&f, packet, quote);
    let error = icmp::Error::from_bits(error);
    let error = icmp::error(&tuple.dst, &tuple.src, error, quoted as u16, sum);
    if !f.truncate(eth::LEN as u32 + quoted) || !f.insert_after_link_header(icmp::ERROR_LEN as i32)
    {
        return 0;
    }
    headers.link.swap_addresses();
    u32::from(f.store(0, &headers.link.0) && f.store(eth::LEN as u32, &error))
}

/// Replaces a TCP segment that [may be answered](may_answer) by the reset that answers it. False: it is a fragment or has
/// IP options, or the replacement failed.
///
/// For senders on this node: while a socket is in a system call, the kernel ignores an ICMP error
/// about it, but queues a segment. For connections that have no flow any more: an ICMP error does not end them.
#[inline(always)]
pub fn reset(
    f: &Skb,
    packet: &Packet,
    headers: &mut Headers,
    memory: &mut [u8; QUOTE_LEN],
) -> bool {
    let answers = packet.kind == Kind::Tcp
        && packet.fragment == FragmentState::Whole
        && usize::from(packet.header_len) == ip::LEN;
    if !answers {
        return false;
    }
    let is_partial = u32::from(skb_partial_checksum(f.as_ptr(), packet) != NOT_PARTIAL);
    skb_reset(f.as_ptr(), packet, headers, memory, is_partial) == 1
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn skb_reset(
    skb: *mut __sk_buff,
    packet: *const Packet,
    headers: *mut Headers,
    memory: *mut [u8; QUOTE_LEN],
    is_partial: u32,
) -> u32 {
    // SAFETY: as in `skb_error`.
    let f = unsafe { Skb::new(skb) };
    // SAFETY: as in `skb_error`.
    let (Some(packet), Some(headers), Some(memory)) =
        (unsafe { (packet.as_ref(), headers.as_mut(), memory.as_mut()) })
    else {
        return 0;
    };
    let Some(segment) = memory.first_chunk_mut::<{ reset::LEN }>() else { return 0 };
    if !f.load(packet.l4_offset, segment) {
        return 0;
    }
    let tuple = &packet.tuple;
    let header_len = l4::tcp_header_len(segment[12]);
    let payload = packet.l3_len.saturating_sub(ip::LEN as u32 + header_len);
    reset::answer(segment, payload, (&tuple.dst, &tuple.src), is_partial != 0);
    headers.link.swap_addresses();
    headers.ip = ip::Header::of_reset(&tuple.dst, &tuple.src, reset::LEN as u16);
    // The offsets of a checksum that a device completes remain the same.
    let done = f.truncate((Headers::LEN + reset::LEN) as u32)
        && forward::store(&f, headers, Change::Headers).is_ok()
        && f.store(Headers::LEN as u32, segment);
    u32::from(done)
}

/// The sum of the quoted bytes at the time they are sent. If a device had to complete the checksum of
/// the original packet, the kernel completes it in the quote as well: the quoted segment with its
/// pseudo header then sums to zero, so the sum is the complement of the present field.
#[inline(always)]
fn quoted_sum(f: &Skb, packet: &Packet, quote: &[u8; QUOTE_LEN]) -> u32 {
    match skb_partial_checksum(f.as_ptr(), packet) {
        NOT_PARTIAL => checksum::sum(quote),
        field => u32::from(!(field as u16)),
    }
}

/// Result of [`skb_partial_checksum`]: the checksum is complete.
const NOT_PARTIAL: u32 = u32::MAX;

/// The checksum field of a packet, in host order, if a device has to complete it. The kernel does not
/// expose that: one in 65,536 complete checksums equals an incomplete one; the receiver discards the
/// answer to such a packet.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn skb_partial_checksum(skb: *mut __sk_buff, packet: *const Packet) -> u32 {
    // SAFETY: as in `skb_error`.
    let f = unsafe { Skb::new(skb) };
    // SAFETY: as in `skb_error`.
    let Some(packet) = (unsafe { packet.as_ref() }) else { return NOT_PARTIAL };
    let offset = match packet.kind {
        Kind::Tcp | Kind::Udp => l4::checksum_offset(packet.kind),
        _ => None,
    };
    let Some(offset) = offset else { return NOT_PARTIAL };
    let mut field = [0u8; 2];
    let tuple = &packet.tuple;
    let len = packet.l3_len.saturating_sub(u32::from(packet.header_len)) as u16;
    if f.load(packet.l4_offset + offset, &mut field)
        && field == checksum::pseudo_header_sum(&tuple.src, &tuple.dst, tuple.proto, len)
    {
        return u32::from(u16::from_ne_bytes(field));
    }
    NOT_PARTIAL
}
