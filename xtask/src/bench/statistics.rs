//! Medians with confidence intervals. No I/O.
//!
//! The interval of a median is taken from order statistics: of `n` independent samples, the
//! median of their distribution lies between the `k`-th smallest and the `k`-th largest with
//! probability `1 - 2 P(Binomial(n, 1/2) < k)`, for any distribution. Fewer than six samples give
//! no interval.

use std::cmp::Ordering;

/// Probability with which an interval contains the median.
pub const CONFIDENCE: f64 = 0.95;

/// A median and its confidence interval.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Interval {
    /// Lower end.
    pub low: f64,
    /// Median of the samples.
    pub median: f64,
    /// Upper end.
    pub high: f64,
}

impl Interval {
    /// A figure without an interval.
    pub fn point(value: f64) -> Interval {
        Interval { low: value, median: value, high: value }
    }
}

/// Relation of an interval to a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The whole interval is on the claimed side of the limit.
    Holds,
    /// The interval contains the limit, or there are not enough samples.
    NotShown,
    /// The whole interval is on the other side.
    Refuted,
}

/// A claim about a median.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Limit {
    /// The median is at least this.
    AtLeast(f64),
    /// The median is at most this.
    AtMost(f64),
}

impl Limit {
    /// Judges by the whole interval.
    pub fn judge(self, interval: Option<Interval>) -> Verdict {
        let Some(Interval { low, high, .. }) = interval else { return Verdict::NotShown };
        let (holds, refuted) = match self {
            Limit::AtLeast(limit) => (low >= limit, high < limit),
            Limit::AtMost(limit) => (high <= limit, low > limit),
        };
        match (holds, refuted) {
            (true, _) => Verdict::Holds,
            (_, true) => Verdict::Refuted,
            _ => Verdict::NotShown,
        }
    }
}

/// Median of the samples; `None` if there are none.
pub fn median(samples: &[f64]) -> Option<f64> {
    let sorted = sorted(samples);
    let middle = sorted.len() / 2;
    let upper = *sorted.get(middle)?;
    if sorted.len() % 2 == 1 {
        return Some(upper);
    }
    Some((sorted.get(middle - 1)? + upper) / 2.0)
}

/// The smallest sample that at least this share of the samples does not exceed; `None` if there are none.
pub fn percentile(samples: &[f64], share: f64) -> Option<f64> {
    let sorted = sorted(samples);
    let rank = (sorted.len() as f64 * share).ceil() as usize;
    sorted.get(rank.max(1) - 1).copied()
}

/// Median with its interval; `None` if there are fewer than six samples.
pub fn interval(samples: &[f64]) -> Option<Interval> {
    let sorted = sorted(samples);
    let rank = rank(sorted.len())?;
    Some(Interval {
        low: *sorted.get(rank)?,
        median: median(samples)?,
        high: *sorted.get(sorted.len() - 1 - rank)?,
    })
}

/// The ratios of samples from the same rounds; rounds in which either failed are left out.
pub fn ratios(of: &[Option<f64>], to: &[Option<f64>]) -> Vec<f64> {
    of.iter().zip(to).filter_map(|(of, to)| Some((*of)? / (*to)?)).collect()
}

/// The largest number of samples that can be cut off at each end.
fn rank(count: usize) -> Option<usize> {
    // Probability that fewer than `cut + 1` of `count` samples are below the median.
    let mut tail = 0.5_f64.powi(i32::try_from(count).ok()?);
    let mut term = tail;
    let mut rank = None;
    for cut in 0..count / 2 {
        if 1.0 - 2.0 * tail < CONFIDENCE {
            break;
        }
        rank = Some(cut);
        term *= (count - cut) as f64 / (cut + 1) as f64;
        tail += term;
    }
    rank
}

fn sorted(samples: &[f64]) -> Vec<f64> {
    let mut sorted = samples.to_vec();
    sorted.sort_by(|a, b| a.partial_cmp(b).unwrap_or(Ordering::Equal));
    sorted
}

#[cfg(test)]
mod tests {
    use super::*;

    fn up_to(count: u32) -> Vec<f64> {
        (1..=count).rev().map(f64::from).collect()
    }

    /// Ranks from tables of the sign test, two-sided, 5 %.
    #[test]
    fn interval_has_the_ranks_of_the_sign_test() {
        for (count, low, high) in [(6, 1.0, 6.0), (8, 1.0, 8.0), (9, 2.0, 8.0), (20, 6.0, 15.0)] {
            let interval = interval(&up_to(count)).expect("enough samples");
            assert_eq!((interval.low, interval.high), (low, high), "{count} samples");
        }
        assert_eq!(interval(&up_to(5)), None);
    }

    #[test]
    fn median_of_an_even_number_is_between_the_middle_samples() {
        assert_eq!(median(&[4.0, 1.0, 3.0, 2.0]), Some(2.5));
        assert_eq!(median(&[4.0, 1.0, 3.0]), Some(3.0));
        assert_eq!(median(&[]), None);
    }

    #[test]
    fn percentile_is_a_sample_that_the_share_does_not_exceed() {
        let samples = up_to(200);
        for (share, expected) in [(0.0, 1.0), (0.5, 100.0), (0.99, 198.0), (1.0, 200.0)] {
            assert_eq!(percentile(&samples, share), Some(expected), "{share}");
        }
        assert_eq!(percentile(&[3.0], 0.99), Some(3.0));
        assert_eq!(percentile(&[], 0.5), None);
    }

    #[test]
    fn ratios_pair_samples_of_one_round_and_skip_failed_ones() {
        // The machine is slower in the second round; the ratio stays the same.
        let of = [Some(99.0), Some(49.5), None, Some(10.0)];
        let to = [Some(100.0), Some(50.0), Some(1.0), None];
        let ratios = ratios(&of, &to);
        assert_eq!(ratios.len(), 2);
        assert!(ratios.iter().all(|ratio| (ratio - 0.99).abs() < 1e-9), "{ratios:?}");
    }

    #[test]
    fn claim_holds_only_when_the_whole_interval_does() {
        let interval = |low, high| Some(Interval { low, median: (low + high) / 2.0, high });
        for (low, high, verdict) in [
            (0.99, 1.2, Verdict::Holds),
            (0.98, 1.2, Verdict::NotShown),
            (0.9, 0.98, Verdict::Refuted),
        ] {
            assert_eq!(Limit::AtLeast(0.99).judge(interval(low, high)), verdict, "{low} to {high}");
        }
        assert_eq!(Limit::AtMost(0.5).judge(interval(0.3, 0.5)), Verdict::Holds);
        assert_eq!(Limit::AtMost(0.5).judge(interval(0.3, 0.6)), Verdict::NotShown);
        assert_eq!(Limit::AtMost(0.5).judge(interval(0.6, 0.7)), Verdict::Refuted);
        assert_eq!(Limit::AtMost(0.5).judge(None), Verdict::NotShown);
    }
}
