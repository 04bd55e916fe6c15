//! How many errors the programs of one CPU send to other hosts: ICMP errors, and TCP resets, in answer to packets whose
//! senders can be forged.
//!
//! The rate is that of the kernel for a host (`icmp_msgs_per_sec`, Linux commit 4cdf507d5452), for each CPU. More are
//! sent at once than the kernel's 50, because all clients of a node that has lost its flows need a reset; they repeat
//! their segments until they get one.

/// Errors at once.
pub const BURST: u64 = 1_000;
/// Errors per second.
pub const PER_SECOND: u64 = 1_000;

const NS: u64 = 1_000_000_000 / PER_SECOND;

/// Errors of one CPU, as the time that the rate takes for them.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Errors {
    /// Nanoseconds since boot up to which the errors that were sent use up the rate.
    spent_until: u64,
}

/// Counts an error at `now`, in nanoseconds since boot. False: it may not be sent.
#[inline(always)]
pub const fn take(errors: &mut Errors, now: u64) -> bool {
    let oldest = now.saturating_sub(BURST * NS);
    let from = if errors.spent_until > oldest { errors.spent_until } else { oldest };
    if from + NS > now {
        return false;
    }
    errors.spent_until = from + NS;
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn taken(errors: &mut Errors, now: u64) -> u64 {
        (0..10 * BURST).filter(|_| take(errors, now)).count() as u64
    }

    #[test]
    fn a_burst_is_sent_and_then_the_rate() {
        let mut errors = Errors::default();
        let boot = 100 * SECOND;
        assert_eq!(taken(&mut errors, boot), BURST);
        assert_eq!(taken(&mut errors, boot), 0);
        assert_eq!(taken(&mut errors, boot + SECOND / 10), PER_SECOND / 10);
        // Time without errors does not add up to more than a burst.
        assert_eq!(taken(&mut errors, boot + 3_600 * SECOND), BURST);
        let sent = (1..=10 * PER_SECOND)
            .filter(|n| take(&mut errors, boot + 3_600 * SECOND + n * NS))
            .count();
        assert_eq!(sent as u64, 10 * PER_SECOND);
    }

    #[test]
    fn a_clock_that_is_behind_sends_nothing_and_does_not_overflow() {
        let mut errors = Errors::default();
        assert_eq!(taken(&mut errors, 0), 0);
        assert!(take(&mut errors, SECOND));
        assert_eq!(taken(&mut errors, 1), 0);
    }
}
