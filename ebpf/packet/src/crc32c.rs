//! Update of SCTP's CRC32c (RFC 9260 appendix A) for a change of the ports, the first four bytes.
//!
//! The CRC is linear: the CRC of a changed message differs from the old one by the CRC (no initial
//! value, no final complement) of the difference. The difference is four bytes followed by zeros, and
//! `n` zero bytes multiply by x^(8n), which takes as many steps as `n` has bits.

/// The Castagnoli polynomial, lowest bit first.
const POLY: u32 = 0x82f6_3b78;

/// `a * b` in the field: polynomials with the highest power in the lowest bit.
#[inline(always)]
const fn multiply(a: u32, b: u32) -> u32 {
    let mut product = 0;
    let mut a = a;
    let mut b = b;
    let mut bit = 0;
    // Further steps would add nothing: `a` is 0 by then.
    while bit < 32 {
        product ^= b & 0u32.wrapping_sub(a >> 31);
        a <<= 1;
        b = (b >> 1) ^ (POLY & 0u32.wrapping_sub(b & 1));
        bit += 1;
    }
    product
}

/// `x^0`.
const ONE: u32 = 1 << 31;

/// `x^(8 * 2^k)` for k = 0..16.
const POWERS: [u32; 16] = {
    let mut powers = [0; 16];
    // x^0 is the highest bit; x^8 is eight bits below it.
    powers[0] = 1 << (31 - 8);
    let mut k = 1;
    while k < 16 {
        powers[k] = multiply(powers[k - 1], powers[k - 1]);
        k += 1;
    }
    powers
};

/// The value to XOR onto the checksum field, in packet byte order, of an SCTP packet of `len` bytes
/// whose first four bytes change from `old` to `new`.
#[inline(always)]
pub fn ports_delta(old: [u8; 4], new: [u8; 4], len: u16) -> [u8; 4] {
    let mut state = u32::from_le_bytes(old) ^ u32::from_le_bytes(new);
    let mut k = 0;
    while k < 16 {
        // Branch-free: the kernel's verifier would explore 2^16 paths.
        let mask = 0u32.wrapping_sub(u32::from(len >> k & 1));
        state = multiply(state, (POWERS[k] & mask) | (ONE & !mask));
        k += 1;
    }
    state.to_le_bytes()
}

#[cfg(test)]
mod tests {
    extern crate std;
    use proptest::prelude::*;

    use super::*;

    /// Bit by bit, as in the standard.
    fn slow(message: &[u8]) -> u32 {
        let mut crc = !0u32;
        for byte in message {
            crc ^= u32::from(*byte);
            for _ in 0..8 {
                crc = if crc & 1 == 1 { crc >> 1 ^ POLY } else { crc >> 1 };
            }
        }
        !crc
    }

    #[test]
    fn check_value_of_the_polynomial() {
        assert_eq!(slow(b"123456789"), 0xe306_9283);
    }

    proptest! {
        #[test]
        fn delta_equals_full_computation(
            message in proptest::collection::vec(any::<u8>(), 12..3000),
            new in any::<[u8; 4]>(),
        ) {
            let mut message = message;
            let before = slow(&message);
            let mut old = [0; 4];
            old.copy_from_slice(&message[..4]);
            message[..4].copy_from_slice(&new);
            let delta = u32::from_le_bytes(ports_delta(old, new, message.len() as u16));
            prop_assert_eq!(before ^ delta, slow(&message));
        }
    }
}
