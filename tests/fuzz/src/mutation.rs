//! Random changes of corpus entries, which a seed reproduces.

use std::env;
use std::hash::{BuildHasher, RandomState};

/// Environment variable with the seed of an earlier run.
pub const SEED_VARIABLE: &str = "SLUICE_FUZZ_SEED";

/// Longest input. The control socket rejects lines above half of it.
const MAX_LEN: usize = 8192;

/// Bytes that delimit values in the text formats, and the limits of numbers in the binary ones.
const BYTES: [u8; 24] = [
    b'{', b'}', b'[', b']', b'"', b'\'', b'\\', b',', b':', b'-', b'/', b'.', b' ', b'\n', b'\t',
    b'0', b'9', b'&', b'*', 0x00, 0x01, 0x7f, 0x80, 0xff,
];

/// Numbers at the limits of integer types, as text.
const NUMBERS: [&str; 8] =
    ["0", "-1", "65535", "65536", "4294967296", "18446744073709551616", "1e999", "null"];

/// A seed: that of [`SEED_VARIABLE`], or a new one.
///
/// # Panics
/// The variable is not a number.
pub fn seed() -> u64 {
    match env::var(SEED_VARIABLE) {
        Ok(text) => text.parse().expect("the seed is a number"),
        Err(_) => RandomState::new().hash_one(0),
    }
}

/// A source of mutated inputs.
#[derive(Clone, Debug)]
pub struct Mutator {
    state: u64,
}

impl Mutator {
    /// The mutator of a seed.
    pub fn new(seed: u64) -> Mutator {
        Mutator { state: seed }
    }

    /// SplitMix64.
    fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    /// A number below `end`; 0 if `end` is 0.
    fn below(&mut self, end: usize) -> usize {
        (self.next() % (end.max(1) as u64)) as usize
    }

    /// A range within `len` bytes, mostly short.
    fn range(&mut self, len: usize) -> std::ops::Range<usize> {
        let start = self.below(len + 1);
        let limit = if self.below(8) == 0 { len } else { 8 };
        start..(start + self.below(limit + 1)).min(len)
    }

    /// One to eight changes of one of `inputs`.
    pub fn input(&mut self, inputs: &[&[u8]]) -> Vec<u8> {
        let mut bytes = inputs[self.below(inputs.len())].to_vec();
        for _ in 0..1 << self.below(4) {
            self.change(&mut bytes, inputs);
        }
        bytes.truncate(MAX_LEN);
        bytes
    }

    fn change(&mut self, bytes: &mut Vec<u8>, inputs: &[&[u8]]) {
        let range = self.range(bytes.len());
        let at = range.start;
        match self.below(8) {
            0 => bytes.truncate(at),
            1 => drop(bytes.drain(range)),
            2 => {
                if let Some(byte) = bytes.get_mut(at) {
                    *byte ^= 1 << self.below(8);
                }
            }
            3 => {
                let byte = BYTES[self.below(BYTES.len())];
                bytes.splice(range.start..(at + self.below(2)).min(bytes.len()), [byte]);
            }
            4 => {
                let number = NUMBERS[self.below(NUMBERS.len())];
                bytes.splice(range, number.bytes());
            }
            5 => {
                let copy = bytes[range].to_vec();
                let times = 1 << self.below(6);
                bytes.splice(at..at, copy.repeat(times));
            }
            6 => {
                let random: Vec<u8> = range.clone().map(|_| self.next() as u8).collect();
                bytes.splice(range, random);
            }
            _ => {
                let other = inputs[self.below(inputs.len())];
                let part = other[self.range(other.len())].to_vec();
                bytes.splice(range, part);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seed_reproduces_inputs_and_most_inputs_differ() {
        let corpus: [&[u8]; 2] = [b"{\"a\":1}", b""];
        let inputs = |seed| -> Vec<Vec<u8>> {
            let mut mutator = Mutator::new(seed);
            (0..1000).map(|_| mutator.input(&corpus)).collect()
        };
        assert_eq!(inputs(1), inputs(1));
        assert_ne!(inputs(1), inputs(2));
        let distinct: std::collections::BTreeSet<_> = inputs(3).into_iter().collect();
        assert!(distinct.len() > 500, "{}", distinct.len());
        assert!(distinct.iter().all(|input| input.len() <= MAX_LEN));
    }
}
