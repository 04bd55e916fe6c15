//! The Internet checksum (RFC 1071) and its updates (RFC 1624).
//!
//! Words are read in host order: the ones' complement sum is independent of byte order if the result
//! is stored in the same order (RFC 1071 section 2 B).

use sluice_abi::Addr;

/// Ones' complement sum of `bytes` (an odd last byte counts as if a zero followed), not folded.
#[inline(always)]
pub fn sum(bytes: &[u8]) -> u32 {
    let mut total = 0u32;
    for pair in bytes.chunks(2) {
        let word = match pair {
            [a, b] => [*a, *b],
            [a] => [*a, 0],
            _ => [0, 0],
        };
        total = total.wrapping_add(u16::from_ne_bytes(word) as u32);
    }
    total
}

/// Folds the carries of a sum into 16 bits.
#[inline(always)]
pub const fn fold(mut sum: u32) -> u16 {
    sum = (sum & 0xffff) + (sum >> 16);
    sum = (sum & 0xffff) + (sum >> 16);
    sum as u16
}

/// The checksum field for a message whose bytes (field as zero) have this `sum`.
#[inline(always)]
pub const fn finish(sum: u32) -> [u8; 2] {
    (!fold(sum)).to_ne_bytes()
}

/// The checksum field of TCP or UDP while the device has to complete it (`CHECKSUM_PARTIAL`): the
/// folded sum of the pseudo header (RFC 9293 section 3.1, RFC 8200 section 8.1). `len` is the length
/// of the segment in bytes.
#[inline(always)]
pub fn pseudo_header_sum(src: &Addr, dst: &Addr, proto: u8, len: u16) -> [u8; 2] {
    let address = |a: &Addr| match a.to_v4() {
        Some(v4) => sum(&v4),
        None => sum(&a.0),
    };
    let rest = u16::from_ne_bytes([0, proto]) as u32 + u16::from_ne_bytes(len.to_be_bytes()) as u32;
    fold(address(src) + address(dst) + rest).to_ne_bytes()
}

/// Change of a checksum for a change of the bytes that it covers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Delta(u32);

impl Delta {
    /// No change.
    pub const NONE: Delta = Delta(0);

    /// A 16-bit word at an even offset changes.
    #[inline(always)]
    pub const fn word(self, old: [u8; 2], new: [u8; 2]) -> Delta {
        Delta(
            self.0
                .wrapping_add(!u16::from_ne_bytes(old) as u32)
                .wrapping_add(u16::from_ne_bytes(new) as u32),
        )
    }

    /// Four bytes at an even offset change.
    #[inline(always)]
    pub const fn quad(self, old: [u8; 4], new: [u8; 4]) -> Delta {
        self.word([old[0], old[1]], [new[0], new[1]]).word([old[2], old[3]], [new[2], new[3]])
    }

    /// Both changes.
    #[inline(always)]
    pub const fn plus(self, other: Delta) -> Delta {
        Delta(self.0.wrapping_add(other.0))
    }

    /// The checksum after the change (RFC 1624 equation 3).
    #[inline(always)]
    pub const fn apply(self, field: [u8; 2]) -> [u8; 2] {
        finish(!u16::from_ne_bytes(field) as u32 + fold(self.0) as u32)
    }

    /// The checksum of a UDP header after the change. A field of 0, which means "no checksum",
    /// is not changed; a result of 0 is sent as 0xffff (RFC 768).
    #[inline(always)]
    pub const fn apply_udp(self, field: [u8; 2]) -> [u8; 2] {
        match (field, self.apply(field)) {
            ([0, 0], _) => [0, 0],
            (_, [0, 0]) => [0xff, 0xff],
            (_, sum) => sum,
        }
    }

    /// The difference in the form that the kernel's `bpf_l4_csum_replace` takes.
    #[inline(always)]
    pub const fn for_helper(self) -> u64 {
        self.0 as u64
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use std::vec::Vec;

    use proptest::prelude::*;

    use super::*;

    /// The algorithm of RFC 1071: big endian words, end-around carry after each addition.
    fn slow(bytes: &[u8]) -> [u8; 2] {
        let mut sum: u32 = 0;
        let mut padded = bytes.to_vec();
        if padded.len() % 2 == 1 {
            padded.push(0);
        }
        for pair in padded.chunks_exact(2) {
            sum += u32::from(pair[0]) * 256 + u32::from(pair[1]);
            if sum > 0xffff {
                sum -= 0xffff;
            }
        }
        (!(sum as u16)).to_be_bytes()
    }

    #[test]
    fn example_of_rfc_1071_section_3() {
        let sum = sum(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]);
        assert_eq!(fold(sum).to_ne_bytes(), [0xdd, 0xf2]);
    }

    #[test]
    fn pseudo_header_sum_completes_to_the_checksum() {
        let (src, dst) = ([10, 244, 1, 10], [10, 96, 0, 50]);
        let datagram = [0x9c, 0x40, 0, 53, 0, 10, 0, 0, 0xab, 0xcd];
        let mut pseudo = [src, dst].concat();
        pseudo.extend([0, 17, 0, 10]);
        pseudo.extend(datagram);
        let partial = pseudo_header_sum(&Addr::v4(src), &Addr::v4(dst), 17, 10);
        let completed = finish(sum(&datagram) + u32::from(u16::from_ne_bytes(partial)));
        assert_eq!(completed, slow(&pseudo));
    }

    #[test]
    fn udp_checksum_of_zero_remains_and_a_result_of_zero_is_sent_as_ones() {
        let delta = Delta::NONE.word([0, 0], [0x12, 0x34]);
        assert_eq!(delta.apply_udp([0, 0]), [0, 0]);
        let field = finish(fold(sum(&[0xed, 0xcb])) as u32);
        assert_eq!(delta.apply(field), [0, 0]);
        assert_eq!(delta.apply_udp(field), [0xff, 0xff]);
        assert_eq!(delta.apply_udp([0x56, 0x78]), delta.apply([0x56, 0x78]));
    }

    proptest! {
        #[test]
        fn full_sum_equals_the_reference(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            prop_assert_eq!(finish(sum(&bytes)), slow(&bytes));
        }

        #[test]
        fn incremental_equals_full(
            bytes in proptest::collection::vec(any::<u8>(), 8..80),
            at in 0usize..30,
            new in any::<[u8; 4]>(),
        ) {
            let mut bytes: Vec<u8> = bytes;
            bytes[0] |= 1; // An all-zero message has two checksums.
            let at = 2 + at % ((bytes.len() - 4) / 2) / 2 * 2;
            let before = finish(sum(&bytes));
            let mut old = [0; 4];
            old.copy_from_slice(&bytes[at..at + 4]);
            bytes[at..at + 4].copy_from_slice(&new);
            let delta = Delta::NONE.quad(old, new);
            prop_assert_eq!(delta.apply(before), slow(&bytes));
            // What bpf_l4_csum_replace does with the difference.
            let difference = u32::try_from(delta.for_helper()).unwrap();
            let sum = u32::from(!u16::from_ne_bytes(before)) + u32::from(fold(difference));
            prop_assert_eq!(finish(sum), slow(&bytes));
        }
    }
}
