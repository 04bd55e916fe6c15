//! Writes a translation into the packet.

use aya_ebpf::bindings::__sk_buff;
use sluice_abi::{DropReason, flow_flags};
use sluice_packet::{
    Verdict,
    checksum::Delta,
    crc32c, icmp, ipv4,
    l4::{self, Kind},
};

use crate::{
    frame::Frame,
    maps,
    packet::{Packet, done, part, v4},
};

/// Offset of SCTP's CRC32c.
const SCTP_CHECKSUM: u32 = 8;
/// Offset of the identifier in an ICMP echo.
const ECHO_ID: u32 = 4;

/// Translates `p.key` to `p.out`: addresses in `p.head`, which the caller still has to store, and
/// the layer 4 header in the packet.
#[inline(always)]
pub fn apply(f: &Frame, p: &mut Packet) -> Result<(), Verdict> {
    if p.translate == 0 {
        return Ok(());
    }
    p.done |= if p.flow_flags & flow_flags::FORWARD == 0 {
        done::RESTORED
    } else {
        let dnat = if p.flow_flags & flow_flags::DNAT != 0 { done::TRANSLATED } else { 0 };
        let snat = p.flow_flags & flow_flags::SNAT != 0 && p.out.src != p.key.src;
        dnat | if snat { done::MASQUERADED } else { 0 }
    };
    if nat_rewrite(f.skb()) == 0 { Ok(()) } else { Err(Verdict::Drop(DropReason::NatFailed)) }
}

/// 0: done.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn nat_rewrite(skb: *mut __sk_buff) -> u32 {
    let Some(p) = maps::packet() else { return 1 };
    let f = &Frame::new(skb);
    let (src, dst) = (v4(&p.out.src.0), v4(&p.out.dst.0));
    let addresses = ipv4::address_delta(&p.head.ip, src, dst);
    ipv4::set_addresses(&mut p.head.ip, src, dst);
    if p.part == part::LATER {
        return 0;
    }
    let ok = if p.kind == Kind::Tcp as u8 {
        with_pseudo_header(f, p, Kind::Tcp, addresses)
    } else if p.kind == Kind::Udp as u8 {
        with_pseudo_header(f, p, Kind::Udp, addresses)
    } else if p.kind == Kind::Sctp as u8 {
        sctp(f, p)
    } else if p.kind == Kind::Echo as u8 {
        echo(f, p)
    } else {
        true
    };
    u32::from(!ok)
}

#[inline(always)]
fn port_bytes(p: &Packet) -> ([u8; 4], [u8; 4]) {
    let (k, o) = (&p.key, &p.out);
    (
        [k.sport.0[0], k.sport.0[1], k.dport.0[0], k.dport.0[1]],
        [o.sport.0[0], o.sport.0[1], o.dport.0[0], o.dport.0[1]],
    )
}

#[inline(always)]
fn with_pseudo_header(f: &Frame, p: &Packet, kind: Kind, addresses: Delta) -> bool {
    let Some((offset, _)) = l4::checksum(kind) else { return false };
    let at = p.l4_offset + offset;
    let udp = matches!(kind, Kind::Udp);
    if !f.update_checksum(at, addresses, true, udp) {
        return false;
    }
    let (old, new) = port_bytes(p);
    old == new
        || (f.update_checksum(at, Delta::NONE.quad(old, new), false, udp)
            && f.store(p.l4_offset, &new))
}

#[inline(always)]
fn sctp(f: &Frame, p: &mut Packet) -> bool {
    let (old, new) = port_bytes(p);
    if old == new {
        return true;
    }
    let at = p.l4_offset + SCTP_CHECKSUM;
    let mut crc = [0u8; 4];
    if !f.load(at, &mut crc) {
        return false;
    }
    // Zero: the device will compute it when the packet leaves.
    if crc != [0; 4] && p.part == part::WHOLE {
        let len = p.l3_len.saturating_sub(u32::from(p.header_len)) as u16;
        let change = u32::from_ne_bytes(old) ^ u32::from_ne_bytes(new);
        let delta = nat_crc_delta(change, u32::from(len)).to_ne_bytes();
        let crc = [crc[0] ^ delta[0], crc[1] ^ delta[1], crc[2] ^ delta[2], crc[3] ^ delta[3]];
        if !f.store(at, &crc) {
            return false;
        }
    }
    f.store(p.l4_offset, &new)
}

/// The change of the CRC for a change of the ports in a packet of `len` bytes.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn nat_crc_delta(change: u32, len: u32) -> u32 {
    u32::from_ne_bytes(crc32c::ports_delta([0; 4], change.to_ne_bytes(), len as u16))
}

#[inline(always)]
fn echo(f: &Frame, p: &Packet) -> bool {
    let Some((offset, _)) = l4::checksum(Kind::Echo) else { return false };
    let (old, new) = if p.l4[0] == icmp::ECHO_REQUEST {
        (p.key.sport.0, p.out.sport.0)
    } else {
        (p.key.dport.0, p.out.dport.0)
    };
    old == new
        || (f.update_checksum(p.l4_offset + offset, Delta::NONE.word(old, new), false, false)
            && f.store(p.l4_offset + ECHO_ID, &new))
}
