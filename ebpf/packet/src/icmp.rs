//! ICMP for IPv4 (RFC 792), and the error that refuses a packet.

use crate::checksum::{finish, sum};

/// Type of an echo reply.
pub const ECHO_REPLY: u8 = 0;
/// Type of "destination unreachable".
pub const UNREACHABLE: u8 = 3;
/// Type of an echo request.
pub const ECHO_REQUEST: u8 = 8;
/// Code of "port unreachable".
pub const PORT: u8 = 3;
/// Bytes of an ICMP header.
pub const LEN: usize = 8;
/// Bytes in front of the quoted packet: an IPv4 header without options and an ICMP header.
pub const ANSWER_LEN: usize = 28;

/// Echo request or reply.
#[inline(always)]
pub const fn is_echo(kind: u8) -> bool {
    kind == ECHO_REPLY || kind == ECHO_REQUEST
}

/// Messages that quote the packet they are about: unreachable, source quench, redirect, time
/// exceeded, parameter problem.
#[inline(always)]
pub const fn is_error(kind: u8) -> bool {
    matches!(kind, 3 | 4 | 5 | 11 | 12)
}

/// IPv4 and ICMP header of "port unreachable" from `src` to `dst`, to stand before `quoted_len`
/// quoted bytes with this ones' complement sum.
#[inline(always)]
pub fn port_unreachable(
    src: [u8; 4],
    dst: [u8; 4],
    quoted_len: u16,
    quoted_sum: u32,
) -> [u8; ANSWER_LEN] {
    let total = (quoted_len + ANSWER_LEN as u16).to_be_bytes();
    let mut b = [0u8; ANSWER_LEN];
    b[0] = 0x45;
    b[1] = 0xc0; // Precedence 6, as RFC 1812 section 4.3.2.5 asks of errors.
    b[2] = total[0];
    b[3] = total[1];
    b[6] = 0x40; // Don't fragment.
    b[8] = 64;
    b[9] = sluice_abi::proto::ICMP;
    let mut i = 0;
    while i < 4 {
        b[12 + i] = src[i];
        b[16 + i] = dst[i];
        i += 1;
    }
    let c = finish(sum(&b));
    b[10] = c[0];
    b[11] = c[1];
    b[20] = UNREACHABLE;
    b[21] = PORT;
    let c = finish(u16::from_ne_bytes([UNREACHABLE, PORT]) as u32 + quoted_sum);
    b[22] = c[0];
    b[23] = c[1];
    b
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checksum::fold;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn both_checksums_are_right(src in any::<[u8; 4]>(), dst in any::<[u8; 4]>(), quoted in proptest::collection::vec(any::<u8>(), 28..68)) {
            let quoted_len = quoted.len() as u16;
            let b = port_unreachable(src, dst, quoted_len, sum(&quoted));
            prop_assert_eq!(fold(sum(&b[..20])), 0xffff);
            prop_assert_eq!(fold(sum(&b[20..]) + sum(&quoted)), 0xffff);
        }
    }
}
