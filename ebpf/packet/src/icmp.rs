//! ICMP for IPv4 (RFC 792).

use sluice_abi::Addr;

use crate::{checksum::finish, ip};

/// Type of an echo reply.
pub const ECHO_REPLY: u8 = 0;
/// Type of "destination unreachable".
pub const UNREACHABLE: u8 = 3;
/// Type of an echo request.
pub const ECHO_REQUEST: u8 = 8;
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

/// IP and ICMP header of "port unreachable" from `src` to `dst`, followed in the packet by
/// `quoted_len` quoted bytes with the ones' complement sum `quoted_sum`.
#[inline(always)]
pub fn port_unreachable(
    src: &Addr,
    dst: &Addr,
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
    b[ip::LEN + 1] = PORT;
    let c = finish(u16::from_ne_bytes([UNREACHABLE, PORT]) as u32 + quoted_sum);
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
        fn port_unreachable_has_correct_checksums_and_addresses(
            src in any::<[u8; 4]>(),
            dst in any::<[u8; 4]>(),
            quoted in proptest::collection::vec(any::<u8>(), 28..68),
        ) {
            let quoted_len = quoted.len() as u16;
            let (s, d) = (Addr::v4(src), Addr::v4(dst));
            let b = port_unreachable(&s, &d, quoted_len, sum(&quoted));
            prop_assert_eq!(fold(sum(&b[..20])), 0xffff);
            prop_assert_eq!(fold(sum(&b[20..]) + sum(&quoted)), 0xffff);
            prop_assert_eq!(&b[12..16], &src);
            prop_assert_eq!(&b[16..20], &dst);
            prop_assert_eq!(u16::from_be_bytes([b[2], b[3]]), quoted_len + 28);
            prop_assert_eq!(&b[20..22], &[3, 3]);
        }
    }
}
