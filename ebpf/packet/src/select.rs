//! Decisions of load balancing and source translation: a slot of a frontend, a source port.

use sluice_abi::{Frontend, PortBe, PortRange, frontend_flags};

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

/// The source port that attempt number `attempt` of one search tries. Consecutive attempts are far
/// apart, so that a search leaves a densely used part of the ranges at once. `None`: no range has
/// ports.
#[inline(always)]
pub const fn source_port(ranges: &[PortRange; 4], hash: u32, attempt: u32) -> Option<PortBe> {
    let mut len = 0;
    let mut i = 0;
    while i < ranges.len() {
        len += ranges[i].len();
        i += 1;
    }
    let mut nth = scale(hash.wrapping_add(attempt.wrapping_mul(0x9e37_79b9)), len);
    let mut i = 0;
    while i < ranges.len() {
        if nth < ranges[i].len() {
            return Some(PortBe::new(ranges[i].first.wrapping_add(nth as u16)));
        }
        nth -= ranges[i].len();
        i += 1;
    }
    None
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

    fn ranges(bounds: [(u16, u16); 4]) -> [PortRange; 4] {
        bounds.map(|(first, last)| PortRange { first, last })
    }

    #[test]
    fn every_port_of_every_range_is_tried_and_no_other() {
        let ranges = ranges([(1, 5), (0, 0), (100, 100), (65_530, 65_535)]);
        let mut tried = std::collections::BTreeSet::new();
        for attempt in 0..1000 {
            tried.extend(source_port(&ranges, 12_345, attempt).map(PortBe::get));
        }
        let expected: std::collections::BTreeSet<u16> =
            (1..=5).chain([100]).chain(65_530..=65_535).collect();
        assert_eq!(tried, expected);
    }

    #[test]
    fn without_ranges_there_is_no_port() {
        assert_eq!(source_port(&ranges([(0, 0), (0, 9), (9, 3), (0, 0)]), 1, 1), None);
    }

    proptest! {
        #[test]
        fn choices_are_within_their_range(
            offset in 0u32..1_000_000,
            len in 1u32..100_000,
            random in any::<u32>(),
        ) {
            let s = slot(&run(offset, len, 0), random);
            prop_assert!(s.is_ok_and(|s| s >= offset && s < offset + len));
        }
    }
}
