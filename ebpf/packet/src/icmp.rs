//! ICMP for IPv4 (RFC 792).

use sluice_abi::Addr;

use crate::checksum::finish;
use crate::ip;

/// Type of an echo reply.
pub const ECHO_REPLY: u8 = 0;
/// Type of "destination unreachable".
pub const UNREACHABLE: u8 = 3;
/// Type of an echo request.
pub const ECHO_REQUEST: u8 = 8;
/// Type of "time exceeded"; code 0: the hop limit ended.
pub const TIME_EXCEEDED: u8 = 11;
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

/// An error: its type, its code, and for [`FRAGMENTATION_NEEDED`] the MTU of the next hop (RFC 1191).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Error {
    /// [`UNREACHABLE`] or [`TIME_EXCEEDED`].
    pub kind: u8,
    /// The code.
    pub code: u8,
    /// The MTU, or 0.
    pub mtu: u16,
}

impl Error {
    /// "Port unreachable".
    pub const PORT_UNREACHABLE: Error = Error { kind: UNREACHABLE, code: PORT, mtu: 0 };
    /// "Time exceeded in transit".
    pub const HOP_LIMIT: Error = Error { kind: TIME_EXCEEDED, code: 0, mtu: 0 };

    /// "Fragmentation needed".
    #[inline(always)]
    pub const fn fragmentation_needed(mtu: u16) -> Error {
        Error { kind: UNREACHABLE, code: FRAGMENTATION_NEEDED, mtu }
    }

    /// As one number, for a global function.
    #[inline(always)]
    pub const fn bits(self) -> u32 {
        (self.kind as u32) << 24 | (self.code as u32) << 16 | self.mtu as u32
    }

    /// From [`Error::bits`].
    #[inline(always)]
    pub const fn from_bits(bits: u32) -> Error {
        Error { kind: (bits >> 24) as u8, code: (bits >> 16) as u8, mtu: bits as u16 }
    }
}

/// IP and ICMP header of an error from `src` to `dst`, followed in the packet by `quoted_len` quoted
/// bytes with the ones' complement sum `quoted_sum`.
#[inline(always)]
pub fn error(
    src: &Addr,
    dst: &Addr,
    Error { kind, code, mtu }: Error,
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
    b[ip::LEN] = kind;
    b[ip::LEN + 1] = code;
    let mtu = mtu.to_be_bytes();
    b[ip::LEN + 6] = mtu[0];
    b[ip::LEN + 7] = mtu[1];
    let own = u16::from_ne_bytes([kind, code]) as u32 + u16::from_ne_bytes(mtu) as u32;
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
        fn error_has_correct_checksums_addresses_and_mtu(
            kind in any::<u8>(),
            code in any::<u8>(),
            mtu in any::<u16>(),
            src in any::<[u8; 4]>(),
            dst in any::<[u8; 4]>(),
            quoted in proptest::collection::vec(any::<u8>(), 28..68),
        ) {
            let quoted_len = quoted.len() as u16;
            let (s, d) = (Addr::v4(src), Addr::v4(dst));
            let wanted = Error { kind, code, mtu };
            prop_assert_eq!(Error::from_bits(wanted.bits()), wanted);
            let b = error(&s, &d, wanted, quoted_len, sum(&quoted));
            prop_assert_eq!(fold(sum(&b[..20])), 0xffff);
            prop_assert_eq!(fold(sum(&b[20..]) + sum(&quoted)), 0xffff);
            prop_assert_eq!(&b[12..16], &src);
            prop_assert_eq!(&b[16..20], &dst);
            prop_assert_eq!(u16::from_be_bytes([b[2], b[3]]), quoted_len + 28);
            prop_assert_eq!(&b[20..22], &[kind, code]);
            prop_assert_eq!(u16::from_be_bytes([b[26], b[27]]), mtu);
        }
    }
}
