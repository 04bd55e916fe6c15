//! The IPv4 header (RFC 791).

use sluice_abi::{Addr, proto};

use super::{AddressChange, Fields, Fragment};
use crate::checksum::{Delta, finish, sum};

/// Length in bytes of a header without options.
pub const LEN: usize = 20;

/// Version 4 and a header length of 5 words.
const VERSION_AND_LEN: u8 = 0x45;
/// Type of service of ICMP errors: precedence 6 (RFC 1812 section 4.3.2.5).
const ERROR_TOS: u8 = 0xc0;
/// Don't fragment.
const DONT_FRAGMENT: u8 = 0x40;
/// Time to live of packets that Sluice creates.
const TTL: u8 = 64;

/// Reads a header. `None`: not version 4, or a header length below 20, or a total length below the
/// header length.
#[inline(always)]
pub fn parse(b: &[u8; LEN]) -> Option<Fields> {
    let header_len = (b[0] & 0x0f) * 4;
    let total_len = u16::from_be_bytes([b[2], b[3]]);
    if b[0] >> 4 != 4 || header_len < 20 || (total_len != 0 && total_len < u16::from(header_len)) {
        return None;
    }
    let more_fragments = b[6] & 0x20 != 0;
    let first = b[6] & 0x1f == 0 && b[7] == 0;
    Some(Fields {
        src: Addr::v4([b[12], b[13], b[14], b[15]]),
        dst: Addr::v4([b[16], b[17], b[18], b[19]]),
        header_len,
        total_len,
        hop_limit: b[8],
        proto: b[9],
        fragment: match (first, more_fragments) {
            (true, false) => Fragment::Whole,
            (true, true) => Fragment::First,
            (false, _) => Fragment::Later,
        },
        fragment_id: u16::from_ne_bytes([b[4], b[5]]) as u32,
    })
}

/// Whether routers must not fragment the packet.
#[inline(always)]
pub const fn dont_fragment(b: &[u8; LEN]) -> bool {
    b[6] & DONT_FRAGMENT != 0
}

/// Writes new addresses and updates the checksum.
#[inline(always)]
pub fn set_addresses(b: &mut [u8; LEN], src: &Addr, dst: &Addr) -> AddressChange {
    let (s, d) = (&src.0, &dst.0);
    let (s, d) = ([s[12], s[13], s[14], s[15]], [d[12], d[13], d[14], d[15]]);
    let addresses =
        Delta::NONE.quad([b[12], b[13], b[14], b[15]], s).quad([b[16], b[17], b[18], b[19]], d);
    let old = [b[10], b[11]];
    let new = addresses.apply(old);
    b[10] = new[0];
    b[11] = new[1];
    let mut i = 0;
    while i < 4 {
        b[12 + i] = s[i];
        b[16 + i] = d[i];
        i += 1;
    }
    AddressChange { pseudo_header: addresses, header: addresses.word(old, new) }
}

/// Decrements the time to live and updates the checksum.
#[inline(always)]
pub fn decrement_ttl(b: &mut [u8; LEN]) {
    let ttl = b[8].wrapping_sub(1);
    let sum = Delta::NONE.word([b[8], b[9]], [ttl, b[9]]).apply([b[10], b[11]]);
    b[8] = ttl;
    b[10] = sum[0];
    b[11] = sum[1];
}

/// The header of an ICMP error.
#[inline(always)]
pub fn of_icmp_error(src: &Addr, dst: &Addr, payload_len: u16) -> [u8; LEN] {
    created(proto::ICMP, ERROR_TOS, src, dst, payload_len)
}

/// The header of a TCP segment without payload.
#[inline(always)]
pub fn of_reset(src: &Addr, dst: &Addr, payload_len: u16) -> [u8; LEN] {
    created(proto::TCP, 0, src, dst, payload_len)
}

#[inline(always)]
fn created(proto: u8, tos: u8, src: &Addr, dst: &Addr, payload_len: u16) -> [u8; LEN] {
    let total = (payload_len + LEN as u16).to_be_bytes();
    let mut b = [0u8; LEN];
    b[0] = VERSION_AND_LEN;
    b[1] = tos;
    b[2] = total[0];
    b[3] = total[1];
    b[6] = DONT_FRAGMENT;
    b[8] = TTL;
    b[9] = proto;
    let mut i = 0;
    while i < 4 {
        b[12 + i] = src.0[12 + i];
        b[16 + i] = dst.0[12 + i];
        i += 1;
    }
    let c = finish(sum(&b));
    b[10] = c[0];
    b[11] = c[1];
    b
}

/// Multicast (224/4), limited broadcast and "this network" (0/8) addresses, which are never routed.
#[inline(always)]
pub const fn stays_on_link(a: [u8; 4]) -> bool {
    a[0] >= 224 || a[0] == 0
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::checksum::fold;

    fn header(mut b: [u8; 20]) -> [u8; 20] {
        b[0] = 0x45;
        b[10] = 0;
        b[11] = 0;
        let c = finish(sum(&b));
        b[10] = c[0];
        b[11] = c[1];
        b
    }

    #[test]
    fn invalid_versions_and_lengths_are_not_parsed() {
        let good = header([0; 20]);
        assert!(parse(&good).is_some());
        let mut short = good;
        short[0] = 0x44;
        assert_eq!(parse(&short), None);
        let mut six = good;
        six[0] = 0x65;
        assert_eq!(parse(&six), None);
        let mut cut = good;
        cut[3] = 19;
        assert_eq!(parse(&cut), None);
        cut[3] = 20;
        assert!(parse(&cut).is_some());
    }

    #[test]
    fn fields_are_read_from_their_offsets() {
        let b =
            [0x46, 0, 0x01, 0x02, 0xab, 0xcd, 0x40, 0, 61, 17, 0, 0, 10, 1, 2, 3, 192, 168, 7, 8];
        let expected = Fields {
            src: Addr::v4([10, 1, 2, 3]),
            dst: Addr::v4([192, 168, 7, 8]),
            header_len: 24,
            total_len: 0x0102,
            hop_limit: 61,
            proto: 17,
            fragment: Fragment::Whole,
            fragment_id: u32::from(u16::from_ne_bytes([0xab, 0xcd])),
        };
        assert_eq!(parse(&b), Some(expected));
    }

    #[test]
    fn fragments_are_told_apart_by_offset_and_more_fragments() {
        let with = |high: u8, low: u8| {
            let mut b = header([0; 20]);
            b[6] = high;
            b[7] = low;
            parse(&b).map(|fields| fields.fragment)
        };
        assert_eq!(with(0x40, 0), Some(Fragment::Whole), "don't fragment");
        assert_eq!(with(0x20, 0), Some(Fragment::First));
        assert_eq!(with(0x20, 3), Some(Fragment::Later));
        assert_eq!(with(0x00, 3), Some(Fragment::Later), "the last one");
        assert_eq!(with(0x01, 0), Some(Fragment::Later), "the high bits of the offset");
    }

    proptest! {
        #[test]
        fn checksum_is_correct_after_each_change(
            bytes in any::<[u8; 20]>(),
            src in any::<[u8; 4]>(),
            dst in any::<[u8; 4]>(),
        ) {
            let mut b = header(bytes);
            b[8] |= 2;
            let mut b = header(b);
            let before = b;
            let change = set_addresses(&mut b, &Addr::v4(src), &Addr::v4(dst));
            prop_assert_eq!(b, header(b));
            prop_assert_eq!(&b[12..16], &src);
            prop_assert_eq!(&b[16..20], &dst);
            // Checksums over the addresses and over the whole header, computed from scratch.
            let (old, new) = (finish(sum(&before[12..])), finish(sum(&b[12..])));
            prop_assert_eq!(fold(sum(&change.pseudo_header.apply(old))), fold(sum(&new)));
            let (old, new) = (finish(sum(&before) + 1), finish(sum(&b) + 1));
            prop_assert_eq!(change.header.apply(old), new);
            decrement_ttl(&mut b);
            prop_assert_eq!(b, header(b));
        }
    }
}
