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
    let headers = icmp::port_unreachable(p.dst(), p.src(), quoted as u16, checksum::sum(&p.quote));
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
