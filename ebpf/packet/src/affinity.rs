//! Session affinity: whether a client keeps the backend of its last connection.
//!
//! A new connection goes to the backend of the client's last one if that was at most the timeout ago
//! and the backend is still in the set that the frontend uses for this client. Packets of open
//! connections renew nothing.

use core::cmp::Ordering;

use sluice_abi::{Affinity, Backend, SlotRange};

/// Steps of a binary search in the longest possible range of slots.
const STEPS: u32 = u32::BITS;

/// The time unit of [`Affinity`]: seconds of `CLOCK_MONOTONIC`.
#[inline(always)]
pub const fn seconds(monotonic_ns: u64) -> u32 {
    (monotonic_ns / 1_000_000_000) as u32
}

/// Whether a connection at `now` keeps a backend. Another CPU can have read the clock later: such an
/// entry has the age 0.
#[inline(always)]
pub const fn is_live(affinity: &Affinity, timeout: u32, now: u32) -> bool {
    let age = now.wrapping_sub(affinity.at);
    age <= timeout || age > u32::MAX / 2
}

/// Whether a backend is in a range of slots, which is sorted by backend. `at` returns the id and the
/// backend of a slot; `None` from it ends the search.
#[inline(always)]
pub fn contains(
    range: SlotRange,
    (id, backend): (u32, &Backend),
    at: impl Fn(u32) -> Option<(u32, Backend)>,
) -> bool {
    let (mut low, mut high) = (0, range.len);
    let mut step = 0;
    while step < STEPS {
        step += 1;
        if low >= high {
            return false;
        }
        let middle = low + (high - low) / 2;
        let Some((found, other)) = at(range.offset.wrapping_add(middle)) else { return false };
        if found == id {
            return true;
        }
        match order(&other, backend) {
            Ordering::Less => low = middle + 1,
            Ordering::Greater => high = middle,
            // Another id of the same backend.
            Ordering::Equal => return false,
        }
    }
    false
}

/// The order of [`Backend`], by integers.
#[inline(always)]
fn order(a: &Backend, b: &Backend) -> Ordering {
    let (a, b) = (sort_key(a), sort_key(b));
    let mut i = 0;
    while i < a.len() {
        if a[i] != b[i] {
            return if a[i] < b[i] { Ordering::Less } else { Ordering::Greater };
        }
        i += 1;
    }
    Ordering::Equal
}

#[inline(always)]
fn sort_key(backend: &Backend) -> [u64; 3] {
    let b = &backend.addr.0;
    let port = (backend.port.get() as u64) << 8 | backend.proto as u64;
    [
        u64::from_be_bytes([b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7]]),
        u64::from_be_bytes([b[8], b[9], b[10], b[11], b[12], b[13], b[14], b[15]]),
        port,
    ]
}

#[cfg(test)]
mod tests {
    extern crate std;
    use std::collections::BTreeMap;
    use std::vec::Vec;

    use proptest::prelude::*;
    use sluice_abi::{Addr, PortBe};

    use super::*;

    #[test]
    fn a_client_keeps_its_backend_for_the_timeout_after_its_last_connection() {
        let affinity = Affinity { backend: 1, at: 1_000 };
        assert!(is_live(&affinity, 10, 1_000));
        assert!(is_live(&affinity, 10, 1_010));
        assert!(!is_live(&affinity, 10, 1_011));
        assert!(is_live(&affinity, 86_400, 87_400));
        assert!(!is_live(&affinity, 86_400, 87_401));
    }

    #[test]
    fn an_entry_of_a_cpu_with_a_later_clock_is_live() {
        assert!(is_live(&Affinity { backend: 1, at: 1_000 }, 1, 999));
        assert!(is_live(&Affinity { backend: 1, at: 86_400 }, 1, 0));
        // Written before the clock began, by a test.
        assert!(!is_live(&Affinity { backend: 1, at: 5u32.wrapping_sub(20) }, 10, 5));
    }

    #[test]
    fn time_is_in_whole_seconds() {
        assert_eq!(seconds(0), 0);
        assert_eq!(seconds(999_999_999), 0);
        assert_eq!(seconds(10_800_000_000_000), 10_800);
    }

    fn backend() -> impl Strategy<Value = Backend> {
        let address = prop_oneof![
            (0u8..3, 0u8..5).prop_map(|(a, b)| Addr::v4([10, 244, a, b])),
            any::<[u8; 16]>().prop_map(Addr),
        ];
        (address, 0u16..600).prop_map(|(addr, port)| Backend {
            addr,
            port: PortBe::new(port),
            proto: 6,
            pad: 0,
        })
    }

    proptest! {
        #[test]
        fn order_is_that_of_the_type(a in backend(), b in backend()) {
            prop_assert_eq!(order(&a, &b), a.cmp(&b));
        }

        /// Against a search through all slots.
        #[test]
        fn membership_is_that_of_a_linear_search(
            backends in proptest::collection::btree_set(backend(), 0..60),
            others in proptest::collection::btree_set(backend(), 0..5),
            offset in 0u32..1_000,
            stride in 1u32..9,
        ) {
            // Ids in another order than the backends.
            let ids: Vec<u32> = (0..backends.len() as u32).map(|n| 1 + (n * stride) % 997).collect();
            let slots: BTreeMap<u32, (u32, Backend)> =
                (offset..).zip(ids.iter().copied().zip(backends.iter().copied())).collect();
            let range = SlotRange { offset, len: slots.len() as u32 };
            let at = |slot: u32| slots.get(&slot).copied();
            for (id, backend) in slots.values() {
                prop_assert!(contains(range, (*id, backend), at));
                // The same endpoint under another id: of another Service port.
                prop_assert!(!contains(range, (5_000, backend), at));
            }
            for other in others.iter().filter(|other| !backends.contains(other)) {
                prop_assert!(!contains(range, (5_001, other), at));
            }
        }

        /// A range that is being replaced: any contents, and slots without a backend.
        #[test]
        fn search_ends_whatever_the_slots_contain(
            len in any::<u32>(),
            offset in any::<u32>(),
            wanted in backend(),
            found in proptest::option::of(backend()),
        ) {
            let at = |slot: u32| found.map(|backend| (slot | 1, backend));
            contains(SlotRange { offset, len }, (2, &wanted), at);
        }
    }
}
