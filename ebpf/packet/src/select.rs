//! Decisions of load balancing and source translation: a slot of a Service port, a source port.

use sluice_abi::{Frontend, PortBe, PortRange, ServicePort, SlotRange};

/// Why a frontend has no backend for a new flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoBackend {
    /// A wildcard frontend: the Service does not have this port or protocol.
    UnknownPort,
    /// The Service port has no endpoints.
    NoEndpoint,
    /// The Service port has endpoints, but traffic policy Local excludes all of them.
    NoLocalEndpoint,
    /// The frontend refers to a Service port, slot or backend that does not exist, or whose address
    /// family differs from the client's.
    TableIncomplete,
}

/// The slots of a frontend for a client: at least one.
///
/// # Errors
/// There are none.
#[inline(always)]
pub const fn slots(
    frontend: &Frontend,
    port: &ServicePort,
    client_on_this_node: bool,
) -> Result<SlotRange, NoBackend> {
    if port.cluster.len == 0 {
        return Err(NoBackend::NoEndpoint);
    }
    if !frontend.uses_local_set(client_on_this_node) {
        return Ok(port.cluster);
    }
    if port.local.len == 0 { Err(NoBackend::NoLocalEndpoint) } else { Ok(port.local) }
}

/// Chooses a slot of a range that is not empty.
#[inline(always)]
pub const fn slot(range: SlotRange, random: u32) -> u32 {
    range.offset.wrapping_add(scale(random, range.len))
}

/// The source port that attempt number `attempt` of one search tries. The attempts are independent of
/// each other: with a common distance, searches that meet would go on together, and ports that are tried
/// often would be used in long runs (primary clustering of linear probing). `None`: no range has ports.
#[inline(always)]
pub const fn source_port(ranges: &[PortRange; 4], hash: u32, attempt: u32) -> Option<PortBe> {
    let mut len = 0;
    let mut i = 0;
    while i < ranges.len() {
        len += ranges[i].len();
        i += 1;
    }
    let mut nth = scale(mix(hash.wrapping_add(attempt.wrapping_mul(0x9e37_79b9))), len);
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

/// Permutes 32-bit numbers so that each bit of the result depends on every bit of the number: the
/// hash "lowbias32" of C. Wellons, two rounds of a shift with XOR and a multiplication.
#[inline(always)]
const fn mix(mut x: u32) -> u32 {
    x = (x ^ (x >> 16)).wrapping_mul(0x7feb_352d);
    x = (x ^ (x >> 15)).wrapping_mul(0x846c_a68b);
    x ^ (x >> 16)
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
    use sluice_abi::frontend_flags;

    use super::*;

    const fn range(offset: u32, len: u32) -> SlotRange {
        SlotRange { offset, len }
    }

    #[test]
    fn set_follows_the_policy_of_the_frontend_and_the_place_of_the_client() {
        use frontend_flags::{EXTERNAL, LOCAL};
        let (cluster, local, none) = (range(7, 3), range(20, 1), range(0, 0));
        let port = |cluster, local| ServicePort { cluster, local, affinity_seconds: 0 };
        for (flags, here, elsewhere) in [
            (0, cluster, cluster),
            (LOCAL, local, local),
            (EXTERNAL, cluster, cluster),
            (EXTERNAL | LOCAL, cluster, local),
        ] {
            let frontend = Frontend { service: 1, flags };
            let of = |port, here| slots(&frontend, &port, here);
            assert_eq!(of(port(cluster, local), true), Ok(here), "{flags}");
            assert_eq!(of(port(cluster, local), false), Ok(elsewhere), "{flags}");
            assert_eq!(of(port(none, none), false), Err(NoBackend::NoEndpoint), "{flags}");
            let expect =
                if elsewhere == local { Err(NoBackend::NoLocalEndpoint) } else { Ok(cluster) };
            assert_eq!(of(port(cluster, none), false), expect, "{flags}");
        }
    }

    #[test]
    fn slots_are_chosen_evenly() {
        let mut seen = [0u32; 3];
        for i in 0..30_000u32 {
            seen[slot(range(0, 3), i.wrapping_mul(0x9e37_79b9)) as usize] += 1;
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

    /// With three of four ports in use, 24 independent attempts miss a free one with probability 0.1 %.
    #[test]
    fn attempts_find_free_ports_as_independent_choices_do() {
        let ranges = ranges([(1024, 29_999), (61_000, 65_535), (0, 0), (0, 0)]);
        let mut is_used = vec![false; 65_536];
        // xorshift64* (Marsaglia, Vigna).
        let mut state = 1u64;
        let mut search = |is_used: &[bool]| {
            state ^= state >> 12;
            state ^= state << 25;
            state ^= state >> 27;
            let hash = (state.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 32) as u32;
            let ports = (0..24).filter_map(|n| source_port(&ranges, hash, n));
            ports.map(|port| usize::from(port.get())).find(|port| !is_used[*port])
        };
        let mut used = 0;
        while used < 33_512 * 3 / 4 {
            if let Some(port) = search(&is_used) {
                is_used[port] = true;
                used += 1;
            }
        }
        let missed = (0..20_000).filter(|_| search(&is_used).is_none()).count();
        assert!(missed < 60, "{missed} of 20,000; 20 are expected");
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
            let s = slot(range(offset, len), random);
            prop_assert!(s >= offset && s < offset + len);
        }
    }
}
