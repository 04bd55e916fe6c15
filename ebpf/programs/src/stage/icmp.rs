//! ICMP errors about translated flows (RFC 5508 section 4): who gets one must find its own packet
//! quoted, not the one that we made of it.

use aya_ebpf::bindings::__sk_buff;
use sluice_abi::Addr;
use sluice_packet::{
    checksum::Delta,
    ipv4::{self, Ipv4},
    l4::{self, Kind},
};

use crate::{
    frame::Frame,
    maps,
    packet::{Packet, done, part, v4},
};

/// Translates the quoted packet back, and the addresses of the error itself in `p.head` and
/// `p.out`. False: the error is not about a flow of ours, or quotes too little to tell.
#[inline(always)]
pub fn translate_back(f: &Frame, p: &mut Packet) -> bool {
    p.part == part::WHOLE && icmp_translate_back(f.skb()) == 1
}

/// 1: translated.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn icmp_translate_back(skb: *mut __sk_buff) -> u32 {
    let Some(p) = maps::packet() else { return 0 };
    let f = &Frame::new(skb);
    let at = p.l4_offset + sluice_packet::icmp::LEN as u32;
    if !f.load(at, &mut p.quoted_ip) {
        return 0;
    }
    let Some(header) = Ipv4::parse(&p.quoted_ip) else { return 0 };
    let l4_at = at + u32::from(header.header_len);
    if header.fragment_offset != 0 || !f.load(l4_at, &mut p.quoted_l4) {
        return 0;
    }
    let kind = l4::kind(header.proto, p.quoted_l4[0]);
    let (sport, dport) = l4::ports(kind, &p.quoted_l4);

    // The entry that a reply to the quoted packet would meet knows what it was before.
    p.partner_key.src = Addr::v4(header.dst);
    p.partner_key.dst = Addr::v4(header.src);
    p.partner_key.sport = dport;
    p.partner_key.dport = sport;
    p.partner_key.proto = header.proto;
    p.partner_key.pad = [0; 3];
    let Some(entry) = maps::flow(&p.partner_key) else { return 0 };
    p.quoted = entry.translated.reversed();
    let (src, dst) = (v4(&p.quoted.src.0), v4(&p.quoted.dst.0));

    // Everything under the ICMP checksum that changes goes into `delta`.
    let addresses = ipv4::address_delta(&p.quoted_ip, src, dst);
    let old_sum = [p.quoted_ip[10], p.quoted_ip[11]];
    ipv4::set_addresses(&mut p.quoted_ip, src, dst);
    let mut delta = addresses.word(old_sum, [p.quoted_ip[10], p.quoted_ip[11]]);
    if !f.store(at, &p.quoted_ip) {
        return 2;
    }

    let old = p.quoted_l4;
    let first = &mut p.quoted_l4;
    let mut inner = Delta::NONE;
    match kind {
        Kind::Tcp | Kind::Udp | Kind::Sctp => {
            let (s, d) = (p.quoted.sport.0, p.quoted.dport.0);
            inner = inner.quad([old[0], old[1], old[2], old[3]], [s[0], s[1], d[0], d[1]]);
            first[0] = s[0];
            first[1] = s[1];
            first[2] = d[0];
            first[3] = d[1];
        }
        Kind::Echo => {
            let asks = old[0] == sluice_packet::icmp::ECHO_REQUEST;
            let id = if asks { p.quoted.sport.0 } else { p.quoted.dport.0 };
            inner = inner.word([old[4], old[5]], id);
            first[4] = id[0];
            first[5] = id[1];
        }
        Kind::IcmpError | Kind::Other => {}
    }
    delta = delta.plus(inner);
    // The quoted checksum, where it is within the quote.
    if matches!(kind, Kind::Udp) && [old[6], old[7]] != [0, 0] {
        let sum = inner.plus(addresses).apply([old[6], old[7]]);
        first[6] = sum[0];
        first[7] = sum[1];
        delta = delta.word([old[6], old[7]], sum);
    }
    if matches!(kind, Kind::Echo) {
        let sum = inner.apply([old[2], old[3]]);
        first[2] = sum[0];
        first[3] = sum[1];
        delta = delta.word([old[2], old[3]], sum);
    }
    if !f.store(l4_at, first) {
        return 2;
    }
    if matches!(kind, Kind::Tcp) {
        let mut sum = [0u8; 2];
        if f.load(l4_at + 16, &mut sum) {
            let new = inner.plus(addresses).apply(sum);
            delta = delta.word(sum, new);
            if !f.store(l4_at + 16, &new) {
                return 2;
            }
        }
    }
    if !f.update_checksum(p.l4_offset + 2, delta, false, false) {
        return 2;
    }

    // The error goes to who sent the quoted packet, and comes from whom that one was sent to, if
    // its destination complains; a router on the way stays itself.
    if p.src() == header.dst {
        p.out.src = p.quoted.dst;
    }
    p.out.dst = p.quoted.src;
    ipv4::set_addresses(&mut p.head.ip, v4(&p.out.src.0), v4(&p.out.dst.0));
    p.done |= done::RESTORED;
    1
}
