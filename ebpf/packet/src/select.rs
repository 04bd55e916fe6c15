//! Choices: a slot in a run, a port for source translation.

use sluice_abi::PortBe;

/// The slot that `random` picks in a run, or `None` for an empty one.
#[inline(always)]
pub const fn slot(offset: u32, len: u32, random: u32) -> Option<u32> {
    if len == 0 {
        return None;
    }
    // The high half of the product spreads as evenly as a remainder and needs no division.
    Some(offset.wrapping_add(((random as u64 * len as u64) >> 32) as u32))
}

/// The port that attempt number `attempt` of one search tries, inside `min..=max` (host order).
/// Consecutive attempts are far apart, so that a crowded stretch is left at once.
#[inline(always)]
pub const fn snat_port(min: u16, max: u16, random: u32, attempt: u32) -> PortBe {
    let len = (max.saturating_sub(min)) as u32 + 1;
    let hash = random.wrapping_add(attempt.wrapping_mul(0x9e37_79b9));
    PortBe::new(min.wrapping_add(((hash as u64 * len as u64) >> 32) as u16))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn an_empty_run_has_no_slot() {
        assert_eq!(slot(7, 0, 1), None);
    }

    #[test]
    fn slots_are_chosen_evenly() {
        let mut seen = [0u32; 3];
        for i in 0..30_000u32 {
            if let Some(s) = slot(0, 3, i.wrapping_mul(0x9e37_79b9)) {
                seen[s as usize] += 1;
            }
        }
        assert!(seen.iter().all(|n| (9_900..10_100).contains(n)), "{seen:?}");
    }

    proptest! {
        #[test]
        fn choices_stay_in_range(offset in 0u32..1_000_000, len in 1u32..100_000, random in any::<u32>(), a in any::<u16>(), b in any::<u16>(), attempt in 0u32..32) {
            let s = slot(offset, len, random);
            prop_assert!(s.is_some_and(|s| s >= offset && s < offset + len));
            let (min, max) = (a.min(b), a.max(b));
            let port = snat_port(min, max, random, attempt).get();
            prop_assert!(port >= min && port <= max);
        }
    }
}
