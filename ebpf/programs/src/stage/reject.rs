//! "Connection refused": an ICMP port unreachable from the address that was asked for.

use aya_ebpf::bindings::__sk_buff;
use sluice_abi::proto;
use sluice_packet::{
    checksum, eth, icmp, ipv4,
    l4::{self, Kind},
    tcp_state::flag,
};

use crate::{
    frame::Frame,
    maps,
    packet::{Packet, part},
};

/// Turns the frame into the answer to itself. False: nobody may be answered (RFC 1122 section
/// 3.2.2), or it failed; the packet is to be dropped.
#[inline(always)]
pub fn answer(f: &Frame, p: &mut Packet) -> bool {
    let silent = p.kind == Kind::IcmpError as u8
        || p.part == part::LATER
        || p.part == part::UNKNOWN
        || (p.key.proto == proto::TCP && p.tcp_flags & flag::RST != 0)
        || ipv4::stays_on_link(p.src());
    !silent && reject_port_unreachable(f.skb()) == 1
}

/// 1: done.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn reject_port_unreachable(skb: *mut __sk_buff) -> u32 {
    let Some(p) = maps::packet() else { return 0 };
    let f = &Frame::new(skb);
    let header_len = u32::from(p.header_len);
    // At least 8 bytes of the original's data. TCP and SCTP headers as a whole: the kernel keeps
    // what holds the checksum that a device was to fill in.
    let data = u32::from(l4::min_len(p.key.proto)).max(8);
    let quoted = (header_len + data).min(p.l3_len).min(80);
    p.quote = [0; crate::packet::QUOTE_LEN];
    if !f.load_quote(eth::LEN as u32, &mut p.quote, quoted) {
        return 0;
    }
    let sum = quoted_sum(f, p);
    let headers = icmp::port_unreachable(p.dst(), p.src(), quoted as u16, sum);
    if !f.truncate(eth::LEN as u32 + quoted) || !f.open_room(icmp::ANSWER_LEN as i32) {
        return 0;
    }
    let e = &p.head.eth;
    let to = [e[6], e[7], e[8], e[9], e[10], e[11]];
    let from = [e[0], e[1], e[2], e[3], e[4], e[5]];
    eth::set_addresses(&mut p.head.eth, to, from);
    let done = f.store(0, &p.head.eth) && f.store(eth::LEN as u32, &headers);
    u32::from(done)
}

/// The sum of the quote as it is when it leaves. Where the device of the original packet was to
/// complete the checksum, the kernel still does so for the quote: with its header, which sums to
/// zero, the sum is then the complement of what the field holds now. The kernel does not show
/// whether a checksum is complete; one of 65,536 complete ones looks as if it were not, and that
/// ICMP error is discarded by its receiver.
#[inline(always)]
fn quoted_sum(f: &Frame, p: &Packet) -> u32 {
    let kind = if p.kind == Kind::Tcp as u8 { Kind::Tcp } else { Kind::Udp };
    if kind as u8 == p.kind
        && let Some((offset, _)) = l4::checksum(kind)
    {
        let mut field = [0u8; 2];
        let len = p.l3_len.saturating_sub(u32::from(p.header_len)) as u16;
        if f.load(p.l4_offset + offset, &mut field)
            && field == checksum::pseudo_header_sum(&p.head.ip, len)
        {
            return u32::from(!u16::from_ne_bytes(field));
        }
    }
    checksum::sum(&p.quote)
}
