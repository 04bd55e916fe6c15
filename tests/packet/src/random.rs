//! Random numbers that a seed reproduces.

use std::time::{SystemTime, UNIX_EPOCH};

/// Removes items as long as the difference stays.
pub fn minimize<T: Clone>(items: &[T], differs: impl Fn(&[T]) -> bool) -> Vec<T> {
    let mut kept = items.to_vec();
    let mut at = 0;
    while at < kept.len() {
        let mut fewer = kept.clone();
        fewer.remove(at);
        if differs(&fewer) { kept = fewer } else { at += 1 }
    }
    kept
}

/// The number in the environment variable `CASES`, or another one.
///
/// # Panics
/// If the variable is not a number.
pub fn cases(default: usize) -> usize {
    std::env::var("CASES").map_or(default, |n| n.parse().expect("CASES is a number"))
}

/// xorshift64* (Marsaglia, Vigna).
#[derive(Clone, Debug)]
pub struct Random {
    state: u64,
}

impl Random {
    /// A generator with the seed in the environment variable `SEED`, or a new one. Prints the seed,
    /// which libtest shows when the test fails.
    pub fn from_environment() -> Random {
        let seed = match std::env::var("SEED") {
            Ok(text) => text.parse().expect("SEED is a number"),
            Err(_) => SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos() as u64,
        };
        println!("SEED={seed}");
        Random::from_seed(seed)
    }

    /// A generator with this seed.
    pub fn from_seed(seed: u64) -> Random {
        // The state must not be 0.
        Random { state: seed | 1 << 63 }
    }

    /// 64 random bits.
    pub fn bits(&mut self) -> u64 {
        self.state ^= self.state >> 12;
        self.state ^= self.state << 25;
        self.state ^= self.state >> 27;
        self.state.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// A seed of another generator.
    pub fn seed(&mut self) -> Vec<u8> {
        (0..4).flat_map(|_| self.bits().to_le_bytes()).collect()
    }

    /// A number below `end`.
    pub fn below(&mut self, end: usize) -> usize {
        ((u128::from(self.bits()) * end as u128) >> 64) as usize
    }

    /// One of `items`.
    pub fn pick<'a, T>(&mut self, items: &'a [T]) -> &'a T {
        &items[self.below(items.len())]
    }
}
