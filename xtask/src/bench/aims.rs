//! Ratios of rates beside what is aimed at. No I/O.

use super::report::{Claim, format_interval};
use super::statistics::{Limit, interval, median};

/// An aim with the ratios that it is about.
pub(super) struct Aim {
    least: f64,
    ratios: Vec<f64>,
    /// The aim in words, with the interval of the ratios.
    pub claim: Claim,
}

impl Aim {
    /// The median of the ratios is at least `least`.
    pub fn new(text: String, least: f64, ratios: Vec<f64>) -> Aim {
        let claim = Claim { text, limit: Limit::AtLeast(least), interval: interval(&ratios) };
        Aim { least, ratios, claim }
    }

    /// Figure, aim and verdict.
    pub fn cell(&self) -> String {
        let measured = format_ratio(&self.ratios);
        format!("{measured}, aim {}: {}", self.least, self.claim.verdict())
    }
}

/// The cell of what was not measured.
pub fn dash() -> String {
    "-".to_owned()
}

/// Median and interval; the median alone if there are too few rounds.
pub fn format_ratio(ratios: &[f64]) -> String {
    match (interval(ratios), median(ratios)) {
        (Some(interval), _) => format_interval(Some(interval)),
        (None, Some(median)) => format!("{median:.3}"),
        (None, None) => dash(),
    }
}

/// How many aims hold.
pub(super) fn summary<'a>(claims: impl Iterator<Item = &'a Claim>) -> String {
    let verdicts: Vec<&str> = claims.map(Claim::verdict).collect();
    let count = |verdict| verdicts.iter().filter(|v| **v == verdict).count();
    let [holds, refuted] = ["holds", "does not hold"].map(count);
    format!(
        "\nOf {} aims {holds} hold, {refuted} do not hold, and {} are not shown: their interval \
         contains the aim.\n",
        verdicts.len(),
        verdicts.len() - holds - refuted,
    )
}
