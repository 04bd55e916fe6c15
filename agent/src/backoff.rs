//! When a failed operation is repeated: that of a reconciler, or the replacement of maps.

use std::time::{Duration, Instant};

/// Delay after the first failure; doubled after each further one.
const FIRST: Duration = Duration::from_millis(200);

/// Longest delay.
const LONGEST: Duration = Duration::from_secs(15);

/// Exponential backoff.
#[derive(Clone, Debug)]
pub struct Backoff {
    delay: Duration,
    retry_at: Option<Instant>,
}

impl Default for Backoff {
    fn default() -> Backoff {
        Backoff { delay: FIRST, retry_at: None }
    }
}

impl Backoff {
    /// Records the failure of an attempt that ended now. The delay begins with the end, so that the loop has
    /// time for other events. An attempt that ends before the retry is due, triggered by an event, neither
    /// postpones the retry nor lengthens the delay.
    pub fn failed(&mut self, ended: Instant) {
        if self.retry_at.is_none_or(|at| at <= ended) {
            self.retry_at = Some(ended + self.delay);
            self.delay = (self.delay * 2).min(LONGEST);
        }
    }

    /// Records a success: the next failure starts with the first delay.
    pub fn succeeded(&mut self) {
        *self = Backoff::default();
    }

    /// When the next attempt is due, if the last one failed.
    pub fn retry_at(&self) -> Option<Instant> {
        self.retry_at
    }

    /// Whether an attempt is due.
    pub fn is_due(&self, now: Instant) -> bool {
        self.retry_at.is_some_and(|at| at <= now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delay_doubles_up_to_the_longest_and_restarts_after_success() {
        let mut now = Instant::now();
        let mut backoff = Backoff::default();
        let mut delays = Vec::new();
        for _ in 0..9 {
            backoff.failed(now);
            let at = backoff.retry_at().unwrap();
            delays.push((at - now).as_millis());
            now = at;
        }
        assert_eq!(delays, [200, 400, 800, 1600, 3200, 6400, 12800, 15000, 15000]);
        backoff.succeeded();
        assert_eq!(backoff.retry_at(), None);
        backoff.failed(now);
        assert_eq!(backoff.retry_at(), Some(now + FIRST));
    }

    #[test]
    fn failure_before_the_retry_does_not_postpone_it() {
        let now = Instant::now();
        let mut backoff = Backoff::default();
        backoff.failed(now);
        backoff.failed(now + Duration::from_millis(100));
        assert!(!backoff.is_due(now + Duration::from_millis(199)));
        assert!(backoff.is_due(now + FIRST));
        backoff.failed(now + FIRST);
        assert_eq!(backoff.retry_at(), Some(now + FIRST + 2 * FIRST));
    }
}
