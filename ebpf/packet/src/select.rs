//! Decisions of load balancing and source translation: a slot of a frontend, a source port.

use sluice_abi::{Frontend, PortBe, frontend_flags};

/// Why a frontend has no backend for a new flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoBackend {
    /// A wildcard frontend: the Service does not have this port or protocol.
    UnknownPort,
    /// The Service port has no endpoints.
    NoEndpoint,
    /// The Service port has endpoints, but traffic policy Local excludes all of them.
    NoLocalEndpoint,
    /// The frontend refers to a slot or backend that does not exist, or whose address family differs
    /// from the client's.
    TableIncomplete,
}

/// Chooses a slot of a frontend.
///
/// # Errors
/// The frontend has no slots.
#[inline(always)]
pub const fn slot(frontend: &Frontend, random: u32) -> Result<u32, NoBackend> {
    if frontend.flags & frontend_flags::WILDCARD != 0 {
        return Err(NoBackend::UnknownPort);
    }
    if frontend.slots_len == 0 {
        return Err(if frontend.flags & frontend_flags::DROP != 0 {
            NoBackend::NoLocalEndpoint
        } else {
            NoBackend::NoEndpoint
        });
    }
    Ok(frontend.slots_offset.wrapping_add(scale(random, frontend.slots_len)))
}

/// The source port that attempt number `attempt` of one search tries, within `min..=max` (host
/// order). Consecutive attempts are far apart, so that a search leaves a densely used part of the
/// range at once.
#[inline(always)]
pub const fn source_port(min: u16, max: u16, random: u32, attempt: u32) -> PortBe {
    let len = (max.saturating_sub(min)) as u32 + 1;
    let hash = random.wrapping_add(attempt.wrapping_mul(0x9e37_79b9));
    PortBe::new(min.wrapping_add(scale(hash, len) as u16))
}

/// Maps 32 random bits to `0..len`. The high half of the product is distributed as evenly as a
/// remainder and needs no division.
#[inline(always)]
const fn scale(random: u32, len: u32) -> u32 {
    ((random as u64 * len as u64) >> 32) as u32
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn run(slots_offset: u32, slots_len: u32, flags: u32) -> Frontend {
        Frontend { service: 1, slots_offset, slots_len, flags }
    }

    #[test]
    fn frontends_without_slots_state_the_reason() {
        assert_eq!(slot(&run(7, 0, 0), 1), Err(NoBackend::NoEndpoint));
        let local = run(7, 0, frontend_flags::DROP);
        assert_eq!(slot(&local, 1), Err(NoBackend::NoLocalEndpoint));
        let wildcard = run(0, 0, frontend_flags::WILDCARD);
        assert_eq!(slot(&wildcard, 1), Err(NoBackend::UnknownPort));
    }

    #[test]
    fn slots_are_chosen_evenly() {
        let mut seen = [0u32; 3];
        for i in 0..30_000u32 {
            if let Ok(s) = slot(&run(0, 3, 0), i.wrapping_mul(0x9e37_79b9)) {
                seen[s as usize] += 1;
            }
        }
        assert!(seen.iter().all(|n| (9_900..10_100).contains(n)), "{seen:?}");
    }

    proptest! {
        #[test]
        fn choices_are_within_their_range(
            offset in 0u32..1_000_000,
            len in 1u32..100_000,
            random in any::<u32>(),
            a in any::<u16>(),
            b in any::<u16>(),
            attempt in 0u32..32,
        ) {
            let s = slot(&run(offset, len, 0), random);
            prop_assert!(s.is_ok_and(|s| s >= offset && s < offset + len));
            let (min, max) = (a.min(b), a.max(b));
            let port = source_port(min, max, random, attempt).get();
            prop_assert!(port >= min && port <= max);
        }
    }
}
