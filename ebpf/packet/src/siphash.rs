//! SipHash-2-4 (Aumasson and Bernstein, 2012), a keyed hash: without the key, its results cannot be
//! predicted.

use sluice_abi::FlowKey;
use zerocopy::transmute_ref;

/// Words of a [`FlowKey`].
const WORDS: usize = size_of::<FlowKey>() / 8;

/// The hash of a tuple.
#[inline(always)]
pub fn of_tuple(key: [u64; 2], tuple: &FlowKey) -> u64 {
    let bytes: &[[u8; 8]; WORDS] = transmute_ref!(tuple);
    let mut v = [
        key[0] ^ 0x736f_6d65_7073_6575,
        key[1] ^ 0x646f_7261_6e64_6f6d,
        key[0] ^ 0x6c79_6765_6e65_7261,
        key[1] ^ 0x7465_6462_7974_6573,
    ];
    let mut i = 0;
    while i < WORDS {
        compress(&mut v, u64::from_le_bytes(bytes[i]));
        i += 1;
    }
    // The length in the last byte of a last, otherwise empty word.
    compress(&mut v, (size_of::<FlowKey>() as u64) << 56);
    v[2] ^= 0xff;
    round(&mut v);
    round(&mut v);
    round(&mut v);
    round(&mut v);
    v[0] ^ v[1] ^ v[2] ^ v[3]
}

#[inline(always)]
fn compress(v: &mut [u64; 4], word: u64) {
    v[3] ^= word;
    round(v);
    round(v);
    v[0] ^= word;
}

#[inline(always)]
fn round(v: &mut [u64; 4]) {
    v[0] = v[0].wrapping_add(v[1]);
    v[1] = v[1].rotate_left(13) ^ v[0];
    v[0] = v[0].rotate_left(32);
    v[2] = v[2].wrapping_add(v[3]);
    v[3] = v[3].rotate_left(16) ^ v[2];
    v[0] = v[0].wrapping_add(v[3]);
    v[3] = v[3].rotate_left(21) ^ v[0];
    v[2] = v[2].wrapping_add(v[1]);
    v[1] = v[1].rotate_left(17) ^ v[2];
    v[2] = v[2].rotate_left(32);
}

#[cfg(test)]
mod tests {
    use core::hash::Hasher;

    use proptest::prelude::*;
    use sluice_abi::{Addr, PortBe};
    use zerocopy::IntoBytes;

    use super::*;

    proptest! {
        #[test]
        #[expect(deprecated, reason = "the only SipHash of the standard library that takes a key")]
        fn hash_is_that_of_the_standard_library(
            key in any::<[u64; 2]>(),
            src in any::<[u8; 16]>(),
            dst in any::<[u8; 16]>(),
            ports in any::<[u16; 2]>(),
            proto in any::<u8>(),
        ) {
            let tuple = FlowKey {
                src: Addr(src),
                dst: Addr(dst),
                sport: PortBe::new(ports[0]),
                dport: PortBe::new(ports[1]),
                proto,
                ..FlowKey::default()
            };
            let mut hasher = core::hash::SipHasher::new_with_keys(key[0], key[1]);
            hasher.write(tuple.as_bytes());
            prop_assert_eq!(of_tuple(key, &tuple), hasher.finish());
        }
    }
}
