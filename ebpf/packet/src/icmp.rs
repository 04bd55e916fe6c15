//! ICMP for IPv4 (RFC 792).

use sluice_abi::Addr;

use crate::{checksum::finish, ip};

/// Type of an echo reply.
pub const ECHO_REPLY: u8 = 0;
/// Type of "destination unreachable".
pub const UNREACHABLE: u8 = 3;
/// Type of an echo request.
pub const ECHO_REQUEST: u8 = 8;
/// Code of "fragmentation needed".
pub const FRAGMENTATION_NEEDED: u8 = 4;
/// Code of "port unreachable".
pub const PORT: u8 = 3;
/// Length in bytes of an ICMP header.
pub const LEN: usize = 8;
/// Length in bytes of the headers before the quoted packet: IP without options, and ICMP.
pub const ERROR_LEN: usize = ip::LEN + LEN;

/// Whether a message of this type quotes the packet that caused it: unreachable, source quench,
/// redirect, time exceeded, parameter problem.
#[inline(always)]
pub const fn is_error(kind: u8) -> bool {
    matches!(kind, 3 | 4 | 5 | 11 | 12)
}

/// IP and ICMP header of "destination unreachable" from `src` to `dst`, followed in the packet by
/// `quoted_len` quoted bytes with the ones' complement sum `quoted_sum`. `code` is [`PORT`], or
/// [`FRAGMENTATION_NEEDED`] with the MTU of the next hop (RFC 1191), which is 0 otherwise.
#[inline(always)]
pub fn unreachable(
    src: &Addr,
    dst: &Addr,
    (code, mtu): (u8, u16),
    quoted_len: u16,
    quoted_sum: u32,
) -> [u8; ERROR_LEN] {
    let header = ip::Header::of_icmp_error(src, dst, quoted_len + LEN as u16);
    let mut b = [0u8; ERROR_LEN];
    let mut i = 0;
    while i < ip::LEN {
        b[i] = header.0[i];
        i += 1;
    }
    b[ip::LEN] = UNREACHABLE;
    b[ip::LEN + 1] = code;
    let mtu = mtu.to_be_bytes();
    b[ip::LEN + 6] = mtu[0];
    b[ip::LEN + 7] = mtu[1];
    let own = u16::from_ne_bytes([UNREACHABLE, code]) as u32 + u16::from_ne_bytes(mtu) as u32;
    let c = finish(own + quoted_sum);
    b[ip::LEN + 2] = c[0];
    b[ip::LEN + 3] = c[1];
    b
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::checksum::{fold, sum};

    proptest! {
        #[test]
        fn unreachable_has_correct_checksums_addresses_and_mtu(
            code in 3u8..=4,
            mtu in any::<u16>(),
            src in any::<[u8; 4]>(),
            dst in any::<[u8; 4]>(),
            quoted in proptest::collection::vec(any::<u8>(), 28..68),
        ) {
            let quoted_len = quoted.len() as u16;
            let (s, d) = (Addr::v4(src), Addr::v4(dst));
            let b = unreachable(&s, &d, (code, mtu), quoted_len, sum(&quoted));
            prop_assert_eq!(fold(sum(&b[..20])), 0xffff);
            prop_assert_eq!(fold(sum(&b[20..]) + sum(&quoted)), 0xffff);
            prop_assert_eq!(&b[12..16], &src);
            prop_assert_eq!(&b[16..20], &dst);
            prop_assert_eq!(u16::from_be_bytes([b[2], b[3]]), quoted_len + 28);
            prop_assert_eq!(&b[20..22], &[3, code]);
            prop_assert_eq!(u16::from_be_bytes([b[26], b[27]]), mtu);
        }
    }
}
