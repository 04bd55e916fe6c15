//! Rejection: an ICMP "port unreachable" or "fragmentation needed" from the requested address.

use aya_ebpf::bindings::__sk_buff;
use sluice_abi::proto;
use sluice_packet::{
    Headers, checksum, eth, icmp, ip,
    l4::{self, Kind},
    tcp_state::flag,
};

use crate::{
    frame::{Frame, Skb},
    packet::{FragmentState, Packet},
    scratch::QUOTE_LEN,
};

/// Longest part of a packet that an error quotes.
const QUOTE_MAX: u32 = 80;

/// Replaces the packet by the error about it. False: no error may be sent (RFC 1122 section 3.2.2),
/// or the replacement failed; the packet has to be dropped.
#[inline(always)]
pub fn unreachable(
    f: &Skb,
    packet: &Packet,
    headers: &mut Headers,
    quote: &mut [u8; QUOTE_LEN],
    (code, mtu): (u8, u16),
) -> bool {
    let silent = packet.kind == Kind::IcmpError
        || packet.fragment == FragmentState::Later
        || packet.fragment == FragmentState::Unresolved
        || (packet.tuple.proto == proto::TCP && packet.tcp_flags & flag::RST != 0)
        || ip::stays_on_link(&packet.tuple.src);
    let error = u32::from(code) << 16 | u32::from(mtu);
    !silent && skb_unreachable(f.as_ptr(), packet, headers, quote, error) == 1
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn skb_unreachable(
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
    let code = ((error >> 16) as u8, error as u16);
    let error = icmp::unreachable(&tuple.dst, &tuple.src, code, quoted as u16, sum);
    if !f.truncate(eth::LEN as u32 + quoted) || !f.insert_after_link_header(icmp::ERROR_LEN as i32)
    {
        return 0;
    }
    headers.link.swap_addresses();
    u32::from(f.store(0, &headers.link.0) && f.store(eth::LEN as u32, &error))
}

/// The sum of the quoted bytes at the time they are sent. If a device had to complete the checksum of
/// the original packet, the kernel completes it in the quote as well: the quoted segment with its
/// pseudo header then sums to zero, so the sum is the complement of the present field. The kernel does
/// not expose whether a checksum is complete. One in 65,536 complete checksums equals an incomplete
/// one; the receiver discards that ICMP error.
#[inline(always)]
fn quoted_sum(f: &Skb, packet: &Packet, quote: &[u8; QUOTE_LEN]) -> u32 {
    let offset = match packet.kind {
        Kind::Tcp | Kind::Udp => l4::checksum_offset(packet.kind),
        _ => None,
    };
    if let Some(offset) = offset {
        let mut field = [0u8; 2];
        let tuple = &packet.tuple;
        let len = packet.l3_len.saturating_sub(u32::from(packet.header_len)) as u16;
        if f.load(packet.l4_offset + offset, &mut field)
            && field == checksum::pseudo_header_sum(&tuple.src, &tuple.dst, tuple.proto, len)
        {
            return u32::from(!u16::from_ne_bytes(field));
        }
    }
    checksum::sum(quote)
}
