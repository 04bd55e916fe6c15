//! A part of a list, so that several machines can share a run.

use std::str::FromStr;

use anyhow::{Context, Error, Result, ensure};

/// Part `k` of `n`, counted from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shard {
    /// The part.
    pub k: usize,
    /// Number of parts.
    pub n: usize,
}

impl Shard {
    /// Whether the item at this position belongs to the part.
    pub fn contains(self, position: usize) -> bool {
        position % self.n == self.k - 1
    }
}

impl FromStr for Shard {
    type Err = Error;

    fn from_str(text: &str) -> Result<Shard> {
        let (k, n) = text.split_once('/').context("a shard is K/N, such as 1/4")?;
        let (k, n): (usize, usize) = (k.parse()?, n.parse()?);
        ensure!(1 <= k && k <= n, "a shard is K/N with K between 1 and N");
        Ok(Shard { k, n })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_position_is_in_exactly_one_shard() {
        for n in 1..5 {
            for position in 0..20 {
                let count = (1..=n).filter(|&k| Shard { k, n }.contains(position)).count();
                assert_eq!(count, 1, "position {position} of {n} shards");
            }
        }
    }

    #[test]
    fn shard_is_parsed_and_checked() {
        assert_eq!("2/3".parse::<Shard>().expect("valid"), Shard { k: 2, n: 3 });
        for text in ["", "1", "0/3", "4/3", "a/3", "1/0"] {
            assert!(text.parse::<Shard>().is_err(), "{text}");
        }
    }
}
