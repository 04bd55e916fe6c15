//! The IPv4 header (RFC 791).

use crate::checksum::Delta;

/// Bytes of a header without options.
pub const MIN_LEN: usize = 20;

/// What the programs use of a header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ipv4 {
    /// Header length in bytes, options included: 20 to 60.
    pub header_len: u8,
    /// Total length in bytes, header included; 0 where the kernel holds a packet longer than the
    /// field can say.
    pub total_len: u16,
    /// Identification, as read from the wire.
    pub id: [u8; 2],
    /// Fragment offset in bytes.
    pub fragment_offset: u16,
    /// More fragments follow.
    pub more_fragments: bool,
    /// Time to live.
    pub ttl: u8,
    /// Protocol number.
    pub proto: u8,
    /// Source address.
    pub src: [u8; 4],
    /// Destination address.
    pub dst: [u8; 4],
}

impl Ipv4 {
    /// Reads the first 20 bytes of a header. `None`: not version 4, or a header length below 20,
    /// or a total length below the header's.
    #[inline(always)]
    pub fn parse(b: &[u8; MIN_LEN]) -> Option<Ipv4> {
        let header_len = (b[0] & 0x0f) * 4;
        let total_len = u16::from_be_bytes([b[2], b[3]]);
        if b[0] >> 4 != 4
            || header_len < 20
            || (total_len != 0 && total_len < u16::from(header_len))
        {
            return None;
        }
        Some(Ipv4 {
            header_len,
            total_len,
            id: [b[4], b[5]],
            fragment_offset: u16::from_be_bytes([b[6] & 0x1f, b[7]]) << 3,
            more_fragments: b[6] & 0x20 != 0,
            ttl: b[8],
            proto: b[9],
            src: [b[12], b[13], b[14], b[15]],
            dst: [b[16], b[17], b[18], b[19]],
        })
    }

    /// Whether this is a fragment, first or later.
    #[inline(always)]
    pub const fn is_fragment(&self) -> bool {
        self.more_fragments || self.fragment_offset != 0
    }
}

/// Writes new addresses and the checksum that belongs to them.
#[inline(always)]
pub fn set_addresses(b: &mut [u8; MIN_LEN], src: [u8; 4], dst: [u8; 4]) {
    let delta = address_delta(b, src, dst);
    let sum = delta.apply([b[10], b[11]]);
    b[10] = sum[0];
    b[11] = sum[1];
    let mut i = 0;
    while i < 4 {
        b[12 + i] = src[i];
        b[16 + i] = dst[i];
        i += 1;
    }
}

/// What new addresses do to every checksum that covers them.
#[inline(always)]
pub fn address_delta(b: &[u8; MIN_LEN], src: [u8; 4], dst: [u8; 4]) -> Delta {
    Delta::NONE.quad([b[12], b[13], b[14], b[15]], src).quad([b[16], b[17], b[18], b[19]], dst)
}

/// One router less to go: TTL and checksum. The caller has made sure that the TTL is above 1.
#[inline(always)]
pub fn decrement_ttl(b: &mut [u8; MIN_LEN]) {
    let ttl = b[8].wrapping_sub(1);
    let sum = Delta::NONE.word([b[8], b[9]], [ttl, b[9]]).apply([b[10], b[11]]);
    b[8] = ttl;
    b[10] = sum[0];
    b[11] = sum[1];
}

/// Multicast (224/4), limited broadcast and "this network" (0/8) addresses: never routed.
#[inline(always)]
pub const fn stays_on_link(a: [u8; 4]) -> bool {
    a[0] >= 224 || a[0] == 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checksum::{finish, sum};
    use proptest::prelude::*;

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
    fn refuses_what_is_not_a_header() {
        let good = header([0; 20]);
        assert!(Ipv4::parse(&good).is_some());
        let mut short = good;
        short[0] = 0x44;
        assert_eq!(Ipv4::parse(&short), None);
        let mut six = good;
        six[0] = 0x65;
        assert_eq!(Ipv4::parse(&six), None);
        let mut cut = good;
        cut[3] = 19;
        assert_eq!(Ipv4::parse(&cut), None);
    }

    #[test]
    fn reads_fragment_fields() {
        let mut b = header([0; 20]);
        b[6] = 0x20;
        b[7] = 0x03;
        let h = Ipv4::parse(&b).map(|h| (h.fragment_offset, h.more_fragments, h.is_fragment()));
        assert_eq!(h, Some((24, true, true)));
        b[6] = 0x40; // Don't fragment.
        b[7] = 0;
        assert_eq!(Ipv4::parse(&b).map(|h| h.is_fragment()), Some(false));
    }

    proptest! {
        #[test]
        fn checksum_stays_right(bytes in any::<[u8; 20]>(), src in any::<[u8; 4]>(), dst in any::<[u8; 4]>()) {
            let mut b = header(bytes);
            b[8] |= 2;
            let mut b = header(b);
            set_addresses(&mut b, src, dst);
            prop_assert_eq!(b, header(b));
            decrement_ttl(&mut b);
            prop_assert_eq!(b, header(b));
        }
    }
}
