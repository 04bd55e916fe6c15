//! How many new flows a pod may open: one token per flow, returned when the flow is answered, and
//! at a fixed rate as time passes. Flows of one pod without answers then fill only a part of the
//! table of new flows.

use sluice_abi::PodFlows;

/// Tokens of a pod: a quarter of `FLOWS_NEW_POD`, in entries of flows that are not translated.
pub const TOKENS: u32 = 8192;
/// Tokens returned per tick.
pub const RETURNED_PER_TICK: u32 = 2048;

/// Tokens in use at `now`, of `used` at the tick `since`.
#[inline(always)]
pub const fn used_at(used: u32, since: u32, now: u32) -> u32 {
    let ticks = now.wrapping_sub(since);
    // More ticks than return every token.
    if ticks > TOKENS / RETURNED_PER_TICK {
        return 0;
    }
    used.saturating_sub(ticks * RETURNED_PER_TICK)
}

/// Takes a token. False: none is left.
#[inline(always)]
pub fn take(flows: &mut PodFlows, now: u32) -> bool {
    if now != flows.returned_at {
        flows.tokens_used = used_at(flows.tokens_used, flows.returned_at, now);
        flows.returned_at = now;
    }
    if flows.tokens_used >= TOKENS {
        return false;
    }
    flows.tokens_used += 1;
    true
}

/// Returns the token of a flow that was answered.
#[inline(always)]
pub fn give_back(flows: &mut PodFlows) {
    flows.tokens_used = flows.tokens_used.saturating_sub(1);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unanswered_flows_use_up_the_tokens_and_time_returns_them() {
        let mut flows = PodFlows::default();
        let taken = |flows: &mut PodFlows, now| (0..20_000).filter(|_| take(flows, now)).count();
        assert_eq!(taken(&mut flows, 100), TOKENS as usize);
        assert_eq!(taken(&mut flows, 100), 0);
        assert_eq!(taken(&mut flows, 101), RETURNED_PER_TICK as usize);
        assert_eq!(taken(&mut flows, 103), 2 * RETURNED_PER_TICK as usize);
        assert_eq!(taken(&mut flows, 200), TOKENS as usize);
        assert_eq!(taken(&mut flows, u32::MAX), TOKENS as usize);
        // The clock starts again from 0 after 2^32 ticks.
        assert_eq!(taken(&mut flows, 0), RETURNED_PER_TICK as usize);
    }

    #[test]
    fn answered_flows_are_not_limited() {
        let mut flows = PodFlows::default();
        for n in 0..100_000 {
            assert!(take(&mut flows, 7), "flow {n}");
            give_back(&mut flows);
        }
        assert_eq!(flows.tokens_used, 0);
        give_back(&mut flows);
        assert_eq!(flows.tokens_used, 0);
    }
}
